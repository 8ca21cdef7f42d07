"""The file `.env` in the project's folder, from which every `prefect` command there learns address and key."""

from __future__ import annotations

from pathlib import Path

from agentloop.errors import DiskError
from agentloop.files import atomic

BEGIN = "# agentloop: written by `agentloop up`, and again at every start"
END = "# agentloop: end"


def write(file: Path, address: str, auth_string: str) -> list[str]:
    """Put address and key into the file, whose other lines stay. Return a line for a person where that failed."""
    file = file.resolve()  # where it is a link, what it points to
    block = [BEGIN, f"PREFECT_API_URL={address}/api", f"PREFECT_API_AUTH_STRING={auth_string}", END]
    try:
        before = file.read_text(errors="surrogateescape", encoding="utf-8") if file.exists() else ""
        # last, because the last of two lines for one variable counts
        text = "\n".join([*_others(before.splitlines()), *block]) + "\n"
        if text != before or file.stat().st_mode & 0o077:
            with atomic(file) as temporary:
                temporary.touch(mode=0o600)
                temporary.write_text(text, errors="surrogateescape", encoding="utf-8")
    except (DiskError, OSError) as error:
        return [f"Not written, so `prefect` needs its settings by hand: {error}"]
    return []


def _others(lines: list[str]) -> list[str]:
    if BEGIN not in lines:
        return lines
    first = lines.index(BEGIN)
    last = lines.index(END, first) if END in lines[first:] else first
    return lines[:first] + lines[last + 1 :]
