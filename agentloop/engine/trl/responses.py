"""Training on the answers of a conversation alone, which are found in its tokens by what stands before and after them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from agentloop.engine.batch import IGNORED
from agentloop.errors import SettingError

_BEFORE, _AFTER = ("", "a", "\n", ".", " "), ("", "a", "\n", "1", " ", "\n\n")
"""What may stand beside a marker, and become one token with its first or last character."""


@dataclass(frozen=True)
class Marker:
    """A text as tokens, with those at its ends that are others where it touches another text."""

    lead: tuple[int, ...]
    core: tuple[int, ...]
    tail: tuple[int, ...]

    @classmethod
    def of(cls, name: str, text: str, tokenizer: Any) -> Marker:
        """Raises SettingError, naming the argument `name`, where no tokens stand for the text whatever is beside it."""

        def ids(part: str) -> list[int]:
            return tokenizer(part, add_special_tokens=False).input_ids

        whole = ids(text)
        variants = [ids(before + text + after) for before in _BEFORE for after in _AFTER]
        for length in range(len(whole), 0, -1):
            for start in range(len(whole) - length + 1):
                core = whole[start : start + length]
                if all(next(_places(variant, core), None) is not None for variant in variants):
                    return cls(tuple(whole[:start]), tuple(core), tuple(whole[start + length :]))
        raise SettingError(f"{name}: {text!r} is not one run of tokens wherever it stands")

    def spans(self, ids: list[int]) -> Iterator[tuple[int, int]]:
        """Yield the places where it stands: the index of its first token, and that behind its last."""
        for place in _places(ids, self.core):
            end = place + len(self.core)
            start = place - len(self.lead) if tuple(ids[max(place - len(self.lead), 0) : place]) == self.lead else place
            yield start, end + len(self.tail) if tuple(ids[end : end + len(self.tail)]) == self.tail else end


def _places(ids: list[int], part: Any) -> Iterator[int]:
    length, wanted = len(part), list(part)
    first = wanted[0]
    return (
        place for place in range(len(ids) - length + 1) if ids[place] == first and ids[place : place + length] == wanted
    )


def answers(ids: list[int], instruction: Marker, response: Marker) -> list[tuple[int, int]]:
    """The spans of tokens from behind each response marker to the next instruction marker, or to the end."""
    starts = [end for _, end in response.spans(ids)]
    ends = sorted([start for start, _ in instruction.spans(ids)] + [start for start, _ in response.spans(ids)])
    return [(start, next((end for end in ends if end >= start), len(ids))) for start in starts]


def train_on_responses_only(
    trainer: Any,
    instruction_part: str | None = None,
    response_part: str | None = None,
    force_match: bool = True,
    tokenizer: Any = None,
    return_function: bool = False,
    num_proc: int | None = None,
    last_response_only: bool = False,
) -> Any:
    """Take every token out of the loss that is not of an answer, in the trainer's data sets, and return the trainer.

    `instruction_part` and `response_part` are what begins a user's turn and the model's (`<start_of_turn>user\\n`,
    `<start_of_turn>model\\n`); where both are None they come from the chat template. `last_response_only` leaves the last
    answer of a row. Rows without an answer are left out. With `return_function` the function is returned that gives the
    labels of `{"input_ids": [[…], …]}`; `trainer` may be None then. `force_match` is accepted and ignored: a marker's line
    break counts wherever it is a token of its own.

    Raises SettingError where a marker is not found in any row of a data set.
    """
    tokenizer = tokenizer if tokenizer is not None else trainer.processing_class
    if (instruction_part is None) != (response_part is None):
        raise SettingError("instruction_part, response_part: give both, or neither")
    if instruction_part is None:
        instruction_part, response_part = markers(tokenizer)
    instruction = Marker.of("instruction_part", instruction_part, tokenizer)
    response = Marker.of("response_part", str(response_part), tokenizer)

    def labels(rows: dict[str, Any]) -> dict[str, list[list[int]]]:
        before = rows.get("labels") or rows["input_ids"]
        found = []
        for ids, old in zip(rows["input_ids"], before, strict=True):
            spans = answers(list(ids), instruction, response)[-1 if last_response_only else 0 :]
            kept = {place for start, end in spans for place in range(start, end)}
            found.append([int(label) if place in kept else IGNORED for place, label in enumerate(old)])
        return {"labels": found}

    if return_function:
        return labels
    for name in ("train_dataset", "eval_dataset"):
        rows = getattr(trainer, name, None)
        if rows is not None:
            setattr(trainer, name, _masked(name, rows, labels, str(response_part), num_proc))
    return trainer


def _masked(name: str, rows: Any, labels: Callable[[Any], Any], response: str, num_proc: int | None) -> Any:
    if isinstance(rows, dict):
        return {key: _masked(f"{name}[{key!r}]", each, labels, response, num_proc) for key, each in rows.items()}
    processes = {"num_proc": num_proc} if hasattr(rows, "num_rows") else {}
    kept = rows.map(labels, batched=True, **processes).filter(_has_answer, **processes)
    if next(iter(kept), None) is None:
        raise SettingError(f"response_part: no row of {name} has {response!r}")
    return kept


def _has_answer(row: dict[str, Any]) -> bool:
    return any(label != IGNORED for label in row["labels"])


def markers(tokenizer: Any) -> tuple[str, str]:
    """Return what begins a user's turn, and the model's, in the tokenizer's chat template. Raises SettingError where it does
    not say that."""
    probe = "\u2060probe\u2060"
    turn = [{"role": "user", "content": probe}]
    try:
        plain = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=False)
        prompt = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template's own errors are of no one class
        raise SettingError(f"instruction_part: the chat template does not say it ({error}); give both parts") from None
    instruction = plain.partition(probe)[0].removeprefix(getattr(tokenizer, "bos_token", None) or "")
    response = prompt.removeprefix(plain)
    if not instruction.strip() or not response.strip() or prompt == response:
        raise SettingError("instruction_part: the chat template does not say it; give both parts")
    return instruction, response
