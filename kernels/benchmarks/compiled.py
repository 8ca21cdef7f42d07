"""What each kernel needs on each kind of card, compiled for it without one: registers, spilled bytes, shared memory.

    PYTHONPATH=.:kernels python kernels/benchmarks/compiled.py [--cards 7.5:fp16,8.6:bf16] [--models E4B] [--json OUT]

Listed is every specialisation that a training run or a step of generation launches on a model of these shapes. Nothing is
run, so this says that a kernel can start on such a card and keeps its values in registers, not that its results are right.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import triton

from agentloop_kernels.launching import Launch, card, planning

KIB = 1024
SHARED_LIMIT = {(7, 5): 64 * KIB, (8, 0): 163 * KIB, (8, 6): 99 * KIB, (8, 9): 99 * KIB, (9, 0): 227 * KIB}
"""Bytes of shared memory that a block may have at most, by compute capability."""
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
CARDS = ["7.5:fp16", "8.6:bf16", "9.0:bf16", "8.0:bf16", "8.9:bf16", "8.6:fp16", "9.0:fp16", "8.0:fp16", "8.9:fp16"]
GEMMA3_4B = {
    "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
}  # fmt: skip
GEMMA3_270M = {
    "hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18, "sliding_window": 512,
    "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256,
    "layer_types": [*["sliding_attention"] * 5, "full_attention"] * 3,
}  # fmt: skip
MODELS: dict[str, dict[str, Any] | None] = {"E4B": None, "270M": GEMMA3_270M, "4B": GEMMA3_4B}
"""Gemma 3n E4B, Gemma 3 270M and 4B, as their config.json has them."""
PROMPTS = (1, 8)
"""Sequences that are continued at once: one has a kernel of its own."""
LENGTHS = (64, 4096)
"""Of the cache of generation: a short one is dealt out to fewer programs."""
COLUMNS = ["kernel", "types", "constants", "warps", "stages", "registers", "spilled", "shared", "failed", "used"]
"""Of a row in the JSON: bytes spilled a thread, bytes of shared memory a block, why it failed or null."""
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class Usage:
    """What one specialisation of a kernel takes of a card."""

    registers: int
    spilled: int
    """Bytes a thread that registers have no room for."""
    shared: int
    """Bytes a block."""


def usage(launch: Launch, capability: tuple[int, int]) -> Usage:
    """Compile it for a card of this compute capability. Raises what Triton raises where that fails."""
    with card(capability):
        compiled = launch.kernel.preload(launch.specialisation)
    with tempfile.NamedTemporaryFile("wb", suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        text = subprocess.run(
            [TOOLS / "cuobjdump", "-res-usage", cubin.name], capture_output=True, encoding="utf-8", check=True
        ).stdout
    # Spilled registers lie on the stack, and nothing else does: none of the kernels has an array of its own.
    registers, stack = (int(re.search(rf"{name}:(\d+)", text)[1]) for name in ("REG", "STACK"))
    return Usage(registers, stack, compiled.metadata.shared)


def planned(model: str, capability: tuple[int, int], dtype: torch.dtype) -> dict[str, list[Launch]]:
    """What training and generation launch on such a card, by the name of the path."""
    from agentloop.engine.decoding.decoder import Decoder
    from agentloop.engine.meta.blueprint import blueprint
    from agentloop.engine.warmup.compilation import plan_launches, representative

    shape = representative(_architecture(model))
    training = [launch for found in plan_launches(shape, dtype, capability) for launch in found]
    gemma = blueprint(shape, dtype=dtype, max_seq_length=max(LENGTHS))
    with planning(capability) as generation, torch.no_grad():
        for rows in PROMPTS:
            ids, positions = torch.zeros(rows, dtype=torch.int64), torch.zeros(rows, dtype=torch.int32)
            for length in LENGTHS:
                Decoder(gemma, [[0] * 8] * rows, new=length).step(ids.to("meta"), positions.to("meta"))
    return {"training": training, "generation": generation}


def _architecture(model: str) -> Any:
    from transformers import Gemma3nTextConfig, Gemma3TextConfig

    from agentloop.model_directory.configuration import read_architecture

    values = MODELS[model]
    with tempfile.TemporaryDirectory() as directory:
        (Gemma3nTextConfig() if values is None else Gemma3TextConfig(**values)).save_pretrained(directory)
        return read_architecture(Path(directory))


def measured(capability: tuple[int, int], dtype: torch.dtype, models: list[str]) -> Iterator[dict[str, Any]]:
    """A row for each specialisation, as it has been compiled."""
    users: dict[tuple[str, str], tuple[Launch, list[str]]] = {}
    for model in models:
        for path, launches in planned(model, capability, dtype).items():
            for launch in launches:
                _, used = users.setdefault((launch.name, launch.specialisation), (launch, []))
                used.append(f"{model} {path}")
    for launch, used in users.values():
        row: dict[str, Any] = {"kernel": launch.name.strip("_"), **_described(launch.specialisation)}
        try:
            row |= asdict(usage(launch, capability))
        except Exception as error:  # whatever a compiler says: the list goes on
            row["failed"] = (str(error).strip() or repr(error)).splitlines()[-1]
        yield row | {"used": ", ".join(sorted(set(used)))}


def _described(specialisation: str) -> dict[str, Any]:
    """What tells specialisations of a kernel apart: the types of its pointers and its numbers, and how it is launched."""
    data = json.loads(specialisation)
    types = [kind.removeprefix("*") for kind in data["signature"].values() if isinstance(kind, str) and kind[0] == "*"]
    constants = [value for value in data["constant_vals"] if isinstance(value, int | float | bool)]
    options = data["options"]
    return {
        "types": " ".join(types),
        "constants": constants,
        "warps": options["num_warps"],
        "stages": options["num_stages"],
    }


def _capability(name: str) -> tuple[int, int]:
    major, minor = name.partition(":")[0].split(".")
    return int(major), int(minor)


def summary(record: dict[str, Any], name: str) -> str:
    """A row of docs/engine.md's table: of the card `name`, such as 7.5:fp16."""
    rows = [dict(zip(record["columns"], row, strict=True)) for row in record["cards"][name]]
    limit = SHARED_LIMIT[_capability(name)]
    shared = max(row["shared"] or 0 for row in rows)
    failed = sum(row["failed"] is not None or row["shared"] > limit for row in rows)
    spilling = [row for row in rows if row["spilled"]]
    most = f"{len(spilling)}, at most {max(row['spilled'] for row in spilling)} B" if spilling else "none"
    head = " | ".join(name.split(":"))
    return f"| {head} | {len(rows)} | {failed or 'none'} | {most} | {shared // KIB} of {limit // KIB} KiB |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cards", default=",".join(CARDS), help="compute capability and dtype, with commas between")
    parser.add_argument("--models", default=",".join(MODELS), help=f"of {', '.join(MODELS)}")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    ptxas = subprocess.run([TOOLS / "ptxas", "--version"], capture_output=True, encoding="utf-8", check=True).stdout
    record: dict[str, Any] = {
        "command": shlex.join(["python", "kernels/benchmarks/compiled.py", *sys.argv[1:]]),
        "triton": triton.__version__,
        "ptxas": re.search(r"V([\d.]+)", ptxas)[1],
        "torch": torch.__version__,
        "columns": COLUMNS,
        "cards": {},
    }
    for name in arguments.cards.split(","):
        started = time.monotonic()
        rows = list(measured(_capability(name), DTYPES[name.partition(":")[2]], arguments.models.split(",")))
        record["cards"][name] = [[row.get(column) for column in COLUMNS] for row in rows]
        print(f"{summary(record, name)} {time.monotonic() - started:.0f} s", flush=True)
        if arguments.json:
            arguments.json.write_text(_lines(record), encoding="utf-8")


def _lines(record: dict[str, Any]) -> str:
    """JSON with a line for each specialisation."""
    head = {key: value for key, value in record.items() if key != "cards"}
    cards = []
    for name, rows in record["cards"].items():
        lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
        cards.append(f" {json.dumps(name)}: [\n{lines}\n ]")
    return json.dumps(head)[:-1] + ',\n "cards": {\n' + ",\n".join(cards) + "\n }\n}\n"


if __name__ == "__main__":
    main()
