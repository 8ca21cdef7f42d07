"""Gemma 3n: AltUp, LAuReL, per-layer embeddings, shared keys and values (transformers' modeling_gemma3n.py)."""
