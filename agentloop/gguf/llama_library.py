"""llama.cpp's shared library, where a wheel has brought it: the wheel xllamacpp (the extra `llamacpp`).

It quantises to the K-types, which the package gguf does not, and by way of agentloop/exports/llama.py it is asked what it
makes of a file.
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from agentloop.errors import ModelError

PACKAGE = "xllamacpp"


def library() -> Path | None:
    """Return the file of the installed library; None where there is none."""
    package = importlib.util.find_spec(PACKAGE)
    folders = (package.submodule_search_locations if package else None) or ()
    return next((file for folder in folders for file in sorted(Path(folder).glob(f"{PACKAGE}*.so"))), None)


def missing() -> str | None:
    """Return one line that says why llama.cpp cannot be asked here; None where it can be."""
    return None if library() else f"llama.cpp is not installed ({PACKAGE}): pip install 'agentloop[llamacpp]'"


def quantize(values: np.ndarray, kind: int, size: int) -> bytes:
    """Return rows of fp32 in llama.cpp's type `kind` (ggml's number), of which a row takes `size` bytes.

    Raises ModelError where there is no library.
    """
    file = library()
    if file is None:
        raise ModelError(f"quantization_method: {missing()}")
    function = ctypes.CDLL(str(file)).ggml_quantize_chunk
    function.restype = ctypes.c_size_t
    sizes = [ctypes.c_int64] * 3
    function.argtypes = [ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *sizes, ctypes.c_void_p]
    rows, columns = values.shape
    values = np.ascontiguousarray(values, np.float32)
    out = np.empty(rows * size, np.uint8)
    written = function(kind, _address(values), _address(out), 0, rows, columns, None)
    if written != out.nbytes:
        raise ModelError(f"{file}: ggml_quantize_chunk wrote {written} bytes where {out.nbytes} were expected")
    return out.tobytes()


def _address(array: np.ndarray) -> Any:
    return array.ctypes.data_as(ctypes.c_void_p)
