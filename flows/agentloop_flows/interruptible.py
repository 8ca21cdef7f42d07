"""An event loop that SIGTERM ends, as Ctrl-C does.

Prefect answers SIGTERM, which a cancelled run and a stopped worker are sent, by an exception that its handler raises
wherever the process is at that moment. Inside a task of an event loop this ends that task alone. So while the loop runs the
signal cancels its main task, and Prefect's handler is called when the loop has ended.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Return what the coroutine returns, as asyncio.run does.

    On SIGTERM the coroutine is cancelled, and then the handler is called that was there before.
    """
    if threading.current_thread() is not threading.main_thread():
        return asyncio.run(work)  # signals come to the main thread
    before = signal.getsignal(signal.SIGTERM)
    told = False

    async def watched() -> T:
        task = asyncio.ensure_future(work)

        def stop() -> None:
            nonlocal told
            told = True
            task.cancel()

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
        return await task

    try:
        return asyncio.run(watched())
    except asyncio.CancelledError:
        if not told:
            raise
    finally:
        signal.signal(signal.SIGTERM, before)
        if told:
            os.kill(os.getpid(), signal.SIGTERM)
    raise SystemExit(128 + signal.SIGTERM)  # where the signal is ignored
