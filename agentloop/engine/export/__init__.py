"""The model written for other programs: adapter and base merged, GGUF, each checked against what the engine computes."""
