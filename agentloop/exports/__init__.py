"""Models written for other programs, each of which is asked what it makes of them before the export is called done.

`verification.py` judges, `readers.py` asks; `gguf_model.py` and `gguf_adapter.py` write what llama.cpp and Ollama read.
"""
