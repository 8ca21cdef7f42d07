"""`agentloop status`: what is at work, how far it is, and what has been reached."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from agentloop.cli import choosing
from agentloop.cli.common import AsJson, Named, Overrides, Profile, console, load, reading, say, say_json

if TYPE_CHECKING:
    from agentloop.campaign.lock import Owner
    from agentloop.campaign.standing import Standing
    from agentloop.housekeeping.usage import Usage
    from agentloop.report.comparison import Comparison
    from agentloop.report.summary import CampaignStatus, Step


def status(
    overrides: Overrides = None, profile: Profile = None, campaign: Named = None, as_json: AsJson = False
) -> None:
    """Show what is at work and how far it is, what a campaign has reached, and the link that opens Prefect's UI."""
    settings = load(profile, overrides)
    from agentloop.campaign import lock, served, standing
    from agentloop.housekeeping import usage
    from agentloop.report import summary
    from agentloop_flows import connection, services, units

    link = connection.entrance(settings) if services.is_up(settings) else None
    if link and not as_json:  # also where there is no database yet
        print(f"Prefect UI, opened by this link: {link}", flush=True)
    elif not as_json and units.installed(settings):
        say("The Prefect server is down, though its systemd unit is installed; agentloop up starts it")
    owner = lock.owner(settings.paths.data)
    serving = served.now(settings.paths.data)
    with reading(settings) as database:
        everything = standing.overview(database, owner)
        looked_at = None
        if everything or campaign is not None:
            # what is at work is what is asked about, where nobody says otherwise
            at_work = owner.campaign if owner and owner.campaign in {each.name for each in everything} else None
            chosen = choosing.of_a_campaign(
                database, settings, campaign, profile=profile, words=overrides, otherwise=at_work, begun=False
            )
            looked_at = standing.stand(database, chosen.campaign, settings.paths, owner)
    disk = usage.of(settings)
    if as_json:
        say_json(
            {
                "ui": link,
                "disk": _disk(disk),
                "owner": owner and _owner(owner),
                "served": serving
                and {"by": serving.by, "campaign": serving.campaign, "process": serving.pid, "url": serving.url},
                "campaign": looked_at and _standing(looked_at),
                "campaigns": [_campaign(each) for each in everything],
            }
        )
        return
    if owner is not None:
        say(f"At work on {settings.paths.data}: {owner}")
    if serving is not None:
        say(f"Served by {serving}{f' at {serving.url}/v1' if serving.url else ''}")
    console.print(summary.status_table(everything))
    say(f"\nDisk: {usage.told(disk)}")
    if looked_at is not None:
        say(f"\nCampaign {looked_at.status.name}")
        for name, text in _told(looked_at):
            say(f"  {name:<9} {text}")


def _told(found: Standing) -> Iterator[tuple[str, str]]:
    from agentloop.campaign import standing
    from agentloop.report import summary

    last = found.status.last
    if found.work is not None:
        yield "now", standing.told(found.work)
    elif found.complete:
        yield "now", "complete: a run would find nothing left to do"
    elif last is not None:
        yield "now", f"nobody is at work; {last}: {summary.outcome(last)}{_ended(last)}"
    else:
        yield "now", "nobody is at work, and no step is done yet"
    yield "success", _success(found.success, found.status.champion)
    if left := found.time_left:
        more = f", {standing.duration(left.campaign)} of all iterations" if left.campaign > left.iteration else ""
        yield (
            "left",
            f"about {standing.duration(left.iteration)} of the iteration{more}, if all goes as in iteration {left.like}",
        )


def _success(found: Comparison | None, champion: str | None) -> str:
    from agentloop.report.comparison import percent, span

    if found is None:
        return "not measured yet"
    tasks = f"{len(found.before.tasks)} held-out tasks × {found.before.samples}"
    base, best = (
        f"{percent(each.estimate)} [{100 * each.low:.1f}, {100 * each.high:.1f}]"
        for each in (found.before_success, found.after_success)
    )
    if champion is None:
        return f"the base model, which is champion, solves {base} of {tasks}"
    return f"the champion solves {best}, the base model {base} of {tasks}: {span(found.difference)}"


def _ended(step: Step) -> str:
    return f" ({step.finished:%Y-%m-%d %H:%M} UTC)" if step.finished else ""


def _disk(found: Usage) -> dict[str, Any]:
    kinds = [{"kind": kind, "bytes": size} for kind, size in found.kinds.items()]
    return {"free": found.free, "reserve": found.reserve, "kinds": kinds, "night": found.night, "nights": found.nights}


def _owner(owner: Owner) -> dict[str, Any]:
    return {"process": owner.pid, "since": f"{owner.started:.19}Z", "campaign": owner.campaign}


def _campaign(each: CampaignStatus) -> dict[str, Any]:
    return {
        "name": each.name,
        "iterations_done": each.done,
        "iterations": each.planned,
        "champion": each.champion,
        "running": each.running and _step(each.running),
        "last": each.last and _step(each.last),
    }


def _step(step: Step) -> dict[str, Any]:
    names = ("iteration", "name", "status", "error", "started", "finished")
    return {name: getattr(step, name) for name in names}


def _standing(found: Standing) -> dict[str, Any]:
    compared = found.success
    return {
        **_campaign(found.status),
        "complete": found.complete,
        "work": found.work and asdict(found.work),
        "success": compared
        and {
            "base": asdict(compared.before_success),
            "champion": asdict(compared.after_success),
            "difference": asdict(compared.difference),
            "mcnemar_p": compared.mcnemar_p,
            "tasks": len(compared.before.tasks),
            "samples": compared.before.samples,
        },
        "time_left": found.time_left and asdict(found.time_left),
    }
