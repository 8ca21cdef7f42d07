"""Gemma 3's text decoder (transformers' modeling_gemma3.py)."""
