"""Does vLLM read a bitsandbytes directory as the engine computes it? On a CUDA card, with vLLM before 0.28 (or its bnb plugin):

    python benchmarks/vllm_reads_bitsandbytes.py models/gemma-3-270m [--left 20]

The last linears by name stay in 16 bit, whole fused matrices. Printed are the differences of the log probabilities of a text in
nats per token: vLLM on the written directory, on the original one, both against the engine with the same plan in bf16. The
first has to be as small as bf16's rounding, the second larger.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from pathlib import Path

import torch

from agentloop.settings import load

TEXT = (
    "Structured query language keeps tables of rows. To find the oldest person, order the rows by age and take the "
    "first one."
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--left", type=int, default=20, help="units that stay in 16 bit")
    arguments = parser.parse_args()
    settings = load()
    settings.export()
    from agentloop.engine import FastLanguageModel
    from agentloop.quantization import bitsandbytes, plan
    from agentloop.records import Quantization

    model, tokenizer = FastLanguageModel.from_pretrained(arguments.model, graphs=False)
    units = plan.units([name for layer in model.weights.layers for group in layer.groups for name, _ in group.parts])
    kept = Quantization(True, tuple(sorted(name for unit in units[-arguments.left :] for name in unit)))
    del model
    model, _ = FastLanguageModel.from_pretrained(arguments.model, in_16bit=kept.in_16bit, graphs=False)
    ids = tokenizer(TEXT)["input_ids"]
    ours = model.logprobs(ids)
    print(f"{model.quantization.kind}: {len(model.quantization.in_16bit)} linears in 16 bit")
    del model
    gc.collect()
    torch.cuda.empty_cache()
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "quantised"
        size = bitsandbytes.write(arguments.model, directory, kept, cache=settings.paths.cache)
        print(f"{directory}: {size / 2**30:.3f} GiB")
        for what, path, options in (
            ("written", directory, {"quantization": "bitsandbytes", "load_format": "bitsandbytes"}),
            ("original", arguments.model, {}),
        ):
            gap = (served(path, ids, options) - ours).abs()
            print(f"{what}: mean {gap.mean():.4f}, largest {gap.max():.4f} nats per token over {len(gap)} tokens")


def served(path: Path, ids: list[int], options: dict) -> torch.Tensor:
    """Log probability of each token given those before it, by vLLM. [len(ids) - 1]"""
    from vllm import LLM, SamplingParams

    llm = LLM(str(path), dtype="bfloat16", enforce_eager=True, max_model_len=512, gpu_memory_utilization=0.3, **options)
    (answer,) = llm.generate({"prompt_token_ids": ids}, SamplingParams(max_tokens=1, prompt_logprobs=0))
    found = [entry[token].logprob for entry, token in zip(answer.prompt_logprobs[1:], ids[1:], strict=True)]
    del llm
    gc.collect()
    torch.cuda.empty_cache()
    return torch.tensor(found)


if __name__ == "__main__":
    main()
