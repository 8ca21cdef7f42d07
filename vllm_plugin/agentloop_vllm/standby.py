"""vLLM's server in two halves: `python -m agentloop_vllm.standby ORDERS` imports everything, and starts when it is told to.

Its imports take ten to thirty seconds, in which it needs no GPU: they can be over when another program, such as a trainer,
hands the card back. ORDERS is a file with the server's arguments as a JSON list, for example
`["--model", "google/gemma-3n-E2B-it", "--port", "8000"]`. The process waits until it is there; write it under another name
and rename it, so that it is there as a whole.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import runpy
import sys
import time
from pathlib import Path

SERVER = "vllm.entrypoints.openai.api_server"
"""`vllm serve` is broken in the CPU wheel; the module works in both."""
_POLL_SECONDS = 0.05


def hide_key() -> None:
    """Take VLLM_API_KEY out of the environment, if it is there, and give it to this process's server alone.

    vLLM 0.26 (0.32 no longer) counts every variable of its own, the key too, among what compiled code depends on: with
    another key at every start it would compile everything at every start, for minutes.
    """
    from vllm import envs

    # A module's attribute comes before what it reads from the environment.
    envs.VLLM_API_KEY = os.environ.pop("VLLM_API_KEY", None)


def main(orders: Path) -> None:
    """Import vLLM's server, wait for the file `orders` and become the server. Exits with a line for a file that is no list."""
    hide_key()
    importlib.import_module(SERVER)
    importlib.import_module("agentloop_vllm.gemma3n")  # the plugin will ask for it
    while not orders.exists():
        time.sleep(_POLL_SECONDS)
    sys.argv = [SERVER, *_words(orders)]
    # As `python -m` would run it, so that processes which vLLM spawns find it by its name.
    del sys.modules[SERVER]
    runpy.run_module(SERVER, run_name="__main__", alter_sys=True)


def _words(orders: Path) -> list[str]:
    try:
        words = json.loads(orders.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        sys.exit(f"{orders}: {error}")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        sys.exit(f"{orders}: not a JSON list of the server's arguments, each of them a string")
    return words


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m agentloop_vllm.standby", description="Import vLLM's server now, start it when ORDERS is there."
    )
    parser.add_argument("orders", metavar="ORDERS", type=Path, help="a file with the server's arguments as a JSON list")
    main(parser.parse_args().orders)
