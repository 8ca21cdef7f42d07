"""A trained adapter merged onto the original weights of its base, in a process of its own: the memory returns with its end.

`python -m agentloop.training.merging JOB.json`. Bad input ends it with one line on standard error and exit code 2.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentloop import child_log
from agentloop.child import ChildProcess
from agentloop.errors import AgentloopError, ModelError, TrainerError
from agentloop.files import atomic, require_space
from agentloop.settings import Settings
from agentloop.training.run import TrainingRun

_SPARE_BYTES = 100 << 20
"""So that the disk is not full to the last byte."""


def merge(run: TrainingRun, directory: Path, settings: Settings, *, beside: Mapping[str, str]) -> None:
    """Write `directory`, whole or not at all: the run's base with its adapter, and further files by name in `beside`.

    Raises ModelError with the process's own line where it refused, TrainerError where it died, DiskError.
    """
    require_space(directory.parent, sum(file.stat().st_size for file in run.model.iterdir()) + _SPARE_BYTES)
    job = run.checkpoints / f"merge-{run.adapter.id}.json"
    with atomic(job) as temporary:
        temporary.write_text(
            json.dumps({"run": run.to_json(), "directory": str(directory), "beside": dict(beside)}), encoding="utf-8"
        )
    log = settings.paths.logs / f"merge-{run.adapter.id}.log"
    command = [sys.executable, "-m", "agentloop.training.merging", str(job)]
    with ChildProcess(command, environment=settings.trainer_environment(), log=log) as child:
        code = child.wait()
    job.unlink(missing_ok=True)
    if code == 0:
        return
    if line := child.told("error: "):
        raise ModelError(f"{line} (log: {log})")
    raise TrainerError(f"merging {run.adapter.id} {child_log.failure(code, child.said())} (log: {log})")


def main(job_file: str) -> int:
    try:
        job = json.loads(Path(job_file).read_text(encoding="utf-8"))
        _merge(TrainingRun.from_json(job["run"]), Path(job["directory"]), job["beside"])
    except AgentloopError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _merge(run: TrainingRun, directory: Path, beside: Mapping[str, Any]) -> None:
    from agentloop.engine import FastLanguageModel
    from agentloop.engine.merged import write_merged

    model, _ = FastLanguageModel.from_pretrained(
        str(run.model), max_seq_length=1, load_in_4bit=False, cache_directory=run.cache
    )
    training = run.adapter.training
    model = FastLanguageModel.get_peft_model(
        model, r=training["rank"], lora_alpha=training["alpha"], target_modules=list(training["targets"])
    )
    model.load_adapter(run.output)
    write_merged(
        model.lora,
        directory,
        base="bf16",
        model=run.model,
        cache=run.cache,
        fingerprint=run.adapter.base,
        quantization=run.quantization,
        beside=beside,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
