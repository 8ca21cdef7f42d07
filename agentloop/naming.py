"""Content names: what they are made of, so that a field added later does not rename what exists.

A name is the hash of everything that determines a thing. A record or a settings section grows: the day a field is added,
everything made before was made with its default. So a field that is not among the first ones is left out of a name while
it has its default, and is part of it from the first other value on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel

FIRST_FIELDS: Mapping[str, frozenset[str]] = {
    kind: frozenset(fields.split())
    for kind, fields in {
        "Sampling": "temperature top_p max_turns max_turn_tokens max_tokens",
        "Policy": "base adapter prompt",
        "Adapter": "base dataset training seed code parent",
        "Verdict": "decision champion challenger champion_success challenger_success difference mcnemar_p reason look looks "
        "alpha guards",
        "GuardResult": "environment champion challenger difference bound margin",
        "Interval": "estimate low high",
        "Look": "number of",
        "Selection": "recipe per_task min_success_rate max_success_rate max_tokens max_overlap accumulate replay benchmarks",
        "Training": "rank alpha targets dtype devices learning_rate warmup_fraction weight_decay max_grad_norm "
        "epochs batch_tokens memory_budget checkpoint_steps continue_adapter",
        "Sft": "push_down push_above",
        "Grpo": "clip_low clip_high truncate anchor baseline normalization credit kl",
        "Dpo": "beta nll reference",
        "Kto": "beta desirable undesirable reference",
        "Evaluate": "tasks samples temperature",
        "Gate": "alpha min_gain max_tasks guards resamples control",
        "Guard": "tasks samples margin alpha",
        "Teach": "tasks samples per_task rank alpha learning_rate epochs batch_tokens teacher_model calls temperature "
        "max_turn_tokens concurrency request_seconds key_variable shard_episodes",
    }.items()
}
"""Fields that are part of a name whatever their value, by class. A class that is not here has only such fields."""


_PLAIN = frozenset({str, int, float, bool, type(None)})
"""Types whose values stand for themselves; most of what is named."""


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return _CANONICAL.encode(value)


def content_id(prefix: str, value: Any) -> str:
    """`prefix_` and 16 hexadecimal digits of the SHA-256 of the value's canonical JSON.

    Records and settings sections in `value` count with the fields that `content` gives.
    """
    return f"{prefix}_{hashlib.sha256(canonical_json(content(value)).encode()).hexdigest()[:16]}"


def content(value: Any) -> Any:
    """The JSON value that stands for `value` in a name: of records and sections, first fields and those off their default."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is list or kind is tuple:
        return [content(item) for item in value]
    if isinstance(value, BaseModel):
        plain = value.model_dump(mode="json")
        defaults = {
            name: field.get_default(call_default_factory=True) for name, field in type(value).model_fields.items()
        }
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        defaults = _defaults(type(value))
        plain = {name: getattr(value, name) for name in defaults}
    elif isinstance(value, Mapping):
        return {name: content(item) for name, item in value.items()}
    elif isinstance(value, (list, tuple)):
        return [content(item) for item in value]
    else:
        return value
    first = FIRST_FIELDS.get(type(value).__name__, frozenset(plain))
    named = [name for name in plain if name in first or getattr(value, name) != defaults[name]]
    # a model's dump has turned paths and tuples into JSON already; only what holds further models is looked into
    return {
        name: content(getattr(value, name)) if _holds_records(getattr(value, name)) else plain[name] for name in named
    }


@cache
def _defaults(record: type) -> dict[str, Any]:
    """The default of each field of a dataclass, which nobody changes."""
    return {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for field in dataclasses.fields(record)
    }


def _holds_records(value: Any) -> bool:
    if type(value) in _PLAIN:
        return False
    if isinstance(value, Mapping):
        return any(map(_holds_records, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_holds_records, value))
    return isinstance(value, BaseModel) or dataclasses.is_dataclass(value)
