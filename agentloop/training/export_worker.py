"""The process that writes an adapter for others. Its request is written by exporting.py."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agentloop import job
from agentloop.engine import FastLanguageModel
from agentloop.engine.export import exporting
from agentloop.exports import gguf_model
from agentloop.exports.prompts import MOST_TOKENS
from agentloop.training.run import TrainingRun

_NO_PEFT = "PEFT is not installed here, so that nobody was asked about the adapter: pip install 'agentloop[trl]'"


def export(request: dict[str, Any]) -> dict[str, Any]:
    run = TrainingRun.from_json(request["run"])
    trained_on = run.quantization
    model, tokenizer = FastLanguageModel.from_pretrained(
        str(run.model),
        max_seq_length=MOST_TOKENS,
        load_in_4bit=trained_on.in_4bit,
        in_16bit=trained_on.in_16bit,
        cache_directory=run.cache,
    )
    training = run.adapter.training
    model = FastLanguageModel.get_peft_model(
        model, r=training["rank"], lora_alpha=training["alpha"], target_modules=list(training["targets"])
    )
    model.load_adapter(run.output)
    directory, form, base, name = (request[each] for each in ("directory", "form", "onto", "name"))
    directory = Path(directory)
    expected = exporting.ask_engine(model, tokenizer, base)
    if form == "adapter":
        asked = importlib.util.find_spec("peft") is not None
        figures = [exporting.check_adapter(model, directory, base, expected, name=name)] if asked else []
        gguf_model.record(directory, figures)
        checks = [str(each) for each in figures] or [_NO_PEFT]
    elif form == "merged":
        figures = exporting.save_merged(
            model, directory, base=base, beside=request["beside"], expected=expected, name=name
        )
        checks = [str(each) for each in figures]
    else:
        figures = exporting.save_gguf(
            model, directory, kinds=request["kinds"], base=base, as_adapter=form == "gguf-adapter",
            beside=request["beside"], expected=expected,
        )  # fmt: skip
        checks = [str(each) for each in figures]
    return {"checks": checks, "expected": asdict(expected)}


if __name__ == "__main__":
    job.main(export)
