"""What a person needs to know from the log of a child process, or from vLLM's error message: the cause, without its frames."""

from __future__ import annotations

import re
from pathlib import Path

from agentloop.exit_codes import ending, was_signalled

_PREFIX = re.compile(r"^(\(\S+ pid=\d+\) )?((DEBUG|INFO|WARNING|ERROR|CRITICAL) [\d-]+ [\d:]+ \[[^\]]*\] ?)?")
"""`(EngineCore pid=1) ERROR 11-21 10:53:57 [core.py:402] `"""
_CAUSE = re.compile(r"^(?:[A-Za-z_.]*(?:Error|Exception|Interrupt): |[\w.]+\.py: error: )(.+)")
"""The last line of a traceback, or what argparse says."""
_WRAPPERS = (
    re.compile(r"Worker failed with error '(.*)', please check the stack trace above for the root cause", re.DOTALL),
    re.compile(r"Call to \w+ method failed: (.*)", re.DOTALL),
)
_COMPILER_FAILED = "C++ compile error"
_COMPILER_OUTPUT = "Output:"
_COMPILER_LINES = 40
_CONSEQUENCES = (
    "Engine core initialization failed",
    "WorkerProc initialization failed",
    "EngineCore encountered an issue",
    "cancelled",
)
"""Errors that only say that another process failed first."""


def failure(code: int, log: str) -> str:
    """Return what follows "the trainer …" in a message: how the process ended, and why where its log can tell. `log` is its
    text.
    """
    return ending(code) if was_signalled(code) else f"{ending(code)}: {reason(log)}"


def reason(log: str) -> str:
    """Why the process ended, in one line: the log's last error that is not the consequence of another, else its last line."""
    lines = _lines(log)
    found = None
    for number, line in enumerate(lines):
        match = _CAUSE.match(line)
        if match and not any(consequence in line for consequence in _CONSEQUENCES):
            # pydantic says what is wrong on the line after.
            following = lines[number + 1] if number + 1 < len(lines) else ""
            found = following if "validation error" in line else match[1]
            if match[1].endswith(_COMPILER_FAILED):
                found = ": ".join([match[1], *_compilers_word(lines[number + 1 :])])
    return last_line(log) if found is None else found


def _compilers_word(lines: list[str]) -> list[str]:
    """The first error that a compiler printed, if it printed any; its command line, which comes before, is left out."""
    if _COMPILER_OUTPUT not in lines:
        return []
    begins = lines.index(_COMPILER_OUTPUT) + 1
    printed = lines[begins : begins + _COMPILER_LINES]
    return [line for line in printed if "error" in line][:1] or printed[:1]


def complaint(message: str) -> str:
    """An error that vLLM answered with, in one line, without what its processes wrapped around it."""
    for wrapper in _WRAPPERS:
        if match := wrapper.search(message):
            message = match[1]
    return " ".join(message.split())


def last_line(log: str) -> str:
    lines = _lines(log)
    return lines[-1] if lines else "the log is empty"


def since(log: Path, start: int) -> str:
    """The log's text from byte `start` on."""
    with open(log, "rb") as file:
        file.seek(start)
        return file.read().decode(errors="replace")


def line_since(log: Path, start: int, prefix: str) -> str | None:
    """The last line with this beginning among what follows byte `start`; torchrun writes more lines behind the trainer's."""
    return next((line for line in reversed(since(log, start).splitlines()) if line.startswith(prefix)), None)


def _lines(log: str) -> list[str]:
    return [stripped for line in log.splitlines() if (stripped := _PREFIX.sub("", line).strip())]
