"""Public docstrings stand alone in an editor: a function's says what it does or returns, a class's what it is."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from agentloop.project import CHECKOUT

PACKAGES = ("agentloop", "flows/agentloop_flows", "vllm_plugin/agentloop_vllm", "kernels/agentloop_kernels")
FRAGMENT = re.compile(r"(Of|What|Who|Whose|Which|Whether|As|How|Where|Those|So|None|False|True|For|From|Until|In|By)\b")
"""Beginnings that answer a question which only the name has asked."""


def public(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Name and docstring of what is not private; functions inside functions are."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield f"{prefix}{node.name}", ast.get_docstring(node) or ""
            if isinstance(node, ast.ClassDef):
                yield from public(node, f"{prefix}{node.name}.")


def fragments(files: list[Path]) -> list[str]:
    return [
        f"{file.name}: {name}: {text.splitlines()[0]}"
        for file in files
        for name, text in public(ast.parse(file.read_text(encoding="utf-8")))
        if text and FRAGMENT.match(text)
    ]


def test_no_public_docstring_is_a_fragment(tmp_path):
    files = [file for package in PACKAGES for file in sorted((CHECKOUT / package).rglob("*.py"))]
    assert len(files) > 250
    assert fragments(files) == []
    bad = tmp_path / "bad.py"
    bad.write_text('class A:\n    """A thing."""\n    def b(self):\n        """Whether it is one."""\n')
    assert fragments([bad]) == ["bad.py: A.b: Whether it is one."]
