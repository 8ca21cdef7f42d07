"""The page of a proof: one HTML file that holds everything it shows, runs nothing and asks nobody for anything."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from agentloop.files import atomic
from agentloop.proof import figures
from agentloop.report import page as report
from agentloop.report import sections

FILES = Path(__file__).parent
_TILES = (
    ("training.tokens_per_second", "Training, whole epoch"),
    ("serving.rate.adapter.tokens_per_second", "Served with the adapter"),
    ("restart.seconds_from_last_step_to.first_token", "New adapter answers after, by restart"),
    ("sleep.seconds_from_last_step_to.first_token", "New adapter answers after, asleep"),
)


def write(proof: Mapping[str, Any], output: Path) -> Path:
    """Write the page of a proof to `output` and return that path. Raises DiskError."""
    style = "".join((folder / "page.css").read_text(encoding="utf-8") for folder in (report.FILES, FILES))
    text = Template((FILES / "page.html").read_text(encoding="utf-8")).substitute(
        title=f"{escape(proof['model']['name'])}: agentloop proof",
        style=style,
        model=escape(proof["model"]["name"]),
        machine=escape(figures.machine(proof)),
        software=escape(", ".join(f"{name} {version}" for name, version in proof["software"].items())),
        tiles=_tiles(proof),
        remarks=_remarks(proof),
        figures=_figures(proof),
        about=_about(proof),
        settings=sections.settings(proof["settings"], opened=True),
        version=escape(proof["software"]["agentloop"]),
        made=escape(proof["made"]),
    )
    with atomic(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return output


def _tiles(proof: Mapping[str, Any]) -> str:
    known = {figure.place: figure for _, listed in figures.measured(proof) for figure in listed}
    tiles = [(name, known[place].text(proof), known[place].about) for place, name in _TILES if place in known]
    if asked := figures.canaries(proof):
        right = sum(canary["passed"] for canary in asked)
        about = f"{right} of {len(asked)} canaries: served log probabilities against the trainer's own"
        tiles.append(("Served as trained", "yes" if right == len(asked) else "no", about))
    if (verdict := figures.verdict(proof)) is not None:
        tiles.append(("Verdict of a short campaign", *verdict))
    shown = "".join(
        f'<div class="tile"><dt>{escape(name)}</dt><dd class="figure">{escape(figure)}</dd>'
        f'<dd class="note">{escape(about)}</dd></div>'
        for name, figure, about in tiles
    )
    return f'<dl class="tiles">{shown}</dl>' if shown else ""


def _remarks(proof: Mapping[str, Any]) -> str:
    said = "".join(f"<li>{escape(sentence)}</li>" for sentence in figures.remarks(proof))
    return f'<ul class="findings warnings">{said}</ul>' if said else ""


def _figures(proof: Mapping[str, Any]) -> str:
    return "".join(
        sections.table(
            title,
            ("Figure", "Measured", "What it is"),
            [[figure.name, figure.text(proof), figure.about] for figure in listed],
            ["flattering" if figure.flattering else "" for figure in listed],
        )
        for title, listed in figures.measured(proof)
    )


def _about(proof: Mapping[str, Any]) -> str:
    sizes = ", ".join(
        f"{name.replace('_', ' ')} {value}" for name, value in proof["sizes"].items() if not isinstance(value, bool)
    )
    facts = (
        ("Machine", figures.machine(proof)),
        ("Software", ", ".join(f"{name} {version}" for name, version in proof["software"].items())),
        ("Model", figures.model(proof)),
        ("Environment", proof["settings"]["environment"]),
        ("Sizes", f"{sizes}{'; smaller for the CPU' if proof['sizes']['smaller_for_the_cpu'] else ''}"),
    )
    told = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    return f'<dl class="facts">{told}</dl>'
