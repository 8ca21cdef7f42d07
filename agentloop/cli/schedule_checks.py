"""The doctor's checks of schedules: whether they fire, and whether they still do after a reboot."""

from __future__ import annotations

import getpass
import shutil
import subprocess
from collections.abc import Iterator
from datetime import datetime

from agentloop.cli.doctor import Check
from agentloop.settings import Settings

FRAGILE = "fragile"
"""State of what works now, and may not tomorrow."""


def examine(settings: Settings) -> Iterator[Check]:
    """Server, worker, schedules, reboot and clock."""
    from agentloop_flows import schedules, services, units

    standing = units.standing(settings)
    if not services.is_up(settings):
        found = "cannot fire: the Prefect server is not up"
        yield Check("schedules", found, not standing.installed, "agentloop up, or see data/logs/prefect-server.log")
        return
    online = schedules.worker_is_online(settings, services.WORK_POOL)
    yield Check("worker", "online" if online else "none is online: no run begins", online, "agentloop up")
    active = [each for each in schedules.schedules(settings) if each.active]
    if not active:
        yield Check("schedules", "none is switched on (Deployments in the UI)")
    for each in active:
        when = f"next {_local(each.next)}" if each.next else "but no run of it is planned"
        remedy = "look again in a minute; else data/logs/prefect-server.log says what ails its scheduler"
        yield Check("schedule", f"{each.deployment}: {each.told}, {when}", each.next is not None, remedy)
    yield _reboot(standing, bool(active))
    yield _clock(bool(active))


def _reboot(standing: object, needed: bool) -> Check:
    from agentloop_flows import units

    assert isinstance(standing, units.Standing)
    if standing.survives:
        return Check("reboot", "survived: systemd units, enabled, and lingering is on")
    if not standing.installed:
        lack, remedy = "not survived: nothing starts server and worker again", "agentloop up --install"
    elif not standing.enabled:
        lack, remedy = "not survived: the systemd units are not enabled", "agentloop up --install"
    else:
        lack = "survived once you have logged in: lingering is off"
        remedy = f"loginctl enable-linger {getpass.getuser()}"
    return Check("reboot", lack, not needed, remedy, needed=False, otherwise=FRAGILE)


def _clock(needed: bool) -> Check:
    here = datetime.now().astimezone()
    told = f"{here:%Y-%m-%d %H:%M %Z}"
    synchronised = _synchronised()
    if synchronised is None:
        return Check("clock", f"{told}; nothing tells whether it is kept right")
    found = f"{told}, {'kept right' if synchronised else 'not kept right'} by NTP"
    ok = synchronised or not needed
    return Check("clock", found, ok, "timedatectl set-ntp true", needed=False, otherwise=FRAGILE)


def _synchronised() -> bool | None:
    if shutil.which("timedatectl") is None:
        return None
    done = subprocess.run(
        ["timedatectl", "show", "--property=NTPSynchronized", "--value"],
        capture_output=True,
        encoding="ascii",
        errors="replace",
        stdin=subprocess.DEVNULL,
        timeout=10,
    )
    return {"yes": True, "no": False}.get(done.stdout.strip())


def _local(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M %Z}"
