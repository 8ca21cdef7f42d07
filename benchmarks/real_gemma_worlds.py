"""A pretrained Gemma 3 270M with somebody's own agent, or on somebody else's world: what docs/real-gemma.md shows of both.

    python benchmarks/real_gemma_worlds.py OUT NAME --seeds 0 1 2 [--project examples/shop_agent] [SECTION.NAME=VALUE …]

Teaches it once, on a few demonstrations, and runs one campaign for each seed on the taught base, all in one data root under
OUT; then writes OUT/NAME.json, of what the database holds. The same command continues.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from real_gemma import GEMMA, machine, told

from agentloop.store.database import Database


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("name")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--project", type=Path, default=Path(), help="Folder whose agentloop.toml is read.")
    parser.add_argument("--profile", default="gemma-270m")
    parser.add_argument("--model", default=GEMMA)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args()
    root = options.output.resolve() / options.name
    root.mkdir(parents=True, exist_ok=True)
    taught = f"{options.model}-{options.name}"
    words = [
        f"paths.data={root}",
        f"paths.cache={options.output.resolve() / 'cache'}",
        "prefect_port=4320",
        *options.overrides,
    ]

    def agentloop(*command: str) -> float:
        started = time.monotonic()
        with open(root / "output.log", "ab") as log:
            subprocess.run(
                [sys.executable, "-m", "agentloop", *command, *words],
                cwd=options.project,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=True,
            )
        return time.monotonic() - started

    of = ("--profile", options.profile)
    # what it is worth each campaign measures first, on its own held-out tasks
    seconds = {"teach": agentloop("teach", *of, "--no-measure", "--name", taught, f"model={options.model}")}
    for seed in options.seeds:
        campaign = f"{options.name}-{seed}"
        seconds[campaign] = agentloop("run", *of, f"model={taught}", f"campaign={campaign}", f"seed={seed}")
        agentloop("down")
        record = {
            "machine": machine(),
            "command": " ".join(["python benchmarks/real_gemma_worlds.py OUT", *sys.argv[2:]]),
            "seconds": seconds,
            "seeds": {},
        }
        with Database.open_snapshot(root / "agentloop.duckdb") as database:
            for each in options.seeds[: options.seeds.index(seed) + 1]:
                record["seeds"][each] = told(database, f"{options.name}-{each}")
        (root.parent / f"{options.name}.json").write_text(json.dumps(record, indent=1, default=str), encoding="utf-8")


if __name__ == "__main__":
    main()
