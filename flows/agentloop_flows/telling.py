"""Telling a person how a run ended, once for each attempt at it.

A flow that ends tells it itself, in Prefect's hooks, after its last state is known. Of one whose process was killed the
worker that started it tells, or whoever finds it gone (see reconcile.py). The database says what was told already. What goes
wrong here is one line in the log and changes nothing about the run.
"""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from agentloop import settings as configuration
from agentloop.campaign import news
from agentloop.errors import told
from agentloop.notices import sending
from agentloop.notices.notice import Notice
from agentloop.notices.sending import Outcome
from agentloop.settings import Settings
from agentloop.store import notices
from agentloop.store.database import Database
from agentloop_flows import connection, presence
from agentloop_flows.presence import Presence

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, State

EVENT = "agentloop.notice"
"""Prefect's event of a notice is this, a dot and the notice's own event: automations go by it."""
_INTERRUPTED = "Execution was aborted by an interrupt signal."
_WHAT_PREFECT_ADDS = re.compile(r"^Flow run encountered an exception: (\w+Error: )?")
_SAYS_NOTHING = ("", "All states completed.")
"""Prefect's messages of a state that say no more than its name."""
_RECOVERED = 1.2
"""Times notify.disk_gib must be free before a disk that was low can be low once more."""
GIB = 2**30
SERVER_SECONDS = 10.0


class _Hooks(TypedDict):
    on_completion: list[Callable[..., None]]
    on_failure: list[Callable[..., None]]
    on_crashed: list[Callable[..., None]]


def tell(flow: Any, flow_run: FlowRun, state: State) -> None:
    """Tell how a run ended. Never raises: a run does not end otherwise because nobody could be told."""
    log = _logger(flow_run)
    if _interrupted(state):
        return  # whoever pressed Ctrl-C knows
    try:
        with _server() as client:
            lines = _tell(client, _with_labels(client, flow_run), state)
        for line in lines:
            log.warning(line)
    except Exception as error:
        log.warning("not told: %s", _one_line(error))


HOOKS: _Hooks = {"on_completion": [tell], "on_failure": [tell], "on_crashed": [tell]}
"""Keywords for `flow`, so that the ends of its runs are told."""


def plain(message: str | None) -> str:
    """Return the message of a state on one line, without what Prefect puts before an error's own."""
    return _WHAT_PREFECT_ADDS.sub("", " ".join((message or "").split()))


def told_of_the_gone(flow_run: FlowRun, state: State) -> list[str]:
    """Tell of a run whose process is gone; one line for each way that failed. Never raises."""
    try:
        with _server() as client:
            return _tell(client, flow_run, state)
    except Exception as error:
        return [f"not told: {_one_line(error)}"]


def disk(settings: Settings) -> list[str]:
    """Tell that the disk of the data root is low, once until it has recovered; one line for each way that failed."""
    notify, mark = settings.notify, settings.paths.services / "disk-low"
    if not settings.paths.data.is_dir():
        return []
    free = shutil.disk_usage(settings.paths.data).free / GIB
    if free >= notify.disk_gib * (_RECOVERED if mark.exists() else 1):
        mark.unlink(missing_ok=True)
        return []
    if mark.exists():
        return []
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch(mode=0o600)
    line = f"{free:.1f} GiB are free at {settings.paths.data}, less than notify.disk_gib = {notify.disk_gib:g}"
    notice = Notice(("disk_low",), line)
    if not notice.wanted(notify.on):
        return []
    with _server() as client:
        return _faults(send(client, notice, settings))


async def disk_of_the_project() -> list[str]:
    """Do for the project's own settings, on the present server, what `disk` does."""
    return await asyncio.to_thread(lambda: disk(configuration.load()))


def send(client: SyncPrefectClient | None, notice: Notice, settings: Settings, flow_run: Any = None) -> list[Outcome]:
    """Send the notice on every way, Prefect's events among them where there is a server."""
    outcomes = sending.send(notice, settings.notify)
    if client is not None:
        try:
            emit(client, notice, flow_run)
        except Exception as error:
            outcomes.append(Outcome("Prefect's events", type(error).__name__))
    return outcomes


def emit(client: SyncPrefectClient, notice: Notice, flow_run: Any = None) -> None:
    """Make an event of the notice on Prefect's server, for automations to act on."""
    from prefect.events import Event

    run = {"prefect.resource.id": f"prefect.flow-run.{flow_run}", "prefect.resource.role": "flow-run"}
    event = Event.model_validate(
        {
            "event": f"{EVENT}.{notice.event}",
            "resource": {"prefect.resource.id": f"agentloop.campaign.{notice.campaign or 'none'}"},
            "related": [run] if flow_run else [],
            "payload": notice.body,
        }
    )
    client.request("POST", "/events", json=[event.model_dump(mode="json")]).raise_for_status()


def _with_labels(client: SyncPrefectClient | None, flow_run: FlowRun) -> FlowRun:
    """The run as the server knows it now; as it was given where the server is away."""
    try:
        return flow_run if client is None else client.read_flow_run(flow_run.id)
    except Exception:
        return flow_run


def _tell(client: SyncPrefectClient | None, flow_run: FlowRun, state: State) -> list[str]:
    settings, announced = _settings(flow_run)
    link = _page(settings, flow_run)
    ending: Literal["done", "failed"] = "done" if state.is_completed() else "failed"
    said = _said(state)
    notice: Notice | None
    if not announced:  # it ended before anything was known of its campaign
        notice = Notice((ending,), f"{flow_run.name}: {ending}: {said}", None, link)
        return _faults(send(client, notice, settings, flow_run.id)) if notice.wanted(settings.notify.on) else []
    key = f"{flow_run.id}/{flow_run.run_count}"
    since = (flow_run.start_time or datetime.now(UTC)).astimezone(UTC).replace(tzinfo=None)
    unkept = []
    try:
        with Database.open(settings.paths.database) as database:
            about: dict[str, Any] = {"key": key, "ending": ending, "said": said, "since": since, "link": link}
            notice = news.of_run(database, settings, **about)
    except Exception as error:  # a run that failed because of its database is told of as well
        unkept.append(f"notices: {_one_line(error)}")
        notice = Notice((ending,), f"{settings.campaign}: {ending}: {said}", settings.campaign, link)
    if notice is None or not notice.wanted(settings.notify.on):
        return [*unkept, *disk(settings)]
    outcomes = send(client, notice, settings, flow_run.id)
    if not unkept:
        arrived = [each.way for each in outcomes if each.fault is None]
        with Database.open(settings.paths.database) as database:
            notices.sent(database, key, arrived=arrived, failed=_faults(outcomes))
    return [*unkept, *_faults(outcomes), *disk(settings)]


def _settings(flow_run: FlowRun) -> tuple[Settings, bool]:
    """The run's settings and True; where it has not come so far as to announce itself, the project's and False."""
    if known := presence.settings_of(str(flow_run.id)):
        return known, True
    settings = configuration.load()
    campaign, found = flow_run.labels.get(presence.CAMPAIGN), Presence.of(flow_run.labels)
    if campaign is None or found is None:
        return settings, False
    paths = settings.paths.model_copy(update={"data": Path(found.file).parents[2]})
    return settings.model_copy(update={"campaign": str(campaign), "paths": paths}), True


def _page(settings: Settings, flow_run: FlowRun) -> str:
    """The run's page on the server that it is on."""
    from prefect.utilities.urls import url_for

    return url_for("flow-run", obj_id=flow_run.id, url_type="ui") or connection.run_page(settings, flow_run.id)


def _said(state: State) -> str:
    """The one line about a run's end, as the command line would say it."""
    error = state.data if isinstance(state.data, BaseException) else getattr(state.data, "result", None)
    if isinstance(error, BaseException) and (line := told(error)):
        return line
    message = plain(state.message)
    return "" if message in _SAYS_NOTHING else message


def _interrupted(state: State) -> bool:
    return isinstance(state.data, KeyboardInterrupt) or state.message == _INTERRUPTED


def _faults(outcomes: Sequence[Outcome]) -> list[str]:
    return [f"not told through {each.way}: {each.fault}" for each in outcomes if each.fault is not None]


def _one_line(error: BaseException) -> str:
    return told(error) or " ".join(f"{type(error).__name__}: {error}".split())


@contextmanager
def _server() -> Iterator[SyncPrefectClient | None]:
    """A client of the server that Prefect's own settings name, which is not waited for; without one, None."""
    from prefect.client.orchestration import get_client
    from prefect.settings import (
        PREFECT_API_REQUEST_TIMEOUT,
        PREFECT_API_URL,
        PREFECT_CLIENT_MAX_RETRIES,
        temporary_settings,
    )

    if not PREFECT_API_URL.value():
        yield None
        return
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: SERVER_SECONDS}):
        with get_client(sync_client=True) as client:
            yield client


def _logger(flow_run: FlowRun) -> Any:
    from prefect.logging.loggers import flow_run_logger

    try:
        return flow_run_logger(flow_run)
    except Exception:
        return logging.getLogger(__name__)
