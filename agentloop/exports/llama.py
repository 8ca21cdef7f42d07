"""llama.cpp, asked by way of a process of its own: what it makes of a GGUF file.

Where its library is missing nothing can be asked, and whoever exports is told so.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agentloop.errors import ModelError
from agentloop.gguf.llama_library import library, missing

_SECONDS = 3600
"""Longest time that one request may take: a large model is read and computed on the CPU."""


@dataclass(frozen=True)
class Answers:
    """Log probabilities, tokens and text that llama.cpp gave for a file."""

    logprobs: list[list[float]]
    """For each sequence the log probability of each token given those before it. [sequences][tokens - 1]"""
    tokens: list[list[int]]
    """The token ids of each text."""
    greedy: list[list[int]]
    """Continuation of each prompt by the most probable token."""


def ask(
    file: Path,
    *,
    adapter: Path | None = None,
    sequences: Sequence[Sequence[int]] = (),
    texts: Sequence[str] = (),
    prompts: Sequence[Sequence[int]] = (),
    new_tokens: int = 0,
) -> Answers:
    """Return what llama.cpp computes for token ids with the model in `file`, and how it tokenises texts.

    Raises ModelError, naming the file, where it does not load it or ends.
    """
    request = {
        "library": str(library()),
        "model": str(file),
        "adapter": adapter and str(adapter),
        "sequences": [list(each) for each in sequences],
        "texts": list(texts),
        "prompts": [list(each) for each in prompts],
        "new_tokens": new_tokens,
    }
    return Answers(**_answer(request, adapter or file))


def _answer(request: dict, about: Path) -> dict:
    if reason := missing():
        raise ModelError(f"{about}: {reason}")
    with tempfile.TemporaryDirectory(prefix="agentloop-llama-") as folder:
        file = Path(folder) / "request.json"
        file.write_text(json.dumps(request), encoding="utf-8")
        command = [sys.executable, "-m", "agentloop.exports.llama_worker", str(file)]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            raise ModelError(f"{about}: llama.cpp did not answer within {_SECONDS // 60} minutes") from None
    if done.returncode:
        raise ModelError(f"{about}: llama.cpp refused it: {_reason(done.stderr) or f'it ended with {done.returncode}'}")
    return json.loads(done.stdout.splitlines()[-1])


def _reason(log: bytes) -> str:
    """What it said went wrong, in one line."""
    lines = [line.strip() for line in log.decode(errors="replace").splitlines()]
    told = [line for line in lines if "error" in line.lower() or "GGML_ASSERT" in line]
    return (told or [line for line in lines if line] or [""])[0][:300]
