"""Gemma 1, 2 and 3's decoder (transformers' modeling_gemma.py, modeling_gemma2.py, modeling_gemma3.py)."""
