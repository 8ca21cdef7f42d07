"""What the trainer's own forward says of a few prompts, with and without the adapter: the canary's yardstick.

Written beside the adapter's weights when it is saved, so that whoever serves the adapter, wherever, can check that what is
served is what was trained. With it comes how far 16-bit arithmetic alone moves these log probabilities: two right
implementations may differ by that much, and no tolerance need be guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from agentloop.canary_reference import Prompt, Reference
from agentloop.engine.batch import join
from agentloop.engine.lora.projection import product
from agentloop.engine.step.model import LanguageModel
from agentloop.engine.step.network import softcapped
from agentloop.engine.step.recast import recast

PROMPTS = 8
MAX_TOKENS = 256
_HEAD_ROWS = 1 << 13
"""Of the head at once in another dtype: a copy of the whole would be 2 GiB, as much as two thirds of the model."""


def measure_base(model: LanguageModel, sequences: Sequence[tuple[Sequence[int], Sequence[bool]]]) -> Reference:
    """The base's log probabilities of the first sequences, before anything is trained; `adapted` is still empty.

    They are computed twice, in 16 bit and in fp32, so the time is spent here and not when somebody waits for the adapter: first
    all in one, then all in the other, which needs less memory than a training step.
    """
    prompts_ids = [tuple(ids[:MAX_TOKENS]) for ids, _ in sequences[:PROMPTS]]
    measured = [model.logprobs(ids, adapter=False).double() for ids in prompts_ids]
    _make_room(model)
    other = recast(model)
    prompts = []
    for ids, own in zip(prompts_ids, measured, strict=True):
        others = _logprobs(other, ids).double()
        rounding = own - others if model.dtype.itemsize == 2 else others - own
        prompts.append(Prompt(ids, tuple(own.tolist()), (), tuple(rounding.tolist())))
    _make_room(other)
    held = model.quantization
    return Reference(str(model.dtype).removeprefix("torch."), held.in_4bit, tuple(prompts), held.in_16bit)


def _make_room(model: LanguageModel) -> None:
    """On a card, forget the model's dequantised matrices; they are made again when asked for."""
    if model.device.type == "cuda":
        model.workspace.release()
        torch.cuda.empty_cache()


def write(directory: Path, model: LanguageModel, base: Reference) -> None:
    """Add the log probabilities under the trained adapter to those of the base, and store both in `directory`."""
    # All prompts at once: somebody waits for the adapter.
    losses = model.token_results(join([(ids, [True] * len(ids)) for ids in base.token_ids])).losses
    adapted = losses.neg().cpu().split([len(ids) - 1 for ids in base.token_ids])
    pairs = zip(base.prompts, adapted, strict=True)
    prompts = tuple(replace(prompt, adapted=tuple(values.tolist())) for prompt, values in pairs)
    replace(base, prompts=prompts).write(directory)


def _logprobs(model: LanguageModel, token_ids: Sequence[int]) -> Tensor:
    """What `logprobs` of the model gives, also where its head is in another dtype than it computes in. [len(token_ids) - 1]"""
    hidden = model.hidden(join([(token_ids, [True] * len(token_ids))]))
    labels = torch.tensor(token_ids[1:], device=hidden.device).unsqueeze(1)
    total = torch.full((len(labels),), -torch.inf, device=hidden.device)
    wanted = torch.zeros_like(total)
    for first, rows in zip(range(0, len(model.weights.head), _HEAD_ROWS), model.weights.head.split(_HEAD_ROWS)):
        logits = product(hidden, rows.to(hidden.dtype).t()).float()
        softcapped(logits, model.shape.softcap)
        total = torch.logaddexp(total, logits.logsumexp(-1))
        within = labels - first
        mine = (within >= 0) & (within < len(rows))
        wanted += torch.where(mine, logits.gather(1, within.clamp(0, len(rows) - 1)), 0.0).squeeze(1)
    return (wanted - total).cpu()
