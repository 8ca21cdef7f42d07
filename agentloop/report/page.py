"""The page of a campaign: one HTML file that holds everything it shows and asks nobody for anything.

page.html is the frame, page.css and plot.css the style, page.js the trajectory viewer. The page allows no network and
no other script than its own (Content-Security-Policy), whatever a model may have written into a trajectory.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from agentloop import __version__
from agentloop.files import atomic
from agentloop.report import sample, sections, summary
from agentloop.report.comparison import Headline
from agentloop.store import campaigns, taught_bases
from agentloop.store.clock import now
from agentloop.store.database import Database
from agentloop.store.taught_bases import TaughtBase

FILES = Path(__file__).parent


def write(
    database: Database,
    campaign: str,
    result: Headline,
    shards_root: Path,
    output: Path,
    *,
    decode: Callable[[int], str] | None = None,
    most_trajectories: int = sample.MOST_TRAJECTORIES,
) -> Path:
    """Write the page of a campaign to `output` and return that path.

    Works on the state that the database is in, finished or not; best on a snapshot, since it reads for a while.
    `decode` gives the text of one token id of the base model; without it the viewer shows ids. At most
    `most_trajectories` are embedded, see sample.py. Raises StoreError for an unknown campaign, ShardError naming a
    damaged shard, DiskError where `output` cannot be written.
    """
    settings = campaigns.settings_json(database, campaign)
    rows = summary.iterations(database, campaign, result.control)
    taught = taught_bases.of_campaign(database, campaign)
    drawn = sample.draw(database, campaign, shards_root, decode, most_trajectories)
    script = (FILES / "page.js").read_text(encoding="utf-8")
    page = Template((FILES / "page.html").read_text(encoding="utf-8")).substitute(
        title=f"{escape(campaign)}: agentloop report",
        campaign=escape(campaign),
        about=escape(_about(settings, rows, taught)),
        style=(FILES / "page.css").read_text(encoding="utf-8") + (FILES / "plot.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        headline="" if taught else sections.headline(result),
        teaching=sections.teaching(database, taught) if taught else "",
        iterations=sections.iterations(rows) if rows else "",
        never_solved=sections.never_solved(database, campaign),
        base=sections.base(database, campaign),
        judgements=sections.judgements(database, campaign, result),
        result_figures=sections.result_figures(database, campaign, rows, result),
        learning_figures=sections.learning_figures(database, campaign),
        tables=sections.tables(database, campaign),
        sample_note=_sample_note(drawn),
        lineage=sections.lineage(database, campaign),
        settings=sections.settings(settings),
        data=_embedded_json({"trajectories": drawn.trajectories, "flips": drawn.flips, "vocabulary": drawn.vocabulary}),
        version=__version__,
        written=f"{now():%Y-%m-%d %H:%M}",
    )
    with atomic(output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return output


def _about(settings: dict[str, Any], rows: list[summary.Row], taught: TaughtBase | None) -> str:
    if taught:
        return f"Environment {settings['environment']}: {settings['model']} was taught, and is {taught.name}."
    judged = sum(row.decision is not None for row in rows)
    promoted = sum(row.decision == "promote" for row in rows)
    return (
        f"Environment {settings['environment']}, model {settings['model']}: {judged} of {settings['iterations']} "
        f"iterations judged, {promoted} promoted."
    )


def _sample_note(drawn: sample.Sample) -> str:
    shown, left_out = len(drawn.trajectories), drawn.total - len(drawn.trajectories)
    if not left_out:
        return f"All {shown:,} trajectories of the campaign."
    question = escape("agentloop sql \"SELECT * FROM turns WHERE trajectory = '…' ORDER BY position\"")
    return (
        f"{shown:,} of the campaign's {drawn.total:,} trajectories, chosen by a fixed rule: both sides of "
        f"{len(drawn.flips)} flips first, then failures and successes of every iteration in equal parts. The other "
        f"{left_out:,} are in the database: <code>{question}</code>"
    )


def _embedded_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
