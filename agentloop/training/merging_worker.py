"""The process that merges an adapter onto its base. Its request is written by merging.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentloop import job
from agentloop.engine import FastLanguageModel
from agentloop.engine.export.merged import write_merged
from agentloop.training.run import TrainingRun


def merge(request: dict[str, Any]) -> None:
    run = TrainingRun.from_json(request["run"])
    model, _ = FastLanguageModel.from_pretrained(
        str(run.model), max_seq_length=1, load_in_4bit=False, cache_directory=run.cache, with_tokenizer=False
    )
    training = run.adapter.training
    model = FastLanguageModel.get_peft_model(
        model, r=training["rank"], lora_alpha=training["alpha"], target_modules=list(training["targets"])
    )
    model.load_adapter(run.output)
    write_merged(
        model.lora,
        Path(request["directory"]),
        base=request["onto"],
        model=run.model,
        cache=run.cache,
        fingerprint=run.adapter.base,
        quantization=run.quantization,
        beside=request["beside"],
    )


if __name__ == "__main__":
    job.main(merge)
