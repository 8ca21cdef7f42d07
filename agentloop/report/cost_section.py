"""The page's section on what a campaign cost: time, accelerator, tokens, starts, failures, runs."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from agentloop.report import plots, query
from agentloop.report.cost import LOADING, OTHER, PARTS, WORK, Cost
from agentloop.report.plots import duration
from agentloop.report.sections import Markup, badge, figure, number, table, tiles_of, unbroken
from agentloop.store import runs
from agentloop.store.database import Database
from agentloop.store.runs import KILLED, Run


def cost(database: Database, campaign: str, costs: Sequence[Cost]) -> str:
    """Write the whole section."""
    made = runs.of_campaign(database, campaign)
    if not costs and not made:
        return '<p class="note">Nothing has been spent yet.</p>'
    shown = "".join([_tiles(costs), _where(costs), _spent(costs), _faults(database, campaign)])
    return shown + _runs(made)


def total(costs: Sequence[Cost], name: str) -> int:
    """The sum of one column of queries/spent.sql."""
    return sum(cost.spent.get(name) or 0 for cost in costs)


def _tiles(costs: Sequence[Cost]) -> str:
    wall, gpu = sum(cost.wall for cost in costs), sum(cost.spent.get("gpu") or 0 for cost in costs)
    starts = [total(costs, name) for name in ("vllm_starts", "trainer_starts")]
    unplanned = [total(costs, name) for name in ("vllm_restarts", "trainer_losses")]
    return tiles_of(
        [
            ("Wall clock", duration(wall), "while a run was at work"),
            ("Accelerator", duration(gpu), f"{gpu:,.0f} GPU seconds: phases of sampling and training"),
            (
                "Tokens sampled",
                number(total(costs, "sampled")),
                f"{total(costs, 'shown'):,} shown, {total(costs, 'trained'):,} trained on",
            ),
            (
                "Starts",
                f"{starts[0]} + {starts[1]}" if any(starts) else "–",
                f"of vLLM and the trainer; {unplanned[0]} restarts of vLLM, {unplanned[1]} trainers lost",
            ),
        ]
    )


def _where(costs: Sequence[Cost]) -> str:
    wall = sum(cost.wall for cost in costs)
    if not wall:
        return ""
    shares = [sum(cost.parts[part] for cost in costs for part in parts) / wall for parts in (WORK, LOADING)]
    rest = max(0.0, 1 - sum(shares))
    about = (
        f"Of all time, {100 * shares[0]:.1f} % is sampling, evaluation and training steps, {100 * shares[1]:.1f} % loads "
        f"models (starts of vLLM and the trainer), {100 * rest:.1f} % is everything else."
    )
    shown = figure("Where the time goes", about, plots.times(costs))
    return f'<div class="figures">{shown}<div class="wide">{_divided(costs)}</div></div>'


def _divided(costs: Sequence[Cost]) -> str:
    names = [name for name in (*PARTS, OTHER) if any(cost.parts[name] >= 0.05 for cost in costs)]
    rows = [
        [
            cost.name,
            duration(cost.wall),
            *(f"{cost.parts[name]:,.1f}" for name in names),
            f"{100 * cost.overhead:.1f} %",
        ]
        for cost in costs
    ]
    return table(
        "Seconds by part, and the share of the rest",
        ("Iteration", "#Wall clock", *(f"#{name.capitalize() if name[0] != 'v' else name}" for name in names), "#Rest"),
        rows,
    )


def _spent(costs: Sequence[Cost]) -> str:
    rows = []
    for each in costs:
        spent = each.spent
        rows.append(
            [
                each.name,
                f"{spent.get('gpu') or 0:,.0f}",
                "–" if spent.get("peak") is None else f"{spent['peak'] / 2**30:.2f}",
                *(number(spent.get(name)) for name in ("episodes", "sampled", "shown", "trained")),
                *(number(spent.get(name)) for name in ("vllm_starts", "trainer_starts")),
                *(number(spent.get(name)) for name in ("unanswered", "tool_errors", "retries", "lost")),
            ]
        )
    headers = (
        "Iteration", "#GPU s", "#Peak, GiB", "#Episodes", "#Sampled", "#Shown", "#Trained on", "#vLLM starts",
        "#Trainer starts", "#No answer", "#Tool errors", "#Retries", "#Lost",
    )  # fmt: skip
    return table("GPU, tokens, starts, faults", headers, rows)


def _faults(database: Database, campaign: str) -> str:
    rows = [
        [
            str(each["iteration"]),
            each["what"],
            each["error"],
            number(each["times"]),
            "–" if each["seconds"] is None else duration(each["seconds"]),
        ]
        for each in query.rows(database, "faults", campaign=campaign)
    ]
    return table("Failures and retries", ("Iteration", "Of", "What", "#Times", "#Took"), rows) if rows else ""


def _runs(made: Sequence[Run]) -> str:
    rows = [
        [
            unbroken(f"{run.started:%Y-%m-%d %H:%M}"),
            run.flow or "–",
            duration((run.finished - run.started).total_seconds()) if run.finished else "–",
            badge("failed" if run.error != KILLED else "killed", "bad")
            if run.error
            else badge("ended", "good")
            if run.finished
            else "no end seen",
            run.error or "",
            Markup(f'<a href="{escape(run.link)}" rel="noreferrer">Prefect</a>') if run.link else "–",
        ]
        for run in reversed(made)
    ]
    return table("Runs", ("Begun, UTC", "Flow", "#Took", "State", "Error", "Link"), rows) if rows else ""
