"""Sampling by the trained model itself: for a look at what it learnt. Whoever needs many tokens serves it (docs/serving.md).

Every new token computes its whole prefix again, the layers above the boundary for the last position only. The sequences of
a batch lie packed, so they need no padding inside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from agentloop.engine.batch import IGNORED, PackedBatch, join
from agentloop.errors import SettingError

if TYPE_CHECKING:
    from agentloop.engine.model import Gemma


@torch.no_grad()
def generate(
    model: Gemma,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    max_new_tokens: int = 20,
    do_sample: bool | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    eos_token_id: int | list[int] | None = None,
    pad_token_id: int | None = None,
    streamer: Any = None,
    **others: Any,
) -> Tensor:
    """[batch, tokens] -> [batch, tokens + new], filled up with pad_token_id behind a sequence that has ended.

    What is None is taken from the model's generation config. `streamer` as in transformers, for one sequence. Raises
    SettingError for other options that are set.
    """
    for name, value in others.items():
        if name != "use_cache" and value is not None:
            raise SettingError(f"{name}: not an option of generate; serve the adapter to use it")
    defaults = model.generation_config
    sampled = bool(defaults.do_sample) if do_sample is None else do_sample
    ends = defaults.eos_token_id if eos_token_id is None else eos_token_id
    ends = {ends} if isinstance(ends, int) else set(ends or ())
    pad = defaults.pad_token_id if pad_token_id is None else pad_token_id
    real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    sequences = [row[mask != 0].tolist() for row, mask in zip(input_ids.cpu(), real.cpu(), strict=True)]
    new: list[list[int]] = [[] for _ in sequences]
    if streamer is not None:
        streamer.put(input_ids.cpu())
    for _ in range(max_new_tokens):
        going = [i for i, tokens in enumerate(new) if not (tokens and tokens[-1] in ends)]
        if not going:
            break
        logits = model.logits(_last_tokens([sequences[i] + new[i] for i in going])).float()
        if sampled:
            chances = _restricted(
                logits / (defaults.temperature if temperature is None else temperature or 1.0),
                defaults.top_k if top_k is None else top_k,
                defaults.top_p if top_p is None else top_p,
            )
            chosen = torch.multinomial(chances, 1)[:, 0]
        else:
            chosen = logits.argmax(-1)
        for i, token in zip(going, chosen.tolist(), strict=True):
            new[i].append(token)
        if streamer is not None:
            streamer.put(chosen.cpu())
    if streamer is not None:
        streamer.end()
    width = max(map(len, new))
    filled = [tokens + [pad or 0] * (width - len(tokens)) for tokens in new]
    return torch.cat([input_ids, torch.tensor(filled, device=input_ids.device, dtype=input_ids.dtype)], dim=1)


def _last_tokens(sequences: list[list[int]]) -> PackedBatch:
    """A batch whose only labels (their values do not matter) sit at the last token of each sequence."""
    batch = join([(ids, [False] * len(ids)) for ids in sequences])
    batch.labels.fill_(IGNORED)[batch.cu_seqlens[1:].long() - 1] = 0
    return batch


def _restricted(logits: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Probabilities [rows, vocab] of the `top_k` likeliest tokens, and of those the fewest that sum up to `top_p`."""
    if top_k:
        logits = logits.masked_fill(logits < logits.topk(min(top_k, logits.shape[-1])).values[:, -1:], float("-inf"))
    chances = logits.softmax(-1)
    if top_p is not None and top_p < 1:
        ordered, order = chances.sort(-1, descending=True)
        beyond = ordered.cumsum(-1) - ordered >= top_p
        chances = chances.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), 0.0)
    return chances
