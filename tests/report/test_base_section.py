"""The judgement of the base, as the report and `agentloop doctor` show it: from the ledger, nothing where there is none."""

from __future__ import annotations

import pytest

from agentloop import settings as configuration
from agentloop.cli import doctor
from agentloop.report import sections
from agentloop.store.database import Database
from agentloop.store.ledger import Ledger

JUDGED = {
    "quantization": "nf4", "bytes_in_16bit": 2**30, "bytes": 3 * 2**28, "kl": 0.25, "same_choice": 0.875, "tokens": 200,
}  # fmt: skip
COMPARED = {
    "original": {"estimate": 0.94, "low": 0.9, "high": 0.97},
    "quantised": {"estimate": 0.005, "low": 0.0, "high": 0.02},
    "difference": {"estimate": -0.935, "low": -0.97, "high": -0.9},
    "surely_lost": 0.88,
    "tasks": 64,
    "samples": 8,
}


@pytest.fixture
def settings(tmp_path):
    return configuration.load(["campaign=main", f"paths.data={tmp_path}"])


def record(settings, **steps):
    with Database.open(settings.paths.database) as database:
        for name, result in steps.items():
            Ledger(database).record(f"step_{name}", campaign="main", iteration=0, name=name, result=result)


def shown(settings) -> str:
    with Database.open_snapshot(settings.paths.database) as database:
        return sections.base(database, "main")


def test_nothing_is_shown_where_nothing_was_judged(settings):
    record(settings)
    assert shown(settings) == "" and doctor._base(settings) == []


def test_kl_is_shown_and_success_where_it_was_measured(settings):
    record(settings, judge=JUDGED)
    assert "0.25" in shown(settings) and "87.5 %" in shown(settings) and "not measured" in shown(settings)
    (check,) = doctor._base(settings)
    assert check.ok and check.found.startswith("base in nf4, 0.75 GiB of 1.00 GiB: KL 0.25 nats")
    record(settings, compare=COMPARED)
    assert "94.0" in shown(settings) and "0.5" in shown(settings) and "not measured" not in shown(settings)
    (check,) = doctor._base(settings)
    assert not check.ok and check.remedy.endswith("set training.quantization to none or dynamic")
