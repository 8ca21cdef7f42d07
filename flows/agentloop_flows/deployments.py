"""The deployments of prefect.yaml, deployed again without undoing what was changed in Prefect's UI since.

`prefect deploy` alone replaces schedules and parameters by the file's. So what the file had is written down, and where the
server has something else by the next time, somebody has changed it there, and it stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from agentloop.errors import SettingError
from agentloop.files import atomic
from agentloop.reading import read_text
from agentloop.settings import Settings
from agentloop_flows import connection, made

if TYPE_CHECKING:
    pass

_KINDS = {"cron": "CronSchedule", "interval": "IntervalSchedule", "rrule": "RRuleSchedule"}
"""Prefect's class of a schedule, by the field that tells it."""
_FIELDS = (*_KINDS, "anchor_date", "timezone", "day_or")


def deploy(
    settings: Settings, file: Path, run: Callable[[Path], None], *, reset: bool = False
) -> tuple[list[str], list[str]]:
    """Deploy what the file has: (names as `flow/deployment`, one line for each deployment of which something stays).

    `run` deploys the file that it is given. `reset`: as the file has it, whatever was changed in the UI. Raises SettingError
    for a file that cannot be read.
    """
    wanted = _read(file)
    connection.connect(settings)
    record = settings.paths.data / "prefect" / "deployed.json"
    had = {_key(each): {name: each.get(name) for name in ("parameters", "schedules")} for each in wanted["deployments"]}
    before = made.read(record)
    there = dict(_on_the_server(settings))
    stays = f"stay as in Prefect's UI (agentloop up --reset: as in {file.name})"
    lines = []
    for each in wanted["deployments"]:
        if (found := there.get(key := _key(each))) is None:
            continue
        if not reset and (kept := _keep(each, found, before.get(key, had[key]))):
            lines.append(f"{found['flow']}/{each['name']}: {' and '.join(kept)} {stays}")
        _make_way(settings, each, found)
    merged = record.with_name("deployed.yaml")
    merged.parent.mkdir(parents=True, exist_ok=True)
    with atomic(merged) as temporary:
        temporary.write_text(yaml.safe_dump(wanted, sort_keys=False), encoding="utf-8")
    run(merged)
    made.write(record, had)
    now = dict(_on_the_server(settings))
    return [f"{now[key]['flow']}/{key.rpartition('/')[2]}" for key in had if key in now], lines


def _keep(wanted: dict[str, Any], there: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Put into the file's deployment what was changed on the server; the fields' names, for a person."""
    kept = []
    given, had = wanted.get("parameters") or {}, before["parameters"] or {}
    changed = {name: value for name, value in there["parameters"].items() if had.get(name) != value}
    if any(given.get(name) != value for name, value in changed.items()):
        wanted["parameters"] = {**given, **changed}
        kept.append(f"parameters ({', '.join(changed)})")
    schedules = there["schedules"]
    if not _same(before["schedules"] or [], schedules) and not _same(wanted.get("schedules") or [], schedules):
        wanted["schedules"] = schedules
        kept.append("schedules")
    if there["paused"]:
        wanted["paused"] = True
    return kept


def _make_way(settings: Settings, wanted: dict[str, Any], there: Mapping[str, Any]) -> None:
    """What Prefect makes of schedules that are there depends on their slugs: leave these alone, or begin with none."""
    if _same(wanted.get("schedules") or [], there["schedules"]):
        wanted.pop("schedules", None)
        return
    with connection.client(settings) as client:
        for schedule in there["schedule_ids"]:
            client.delete_deployment_schedule(there["id"], schedule)


def _same(of_the_file: Sequence[Mapping[str, Any]], schedules: Sequence[Mapping[str, Any]]) -> bool:
    """True where the server has these schedules; what the file leaves out of one does not count, but that it is active."""
    rest = list(map(_normal, schedules))  # the server gives them in no order
    for each in map(_normal, of_the_file):
        match = next((other for other in rest if all(other.get(name) == value for name, value in each.items())), None)
        if match is None:
            return False
        rest.remove(match)
    return not rest


def _normal(schedule: Mapping[str, Any]) -> dict[str, Any]:
    """A schedule with its values as Prefect reads them, so that equal ones compare as equal."""
    from prefect.client.schemas import schedules

    kind = next((kind for name, kind in _KINDS.items() if name in schedule), None)
    told = {name: schedule[name] for name in _FIELDS if schedule.get(name) is not None}
    if kind is not None:
        try:
            told = getattr(schedules, kind)(**told).model_dump(mode="json", include=set(told))
        except ValueError:  # `prefect deploy` says what is wrong with it
            pass
    if "rrule" in told:  # the server writes down when it was given the rule
        told["rrule"] = [line for line in str(told["rrule"]).splitlines() if not line.startswith("DTSTART")]
    told |= {name: schedule[name] for name in ("slug", "parameters") if schedule.get(name)}
    return told | {"active": schedule.get("active", True)}


def _on_the_server(settings: Settings) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and what there is of every deployment: id, flow, paused, parameters, and schedules as prefect.yaml has them."""
    with connection.client(settings) as client:
        flows: dict[Any, str] = {}
        first = 0
        while found := client.read_deployments(limit=200, offset=first):
            first += len(found)
            for each in found:
                if each.flow_id not in flows:
                    flows[each.flow_id] = client.read_flow(each.flow_id).name
                yield (
                    f"{each.entrypoint}/{each.name}",
                    {
                        "id": each.id,
                        "flow": flows[each.flow_id],
                        "paused": each.paused,
                        "parameters": each.parameters,
                        "schedules": [_as_in_a_file(schedule.model_dump(mode="json")) for schedule in each.schedules],
                        "schedule_ids": [schedule.id for schedule in each.schedules],
                    },
                )


def _as_in_a_file(schedule: Mapping[str, Any]) -> dict[str, Any]:
    """A schedule of the API as prefect.yaml has it."""
    kind = schedule["schedule"]
    told = {name: kind[name] for name in _FIELDS if kind.get(name) is not None}
    told |= {name: schedule[name] for name in ("slug", "parameters") if schedule.get(name)}
    return told | {"active": schedule["active"]}


def _key(deployment: Mapping[str, Any]) -> str:
    return f"{deployment.get('entrypoint')}/{deployment.get('name')}"


def _read(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(read_text(file, SettingError))
    except yaml.YAMLError as error:
        raise SettingError(f"{file}: {' '.join(str(error).split())}") from None
    deployments = content.get("deployments") if isinstance(content, dict) else None
    if not isinstance(deployments, list) or not all(isinstance(each, dict) for each in deployments):
        raise SettingError(f"{file}: has no list of deployments")
    return content
