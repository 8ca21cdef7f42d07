"""The report's questions: each that is asked is there, and none lies there that nobody asks."""

from __future__ import annotations

import re
from pathlib import Path

import agentloop
from agentloop.report.query import QUERIES


def test_what_is_asked_is_there():
    asked = set()
    for source in Path(agentloop.__file__).parent.rglob("*.py"):
        asked |= set(re.findall(r'query\.rows\(\s*[\w.]+,\s*"(\w+)"', source.read_text(encoding="utf-8")))
    assert asked and asked <= {file.stem for file in QUERIES.glob("*.sql")}
