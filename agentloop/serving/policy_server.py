"""Policies served: vLLM is started when the first episode needs it, and holds the adapters that were asked for.

Of several servers (serving.servers) one that has ended or hangs is replaced while the others go on answering.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from agentloop import card
from agentloop.errors import ServerError, SettingError, StartError
from agentloop.serving.client import CompletionClient, Endpoint
from agentloop.serving.command import LOOPBACK_ONLY, Front
from agentloop.serving.server import NOT_RUNNING
from agentloop.serving.server_group import ServerGroup, check
from agentloop.settings import Settings


class Note(Protocol):
    """Takes note of what vLLM took for a start, stop, load, sleep or wake; `reason`: how the vLLM before it was lost."""

    def __call__(self, action: str, seconds: float, *, reason: str | None = None) -> None: ...


def _unnoted(action: str, seconds: float, *, reason: str | None = None) -> None:
    pass


class PolicyServer:
    """One base and the adapters on it, behind one vLLM or several. Nothing is started where everything is already on disk.

    While the trainer has the card, vLLM has ended (serving.policy "restart") or sleeps ("sleep"). Sleep is given up for the
    rest of the run as soon as something about it goes wrong.
    """

    def __init__(
        self, settings: Settings, model: Path, *, base: str, front: Front = LOOPBACK_ONLY, note: Note = _unnoted
    ) -> None:
        """`model`: the directory that is served; `base`: the fingerprint by which adapters name theirs.

        `note` is told of all that takes time beside answering. Raises SettingError where this machine cannot do what
        serving.policy or serving.servers says.
        """
        check(settings.serving)
        self._settings, self._model, self._base, self._front = settings, model, base, front
        self._note = note
        self._lost: str | None = None
        """How the vLLM was lost that the next start replaces."""
        self._server: ServerGroup | None = None
        self._next: ServerGroup | None = None
        """Prepared for when the trainer has ended."""
        self._asleep = False
        self._lock = threading.Lock()
        self._may_sleep = settings.serving.policy == "sleep"
        self.has_slept = False
        """Whether the vLLM that runs was asleep before: what it serves may then have suffered."""
        if self._may_sleep and not card.present():
            raise SettingError("serving.policy: sleep needs a GPU; without one vLLM stays as it is, use restart")

    def __enter__(self) -> PolicyServer:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._next is not None:
            self._next.stop()
        self._stop()

    def serve(self, adapter: str | None) -> str:
        """Make the policy available and return the name by which requests call it. Replaces servers that died or hang.

        Raises StartError, SettingError, AdapterError, ServerError.
        """
        with self._lock:
            if self._server is not None and not self._asleep and (faults := self._server.failures()):
                if len(faults) < self.size:
                    self._replace(faults)
                else:
                    self._lost = faults[min(faults)]
                    self._stop()
            if self._asleep:
                self._wake()
            if self._server is None:
                self._server = self._started()
            if adapter is not None and adapter not in self._server.adapters:
                with self._timed("load"):
                    self._server.load_adapter(adapter, self._settings.paths.adapters / adapter)
            return adapter or self._server.model_name

    def get_ready(self) -> None:
        """Let a vLLM import what it needs while nobody asks for it yet, where none runs: a third of its start. Raises
        SettingError."""
        if self._server is None and self._next is None:
            self._next = self._new_server()
            self._next.prepare()

    def make_room(self) -> None:
        """Hand the accelerator to the trainer, and return when its memory is free. On the CPU an idle vLLM stays.

        Raises ServerError where the memory does not become free.
        """
        if self._server is None or self._asleep or not card.present():
            return
        if self._may_sleep:
            try:
                with self._timed("sleep"):
                    self._server.sleep()
                    self._server.wait_until_free(asleep=True)
                self._asleep = self.has_slept = True
                return
            except ServerError as error:
                self._give_up_sleep(str(error))
        server = self._server
        self._stop()
        with self._timed("stop"):
            server.wait_until_free()
        self.get_ready()  # while the trainer works

    @property
    def size(self) -> int:
        """Return how many servers there are to be."""
        return self._settings.serving.servers

    def deaths(self) -> dict[int, str]:
        """Return how each server that ended by itself has ended, by its number."""
        return self._server.deaths() if self._server is not None else {}

    def failures(self) -> dict[int, str]:
        """Return why each server that answers no requests does not, by its number."""
        return self._server.failures() if self._server is not None else dict.fromkeys(range(self.size), NOT_RUNNING)

    def restart(self) -> None:
        """End vLLM, because what it serves after its sleep is not right; the next `serve` starts another."""
        self._give_up_sleep("what is served after it is not what was trained")
        self._stop()

    def end(self) -> None:
        """End vLLM, and return when the memory that it had is free. Raises ServerError where it does not become free."""
        server = self._server
        self._stop()
        if server is not None and card.present():
            server.wait_until_free()

    def retire(self, *, keep: str | None) -> None:
        """Unload every adapter but this one; a server that sleeps keeps what it has."""
        if self._server is not None and not self._asleep and self._server.alive():
            for adapter in self._server.adapters - {keep}:
                self._server.unload_adapter(adapter)

    def alias(self, name: str, model: str) -> None:
        """Let `name` stand for a policy that is served, as `ModelServer.alias` does."""
        self._server.alias(name, model)

    def look_at_card(self) -> None:
        """Note what vLLM has taken of the cards by now, where one runs on any. Raises ServerError."""
        if self._server is not None:
            self._server.look_at_card()

    @property
    def card_bytes(self) -> int | None:
        """Return the most bytes of the cards that vLLM was seen to take; None on the CPU, and while none runs."""
        return None if self._server is None else self._server.card_bytes

    @property
    def adapters(self) -> set[str]:
        """Return the adapters that are loaded."""
        return set() if self._server is None else self._server.adapters

    @property
    def endpoints(self) -> list[Endpoint]:
        """Return where requests are answered, one for each server."""
        return self._server.endpoints

    def client(self) -> CompletionClient:
        """A client for one event loop; `async with`."""
        return CompletionClient(self.endpoints, self._settings.serving)

    def _replace(self, faults: dict[int, str]) -> None:
        for number, reason in faults.items():
            with self._timed("start", reason):
                self._server.replace(number)

    def _started(self) -> ServerGroup:
        """A vLLM that answers, at the second try at the latest. Raises StartError."""
        server, self._next = self._next or self._new_server(), None
        lost, self._lost = self._lost, None
        try:
            with self._timed("start", lost):
                server.start()
            return server
        except ServerError as error:
            lost = str(error)
            print(f"vLLM is started once more: {error}")
        server = self._new_server()
        try:
            with self._timed("start", lost):
                server.start()
            return server
        except ServerError as error:
            raise StartError(f"{error}, the second time in a row") from None

    def _new_server(self) -> ServerGroup:
        return ServerGroup(self._settings, self._model, base=self._base, front=self._front)

    def _wake(self) -> None:
        try:
            with self._timed("wake"):
                self._server.wake()
            self._asleep = False
        except ServerError as error:
            self._give_up_sleep(str(error))
            self._lost = str(error)
            self._stop()

    def _give_up_sleep(self, reason: str) -> None:
        print(f"serving.policy: vLLM is restarted from now on instead of put to sleep: {reason}")
        self._may_sleep = False

    def _stop(self) -> None:
        if self._server is not None:
            with self._timed("stop"):
                self._server.stop()
        self._server = None
        self._asleep = self.has_slept = False

    @contextmanager
    def _timed(self, action: str, reason: str | None = None) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self._note(action, time.monotonic() - began, reason=reason)
