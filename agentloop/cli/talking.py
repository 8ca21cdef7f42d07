"""The command that talks with a policy in the terminal."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from agentloop.cli import ids
from agentloop.cli.common import Named, Overrides, Profile, console, reading, say
from agentloop.cli.serving import as_it_was_run
from agentloop.errors import AgentloopError, ServerError, SettingError, StoreError

if TYPE_CHECKING:
    from agentloop.campaign.campaign import Campaign
    from agentloop.records import Task, Trajectory
    from agentloop.serving.client import Endpoint

_CHAMPION, _BASE = "champion", "base"
_LOOK_SECONDS = 1.0
_ENDINGS = {
    "ended": "the world has ended the episode",
    "malformed": "its last turn was neither a call nor an answer",
    "turn_limit": "it has used up its turns (agent.max_turns)",
    "token_limit": "it has used up its tokens (agent.max_turn_tokens, agent.max_tokens)",
}


def chat(
    profile: Profile = None,
    overrides: Overrides = None,
    campaign: Named = None,
    adapter: Annotated[
        str,
        typer.Option(metavar="champion|base|ADAPTER", help="Whom to talk with; an id, as much of it as is enough."),
    ] = _CHAMPION,
    task: Annotated[
        str | None,
        typer.Option(metavar="TEXT|TASK", help="Ask this one question, or the stored task with this id, and end."),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(metavar="T", min=0.0, help="Default: evaluate.temperature, as it was measured.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="A vLLM that runs. Default: what agentloop serve serves here, else one is started."
        ),
    ] = None,
    api_key: Annotated[str, typer.Option(envvar="VLLM_API_KEY", help="The key of that vLLM.")] = "",
) -> None:
    """Talk with the champion: it calls its tools as in its episodes. Each line, also of a pipe, is a question by itself."""
    opened = as_it_was_run(profile, overrides, campaign)
    adapter = _whom(opened, adapter)
    questions = _Questions(opened, task)
    heat = opened.settings.evaluate.temperature if temperature is None else temperature
    with opened.worlds, _served(opened, adapter, url, api_key) as (endpoint, model):
        questions.greet(f"{adapter}, campaign {opened.name}")
        unanswered = _talk(opened, endpoint, model, questions, heat)
    sys.exit(1 if unanswered and not questions.typed else 0)


def _talk(campaign: Campaign, endpoint: Endpoint, model: str, questions: _Questions, temperature: float) -> int:
    """Ask one after the other. Returns how many were not answered."""
    from agentloop.campaign import conversation
    from agentloop.serving.client import CompletionClient

    async def ask(task: Task, number: int) -> Trajectory:
        async with CompletionClient([endpoint], campaign.settings.serving) as client:
            return await conversation.ask(
                campaign, client, model, task, number=number, temperature=temperature, watcher=_Screen()
            )

    unanswered = 0
    for number, task in enumerate(questions):
        # a loop for each question: while one runs, Ctrl-C would not end the waiting for the next
        try:
            episode = asyncio.run(ask(task, number))
        except AgentloopError as error:
            if not questions.typed:
                raise
            say(f"error: {error}")
            continue
        unanswered += episode.answer is None and episode.status != "ended"
        if episode.answer is None:
            say(f"(no answer: {_ENDINGS.get(episode.status, episode.status)})")
        sys.stdout.flush()
    return unanswered


class _Questions:
    """What is asked: typed line by line, read from a pipe, or the one of --task."""

    def __init__(self, campaign: Campaign, only: str | None) -> None:
        self._campaign = campaign
        self._only = None if only is None else _task(campaign, only)
        self.typed = only is None and sys.stdin.isatty()
        """Whether somebody sits at the keyboard."""

    def greet(self, whom: str) -> None:
        if self.typed:
            say(f"You talk with {whom}. Each question is an episode of its own: nothing is remembered. Ctrl-D ends it.")

    def __iter__(self) -> Iterator[Task]:
        from agentloop.campaign import conversation

        if self._only is not None:
            yield self._only
            return
        for line in self._lines():
            if line.strip():
                if not self.typed:
                    say(f"> {line.strip()}")
                yield conversation.task_of(self._campaign, line.strip())

    def _lines(self) -> Iterator[str]:
        if not self.typed:
            yield from sys.stdin
            return
        import readline  # noqa: F401  (with it, input() has a line that can be edited)

        while True:
            try:
                yield input("> ")
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                print()  # what comes last has a line of its own
                raise


class _Screen:
    """Shows the turns of an episode as they end."""

    def said(self, words: str, call: str | None) -> None:
        if words:
            _show(words)
        if call is not None:
            _show(call, indent="  → ", style="cyan")

    def replied(self, text: str, complaint: bool) -> None:
        _show(text, indent="  ← ", style="red" if complaint else "green")

    def refused(self, complaint: str) -> None:
        _show(complaint, indent="  ← ", style="red")


def _show(text: str, indent: str = "", style: str | None = None) -> None:
    """Print text that is not ours: what would change the terminal is written out."""
    from agentloop.cli.rows import visible

    for number, line in enumerate(text.split("\n")):
        before = indent if number == 0 else " " * len(indent)
        console.print(f"{before}{visible(line)}", style=style, highlight=False, soft_wrap=True)
    sys.stdout.flush()


def _task(campaign: Campaign, words: str) -> Task:
    """The stored task with this id, or a question of somebody's own."""
    from agentloop.campaign import conversation
    from agentloop.store import tasks

    if not words.strip():
        raise SettingError("--task: the question is empty")
    if not words.startswith("task_"):
        return conversation.task_of(campaign, words)
    with reading(campaign.settings) as database:
        task = tasks.load(database, ids.whole(database, "task", words))
    if task.environment != campaign.environment.name:
        raise StoreError(f"{task.id}: of environment {task.environment}, not of {campaign.environment.name}")
    return task


def _whom(campaign: Campaign, word: str) -> str:
    if word in (_CHAMPION, _BASE):
        return word
    with reading(campaign.settings) as database:
        return ids.whole(database, "adapter", word, campaign=campaign.name)


@contextmanager
def _served(campaign: Campaign, whom: str, url: str | None, api_key: str) -> Iterator[tuple[Endpoint, str]]:
    """The endpoint to ask and the name to ask for: at `url`, else of the `agentloop serve` of this project, else our own."""
    from agentloop.campaign import served
    from agentloop.serving import models
    from agentloop.serving.client import Endpoint

    there = Endpoint(url, api_key) if url else None
    if there is None:
        present = served.now(campaign.settings.paths.data)
        if present is not None and present.campaign == campaign.name:
            there = present.endpoint
    if there is None:
        with _own(campaign, whom) as own:
            yield own
        return
    base, adapters = models.served(there)
    name = base if whom == _BASE else whom
    if name not in (base, *adapters) and whom != _CHAMPION:
        models.load(there, whom, campaign.settings.paths.adapters / whom)
    elif name not in (base, *adapters):
        raise ServerError(f"{there.url}: serves no {whom}, but {', '.join([base, *adapters])}; name one with --adapter")
    yield there, name


@contextmanager
def _own(campaign: Campaign, whom: str) -> Iterator[tuple[Endpoint, str]]:
    """A vLLM for as long as the chat lasts. A run that begins ends it: on a card there is room for one of them."""
    from agentloop import card
    from agentloop.campaign import endpoint, served
    from agentloop.serving.policy_server import PolicyServer

    data = campaign.settings.paths.data
    on_card = card.present()
    if on_card and (run := served.wanted_by(data)):
        raise StoreError(f"{run} has the card; chat when that has ended, or with a vLLM elsewhere (--url)")
    policy = endpoint.champion_of(campaign) if whom == _CHAMPION else None if whom == _BASE else whom
    if sys.stdin.isatty():
        say("starting vLLM …")
    about = served.Served("agentloop chat", campaign.name, gives_way=on_card)
    with (
        served.held(data, about),
        PolicyServer(campaign.settings, endpoint.weights(campaign), base=campaign.base) as server,
    ):
        name = server.serve(policy)
        with _ended_by_runs(campaign) if on_card else _for_as_long_as_it_takes():
            yield server.endpoints[0], name


@contextmanager
def _for_as_long_as_it_takes() -> Iterator[None]:
    yield


@contextmanager
def _ended_by_runs(campaign: Campaign) -> Iterator[None]:
    """Raises StoreError in the block, in whatever it waits for, where a run takes the data root."""
    from agentloop.campaign import served

    over = threading.Event()
    found: list[object] = []

    def watch() -> None:
        while not over.wait(_LOOK_SECONDS):
            if run := served.wanted_by(campaign.settings.paths.data):
                found.append(run)
                # a signal, for what it waits for may be a line from the keyboard
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                return

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    except KeyboardInterrupt:
        if not found:
            raise
        raise StoreError(f"{found[0]} gets the card: the chat has ended") from None
    finally:
        over.set()
        watching.join()
