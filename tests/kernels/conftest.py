"""The Triton tests need a CUDA device, or an interpreter that must be chosen before Triton is imported.

Without either this directory leaves them out, and test_interpreter.py runs them in a process of their own.
"""

import os

import torch

collect_ignore = []
if torch.cuda.is_available():
    collect_ignore.append("test_interpreter.py")
elif os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore.append("triton_ops")
