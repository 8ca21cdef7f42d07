"""A pretrained Gemma 3 270M, taught and improved: what docs/real-gemma.md shows.

    python benchmarks/real_gemma.py OUT --seeds 0 1 2 [--environment database] [SECTION.NAME=VALUE …]

Each seed gets a data root of its own under OUT, in which `agentloop demo --model gemma-3-270m` runs as a user runs it, and one
JSON file of what the database then holds. The same command continues; `--cards 0 1` gives each seed a card.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from queue import Queue
from typing import Any

from agentloop.campaign import results
from agentloop.report.comparison import Comparison
from agentloop.settings import load, parse_overrides
from agentloop.store import campaigns, evaluations
from agentloop.store.database import Database
from agentloop_flows import demonstration

GEMMA = "gemma-3-270m"
LIBRARIES = ("torch", "vllm", "transformers", "triton", "duckdb", "prefect")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--environment", default="database")
    parser.add_argument("--cards", nargs="+", default=[None], help="CUDA cards; a seed has one to itself.")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    cards: Queue[str | None] = Queue()
    for card in options.cards:
        cards.put(card)

    def one(seed: int) -> None:
        card = cards.get()
        try:
            measure(options.output.resolve(), seed, card, options)
        finally:
            cards.put(card)

    with ThreadPoolExecutor(len(options.cards)) as pool:
        list(pool.map(one, options.seeds))


def measure(output: Path, seed: int, card: str | None, options: argparse.Namespace) -> None:
    name = f"{options.environment}-{seed}"
    root = output / name
    root.mkdir(parents=True, exist_ok=True)
    words = [
        f"environment={options.environment}",
        f"seed={seed}",
        f"paths.data={root}",
        f"paths.cache={output / 'cache'}",
        f"prefect_port={4300 + int(card or 0)}",
        *options.overrides,
    ]
    variables = os.environ | ({"CUDA_VISIBLE_DEVICES": card} if card else {})

    def agentloop(*command: str) -> float:
        started = time.monotonic()
        with open(root / "output.log", "ab") as log:
            subprocess.run(
                [sys.executable, "-m", "agentloop", *command, *words],
                env=variables,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=True,
            )
        return time.monotonic() - started

    seconds = agentloop("demo", "--model", GEMMA, "--accept")
    agentloop("down")
    settings = load(parse_overrides(words), profile=demonstration.profile(GEMMA))
    with Database.open_snapshot(settings.paths.database) as database:
        record = told(database, settings.campaign)
        base = settings.paths.models / campaigns.settings_json(database, settings.campaign)["model"]
    record = {
        "machine": machine(),
        "command": " ".join(
            [
                f"python benchmarks/real_gemma.py OUT --seeds {seed} --environment {options.environment}",
                *options.overrides,
            ]
        ),
        "seed": seed,
        "taught": json.loads((base / "agentloop_taught.json").read_text(encoding="utf-8")),
        "seconds": seconds,
        **record,
    }
    (output / f"{name}.json").write_text(json.dumps(record, indent=1, default=str), encoding="utf-8")


def told(database: Database, campaign: str) -> dict[str, Any]:
    """What the database knows of a campaign, as JSON."""
    headline = results.headline(database, campaign)
    phases = "SELECT iteration, phase, sum(epoch(finished) - epoch(started)) FROM gpu_phases GROUP BY ALL ORDER BY ALL"
    return {
        "iterations": [asdict(row) for row in results.iterations(database, campaign)],
        "champion": headline.champion,
        **{name: contrasted(database, getattr(headline, name)) for name in ("gain", "control", "over_control")},
        "phases": [[iteration, phase, round(spent, 1)] for iteration, phase, spent in database.execute(phases)],
    }


def contrasted(database: Database, seen: Comparison | None) -> dict[str, Any] | None:
    if seen is None:
        return None
    return {
        "tasks": len(seen.before.tasks),
        "samples": seen.before.samples,
        "before": asdict(seen.before_success),
        "after": asdict(seen.after_success),
        "difference": asdict(seen.difference),
        "mcnemar_p": seen.mcnemar_p,
        "pass_at": seen.pass_at,
        "families": [evaluations.by_family(database, each.id) for each in (seen.before, seen.after)],
    }


def machine() -> dict[str, str | None]:
    """The card and the versions that results are of."""
    import torch

    return {
        "card": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        **{library: installed(library) for library in LIBRARIES},
        "python": sys.version.split()[0],
    }


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
