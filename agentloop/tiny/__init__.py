"""The tiny base model: Gemma 3n's architecture at about a million parameters, taught on scripted demonstrations."""
