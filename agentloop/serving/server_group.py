"""The vLLM servers of one machine, a card each: one base and the same adapters behind all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from agentloop import card
from agentloop.errors import SettingError
from agentloop.serving.client import Endpoint
from agentloop.serving.command import LOOPBACK_ONLY, Front, Place
from agentloop.serving.server import NOT_RUNNING, ModelServer
from agentloop.settings import Serving, Settings

T = TypeVar("T")

_STARTING = "vLLM is being started again"
_OVER_SEVERAL_CARDS = (
    "--tensor-parallel-size",
    "-tp",
    "--pipeline-parallel-size",
    "-pp",
    "--data-parallel-size",
    "-dp",
)
"""Arguments of vLLM's that spread one server over cards."""


def check(serving: Serving) -> None:
    """Raises SettingError, in one line, where this machine cannot have so many servers."""
    if serving.servers == 1:
        return
    for word in serving.extra_arguments:
        if word.partition("=")[0] in _OVER_SEVERAL_CARDS:
            raise SettingError(f"serving.servers: each of {serving.servers} servers has one GPU; {word} needs several")
    if card.present() and (there := len(card.cards())) < serving.servers:
        raise SettingError(
            f"serving.servers: {serving.servers} servers need a GPU each, and CUDA has {there} here (CUDA_VISIBLE_DEVICES)"
        )


class ServerGroup:
    """The `serving.servers` servers, asked as one. Several are started, put to sleep and ended side by side."""

    def __init__(self, settings: Settings, model: Path, *, base: str, front: Front = LOOPBACK_ONLY) -> None:
        """`model`: the directory that is served; `base`: the fingerprint by which adapters name theirs."""
        self._settings, self._model, self._base, self._front = settings, model, base, front
        self.servers = [self._new(number) for number in range(settings.serving.servers)]
        self._starting: set[int] = set()
        """Numbers of those that are being replaced."""

    @property
    def model_name(self) -> str:
        """Return the name by which requests call the base model."""
        return self.servers[0].model_name

    @property
    def endpoints(self) -> list[Endpoint]:
        """Return the addresses of those that run, and are not being replaced."""
        there = [server for number, server in enumerate(self.servers) if number not in self._starting]
        return [server.endpoint for server in there if server.alive()]

    @property
    def adapters(self) -> set[str]:
        """Return the adapters that every server has loaded."""
        return set.intersection(*(server.adapters for server in self.servers))

    @property
    def card_bytes(self) -> int | None:
        """Return the most bytes of the cards that they were seen to take; None on the CPU and before their start."""
        seen = [server.card_bytes for server in self.servers if server.card_bytes is not None]
        return sum(seen) if seen else None

    def prepare(self) -> None:
        """Let all import what they need, as `ModelServer.prepare` does."""
        for server in self.servers:
            server.prepare()

    def start(self) -> None:
        """Start all and wait until they answer. Raises as `ModelServer.start` does; none is left running then."""
        try:
            for server in self.servers:
                server.begin()
            for server in self.servers:
                server.await_answer()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all, and wait until they are gone."""
        self._each(lambda server: server.stop())

    def replace(self, number: int) -> None:
        """End one and start another in its place, with the adapters that it had. The others go on.

        Raises as `ModelServer.start` and `ModelServer.load_adapter` do; what has failed stays in its place.
        """
        adapters = set.union(*(server.adapters for server in self.servers))
        self._starting.add(number)
        try:
            self.servers[number].stop()
            fresh = self.servers[number] = self._new(number)
            fresh.start()
            for adapter in sorted(adapters):
                fresh.load_adapter(adapter, self._settings.paths.adapters / adapter)
        finally:
            self._starting.discard(number)

    def alive(self) -> bool:
        """Return True where all run."""
        return all(server.alive() for server in self.servers)

    def deaths(self) -> dict[int, str]:
        """Return how each server that runs no more has ended, by number; those that are being replaced are among them."""
        ended = {
            number: server.death() or NOT_RUNNING
            for number, server in enumerate(self.servers)
            if number not in self._starting and not server.alive()
        }
        return ended | dict.fromkeys(self._starting, _STARTING)

    def failures(self) -> dict[int, str]:
        """Return why each server that does not answer does not, by number."""
        asked = [number for number in range(len(self.servers)) if number not in self._starting]
        answers = self._each(lambda server: server.failure(), [self.servers[number] for number in asked])
        told = {number: reason for number, reason in zip(asked, answers, strict=True) if reason is not None}
        return told | dict.fromkeys(self._starting, _STARTING)

    def sleep(self) -> None:
        """Put all to sleep, as `ModelServer.sleep` does. Raises ServerError where one cannot."""
        self._each(lambda server: server.sleep())

    def wake(self) -> None:
        """Wake all. Raises ServerError where one does not."""
        self._each(lambda server: server.wake())

    def wait_until_free(self, *, asleep: bool = False) -> None:
        """Wait until the driver has the memory of all cards back. Raises ServerError."""
        for server in self.servers:
            server.wait_until_free(asleep=asleep)

    def load_adapter(self, adapter: str, directory: Path) -> None:
        """Serve the adapter everywhere. Raises as `ModelServer.load_adapter` does."""
        for server in self.servers:
            server.load_adapter(adapter, directory)

    def unload_adapter(self, adapter: str) -> None:
        """Stop serving the adapter, wherever it is loaded."""
        for server in self.servers:
            if adapter in server.adapters:
                server.unload_adapter(adapter)

    def alias(self, name: str, model: str) -> None:
        """Let `name` stand for what is served as `model`, as `ModelServer.alias` does."""
        for server in self.servers:
            server.alias(name, model)

    def look_at_card(self) -> None:
        """Note what they have taken of the cards by now. Raises ServerError."""
        for server in self.servers:
            server.look_at_card()

    def _new(self, number: int) -> ModelServer:
        place = Place(number, self._settings.serving.servers)
        return ModelServer(self._settings, self._model, base=self._base, front=self._front, place=place)

    def _each(self, do: Callable[[ModelServer], T], servers: Sequence[ModelServer] | None = None) -> list[T]:
        """What `do` says of each; the first fault is raised when all have been asked."""
        them = self.servers if servers is None else servers
        if len(them) < 2:
            return [do(server) for server in them]
        with ThreadPoolExecutor(len(them)) as pool:
            asked = [pool.submit(do, server) for server in them]
        return [each.result() for each in asked]
