"""A plugin for vLLM: Gemma 1, 2, 3 and 3n with LoRA adapters, a guard that refuses unfit adapters, a door with a key.

vLLM finds it by its entry point (plugin.py), in each of its processes. It needs vLLM and nothing else.
"""
