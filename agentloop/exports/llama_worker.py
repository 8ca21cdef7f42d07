"""The process that llama.cpp lives in: JSON in (a file), JSON out. Its requests are written by llama.py.

llama.cpp ends a whole process where it meets what it did not expect. Its shared library is called by way of ctypes, with
nothing but the functions of its public header whose types have not changed for years, so that any wheel's will do.
"""

from __future__ import annotations

import ctypes
import json
import sys
from ctypes import POINTER, Structure, byref, c_bool, c_char_p, c_float, c_int8, c_int32, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import numpy as np


class _Parameters(Structure):
    """Room for any of llama.cpp's structures of parameters, which are longer with every version.

    They come from its own functions for defaults and are handed on as they are. As they are longer than two words, x86-64 and
    arm64 pass them in memory, where it is of no matter that there is more of it than llama.cpp looks at.
    """

    _fields_ = [("bytes", ctypes.c_char * 2048)]


class _Batch(Structure):
    """llama.h's llama_batch."""

    _fields_ = [
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", POINTER(c_float)),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    ]


_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "llama_backend_init": (None, []),
    "llama_model_default_params": (_Parameters, []),
    "llama_context_default_params": (_Parameters, []),
    "llama_model_load_from_file": (c_void_p, [c_char_p, _Parameters]),
    "llama_init_from_model": (c_void_p, [c_void_p, _Parameters]),
    "llama_model_get_vocab": (c_void_p, [c_void_p]),
    "llama_adapter_lora_init": (c_void_p, [c_void_p, c_char_p]),
    "llama_set_adapters_lora": (c_int32, [c_void_p, POINTER(c_void_p), c_size_t, POINTER(c_float)]),
    "llama_n_ctx": (ctypes.c_uint32, [c_void_p]),
    "llama_vocab_n_tokens": (c_int32, [c_void_p]),
    "llama_vocab_is_eog": (c_bool, [c_void_p, c_int32]),
    "llama_get_memory": (c_void_p, [c_void_p]),
    "llama_memory_clear": (None, [c_void_p, c_bool]),
    "llama_decode": (c_int32, [c_void_p, _Batch]),
    "llama_get_logits": (POINTER(c_float), [c_void_p]),
    "llama_tokenize": (c_int32, [c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool]),
}


def main(request: dict[str, Any]) -> Any:
    """Return what llama.py's `Answers` hold."""
    library = load(request["library"])
    library.llama_backend_init()
    llama = _Llama(library, request["model"].encode(), request["adapter"] and request["adapter"].encode())
    return {
        "logprobs": [llama.logprobs(ids) for ids in request["sequences"]],
        "tokens": [llama.tokens(text) for text in request["texts"]],
        "greedy": [llama.greedy(ids, request["new_tokens"]) for ids in request["prompts"]],
    }


def load(path: str) -> Any:
    """llama.cpp's library with the types of its functions. Raises OSError where it is not for this machine."""
    library = ctypes.CDLL(path)
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class _Llama:
    """A model, with an adapter where one is given, as llama.cpp computes it by default."""

    def __init__(self, library: Any, model: bytes, adapter: bytes | None) -> None:
        self._library = library
        loaded = _there(library.llama_model_load_from_file(model, library.llama_model_default_params()), "the model")
        context = library.llama_init_from_model(loaded, library.llama_context_default_params())
        self._context = _there(context, "a context")
        self._vocabulary = c_void_p(library.llama_model_get_vocab(loaded))
        self._width = library.llama_vocab_n_tokens(self._vocabulary)
        if adapter:
            read = _there(library.llama_adapter_lora_init(loaded, adapter), "the adapter")
            if library.llama_set_adapters_lora(self._context, byref(read), 1, byref(c_float(1))):
                raise RuntimeError("error: the adapter was not applied")

    def logprobs(self, ids: list[int]) -> list[float]:
        """[tokens - 1]"""
        logits = self._logits(ids, start=0).astype(np.float64)
        greatest = logits.max(-1, keepdims=True)
        total = greatest[:, 0] + np.log(np.exp(logits - greatest).sum(-1))
        return (logits[np.arange(len(ids) - 1), ids[1:]] - total[:-1]).tolist()

    def greedy(self, ids: list[int], new: int) -> list[int]:
        """The most probable continuation, a token that ends it included."""
        written, step = list(ids), list(ids)
        for _ in range(new):
            logits = self._logits(step, start=len(written) - len(step))
            step = [int(logits[-1].argmax())]
            written += step
            if self._library.llama_vocab_is_eog(self._vocabulary, step[0]):
                break
        return written[len(ids) :]

    def tokens(self, text: str) -> list[int]:
        """With what the file says begins a text, and with the special tokens that are written in it."""
        data = text.encode()
        room = len(data) + 16
        found = (c_int32 * room)()
        count = self._library.llama_tokenize(self._vocabulary, data, len(data), found, room, True, True)
        return list(found[:count])

    def _logits(self, ids: list[int], *, start: int) -> np.ndarray:
        """[tokens, vocabulary] logits after each token, the first of which stands at `start`."""
        library, count = self._library, len(ids)
        if start + count > library.llama_n_ctx(self._context):
            raise RuntimeError(f"error: {start + count} tokens are more than llama.cpp's default context")
        if start == 0:
            library.llama_memory_clear(c_void_p(library.llama_get_memory(self._context)), True)
        sequence = c_int32(0)
        batch = _Batch(
            count,
            (c_int32 * count)(*ids),
            None,
            (c_int32 * count)(*range(start, start + count)),
            (c_int32 * count)(*[1] * count),
            (POINTER(c_int32) * count)(*[ctypes.pointer(sequence)] * count),
            (c_int8 * count)(*[1] * count),
        )
        if code := library.llama_decode(self._context, batch):
            raise RuntimeError(f"error: llama_decode answered {code}")
        rows = np.ctypeslib.as_array(library.llama_get_logits(self._context), (count, self._width))
        return rows.copy()


def _there(pointer: int | None, what: str) -> c_void_p:
    if not pointer:
        raise RuntimeError(f"error: llama.cpp did not make {what}")
    return c_void_p(pointer)


if __name__ == "__main__":
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))))
