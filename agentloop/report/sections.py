"""The page's sections as HTML: tiles, tables and figures. Every text that is not ours goes through `escape`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from agentloop.records import Interval
from agentloop.report import plots, query
from agentloop.report.comparison import Headline, findings, percent, points, probability
from agentloop.report.story import facts, flat, funnel_text
from agentloop.report.summary import DECISIONS, Row
from agentloop.report.svg import Canvas
from agentloop.store import base_judgements, campaigns, champions, evaluations, families, teacher_usage, trainable
from agentloop.store.database import Database
from agentloop.store.lineage import story as story_of
from agentloop.store.taught_bases import TaughtBase
from agentloop.text import odds

NEWEST = 16
"""Adapters whose lineage is told; that of any other is in the database."""


def headline(result: Headline) -> str:
    """The campaign in four figures and a few sentences."""
    tiles = []
    if result.alone:
        alone = result.alone
        tiles = [(alone.name.capitalize(), percent(alone.success.estimate), _percents(alone.success))]
    if result.gain:
        gain, best = result.gain, "Champion" if result.champion else "Newest challenger"
        tiles = [
            ("Base model", percent(gain.before_success.estimate), _percents(gain.before_success)),
            (best, percent(gain.after_success.estimate), _percents(gain.after_success)),
            (
                f"{best} over base",
                f"{points(gain.difference.estimate)} points",
                f"{_points(gain.difference)}, McNemar p {probability(gain.mcnemar_p)}",
            ),
        ]
    if result.over_control:
        over = result.over_control
        tiles.append(
            (
                "Over the control",
                f"{points(over.difference.estimate)} points",
                f"{_points(over.difference)}, control {percent(over.before_success.estimate)}",
            )
        )
    said = "".join(f"<li>{escape(sentence)}</li>" for sentence in findings(result))
    return tiles_of(tiles) + f'<ul class="findings">{said}</ul>'


def tiles_of(tiles: Sequence[tuple[str, str, str]]) -> str:
    """(name, figure, about) side by side; nothing where there are none."""
    shown = "".join(
        f'<div class="tile"><dt>{escape(name)}</dt><dd class="figure">{escape(value)}</dd>'
        f'<dd class="note">{escape(about)}</dd></div>'
        for name, value, about in tiles
    )
    return f'<dl class="tiles">{shown}</dl>' if tiles else ""


def iterations(rows: Sequence[Row]) -> str:
    """The summary's rows in full."""
    cells = [
        (
            row.decision,
            [
                row.name,
                _success(row.before),
                _success(row.after),
                badge(DECISIONS[row.decision], row.decision) if row.decision else "–",
                "–" if row.difference is None else f"{points(row.difference.estimate)} ({_points(row.difference)})",
                "–" if row.mcnemar_p is None else probability(row.mcnemar_p),
                number(row.tasks),
                number(row.rows),
                _id(row.adapter or "–"),
            ],
        )
        for row in rows
    ]
    headers = (
        "Iteration",
        "#Before",
        "#After",
        "Verdict",
        "#Difference, points",
        "#McNemar p",
        "#Tasks",
        "#Rows",
        "Adapter",
    )
    return table("Iterations", headers, [row for _, row in cells], [decision or "" for decision, _ in cells])


def teaching(database: Database, taught: TaughtBase) -> str:
    """Write what demonstrations made of a base: by family, and what a teacher has cost."""
    met = {family.name: family for family in families.met(database, taught.campaign, "demonstrate")}
    before, after = (evaluations.by_family(database, each) if each else {} for each in (taught.before, taught.after))
    rows = [
        [
            name,
            f"{met[name].solved:,} of {met[name].trajectories:,}" if name in met else "–",
            *("–" if name not in shares else percent(shares[name]) for shares in (before, after)),
        ]
        for name in sorted(met.keys() | before.keys())
    ]
    sums = [sum(getattr(family, which) for family in met.values()) for which in ("solved", "trajectories")]
    shares = [evaluations.success(database, each) for each in (taught.before, taught.after)]
    rows.append(["all", f"{sums[0]:,} of {sums[1]:,}", *("–" if share is None else percent(share) for share in shares)])
    shown = table(
        f"Demonstrations from {taught.source['kind']}, and success on held-out tasks",
        ("Family", "#Accepted", "#Before", "#After"),
        rows,
    )
    spent = teacher_usage.total(database, taught.campaign)
    cost = f'<p class="note">{teacher_usage.told(spent)}</p>' if spent else ""
    return shown + cost


def never_solved(database: Database, campaign: str) -> str:
    """Families of which there is nothing to learn from, with what to do."""
    line = families.offer(families.unsolved(database, campaign))
    return f'<p class="note">{escape(line)}</p>' if line else ""


def judgements(database: Database, campaign: str, result: Headline) -> str:
    """Write what the iterations' table leaves out: pass@k, every look of the gate with its guards, the champion's meetings with
    other policies, and moves made by hand.
    """
    parts = _reasons(database, campaign), _pass_at(result), _looks(database, campaign), _meetings(database, campaign)
    return "".join(parts) + _moves(database, campaign)


def _reasons(database: Database, campaign: str) -> str:
    """The verdicts in the gate's own words."""
    said = "".join(
        f"<dt>Iteration {each['iteration']}</dt><dd>{escape(each['reason'])}</dd>"
        for each in query.rows(database, "verdicts", campaign=campaign)
    )
    return (
        f'<details class="reasons" open><summary>Verdicts</summary><dl class="facts">{said}</dl></details>'
        if said
        else ""
    )


def _pass_at(result: Headline) -> str:
    if result.gain is None or len(result.gain.pass_at) < 2:
        return ""
    best = "Champion" if result.champion else "Newest challenger"
    rows = [
        [name, *(percent(shares[which]) for _, *shares in result.gain.pass_at)]
        for which, name in enumerate(("Base model", best))
    ]
    headers = ("", *(f"#{k} sample{'s' * (k > 1)}" for k, _, _ in result.gain.pass_at))
    return table("Tasks solved by at least one of k samples (pass@k)", headers, rows)


def _looks(database: Database, campaign: str) -> str:
    found = query.rows(database, "looks", campaign=campaign)
    if not any(each["looks"] > 1 or each["guards"] or each["evidence"] for each in found):
        return ""  # one look without guards, before the gate went by e-values: the iterations' table says it all
    rows = [
        [
            str(each["iteration"]),
            unbroken(f"{each['look']} of {each['looks']}"),
            number(each["tasks"]),
            f"{points(each['difference']['estimate'])} ({_points(Interval(**each['difference']))})",
            probability(each["mcnemar_p"]),
            _evidence(each),
            Markup(" ".join(_guard(guard) for guard in each["guards"] or ()) or "–"),
            badge(DECISIONS[each["decision"]], each["decision"]),
        ]
        for each in found
    ]
    headers = (
        "Iteration",
        "Look",
        "#Tasks",
        "#Difference, points",
        "#McNemar p",
        "#Evidence, needed",
        "Guards",
        "Verdict",
    )
    return table("The gate's looks", headers, rows, [each["decision"] for each in found])


def _evidence(look: Mapping[str, Any]) -> str:
    if look["evidence"] is None:
        return "–" if look["alpha"] is None else f"p < {look['alpha']:.2g}"  # from before the gate went by e-values
    return unbroken(f"{odds(look['evidence'])}, {odds(look['needed'])}")


def _meetings(database: Database, campaign: str) -> str:
    found = query.rows(database, "meetings", campaign=campaign)
    if not found:
        return ""
    rows = [
        [
            str(each["iteration"]),
            {"base": "base model", "earlier": "best earlier champion", "itself": "itself, another seed"}[each["kind"]],
            number(each["tasks"]),
            f"{points(each['difference']['estimate'])} ({_points(Interval(**each['difference']))})",
            _evidence(each),
            "better" if each["better"] else "not better",
        ]
        for each in found
    ]
    headers = ("Iteration", "The champion met", "#Tasks", "#Difference, points", "#Evidence, needed", "Result")
    alike = [each for each in found if each["kind"] == "itself"]
    note = ""
    if alike:
        wrong = sum(each["better"] for each in alike)
        note = (
            f'<p class="note">The champion met itself {len(alike)} times; in {wrong} of them the evidence called it better '
            "than itself.</p>"
        )
    return table("The champion's meetings with policies that are no challengers", headers, rows) + note


def _moves(database: Database, campaign: str) -> str:
    moves = champions.moves(database, campaign)
    if all(move.verdict for move in moves):
        return ""  # promotions alone: the iterations' table says them
    rows = [
        [
            unbroken(f"{move.moved:%Y-%m-%d %H:%M}"),
            str(move.iteration),
            _id(move.adapter or "base model"),
            "gate" if move.verdict else "rollback",
            move.reason,
        ]
        for move in moves
    ]
    return table("Who was champion", ("Since", "Iteration", "Champion", "By", "Reason"), rows)


def _guard(guard: Mapping[str, Any]) -> Markup:
    """Name and what the difference there surely exceeds."""
    passed = guard["bound"] > -guard["margin"]
    asked = f"{guard['environment']}: over {points(guard['bound'])}, asked {points(-guard['margin'])}"
    return badge(asked, "good" if passed else "bad")


def result_figures(database: Database, campaign: str, rows: Sequence[Row], result: Headline) -> str:
    shown = []
    if any(row.after for row in rows):
        about = "Percent of samples. Filled: promoted. The control is trained on random trajectories."
        shown.append(("Success on held-out tasks", about, plots.success(rows)))
    if result.gain:
        before, after = (
            query.rows(database, "families", evaluation=each.id) for each in (result.gain.before, result.gain.after)
        )
        best = "champion" if result.champion else "newest challenger"
        about = f"Percent of held-out samples: base model (grey), {best} (blue)."
        shown.append(("By family of the task", about, plots.families(before, after)))
    counts = query.rows(database, "flip_counts", campaign=campaign)
    if counts:
        about = "Held-out tasks of which the challenger solved more samples than the champion, or fewer: as the gate counts."
        changed = [(row["iteration"], row["gained"], row["lost"]) for row in counts]
        shown.append(("Tasks gained and lost", about, plots.flips(changed)))
    return "".join(figure(*each) for each in shown)


_CURVES = {
    "loss": ("Training loss", "On the model's own tokens"),
    "nll": ("Cross-entropy of successes", "In nats a token, where failures are learnt from as well"),
    "entropy": ("Entropy", "Of the model's distribution in nats, the mean over tokens that are trained on"),
    "kl": ("Divergence", "From the policy that sampled, in nats a token"),
    "clipped": ("Clipped tokens", "As a share of those that are trained on"),
}
"""Metrics of training that are drawn where there are any."""


def learning_figures(database: Database, campaign: str) -> str:
    shown = []
    selections = [row for row in query.rows(database, "funnels", campaign=campaign) if row["role"] == "challenger"]
    if selections:
        last = selections[-1]
        about = f"Iteration {last['iteration']}, recipe {last['recipe']}: trajectories left after each rule."
        shown.append(("Selection", about, plots.funnel(json.loads(last["funnel"]))))
    newest = f"of the newest {plots.NEWEST} iterations" if len(selections) > plots.NEWEST else "by iteration"
    for metric, (what, about) in _CURVES.items():
        if curves := query.rows(database, "curves", campaign=campaign, metric=metric):
            shown.append((what, f"{about}, {newest}.", plots.curves(curves, what)))
    counts = query.rows(database, "lengths", campaign=campaign)
    if counts:
        shown.append(("Token lengths", "Of all trajectories collected for training.", plots.lengths(counts)))
    return "".join(figure(*each) for each in shown) + _canaries(database, campaign)


def tables(database: Database, campaign: str) -> str:
    """Tool errors, all funnels, and what is trainable of an agent of one's own."""
    return _tool_errors(database, campaign) + _funnels(database, campaign) + _trainable(database, campaign)


def _trainable(database: Database, campaign: str) -> str:
    if (campaigns.settings_json(database, campaign).get("agent") or {}).get("command") is None:
        return ""
    line = trainable.told(database, campaign)
    return f'<p class="note">{escape(line)}</p>' if line else ""


def _funnels(database: Database, campaign: str) -> str:
    selections = query.rows(database, "funnels", campaign=campaign)
    if not selections:
        return ""
    rows = [
        [
            f"{each['iteration']}{', control' if each['role'] == 'control' else ''}",
            each["recipe"],
            funnel_text(json.loads(each["funnel"])),
            _id(each["dataset"]),
        ]
        for each in selections
    ]
    shown = table("", ("Iteration", "Recipe", "Left after each rule", "Dataset"), rows)
    return f"<details><summary>All selections</summary>{shown}</details>"


def _canaries(database: Database, campaign: str) -> str:
    found = query.rows(database, "canaries", campaign=campaign)
    rows = [
        [
            str(each["iteration"]),
            _id(each["adapter"] or "base model"),
            badge("yes", "good") if each["passed"] else badge("no", "bad"),
            number(each["tokens"]),
            *(f"{each[name]:.2g}" for name in ("mean_difference", "max_difference", "tolerance")),
        ]
        for each in found
    ]
    headers = ("Iteration", "Policy", "As trained", "#Tokens", "#Mean", "#Largest", "#Tolerance")
    shown = table("Canaries: served against trained log probabilities, in nats", headers, rows)
    return f'<div class="wide">{shown}</div>' if rows else ""


def base(database: Database, campaign: str) -> str:
    """Write what quantisation does to the base that is trained on; nothing where it is in 16 bit."""
    judged = base_judgements.newest(database, campaign)
    if judged is None:
        return ""
    success = judged["success"]

    def solved(held: str) -> str:
        return _success(Interval(**success[held])) if success else "not measured"

    gib = [f"{judged[name] / 2**30:.2f}" for name in ("bytes_in_16bit", "bytes")]
    rows = [
        ["16 bit", gib[0], "0", "100.0 %", solved("original")],
        [
            judged["quantization"],
            gib[1],
            f"{judged['kl']:.2g}",
            f"{100 * judged['same_choice']:.1f} %",
            solved("quantised"),
        ],
    ]
    headers = ("Base", "#GiB", "#KL, nats per token", "#Same choice", "#Solved, training tasks")
    shown = table("What the base loses by quantisation, measured before it was trained on", headers, rows)
    return f'<div class="wide">{shown}</div>'


def _tool_errors(database: Database, campaign: str) -> str:
    found = query.rows(database, "tool_errors", campaign=campaign)
    rows = [[each["tool"] or "parser", each["error"], number(each["times"]), str(each["newest"])] for each in found]
    headers = ("Tool", "Complaint", "#Times", "#Last in iteration")
    return table("What tools complained about, most frequent first", headers, rows) if rows else ""


def lineage(database: Database, campaign: str) -> str:
    """One entry for each of the newest adapters and the champion, which is open."""
    made = query.rows(database, "candidates", campaign=campaign)
    if not made:
        return '<p class="note">No adapter has been made yet.</p>'
    actors = {row["adapter"]: f"{row['role']} of iteration {row['iteration']}" for row in made}
    champion = champions.champion(database, campaign) or made[-1]["adapter"]
    shown = [row for place, row in enumerate(made) if place >= len(made) - NEWEST or row["adapter"] == champion]
    parts = []
    if len(shown) < len(made):
        parts.append(f'<p class="note">The newest {NEWEST} of {len(made)} adapters, and the champion.</p>')
    for row in reversed(shown):
        story = story_of(database, row["adapter"])
        reigned = any(each["campaign"] == campaign for each in story["champion"])
        mark = badge("became champion", "promote") if reigned else ""
        title = f"{escape(actors[row['adapter']].capitalize())} {_id(row['adapter'])} {mark}"
        opened = " open" if row["adapter"] == champion else ""
        parts.append(f"<details{opened}><summary>{title}</summary>{_facts(story, actors)}</details>")
    return "".join(parts)


def _facts(story: Mapping[str, Any], actors: Mapping[str, str]) -> str:
    told = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts(story, actors))
    return f'<dl class="facts">{told}</dl>'


def settings(values: Mapping[str, Any], *, opened: bool = False) -> str:
    """All of them. `opened`: shown from the start, and printed."""
    pairs = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in flat(values))
    state = " open" if opened else ""
    return f'<details{state}><summary>Show all</summary><dl class="columns">{pairs}</dl></details>'


class Markup(str):
    """Text that is HTML already."""


def table(caption: str, headers: Sequence[str], rows: Sequence[Sequence[str]], kinds: Sequence[str] = ()) -> str:
    """A table that scrolls by itself where it is too wide. A header that starts with # is of a column of numbers."""
    numeric = [header.startswith("#") for header in headers]
    head = "".join(
        f'<th scope="col"{_class("number" if number else "")}>{escape(header.lstrip("#"))}</th>'
        for header, number in zip(headers, numeric, strict=True)
    )
    body = "".join(
        f"<tr{_class(kind)}>"
        + "".join(
            f"<td{_class('number' if number else '')}>{cell if isinstance(cell, Markup) else escape(cell)}</td>"
            for cell, number in zip(row, numeric, strict=True)
        )
        + "</tr>"
        for row, kind in zip(rows, kinds or [""] * len(rows), strict=True)
    )
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption or headers[0])}">'
        f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def figure(title: str, about: str, canvas: Canvas) -> str:
    return f"<figure><h3>{escape(title)}</h3><figcaption>{escape(about)}</figcaption>{canvas.inline()}</figure>"


def badge(text: str, kind: str) -> Markup:
    return Markup(f'<span class="badge {kind}">{escape(text)}</span>')


def _id(name: str) -> Markup:
    return Markup(f'<span class="id">{escape(name)}</span>')


def unbroken(text: str) -> Markup:
    return Markup(f'<span class="plain">{escape(text)}</span>')


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def number(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _percents(interval: Interval) -> str:
    return f"{100 * interval.low:.1f} to {100 * interval.high:.1f} %"


def _points(interval: Interval) -> str:
    return f"{points(interval.low)} to {points(interval.high)}"


def _success(interval: Interval | None) -> str:
    if interval is None:
        return "–"
    limits = f"({100 * interval.low:.1f} to {100 * interval.high:.1f})"
    return Markup(f'{percent(interval.estimate)} <span class="range">{limits}</span>')
