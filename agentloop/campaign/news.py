"""The news of a campaign when a run of it has ended: one line for a person, made once for each attempt at a run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from agentloop.notices.notice import Notice
from agentloop.report.comparison import percent, points
from agentloop.settings import Settings
from agentloop.store import notices
from agentloop.store.database import Database

Ending = Literal["done", "failed"]


@dataclass(frozen=True)
class _Judged:
    """One challenger and what the gate made of it."""

    iteration: int
    promoted: bool
    before: float
    after: float
    difference: float

    @property
    def gain(self) -> str:
        before = percent(self.before).removesuffix(" %")
        return f"{before} → {percent(self.after)} ({points(self.difference)})"


def of_run(
    database: Database,
    settings: Settings,
    *,
    key: str,
    ending: Ending,
    said: str,
    since: datetime,
    link: str | None = None,
) -> Notice | None:
    """Return what is to be told of a run that has ended; None where it was told already.

    `key` names the attempt at the run. `said` is what the run itself says of its end. The verdicts that it tells are those that
    no earlier notice did; for a campaign's first notice, those since the run began, `since` in UTC.
    """
    campaign = settings.campaign
    with database.transaction():
        judged = _judged(database, campaign, notices.newest_verdict(database, campaign), since)
        promoted = any(each.promoted for each in judged)
        events: list[str] = [ending, *(["promoted"] if promoted else [])]
        line = _line(campaign, judged, said) if ending == "done" else _failed(database, campaign, judged, said)
        if ending == "done" and judged and not promoted:
            nights = notices.nights_without_promotion(database, campaign) + 1
            if nights % settings.notify.nights == 0:
                events.append("stalled")
                line += f"; nothing promoted in {nights} nights"
        if not notices.claim(database, key, campaign=campaign, events=events, line=line, judged=bool(judged)):
            return None
    report = settings.paths.reports / f"{campaign}.html"
    return Notice(tuple(events), line, campaign, link, str(report) if report.is_file() else None)


def _judged(database: Database, campaign: str, told: int | None, since: datetime) -> list[_Judged]:
    """The challengers judged after the verdict with the number `told`, without one `since`; the last look at each."""
    rows = database.execute(
        """
        SELECT iteration, decision = 'promote', champion_success.estimate, challenger_success.estimate, difference.estimate
        FROM verdicts
        WHERE campaign = $campaign AND coalesce(number > $told, judged >= $since) AND decision <> 'needs_more_data'
        QUALIFY row_number() OVER (PARTITION BY iteration, adapter ORDER BY number DESC) = 1
        ORDER BY number
        """,
        {"campaign": campaign, "told": told, "since": since},
    )
    return [_Judged(*row) for row in rows]


def _line(campaign: str, judged: list[_Judged], said: str) -> str:
    return f"{campaign}, {_verdicts(judged)}" if judged else f"{campaign}: {said or 'done'}"


def _verdicts(judged: list[_Judged]) -> str:
    first, last = judged[0].iteration, judged[-1].iteration
    where = f"iteration {first}" if first == last else f"iterations {first}–{last}"
    promoted = [each for each in judged if each.promoted]
    if not promoted:
        best = max(judged, key=lambda each: each.difference)
        return f"{where}: champion kept, {'best ' if len(judged) > 1 else ''}challenger {best.gain}"
    if len(judged) == 1:
        return f"{where}: promoted, {judged[0].gain}"
    return f"{where}: " + "; ".join(f"promoted in {each.iteration}, {each.gain}" for each in promoted)


def _failed(database: Database, campaign: str, judged: list[_Judged], said: str) -> str:
    rows = database.execute(
        """
        SELECT if(status = 'done', NULL, name), iteration FROM steps WHERE campaign = ?
        ORDER BY greatest(begun, ended) DESC LIMIT 1
        """,
        [campaign],
    )
    where = "".join(
        f" in {name}{f' of iteration {iteration}' if iteration else ''}" for name, iteration in rows if name
    )
    before = f" (before that, {_verdicts(judged)})" if judged else ""
    return f"{campaign}: failed{where}: {said}{before}"
