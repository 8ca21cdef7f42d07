"""vLLM as a child process: started, checked, fed adapters, put to sleep, ended with everything it started.

An adapter's name means the same weights for as long as a server lives: vLLM keys its prefix cache by the name, so new
weights under an old name would be answered with the old ones' keys and values.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

from agentloop import card, child_log
from agentloop.child import ChildProcess
from agentloop.errors import AdapterError, ServerError, SettingError
from agentloop.files import atomic
from agentloop.serving import adapters, compiler
from agentloop.serving.client import Endpoint
from agentloop.serving.command import ALONE, BASE_NAME, LOOPBACK_ONLY, Front, Place, arguments, environment
from agentloop.serving.installation import Installation
from agentloop.settings import Settings

NOT_RUNNING = "vLLM is not running"
_POLL_SECONDS = 0.1
_LOAD_SECONDS = 120.0
_SLEEP_SECONDS = 300.0
"""Long enough for the requests that run to be finished."""
_END_SECONDS = 20.0
_HEALTH_SECONDS = 10.0
_DYING_SECONDS = 10.0
"""From when vLLM closes its port until its process ends."""
_FREE_SECONDS = 20.0
_LEFT_BY_THE_DEAD = 1 << 30
"""Bytes of a card that somebody else may have taken since vLLM was started: a desktop, a browser."""
LEFT_ASLEEP = _LEFT_BY_THE_DEAD + (5 << 29)
"""And 2.5 GiB of vLLM's that stay in use while it sleeps: its CUDA context, graphs and kernels."""


class ModelServer:
    """A vLLM that serves one base model and adapters on it, behind a key, on loopback unless `front` says otherwise."""

    model_name = BASE_NAME
    """The name by which requests call the base model; an adapter's is its id."""

    def __init__(
        self,
        settings: Settings,
        model: Path,
        *,
        base: str | None = None,
        max_lora_rank: int | None = None,
        max_loras: int = 4,
        front: Front = LOOPBACK_ONLY,
        place: Place = ALONE,
    ) -> None:
        """`base`: the fingerprint of `model` (`base_…`), which adapters that name theirs are checked against.

        `max_lora_rank`: the largest that will be loaded, by default settings.training.rank. `max_loras`: how many adapters
        may be in one batch; beyond that vLLM swaps them. `place`: among several servers of this machine.
        """
        self.settings = settings
        self.model = model
        self.base = base
        self.max_lora_rank = max_lora_rank or settings.training.rank
        self.max_loras = max_loras
        self.front = front
        self.place = place
        self.api_key = front.key or secrets.token_urlsafe(24)
        self.port = 0
        self.log: Path | None = None
        self._installation: Installation | None = None
        self._compiled = True
        self._child: ChildProcess | None = None
        self._known: dict[str, str] = {}
        """Digest of every adapter ever loaded, by id."""
        self._loaded: set[str] = set()
        self.card_bytes: int | None = None
        """Most bytes of the cards that vLLM was seen to take; None on the CPU and before its start."""
        self._before: tuple[int, ...] = ()
        """Bytes free on each card before vLLM was started; nothing on the CPU."""
        self._free_before: tuple[int, ...] | None = None
        """Bytes free before vLLM was started on each card that it takes memory of, 0 for other cards; None on the CPU."""

    @property
    def url(self) -> str:
        return f"http://{self.front.reached_at}:{self.port}"

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.url, self.api_key)

    def __enter__(self) -> ModelServer:
        self.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def prepare(self) -> None:
        """Let vLLM's process import everything already, without the card; `start` goes on from there. Raises SettingError."""
        self._installation, fault = compiler.examine(self.settings)
        if fault and not self._installation.on_cpu:
            raise SettingError(f"vLLM cannot compile what it runs on a GPU: {fault}")
        if fault:
            print(f"{compiler.UNCOMPILED}: {fault}")
        self._compiled = fault is None
        port = self.settings.serving.port
        self.port = free_port(self.front.host, port + self.place.number if port else 0)
        self.log = self.settings.paths.logs / f"vllm-{time.strftime('%Y%m%d-%H%M%S')}-{self.port}.log"
        self._child = ChildProcess(
            [str(self._installation.python), "-m", "agentloop_vllm.standby", str(self._orders)],
            environment=environment(
                self.settings, self._installation, api_key=self.api_key, compiled=self._compiled, place=self.place
            ),
            log=self.log,
        )

    def start(self) -> None:
        """Start vLLM and wait until it answers. Raises SettingError or ServerError; nothing is left running then."""
        self.begin()
        self.await_answer()

    def begin(self) -> None:
        """Let vLLM start, and do not wait. Raises as `start` does."""
        if not self.alive():
            self.stop()
            self.prepare()
        try:
            words = arguments(
                self.settings,
                self._installation,
                model=self.model,
                port=self.port,
                max_lora_rank=self.max_lora_rank,
                max_loras=self.max_loras,
                compiled=self._compiled,
                front=self.front,
            )
            self._before = () if self._installation.on_cpu else card.free_bytes()
            with atomic(self._orders) as temporary:
                temporary.write_text(json.dumps(words), encoding="utf-8")
        except BaseException:
            self.stop()
            raise

    def await_answer(self) -> None:
        """After `begin`: wait until vLLM answers. Raises as `start` does."""
        try:
            self._wait_until_healthy()
            if self._before:
                # What happens on other cards is somebody else's affair.
                taken = self._look()
                self._free_before = tuple(
                    free if each > _LEFT_BY_THE_DEAD else 0 for free, each in zip(self._before, taken, strict=True)
                )
        except BaseException:
            self.stop()
            raise

    def look_at_card(self) -> None:
        """Note what vLLM has taken of the cards by now, which is more than when it began to answer. Nothing on the CPU."""
        if self._before:
            self._look()

    def _look(self) -> list[int]:
        """Bytes that vLLM has of each card."""
        taken = [
            max(0, free - now) if self.place.of == 1 or number == self.place.number else 0
            for number, (free, now) in enumerate(zip(self._before, card.free_bytes(), strict=True))
        ]
        self.card_bytes = max(self.card_bytes or 0, sum(taken))
        return taken

    @property
    def _orders(self) -> Path:
        """What vLLM was started with, beside its log."""
        return self.log.with_suffix(".json")

    @property
    def adapters(self) -> set[str]:
        """Names of the adapters that are loaded."""
        return set(self._loaded)

    def alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def death(self) -> str | None:
        """Return how vLLM ended, with the reason that its log gives; None while it runs."""
        code = self._child.poll() if self._child is not None else None
        if code is None:
            return None
        return f"vLLM {child_log.failure(code, self._log_text())} (log: {self.log})"

    def _awaited_death(self) -> str | None:
        deadline = time.monotonic() + _DYING_SECONDS
        while (death := self.death()) is None and self._child is not None and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        return death

    def failure(self) -> str | None:
        """Why vLLM does not answer requests: it has ended, or its health is not told in time. None where it does."""
        if self._child is None:
            return NOT_RUNNING
        if (death := self.death()) is not None:
            return death
        try:
            answer = httpx.get(f"{self.url}/health", timeout=_HEALTH_SECONDS, trust_env=False)
            if answer.is_success:
                return None
            # its engine has died, and this process is about to follow
            reason = child_log.reason(self._log_text())
            return self._awaited_death() or f"vLLM's engine has ended: {reason} (log: {self.log})"
        except httpx.TimeoutException as error:
            return self.death() or f"vLLM hangs: {type(error).__name__} when asked for its health (log: {self.log})"
        except httpx.TransportError as error:
            # it listens no more, or has cut the connection, so it is about to end, and only then its log is whole
            return self._awaited_death() or f"vLLM refuses connections: {type(error).__name__} (log: {self.log})"

    def stop(self) -> None:
        """End vLLM and every process that it started, and wait until they are gone. May be called more than once."""
        if self._child is None:
            return
        group = self._child.pid
        self._child.stop()
        self._child = None
        self._known.clear()
        self._loaded.clear()
        _wait_until_gone(group)

    def wait_until_free(self, *, asleep: bool = False) -> None:
        """After `stop` or `sleep`: wait until the driver has the cards' memory back. Raises ServerError, with the figures."""
        if self._free_before is not None:
            left = LEFT_ASLEEP if asleep else _LEFT_BY_THE_DEAD
            card.wait_until_free([free - left for free in self._free_before], seconds=_FREE_SECONDS)

    def sleep(self) -> None:
        """Finish the requests that run, move the weights to host memory and drop the cache. Raises ServerError.

        Adapters stay loaded. Requests that arrive meanwhile wait for `wake`. On the CPU vLLM keeps its memory.
        """
        self._command("/sleep?level=1&mode=wait")

    def wake(self) -> None:
        """Take the card's memory again and answer what waits. Raises ServerError."""
        self._command("/wake_up")

    def load_adapter(self, adapter: str, directory: Path) -> None:
        """Serve the adapter in `directory` under the name `adapter`, beside what is served already.

        Raises AdapterError for an adapter of another base, for one with modules that would be dropped, and for a name that
        stood for other weights; ServerError where vLLM does not answer. An adapter that is loaded already is left alone.
        """
        adapters.check_base(directory, fingerprint=self.base, model=self.model)
        digest = adapters.digest(directory)
        if self._known.get(adapter, digest) != digest:
            raise AdapterError(
                f"{directory}: {adapter} stood for other weights on this server; a name never changes meaning"
            )
        if adapter in self._loaded:
            return
        refusal = self._post("/v1/load_lora_adapter", {"lora_name": adapter, "lora_path": str(directory.resolve())})
        if refusal is not None:
            raise AdapterError(f"{directory}: {child_log.complaint(refusal)}")
        self._known[adapter] = digest
        self._loaded.add(adapter)

    def unload_adapter(self, adapter: str) -> None:
        """Stop serving the adapter; requests that run are finished. Raises AdapterError for one that is not loaded."""
        refusal = self._post("/v1/unload_lora_adapter", {"lora_name": adapter})
        if refusal is not None:
            raise AdapterError(f"{adapter}: {child_log.complaint(refusal)}")
        self._loaded.discard(adapter)

    def alias(self, name: str, model: str) -> None:
        """Let `name` stand for what is served as `model`, in requests that arrive from now on. Needs `front.aliases`.

        Raises ServerError.
        """
        self._command("/v1/alias", {"name": name, "model": model})

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + self.settings.serving.start_seconds
        with httpx.Client(base_url=self.url, timeout=5, trust_env=False) as client:
            while time.monotonic() < deadline:
                if (death := self.death()) is not None:
                    raise ServerError(death)
                try:
                    if client.get("/health").is_success:
                        return
                except httpx.TransportError:
                    pass  # not listening yet
                time.sleep(_POLL_SECONDS)
        reason = child_log.last_line(self._log_text())
        raise ServerError(
            f"serving.start_seconds: vLLM was not healthy after {self.settings.serving.start_seconds:g} s; "
            f"its last line: {reason} (log: {self.log})"
        )

    def _log_text(self) -> str:
        return self.log.read_text(errors="replace", encoding="utf-8")

    def _command(self, path: str, body: dict[str, str] | None = None) -> None:
        """A command that is expected to work. Those of vLLM's for developers it has where serving.policy is "sleep"."""
        answer = self._send(path, body, _SLEEP_SECONDS)
        if not answer.is_success:
            raise ServerError(
                f"{self.url}{path}: {answer.status_code} {' '.join(answer.text.split())} (log: {self.log})"
            )

    def _post(self, path: str, body: dict[str, str]) -> str | None:
        """None where vLLM agreed, its complaint where it did not."""
        answer = self._send(path, body, _LOAD_SECONDS)
        return None if answer.is_success else answer.json()["error"]["message"]

    def _send(self, path: str, body: dict[str, str] | None, seconds: float) -> httpx.Response:
        try:
            return httpx.post(
                self.url + path,
                json=body,
                headers={"Authorization": f"Bearer {self.api_key}"},
                timeout=seconds,
                trust_env=False,
            )
        except httpx.TransportError as error:
            raise ServerError(
                f"{self.url}{path}: {type(error).__name__} {error} (log: {self.log})".replace("  ", " ")
            ) from None


def free_port(host: str, port: int) -> int:
    """Return the port if it is free, any free one for 0. Raises SettingError."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SettingError(f"serving.port: {port} cannot be used: {error.strerror}") from None
        return probe.getsockname()[1]


def _wait_until_gone(group: int) -> None:
    """Memory is free only when the killed processes are; zombies hold none."""
    deadline = time.monotonic() + _END_SECONDS
    while _living(group):
        if time.monotonic() > deadline:
            raise ServerError(f"processes of vLLM are still there after SIGKILL: {_living(group)}")
        time.sleep(_POLL_SECONDS / 2)


def _living(group: int) -> list[int]:
    """Processes of the session that the child leads."""
    living = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                living.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return living
