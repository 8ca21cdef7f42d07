"""The gradient of one optimizer step under any objective, and what is to be known of the step.

Objectives that go by whole episodes have their log probabilities found first, in a forward pass over all the step's batches; no
batch has to hold both sides of a pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from agentloop.engine.batch import IGNORED, PackedBatch, join, packing
from agentloop.engine.step.model import LanguageModel
from agentloop.training.objectives.objective import WEIGHT, ByEpisode, Objective, Policy, Row
from agentloop.training.ranks import Ranks
from agentloop.training.steps import Step


@dataclass(frozen=True)
class Sums:
    """Sums over all tokens of a step, which the device may still be at."""

    names: tuple[str, ...]
    values: Tensor
    """[names] on the device: the `loss`, not yet divided, and an objective's other figures."""
    known: dict[str, float] = field(default_factory=dict)
    """What was known before the gradient: `loss` to be added, `preferred`."""

    def read(self) -> dict[str, float]:
        """Return every sum by name. Waits for the device."""
        found = dict(zip(self.names, self.values.tolist(), strict=True))
        found["loss"] += self.known.get("loss", 0.0)
        return self.known | found


def add_gradient(
    model: LanguageModel,
    objective: Objective,
    step: Step,
    shares: Sequence[PackedBatch],
    ranks: Ranks,
    *,
    observe: bool = False,
) -> Sums:
    """Add the gradient of this process's shares to `lora.gradients`, which is not added up over the processes.

    `observe` asks for the sum of the tokens' entropies as well. Raises what the engine raises.
    """
    known: dict[str, float] = {}
    counted = list(shares)
    if isinstance(objective, ByEpisode):
        settled = objective.settle([row for rows in step.rows for row in rows], _gains(model, objective, shares, ranks))
        known = {"loss": settled.loss}
        if settled.preferred is not None:
            known["preferred"] = settled.preferred
        shares = [_with_factors(batch, objective, settled.factors) for batch in shares]
    total: dict[str, Tensor] = {}
    for share, own in zip(shares, counted, strict=True):
        results = model.results_and_gradients(share, 1 / step.divisor, rule=objective.rule, observe=observe)
        figures = {"loss": results.losses.sum()}
        if objective.rule is not None:
            figures = objective.figures(results.losses, _labelled(own, results.losses))
        if results.entropy is not None:
            figures["entropy"] = results.entropy.sum()
        for name, value in figures.items():
            value = value.to(results.losses.dtype)
            total[name] = total[name] + value if name in total else value
    return Sums(tuple(total), ranks.add_up(torch.stack(list(total.values()))), known)


def ask(model: LanguageModel, rows: Sequence[Row], policy: Policy, column: int, *, budget: int, ranks: Ranks) -> None:
    """Put the log probability of each trained token under the policy into the rows' column.

    `start` is the model as it is now, `base` the one without adapter. The processes share the work.
    """
    lengths, supervised = [len(row.token_ids) for row in rows], [row.supervised for row in rows]
    ends = torch.tensor([0, *supervised]).cumsum(0).tolist()
    found = torch.zeros(ends[-1], device=model.device, dtype=torch.float32)
    for chosen in packing.deal(lengths, supervised, budget)[ranks.index :: ranks.count]:
        batch = join([(rows[index].token_ids, rows[index].mask) for index in chosen])
        losses = model.token_results(batch, adapter=policy != "base").losses
        for index, values in zip(chosen, losses.split([supervised[index] for index in chosen]), strict=True):
            found[ends[index] : ends[index + 1]] = -values
    logprobs = ranks.add_up(found).cpu().numpy()
    for row, first, last in zip(rows, ends, ends[1:]):
        if row.columns is not None:
            trained = torch.tensor(row.mask).numpy().copy()
            trained[0] = False
            row.columns[trained, column] = logprobs[first:last]


def _gains(model: LanguageModel, objective: ByEpisode, shares: Sequence[PackedBatch], ranks: Ranks) -> Tensor:
    """[episodes] fp64 on the CPU: how much more probable each episode is than under the reference, in nats."""
    # a card adds up in another order each time, and an adapter is to be made again bit for bit
    gains = torch.zeros(objective.episodes, dtype=torch.float64)
    for share in shares:
        losses = model.token_results(share).losses.double().cpu()
        columns = _labelled(share, losses)
        gains.index_add_(0, columns[:, objective.episode].long(), -losses - columns[:, objective.reference])
    return ranks.add_up(gains.to(model.device)).cpu()


def _with_factors(batch: PackedBatch, objective: ByEpisode, factors: Tensor) -> PackedBatch:
    columns = _columns(batch).clone()
    columns[:, WEIGHT] += factors[columns[:, objective.episode].long()].to(columns.dtype)
    return replace(batch, columns=columns)


def _columns(batch: PackedBatch) -> Tensor:
    if batch.columns is None:
        raise ValueError("a batch without columns, and the objective goes by them")
    return batch.columns


def _labelled(batch: PackedBatch, like: Tensor) -> Tensor:
    """The columns of the labels, as a step's results are ordered, on the device of these: [supervised, columns]."""
    return _columns(batch)[batch.labels != IGNORED].to(like)
