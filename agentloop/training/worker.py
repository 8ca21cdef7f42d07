"""The trainer's process: `python -m agentloop.training.worker RUN.json CHECKPOINT_STEPS [MEMORY_BUDGET]`, also under torchrun.

The process that leads prints one JSON object a step to standard output. Bad input ends it with one line on standard
error and exit code 2, a step that ran out of the card's memory with one line that says how much there was.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import Literal

from agentloop import card
from agentloop.child import refused
from agentloop.errors import AgentloopError
from agentloop.training.journal import StepMetrics
from agentloop.training.run import TrainingRun
from agentloop.training.shortage import Shortage, ran_out
from agentloop.training.start import Start


def main(run_file: str, checkpoint_steps: str, memory_budget: str = "auto") -> int:
    start = Start()
    free = card.FreeBytes()  # asked for while torch is imported, which takes as long
    from agentloop.training.ranks import joined
    from agentloop.training.trainer import train

    start.reach("imports")

    def report(metrics: StepMetrics) -> None:
        start.finish("first step")
        print(json.dumps(asdict(metrics)), flush=True)

    try:
        with open(run_file, encoding="utf-8") as file:
            run = TrainingRun.from_json(json.load(file))
        budget: float | Literal["auto"] = "auto" if memory_budget == "auto" else float(memory_budget)
        with joined() as ranks:
            train(
                run, checkpoint_steps=int(checkpoint_steps), memory_budget=budget, on_step=report, on_part=start.reach,
                free_bytes=free.answer, ranks=ranks,
            )  # fmt: skip
    except (AgentloopError, OSError) as error:
        return refused(error)
    except Shortage as shortage:
        print(shortage, file=sys.stderr)
        return 3
    except RuntimeError as error:
        if not ran_out(error):
            raise
        line = " ".join(str(error).split()).partition(" Of the allocated memory ")[0]
        print(f"error: out of memory, and no step was under way that could do with less: {line}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    code = main(*sys.argv[1:])
    # Everything is on disk. To take torch and its threads down in order would cost a second that somebody waits for.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
