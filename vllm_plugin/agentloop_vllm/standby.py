"""vLLM's server in two halves: `python -m agentloop_vllm.standby ORDERS` imports everything, and starts when it is told to.

Its imports take ten to thirty seconds, in which it needs no GPU: they can be over when the trainer hands the card back.
ORDERS is a file with the server's arguments as a JSON list; the process waits until it is there.
"""

from __future__ import annotations

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
    """Take the key out of the environment, and give it to this process's server alone.

    vLLM 0.26 (0.32 no longer) counts every variable of its own, the key too, among what compiled code depends on: with
    another key at every start it would compile everything at every start, for minutes.
    """
    from vllm import envs

    # A module's attribute comes before what it reads from the environment.
    envs.VLLM_API_KEY = os.environ.pop("VLLM_API_KEY")


def main(orders: Path) -> None:
    hide_key()
    importlib.import_module(SERVER)
    importlib.import_module("agentloop_vllm.gemma3n")  # the plugin will ask for it
    while not orders.exists():
        time.sleep(_POLL_SECONDS)
    sys.argv = [SERVER, *json.loads(orders.read_text(encoding="utf-8"))]
    # As `python -m` would run it, so that processes which vLLM spawns find it by its name.
    del sys.modules[SERVER]
    runpy.run_module(SERVER, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
