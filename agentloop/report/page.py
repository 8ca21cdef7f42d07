"""The page of a campaign: one HTML file that holds everything it shows and asks nobody for anything.

page.html is the frame, page.css and plot.css the style, page.js the trajectory viewer. The page allows no network and
no other script than its own (Content-Security-Policy), whatever a model may have written into a trajectory.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from agentloop import __version__
from agentloop.files import atomic
from agentloop.report import archive, cost, cost_section, sections, summary
from agentloop.report.archive import Archive
from agentloop.report.comparison import Headline
from agentloop.report.state import State
from agentloop.store import campaigns, taught_bases
from agentloop.store.clock import now
from agentloop.store.database import Database
from agentloop.store.taught_bases import TaughtBase

FILES = Path(__file__).parent
LIVE_BYTES = 6_000_000
"""Of packed trajectories in a page that is written again and again, at most."""
PAGE_BYTES = 100_000_000
"""Of packed trajectories in the page that a run ends with, at most: what a browser opens at once."""


@dataclass(frozen=True)
class Sources:
    """Places from which a page takes what the database does not hold."""

    shards: Path
    """Folder in which shards are looked for that no longer lie where they were ingested."""
    decode: Callable[[int], str] | None = None
    """Text of one token id of the base model; without it the viewer shows ids."""
    cache: Path | None = None
    """Folder for what is packed already; None: everything is packed anew."""


def write(
    database: Database,
    campaign: str,
    result: Headline,
    sources: Sources,
    output: Path,
    *,
    state: State | None = None,
    refresh: float = 0.0,
    index: bool = False,
    iterations: range | None = None,
) -> Path:
    """Write the page of a campaign to `output` and return that path.

    Works on the state that the database is in, finished or not; best on a snapshot, since it reads for a while. The page
    holds the newest PAGE_BYTES of trajectories, or all those of some `iterations`. With `refresh` it reads itself anew after
    so many seconds, and holds the newest LIVE_BYTES alone. `index`: it lies beside an index.html. Raises StoreError for an
    unknown campaign, ShardError naming a damaged shard, DiskError where `output` cannot be written.
    """
    settings = campaigns.settings_json(database, campaign)
    rows = summary.iterations(database, campaign, result.control)
    taught = taught_bases.of_campaign(database, campaign)
    packed = archive.pack(
        database,
        campaign,
        sources.shards,
        sources.decode,
        cache=sources.cache,
        most_bytes=LIVE_BYTES if refresh else PAGE_BYTES if iterations is None else None,
        iterations=iterations,
    )
    script = (FILES / "page.js").read_text(encoding="utf-8")
    spent = cost.of_campaign(database, campaign)
    page = Template((FILES / "page.html").read_text(encoding="utf-8")).substitute(
        title=f"{escape(campaign)}: agentloop report",
        campaign=escape(campaign),
        home='<a href="index.html">agentloop</a>' if index else "agentloop",
        about=escape(_about(settings, rows, taught)),
        style=style(),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        refresh=f"{refresh:g}",
        again=f'<noscript><meta http-equiv="refresh" content="{refresh:g}"></noscript>' if refresh else "",
        state=_state(state),
        headline="" if taught else sections.headline(result),
        teaching=sections.teaching(database, taught) if taught else "",
        iterations=sections.iterations(rows) if rows else "",
        never_solved=sections.never_solved(database, campaign),
        base=sections.base(database, campaign),
        judgements=sections.judgements(database, campaign, result),
        result_figures=sections.result_figures(database, campaign, rows, result),
        learning_figures=sections.learning_figures(database, campaign),
        tables=sections.tables(database, campaign),
        cost=cost_section.cost(database, campaign, spent),
        sample_note=_sample_note(packed, refresh, iterations),
        lineage=sections.lineage(database, campaign),
        settings=sections.settings(settings),
        data=_embedded(packed),
        version=__version__,
        moment=f"{now():%Y-%m-%dT%H:%M:%SZ}",
        written=f"{now():%Y-%m-%d %H:%M:%S}",
    )
    with atomic(output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return output


def file_name(campaign: str) -> str:
    """Return the name of a campaign's page; index.html is the list of all campaigns."""
    return f"{campaign}.html" if campaign != "index" else "index_.html"  # no campaign's name has an underscore


def style() -> str:
    """The style of a page and of the figures in it."""
    return "".join((FILES / name).read_text(encoding="utf-8") for name in ("page.css", "plot.css"))


def _about(settings: dict[str, Any], rows: list[summary.Row], taught: TaughtBase | None) -> str:
    if taught:
        return f"Environment {settings['environment']}: {settings['model']} was taught, and is {taught.name}."
    judged = sum(row.decision is not None for row in rows)
    promoted = sum(row.decision == "promote" for row in rows)
    return (
        f"Environment {settings['environment']}, model {settings['model']}: {judged} of {settings['iterations']} "
        f"iterations judged, {promoted} promoted."
    )


def _state(state: State | None) -> str:
    if state is None:
        return ""
    link = f' <a href="{escape(state.link)}" rel="noreferrer">The run in Prefect</a>' if state.link else ""
    advice = f'<p class="note">{escape(state.advice)}</p>' if state.advice else ""
    return f'<div class="state {state.kind}"><p>{escape(state.said)}{link}</p>{advice}</div>'


def _sample_note(packed: Archive, refresh: float, iterations: range | None) -> str:
    if packed.shown == packed.total:
        return f"All {packed.shown:,} trajectories of the campaign."
    if iterations is not None:
        span = f"{iterations[0]} to {iterations[-1]}" if len(iterations) > 1 else f"{iterations[0]}"
        return f"The {packed.shown:,} trajectories of iteration {span}, of the campaign's {packed.total:,}."
    newest = f"The newest {packed.shown:,} of the campaign's {packed.total:,} trajectories; "
    if refresh:
        return f"{newest}the page that the run ends with has more of them."
    return f"{newest}<code>agentloop report --iterations 1-3</code> writes a page with those of iterations 1 to 3."


def _embedded(packed: Archive) -> str:
    """Base64 in elements that no browser runs."""
    parts = {"index": packed.index} | {f"chunk-{place}": text for place, text in enumerate(packed.chunks)}
    return "\n".join(f'<script type="text/plain" id="{name}">{text}</script>' for name, text in parts.items())
