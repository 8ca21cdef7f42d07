"""GGUF files of Gemma: read, and turned into the checkpoint directories that everything else here takes.

`importing.imported` is the way in: a file gives a bf16 directory, named by the file's content, made once.
"""
