"""The command that judges before a night is spent: a task, or the base."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from agentloop.cli import quantization
from agentloop.cli.common import Profile, load, say, split
from agentloop.errors import SettingError


def check(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TASK] [SECTION.NAME=VALUE]",
            help="A task: a .py, .jsonl, .csv or .parquet file, a dataset's directory or an environment's name. Settings.",
        ),
    ] = None,
    profile: Profile = None,
    tasks: Annotated[
        int | None,
        typer.Option(
            min=1, help="Of a task: so many of each split are looked at. Default: all of a file, 500 of a generator."
        ),
    ] = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="Of a task: also the ids of the prompt's tokens.")] = False,
    success: Annotated[
        bool,
        typer.Option(
            help="Of the base: also what each solves; vLLM is started three times. Without: seconds to minutes."
        ),
    ] = True,
) -> None:
    """Judge a task before a night is spent on it: prompt, tools, verifier, splits, what the gate can find, what it costs.

    Without a TASK: show what quantisation does to the base: bytes, KL divergence and success of 16 bit, dynamic and NF4.
    Exit code 1 where something is wrong with the task; the last line says what.
    """
    # what has a colon before its = is the name of an environment with options
    options = [word for word in words or () if ":" in word.partition("=")[0]]
    named, settings = split([word for word in words or () if word not in options])
    named += options
    if not named:
        quantization.show(load(profile, settings), success=success)
        return
    if len(named) > 1:
        raise SettingError(f"check takes one task, not {len(named)}: {' '.join(named)}")
    if any(word.partition("=")[0].strip() == "environment" for word in settings):
        raise SettingError(f"environment: is given as well as {named[0]}; name one")
    _examine(named[0], settings, profile, tasks=tasks, tokens=tokens)


def _examine(task: str, words: list[str], profile: str | None, *, tasks: int | None, tokens: bool) -> None:
    settings = load(profile, [*words, f"environment={task}"])
    from agentloop.examination.examination import examine

    faults: list[str] = []
    for part in examine(settings, most=tasks, ids=tokens):
        say(part.title)
        for line in (*part.lines, *(f"WRONG: {fault}" for fault in part.faults)):
            say(f"  {line}")
        say("")
        faults += part.faults
    if faults:
        more = f" (and {len(faults) - 1} more, above)" if len(faults) > 1 else ""
        sys.exit(f"wrong: {faults[0]}{more}")
    say(f"Nothing is wrong with {task}.")
