"""Build the API reference from the docstrings, as HTML that needs no network to build or to read.

    python docs/reference/build.py [--output build/docs]

Modules and classes are rendered by pdoc. The page of the settings is a table made from the settings themselves: name, what is
accepted, default and docstring.
"""

from __future__ import annotations

import argparse
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pdoc import doc, render
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from agentloop import settings

ROOT = Path(__file__).resolve().parents[2]
MODULES = (
    "agentloop.engine",
    "agentloop.engine.api.model",
    "agentloop.engine.step.model",
    "agentloop.engine.batch",
    "agentloop.engine.optimizer",
    "agentloop.engine.api.facade",
    "agentloop.engine.api.outputs",
    "agentloop.engine.step.results",
    "agentloop.engine.step.rule",
    "agentloop.environments",
    "agentloop.tools",
    "agentloop.tools.calculator",
    "agentloop.tools.files",
    "agentloop.tools.folder",
    "agentloop.tools.mcp",
    "agentloop.tools.python",
    "agentloop.tools.sandbox",
    "agentloop.tools.search",
    "agentloop.tools.sql",
    "agentloop.curation.verifiers",
    "agentloop.records",
)
SETTINGS = "settings"
"""Name of the page with every setting."""

_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
_WITHOUT_BOUND = 2**31
"""An upper bound that only keeps numbers within what a database column holds is not worth telling."""
_NOUNS = {int: "whole number", float: "number", str: "text", Path: "path"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "docs")
    output = parser.parse_args().output
    build(output)
    print(output / "index.html")


def build(output: Path) -> None:
    """Write the pages into `output`. Raises UserWarning for what pdoc cannot import, resolve or show."""
    warnings.filterwarnings("error", category=UserWarning, module=r"pdoc\.")
    render.configure(docformat="markdown", show_source=False, template_directory=Path(__file__).parent)
    pages = {name: doc.Module.from_name(name) for name in MODULES}
    pages[SETTINGS] = doc.Module(settings_page())
    for name, page in pages.items():
        file = output / f"{name.replace('.', '/')}.html"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(render.html_module(page, pages), encoding="utf-8")
    (output / "index.html").write_text(render.html_index(pages), encoding="utf-8")
    (output / "search.js").write_text(render.search_index(pages), encoding="utf-8")


def settings_page() -> types.ModuleType:
    """A module without members, whose docstring is the page."""
    page = types.ModuleType(SETTINGS)
    parts = [
        "Every setting. A value comes from a profile (`--profile rtx3090`), from `agentloop.toml`, from the environment "
        f"(`{settings.ENV_PREFIX}TRAINING__RANK=32`) or from the command line (`training.rank=32`); the later one wins. An "
        "unknown name and a value out of range end the command with one line that names the setting.",
    ]
    for prefix, section in sections():
        title = f"`{prefix}*`" if prefix else "General"
        rows = "\n".join(setting_rows(prefix, section))
        about = "" if section is settings.Settings else doc.Class("", section.__name__, section, ("", "")).docstring
        parts.append(f"## {title}\n\n{about}\n\n| setting | accepted | default | |\n|---|---|---|---|\n{rows}")
    page.__doc__ = "\n\n".join(parts)
    return page


def sections() -> Iterator[tuple[str, type[BaseModel]]]:
    """(prefix of its settings' names, section), the general settings first."""
    yield from nested("", settings.Settings)
    yield "gate.guards.ENVIRONMENT.", settings.Guard


def nested(prefix: str, section: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """The section, and behind it those that are in it."""
    yield prefix, section
    for name, field in section.model_fields.items():
        if is_section(field.annotation):
            yield from nested(f"{prefix}{name}.", field.annotation)


def setting_rows(prefix: str, section: type[BaseModel]) -> Iterator[str]:
    documented = doc.Class(settings.__name__, section.__qualname__, section, (settings.__name__, section.__qualname__))
    for name, field in section.model_fields.items():
        if is_section(field.annotation):
            continue
        about = " ".join(documented.members[name].docstring.split())
        cells = (f"`{prefix}{name}`", accepted(field), f"`{written(field.default)}`", about)
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def accepted(field: FieldInfo) -> str:
    """What a person may write, as far as the annotation says it; validators explain themselves in the docstring."""
    kinds = [kind(each) for each in alternatives(field.annotation)]
    bounds = [
        f"{sign} {limit:,}"
        for constraint in field.metadata
        for name, sign in _BOUNDS.items()
        if (limit := getattr(constraint, name, None)) is not None and limit < _WITHOUT_BOUND
    ]
    return " ".join([" or ".join(kinds), ", ".join(bounds)]).strip()


def alternatives(annotation: Any) -> list[Any]:
    return list(get_args(annotation)) if get_origin(annotation) in (Union, types.UnionType) else [annotation]


def kind(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " ".join(f"`{value}`" for value in arguments)
    if hasattr(annotation, "__metadata__"):
        return kind(arguments[0])
    if annotation is bool:
        return "`true` `false`"
    if origin is tuple:
        return "list of texts"
    if origin is dict:
        return "table"
    return "nothing" if annotation is type(None) else _NOUNS[annotation]


def written(value: Any) -> str:
    """A default as it would be written on the command line."""
    if value is None or value == {}:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
