"""The import graph: no circles between modules, and what docs/architecture.md says of the rooms is true."""

import re
from collections import defaultdict

import grimp
import pytest

from agentloop.project import CHECKOUT

STAND_ALONE = {"settings"}
"""Folders that every room uses, as it uses modules like agentloop/records.py."""
PACKAGES = ("agentloop", "agentloop_flows", "agentloop_vllm", "agentloop_kernels")


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph(*PACKAGES, cache_dir=None)


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one module (Tarjan)."""
    index, low, stack, on_stack, found = {}, {}, [], set(), []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        on_stack.add(module)
        for other in arrows[module]:
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in on_stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            component = []
            while not component or component[-1] != module:
                component.append(stack.pop())
                on_stack.discard(component[-1])
            if len(component) > 1:
                found.append(sorted(component))

    for module in arrows:
        if module not in index:
            visit(module)
    return found


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()}) == [["a", "b", "c"]]


def test_no_circle_between_modules(graph):
    assert circles({module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}) == []


def test_the_table_of_rooms_is_true(graph):
    def room(module: str) -> str:
        top, _, rest = module.partition(".")
        first = rest.partition(".")[0]
        if top != "agentloop":
            return top
        return (
            first if first and first not in STAND_ALONE and graph.find_children(f"agentloop.{first}") else "agentloop"
        )

    found = defaultdict(set)
    for module in graph.modules:
        for other in graph.find_modules_directly_imported_by(module):
            if room(module) != room(other):
                found[room(module)].add(room(other))
    del found["agentloop"]
    text = (CHECKOUT / "docs" / "architecture.md").read_text()
    table = text[text.index("| room | imports |") :].partition("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", table, re.MULTILINE)
    told = {name: set(re.findall(r"`(\w+)`", rooms)) for name, rooms in rows}
    assert told == {name: rooms - {"agentloop"} for name, rooms in found.items()}


def test_the_table_of_the_engines_rooms_is_true(graph):
    found = {name.rpartition(".")[2]: set() for name in graph.find_children("agentloop.engine")}
    for name, rooms in found.items():
        for module in {f"agentloop.engine.{name}"} | graph.find_descendants(f"agentloop.engine.{name}"):
            others = (other.split(".") for other in graph.find_modules_directly_imported_by(module))
            rooms |= {other[2] for other in others if other[:2] == ["agentloop", "engine"] and len(other) > 2} - {name}
    text = (CHECKOUT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `engine/(\w+)` \| .+ \| (.+) \|$", text, re.MULTILINE)
    assert {name: set(re.findall(r"`(\w+)`", rooms)) for name, rooms in rows} == found
