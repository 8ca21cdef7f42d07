"""How a process ended, from its exit code, in words that say what to look for."""

from __future__ import annotations

import signal

from agentloop import limits

GIB = 2**30


def ending(code: int) -> str:
    """Return what follows "the trainer …" in a message: `code` is an exit code, or for a signal 128 and its number, or less
    it.
    """
    number = -code if code < 0 else code - 128
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"ended with exit code {code}"
    if number == signal.SIGKILL:
        limit = limits.memory().limit
        whose = (
            f"the container's limit is {limit / GIB:.1f} GiB" if limit else "the kernel's log names the process then"
        )
        return f"was killed ({name}), most often for want of memory ({whose})"
    if number == signal.SIGILL:
        return f"was ended by {name}: this processor lacks an instruction that was compiled in (AVX2, AVX-512)"
    return f"was ended by {name}"


def was_signalled(code: int) -> bool:
    """Return True where a signal ended it; its log then tells nothing of the reason."""
    return code < 0 or code > 128 and code - 128 in {each.value for each in signal.Signals}
