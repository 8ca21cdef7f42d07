"""A 270M taught on many demonstrations: what quantisation costs it, and what it teaches a fresh 270M from behind an endpoint.

    python benchmarks/real_gemma_teacher.py OUT [--model gemma-3-270m] [--profile gemma-270m] [--demonstrations 96]
        [SECTION.NAME=VALUE …]

Writes OUT/precisions.json (16 bit, dynamic and NF4 side by side, as `agentloop check` shows them) and OUT/teacher.json (what
`agentloop teach --from URL` asked, took and gave). What is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from agentloop.campaign import judge
from agentloop.campaign.campaign import Campaign
from agentloop.campaign.lock import owned
from agentloop.serving.server import ModelServer
from agentloop.settings import load, parse_overrides

KEY = "TEACHERS_KEY"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--profile", default="gemma-270m")
    parser.add_argument("--demonstrations", type=int, default=96)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    output = options.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    words = [
        f"paths.data={output / 'data'}",
        f"paths.cache={output / 'cache'}",
        "prefect_port=4310",
        "serving.gpu_memory_utilization=0.4",  # teacher and student share the card
        *options.overrides,
    ]
    teacher = f"{options.model}-taught-{options.demonstrations}"

    def teach(name: str, *arguments: str, **variables: str) -> dict[str, Any]:
        started = time.monotonic()
        with open(output / "output.log", "ab") as log:
            subprocess.run(
                [
                    *(sys.executable, "-m", "agentloop", "teach", "--name", name, "--profile", options.profile),
                    *(f"model={options.model}", *words, *arguments),
                ],
                env=os.environ | variables,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=True,
            )
        return {"seconds": time.monotonic() - started, "taught": record(name)}

    def record(name: str) -> dict[str, Any]:
        return json.loads((settings.paths.models / name / "agentloop_taught.json").read_text(encoding="utf-8"))

    settings = load(parse_overrides([*words, f"model={teacher}"]), profile=options.profile)
    made = teach(teacher, f"teach.tasks={options.demonstrations}")
    settings.export()
    file = output / "precisions.json"
    if not file.exists():
        campaign = Campaign.open(settings)
        with owned(settings.paths.data), campaign.worlds:
            found = judge.side_by_side(campaign, success=True)
        for each in found.values():
            each["in_16bit"] = len(each["in_16bit"])
        write(file, {**made, "precisions": found})
    with ModelServer(settings, settings.model_directory(), base="the-teacher") as server:
        given = teach(
            f"{options.model}-by-teacher",
            *("--from", server.endpoint.url, "teach.calls=text", f"teach.key_variable={KEY}", "teach.temperature=1"),
            *(f"teach.teacher_model={server.model_name}", f"teach.max_turn_tokens={settings.agent.max_turn_tokens}"),
            "teach.tasks=64",
            **{KEY: server.endpoint.api_key},
        )
    write(output / "teacher.json", {"teacher": made["taught"]["measured"], **given})


def write(file: Path, told: dict[str, Any]) -> None:
    file.write_text(json.dumps(told, indent=1, default=str), encoding="utf-8")


if __name__ == "__main__":
    main()
