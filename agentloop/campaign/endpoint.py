"""The champion behind one address, under a name that stays: another champion takes over while requests run.

vLLM holds each champion under its id, and the name `champion` stands for one of them. When the pointer moves, the new one is
loaded beside the old and the name is turned over; requests that run are finished by the weights that they began with. The
pointer is read from a snapshot, so nobody who writes waits for it longer than a copy takes.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path

from agentloop import card
from agentloop.campaign import served
from agentloop.campaign.campaign import Campaign
from agentloop.campaign.served import Served
from agentloop.errors import AdapterError, ServerError, StoreError
from agentloop.quantization.dequantised import dequantised
from agentloop.serving.client import Endpoint
from agentloop.serving.command import Front
from agentloop.serving.policy_server import PolicyServer
from agentloop.serving.server import free_port
from agentloop.store import champions
from agentloop.store.database import Database

CHAMPION = "champion"
"""The name that stands for whoever is champion."""
_LOOK_SECONDS = 1.0
_SHARE_OF_LOOKING = 0.05
"""Share of the time, at most, that reading the pointer takes: with every change of the database a snapshot copies it."""
_LIVES_SECONDS = 60.0
_QUICK_DEATHS = 3
"""Ends of vLLM in a row, each within a minute of its start, after which it is not started again."""


def open_campaign(campaign: Campaign) -> Campaign:
    """The campaign as it is served: with the way that its base is held in training known, without the database's lock.

    Raises StoreError where the campaign has not settled that yet.
    """
    with Database.open_snapshot(campaign.settings.paths.database) as database:
        held = campaign.settled(database)
    if held is None:
        raise StoreError(
            f"campaign {campaign.name}: how its base is held is not settled yet (training.quantization); agentloop run does it"
        )
    one_awake = campaign.settings.serving.model_copy(update={"policy": "restart", "servers": 1})
    return dataclasses.replace(campaign.served_by(one_awake), given=held)


def weights(campaign: Campaign) -> Path:
    """Return the directory of the base that is served, made where it is missing."""
    if campaign.serves_dequantised:
        return dequantised(campaign.settings, campaign.model, campaign.quantization)
    return campaign.model


def champion_of(campaign: Campaign) -> str | None:
    """Adapter id of the champion, from a snapshot; None while it is the base model."""
    with Database.open_snapshot(campaign.settings.paths.database) as database:
        return champions.champion(database, campaign.name)


class ChampionEndpoint:
    """Serves a campaign's champion until `stop` is set. `say` is told in a line of whatever changes."""

    def __init__(
        self,
        campaign: Campaign,
        front: Front,
        *,
        key_file: Path,
        say: Callable[[str], None],
        gives_way: bool | None = None,
    ) -> None:
        """`gives_way`: whether a run that begins gets the card meanwhile; by default where there is one."""
        serving = campaign.settings.serving
        if serving.port == 0:  # another vLLM, after this one, has to have the same
            serving = serving.model_copy(update={"port": free_port(front.host, 0)})
        self._campaign = campaign.served_by(serving)
        self._front = dataclasses.replace(front, aliases=True)
        self._say = say
        self._gives_way = card.present() if gives_way is None else gives_way
        self._about = Served("agentloop serve", campaign.name, key_file=str(key_file), gives_way=self._gives_way)
        self._refused: str | None = None
        """A champion that vLLM did not take."""
        self._unreadable = False
        self._waiting = False
        """For a run's end, of which `say` was told."""
        self._calm = False
        """Nothing is being started: a signal may wait for the next look."""
        self._asked_to_end = False
        self._next_look = 0.0
        self.champion: str | None = None
        """Adapter that the name stands for; None: the base model."""
        self.stop = threading.Event()

    def run(self, ready: Callable[[Endpoint], None]) -> None:
        """Serve; `ready` is told where as soon as requests are answered, and again after a run has had the card.

        Raises StoreError where something else is served from this data root, StartError, SettingError, ServerError.
        """
        data = self._campaign.settings.paths.data
        while not self._is_to_end():
            if self._gives_way:
                self._await_card(data)
            with served.held(data, self._about) as note, self._server() as server:
                if not self._is_to_end() and not self._wanted(data):
                    self.champion = champion_of(self._campaign)
                    self._serve(server)
                    [endpoint] = server.endpoints
                    note(dataclasses.replace(self._about, url=endpoint.url))
                    ready(endpoint)
                    self._follow(server, data)

    def end_soon(self) -> bool:
        """End after what is being looked at; for a signal's handler, which must not break into a library's call.

        False where it could take long, as vLLM is being started: then the handler itself has to end the process.
        """
        self._asked_to_end = True
        return self._calm

    def _is_to_end(self) -> bool:
        return self._asked_to_end or self.stop.is_set()

    def _server(self) -> PolicyServer:
        campaign = self._campaign
        return PolicyServer(campaign.settings, weights(campaign), base=campaign.base, front=self._front)

    def _serve(self, server: PolicyServer) -> None:
        calm, self._calm = self._calm, False
        try:
            server.alias(CHAMPION, server.serve(self.champion))
        finally:
            self._calm = calm

    def _follow(self, server: PolicyServer, data: Path) -> None:
        """Return when there is an end, or a run gets the card."""
        started, deaths = time.monotonic(), 0
        self._calm = True
        while not (self.stop.wait(_LOOK_SECONDS) or self._asked_to_end):
            if run := self._wanted(data):
                self._say(f"{run} gets the card; the champion is served again when that has ended")
                self._waiting, self._calm = True, False
                server.end()
                return
            for death in server.deaths().values():
                deaths = deaths + 1 if time.monotonic() - started < _LIVES_SECONDS else 1
                if deaths == _QUICK_DEATHS:
                    raise ServerError(f"{death}, {_QUICK_DEATHS} times in a row within a minute of its start")
                self._say(f"{death}; it is started again")
                self._serve(server)
                self._say(f"{self.champion or 'the base model'} is served again")
                started = time.monotonic()
            self._look(server)

    def _look(self, server: PolicyServer) -> None:
        """Turn the name over where the pointer has moved."""
        began = time.monotonic()
        if began < self._next_look:
            return
        try:
            found = champion_of(self._campaign)
            self._unreadable = False
        except StoreError as error:
            if not self._unreadable:
                self._say(f"{error}; {self.champion or 'the base model'} stays in service meanwhile")
            self._unreadable = True
            found = self.champion
        self._next_look = time.monotonic() + (time.monotonic() - began) / _SHARE_OF_LOOKING
        if found in (self.champion, self._refused or self.champion):
            return
        before, self.champion = self.champion, found
        try:
            self._serve(server)
        except (AdapterError, ServerError) as error:
            # a vLLM that has died is started again in a moment; what it does not take it never will
            self.champion, self._refused = before, found if isinstance(error, AdapterError) else self._refused
            self._say(f"{error}; {before or 'the base model'} stays in service")
            return
        self._refused = None
        self._say(
            f"Champion of campaign {self._campaign.name} is {found or 'the base model'} now (it was "
            f"{before or 'the base model'}): new requests go there, those that run are finished"
        )

    def _wanted(self, data: Path) -> object | None:
        return served.wanted_by(data) if self._gives_way else None

    def _await_card(self, data: Path) -> None:
        while (run := served.wanted_by(data)) and not self.stop.is_set():
            if not self._waiting:
                self._say(f"{run} has the card; the champion is served when that has ended")
            self._waiting = True
            self.stop.wait(_LOOK_SECONDS)
        self._waiting = False
