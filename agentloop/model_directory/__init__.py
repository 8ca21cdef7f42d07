"""A model directory as files: what a checkpoint holds and is called, read without torch.

Everybody reads models here first: the command line before a night begins, the orchestrator for the base's name, the engine
for the sizes that it computes with. Weights themselves are read by the engine alone.
"""
