"""Prefect's automations that tell through a notification block of the user's choice, which has been made in Prefect's UI.

Of what this project's own processes can say, they pass on the notices (see telling.py). Of the rest Prefect itself knows: a run
that failed, whoever is left to say so; a run that does not begin; no worker. What was changed or removed in the UI since
stays so: what was made is written down, and an automation that is no longer the same is left alone.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from agentloop.settings import Settings
from agentloop_flows import connection, made, reconcile, telling

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import AutomationCore

PREFIX = "agentloop: "
"""Beginning of the name of every automation that is made here."""
LATE = timedelta(minutes=15)
"""A run may wait so long before it is told of: one that waits for another's end is Late as well."""
_COMPARED = ("name", "description", "enabled", "trigger", "actions")


def settle(settings: Settings, *, work_pool: str, reset: bool = False) -> list[str]:
    """Make the automations, or bring them up to date; lines for a person.

    Without `notify.block`, those that were made are removed. `reset`: also what was changed in the UI since.
    """
    record = settings.paths.data / "prefect" / "automations.json"
    before = made.read(record)
    if settings.notify.block is None and not before:
        return []
    with connection.client(settings) as client:
        block = None
        if settings.notify.block is not None:
            block = _block(client, settings.notify.block)
            if block is None:
                return [
                    f"notify.block: Prefect has no block {settings.notify.block}; make it in the UI, then agentloop up"
                ]
        wanted = {each.name: each for each in _automations(settings, block, work_pool)} if block else {}
        now, lines = _bring_about(client, wanted, before, reset=reset)
    made.write(record, now)
    told = [f"Told through {settings.notify.block}: {', '.join(name.removeprefix(PREFIX) for name in wanted)}"]
    return [*lines, *(told if wanted else [])]


def outcome(client: SyncPrefectClient, since: datetime) -> bool | None:
    """Return True where Prefect has sent a notice since then, False where it could not; None: nothing is known yet.

    Why it could not is left to Prefect's own events: the reason may have the block's address in it, which is a secret.
    """
    names = {"prefect.automation.action.executed": True, "prefect.automation.action.failed": False}
    filters = {"event": {"name": list(names)}, "occurred": {"since": since.isoformat()}}
    for event in client.request("POST", "/events/filter", json={"filter": filters}).json()["events"]:
        if event["resource"].get("prefect.resource.name") == f"{PREFIX}notices":
            return names[event["event"]]
    return None


def _automations(settings: Settings, block: UUID, work_pool: str) -> list[AutomationCore]:
    from prefect.events.actions import SendNotification
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    flows: dict[str, str | list[str]] = {
        "prefect.resource.role": "flow",
        "prefect.resource.name": list(reconcile.FLOWS),
    }
    said = "{{ flow_run.name }}: {{ flow_run.state.name }}. {{ flow_run.state.message }}\nRun: {{ flow_run|ui_url }}"
    on = settings.notify.on

    def automation(name: str, about: str, trigger: EventTrigger, subject: str, body: str) -> AutomationCore:
        action = SendNotification(block_document_id=block, subject=subject, body=body)
        description = f"{about} Made by `agentloop up` (notify.block); what you change here stays."
        return AutomationCore(name=PREFIX + name, description=description, trigger=trigger, actions=[action])

    told = {f"{telling.EVENT}.{event}" for event in ("done", "promoted", "stalled", "disk_low", "test")}
    found = [
        automation(
            "notices",
            "Passes on what runs say of their end (notify.on).",
            EventTrigger(expect=told),
            "{{ event.payload.title }}",
            "{{ event.payload.message }}",
        )
    ]
    if "failed" not in on:
        return found
    ended_badly: dict[str, str | list[str]] = {
        "prefect.resource.id": "prefect.flow-run.*",
        "prefect.state-type": ["FAILED", "CRASHED"],
    }
    return [
        *found,
        automation(
            "a run failed",
            "A run of this project has failed, or its process is gone.",
            EventTrigger(expect={"prefect.flow-run.*"}, match=ended_badly, match_related=flows),
            "agentloop: a run failed",
            said,
        ),
        automation(
            "a run is late",
            f"A run of this project has not begun {LATE.seconds // 60} minutes after its time.",
            EventTrigger(
                posture=Posture.Proactive,
                after={"prefect.flow-run.Late"},
                expect={"prefect.flow-run.*"},
                for_each={"prefect.resource.id"},
                match={"prefect.resource.id": "prefect.flow-run.*"},
                match_related=flows,
                within=LATE,
            ),
            "agentloop: a run is late",
            said,
        ),
        automation(
            "no worker",
            "Nobody is there who would begin a run.",
            EventTrigger(
                expect={"prefect.work-pool.not-ready"},
                match={"prefect.resource.id": "prefect.work-pool.*", "prefect.resource.name": work_pool},
            ),
            "agentloop: no worker",
            f"The work pool {work_pool} has no worker, so that no run begins. `agentloop up` starts one.",
        ),
    ]


def _bring_about(
    client: SyncPrefectClient, wanted: dict[str, AutomationCore], before: dict[str, Any], *, reset: bool
) -> tuple[dict[str, Any], list[str]]:
    """What there is now by name, as Prefect has it, and lines about what stays as somebody has made it."""
    there = {each.name: each for each in client.read_automations() if each.name.startswith(PREFIX)}
    result, kept = {}, []
    for name in sorted({*wanted, *before}):
        found, had = there.get(name), before.get(name)
        changed = had is not None and (found is None or _normal(found) != had["made"])
        if changed and not reset:
            result[name] = had
            kept.append(name.removeprefix(PREFIX))
            continue
        if name not in wanted:
            if found is not None:
                client.delete_automation(found.id)
            continue
        asked = wanted[name].model_dump(mode="json", include=set(_COMPARED))
        if found is None:
            client.create_automation(wanted[name])
        elif had is None or changed or had["asked"] != asked:
            # an update sends what was set: the server wants the defaults as well, and refuses an owner
            whole = wanted[name].model_dump(exclude={"owner_resource"})
            client.update_automation(found.id, type(wanted[name]).model_validate(whole))
        (now,) = client.read_automations_by_name(name)
        result[name] = {"asked": asked, "made": _normal(now)}
    stays = "stay as in Prefect's UI (agentloop up --reset: made again)"
    return result, [f"Automations ({', '.join(kept)}) {stays}"] if kept else []


def _normal(automation: AutomationCore) -> dict[str, Any]:
    """An automation as it is compared; the same one may come back with its sets in another order."""
    content = automation.model_dump(mode="json", include=set(_COMPARED))
    trigger = content["trigger"]
    for name in ("expect", "after", "for_each"):
        if isinstance(trigger.get(name), list):
            trigger[name] = sorted(trigger[name])
    trigger.pop("id", None)
    return content


def _block(client: SyncPrefectClient, named: str) -> UUID | None:
    from prefect.exceptions import ObjectNotFound

    kind, _, name = named.partition("/")
    try:
        return client.read_block_document_by_name(name, kind, include_secrets=False).id
    except ObjectNotFound:
        return None
