"""Notices on their way: to a command, and to web addresses. A way that fails is said in one line and stops nothing."""

from __future__ import annotations

import itertools
import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import httpx

from agentloop import backoff, project
from agentloop.errors import AgentloopError, SettingError
from agentloop.notices import addresses
from agentloop.notices.notice import Notice
from agentloop.settings.sections import Notify

_LONGEST_REASON = 300
_LEAST_SECONDS = 0.5
_TALKATIVE = ("httpx", "httpcore", "apprise")
"""Loggers of libraries that write an address, which is a secret, into their lines."""


@dataclass(frozen=True)
class Outcome:
    """The fate of a notice on one of its ways."""

    way: str
    """`command`, or the address as far as it may be said."""
    fault: str | None = None
    """Why it did not arrive; None where it did."""


def send(notice: Notice, notify: Notify) -> list[Outcome]:
    """Send the notice on every way of the settings, one after the other. Raises nothing; what went wrong is in the outcomes."""
    outcomes = []
    if notify.command:
        outcomes.append(_tried("command", notify.seconds, partial(_run, notice, notify.command)))
    try:
        found = addresses.addresses(notify)
    except SettingError as error:
        return [*outcomes, Outcome("webhook", str(error))]
    for address in found:
        send_to = _post if address.startswith(("http://", "https://")) else _through_apprise
        outcomes.append(_tried(addresses.name(address), notify.seconds, partial(send_to, notice, address)))
    return outcomes


class _Unsent(AgentloopError):
    """The reason why a notice did not arrive, without any secret in it."""


class _Unreached(_Unsent):
    """A reason that may be gone in a moment: after a reboot the network comes later than the services."""


def _tried(way: str, seconds: float, work: Callable[[float], None]) -> Outcome:
    """Do the work, which takes the seconds that are left, again while it is worth it."""
    deadline = time.monotonic() + seconds
    for attempt in itertools.count():
        try:
            with _quiet():
                work(max(_LEAST_SECONDS, deadline - time.monotonic()))
            return Outcome(way)
        except _Unreached as error:
            wait = backoff.pause(attempt, first=1.0, longest=5.0)
            if time.monotonic() + wait > deadline:
                return Outcome(way, str(error))
            time.sleep(wait)
        except _Unsent as error:
            return Outcome(way, str(error))
        except Exception as error:  # a message about an address may have the address in it
            return Outcome(way, type(error).__name__)
    raise AssertionError("it counts for ever")


def _run(notice: Notice, command: Sequence[str], seconds: float) -> None:
    """Start the command without a shell; it finds the notice in its environment and as JSON on standard input."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    variables |= {f"NOTICE_{name.upper()}": _as_text(value) for name, value in notice.body.items()}
    try:
        process = subprocess.Popen(
            command,
            cwd=project.root(),
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise _Unsent(f"{command[0]}: {error.strerror}") from None
    except ValueError:
        raise _Unsent("the command has a null character in it") from None
    try:
        _, errors = process.communicate(json.dumps(notice.body).encode(), timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise _Unsent(f"not done after {seconds:.0f} s (notify.seconds)") from None
    if process.returncode:
        said = errors.decode(errors="replace").strip().splitlines()
        how = f"exit code {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}"
        raise _Unsent(f"{how}{f': {said[-1][:_LONGEST_REASON]}' if said else ''}")


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def _post(notice: Notice, address: str, seconds: float) -> None:
    try:
        answer = httpx.post(address, json=notice.body, timeout=seconds)
    except httpx.TransportError as error:
        raise _Unreached(f"not reached ({type(error).__name__})") from None
    if not answer.is_success:
        later = answer.status_code == 429 or answer.is_server_error
        raise (_Unreached if later else _Unsent)(f"answered {answer.status_code}")


def _through_apprise(notice: Notice, address: str, seconds: float) -> None:
    """Send to any service that Apprise knows: mail, Telegram, ntfy, Matrix, …"""
    from apprise import Apprise, AppriseAsset

    found = Apprise(asset=AppriseAsset(app_id="agentloop", async_mode=False))
    separator = "&" if "?" in address else "?"
    if not found.add(f"{address}{separator}cto={seconds:g}&rto={seconds:g}"):
        raise _Unsent("Apprise knows no such address; see its list of services")
    if not found.notify(title=notice.title, body=notice.text):
        raise _Unreached("it did not take the notice")


@contextmanager
def _quiet() -> Iterator[None]:
    """Meanwhile no library's logger says an address."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before):
            logger.setLevel(level)
