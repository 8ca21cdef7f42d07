"""serve, chat and export where they cannot do what is asked: one line, exit code 2, and nothing is written or started."""

import json
import os
import threading
from types import SimpleNamespace

import pytest
from recorded_campaign import CAMPAIGN

from agentloop.campaign import lock
from agentloop.campaign.rollback import BASE, roll_back
from agentloop.cli import talking
from agentloop.errors import StoreError
from agentloop.store.database import Database


def last(error: str) -> str:
    return error.strip().splitlines()[-1]


@pytest.mark.parametrize("words", [["serve"], ["chat"], ["export", "out"]], ids=lambda words: words[0])
def test_before_there_is_anything(agentloop, data, words):
    code, _, error = agentloop(*words)
    assert (code, last(error)) == (2, f"error: {data}/agentloop.duckdb: no database here yet")


def test_exports_that_cannot_be(agentloop, on_recorded, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    out = tmp_path / "out"

    def refused(*words):
        code, _, error = agentloop("export", *words)
        assert code == 2 and not out.exists()
        return last(error)

    assert refused(tmp_path) == f"error: {tmp_path}: exists already; an export is written to a directory of its own"
    assert refused("nosuch", out) == f"error: {on_recorded}/agentloop.duckdb: no adapter nosuch"
    assert refused(out, "--campaign", "other").endswith("no campaign named 'other' (there are: recorded)")
    assert refused("a", "b", out).startswith("error: export: name the directory to write")
    assert refused(out, "--base", "plain") == "error: 'plain': is not ORG/NAME as the hub has it"
    assert refused(out, "--push", "me/mine").startswith("error: --push: the hub asks who you are; set HF_TOKEN")
    with Database.open(on_recorded / "agentloop.duckdb") as database:
        [(adapter,)] = database.execute("SELECT adapter FROM champions ORDER BY number DESC LIMIT 1")
        database.execute("UPDATE candidates SET campaign = 'older' WHERE adapter = ?", [adapter])
    assert refused(adapter, out, f"campaign={CAMPAIGN}") == f"error: {adapter}: of campaign older, not of {CAMPAIGN}"


def test_no_champion_is_no_export(agentloop, on_recorded, tmp_path):
    with Database.open(on_recorded / "agentloop.duckdb") as database:
        roll_back(database, CAMPAIGN, BASE, reason="a test")
    code, _, error = agentloop("export", tmp_path / "out")
    expected = f"error: the base model is champion of campaign {CAMPAIGN}: there is no adapter to export yet"
    assert (code, last(error)) == (2, expected)


def test_weights_that_are_gone(agentloop, on_recorded, tmp_path):
    code, _, error = agentloop("export", tmp_path / "out", "training.quantization=nf4")
    assert code == 2 and last(error).startswith(f"error: {on_recorded}/adapters/adapter_")
    assert last(error).endswith("are gone") and not (tmp_path / "out").exists()


def test_addresses_that_are_not_this_machines(agentloop, on_recorded):
    for host in ("192.0.2.1", "no such name"):
        code, _, error = agentloop("serve", "--host", host, "training.quantization=nf4")
        assert code == 2 and last(error).startswith(f"error: --host: {host!r} is no IPv4 address of this machine")


def test_talking_with_nobody(agentloop, on_recorded):
    for words, expected in (
        (["--adapter", "nosuch"], f"no adapter nosuch of campaign {CAMPAIGN!r}"),
        (["--task", " "], "--task: the question is empty"),
        (["--task", "task_nosuch"], "no task task_nosuch"),
        (["--task", "What is 1 + 1?", "--url", "http://127.0.0.1:9"], "http://127.0.0.1:9: ConnectError"),
    ):
        code, _, error = agentloop("chat", *words, "training.quantization=nf4")
        assert code == 2 and expected in last(error), json.dumps(error)


def test_a_run_ends_a_chat_that_has_the_card(tmp_path):
    campaign = SimpleNamespace(settings=SimpleNamespace(paths=SimpleNamespace(data=tmp_path)))
    over, (keyboard, nobody) = threading.Event(), os.pipe()

    def night():
        with lock.owned(tmp_path, campaign="night"):
            over.wait(60)

    run = threading.Thread(target=night)
    try:
        with pytest.raises(StoreError, match=r"^campaign night \(process .* gets the card: the chat has ended$"):
            with talking._ended_by_runs(campaign):
                run.start()
                os.read(keyboard, 1)
        with pytest.raises(KeyboardInterrupt):
            with talking._ended_by_runs(
                SimpleNamespace(settings=SimpleNamespace(paths=SimpleNamespace(data=tmp_path / "other")))
            ):
                raise KeyboardInterrupt
    finally:
        over.set()
        run.join()
        os.close(keyboard)
        os.close(nobody)


def test_formats_that_cannot_be(agentloop, on_recorded, tmp_path):
    out = tmp_path / "out"
    for words, told in (
        (["--format", "merged", "--quantization", "f16"], "error: --quantization: of a GGUF, not of --format merged"),
        (
            ["--format", "gguf", "--quantization", "int4"],
            "error: quantization_method: 'int4' is not supported (f32, f16,",
        ),
    ):
        code, _, error = agentloop("export", out, *words)
        assert code == 2 and last(error).startswith(told) and not out.exists()
