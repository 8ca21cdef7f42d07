"""The champion leaves the house: served, swapped while it is served, talked with, and exported."""

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace

import httpx
import psutil
import pytest
import torch
from home import Home
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import AutoModelForCausalLM

from agentloop.campaign import endpoint, lock, served
from agentloop.campaign.campaign import Campaign
from agentloop.engine import FastLanguageModel
from agentloop.project import CHECKOUT
from agentloop.serving.command import Front
from agentloop.store import champions, verdicts
from agentloop.store.database import Database

TINY = CHECKOUT / "models" / "tiny"
READY = "Ctrl-C ends it."


@pytest.fixture(scope="module")
def house(home, tmp_path_factory):
    """A copy of the campaign in which the first challenger was promoted, as in `home` nothing is learnt that could be seen."""
    root = tmp_path_factory.mktemp("house") / "data"
    shutil.copytree(home.root, root, ignore=shutil.ignore_patterns("prefect", "services", "*.snapshot"))
    house = Home(root, home.port)
    with Database.open(root / "agentloop.duckdb") as database:
        # other tests begin campaigns in the same home; here it is the newest
        database.execute("UPDATE campaigns SET number = (SELECT max(number) + 1 FROM campaigns) WHERE name = 'demo'")
        [(verdict, adapter), *_] = database.execute(
            "SELECT id, adapter FROM verdicts WHERE campaign = 'demo' ORDER BY number"
        )
        promoted = replace(verdicts.load(database, verdict), decision="promote", reason="Promoted: by hand.")
        about = {"campaign": "demo", "iteration": 1}
        name = verdicts.save(database, promoted, adapter=adapter, **about)
        champions.promote(database, "demo", adapter, verdict=name, iteration=1)
    return house


def champion(house):
    return house.rows("SELECT adapter FROM champions ORDER BY number DESC LIMIT 1")[0][0]


def lines_until(process, wanted):
    """What a command prints up to a line with these words."""
    said = ""
    for line in process.stdout:
        said += line
        if wanted in line:
            return said
    raise AssertionError(f"{wanted!r} was not said: {said}")


def descendants(process):
    return psutil.Process(process.pid).children(recursive=True)


@contextmanager
def serving(house, *words):
    """(process, what it said) of an `agentloop serve` that answers."""
    process = house.start("serve", "--port", "0", *words)
    try:
        yield process, lines_until(process, READY)
    finally:
        process.kill()
        process.wait()


def chat(house, *words, asked=None):
    return subprocess.run(
        [sys.executable, "-m", "agentloop", "chat", *words],
        env=house.environment,
        cwd=house.project,
        input=asked,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_served_swapped_talked_with_and_ended(house):
    adapter = champion(house)
    with serving(house) as (process, said):
        assert f"Champion of campaign demo: {adapter}\n" in said
        url = re.search(r"^Endpoint: (http://127\.0\.0\.1:\d+)/v1", said, re.MULTILINE)[1]
        key_file = house.root / "services" / "champion.key"
        assert str(key_file) in said and key_file.stat().st_mode & 0o077 == 0 and key_file.read_text() not in said
        assert key_file.read_text() not in " ".join(word for each in descendants(process) for word in each.cmdline())
        proof = {"Authorization": f"Bearer {key_file.read_text()}"}

        def ask(path, **body):
            return httpx.post(f"{url}/v1/{path}", json=body, headers=proof, trust_env=False, timeout=60)

        assert httpx.get(f"{url}/v1/models", trust_env=False).status_code == 401
        listed = httpx.get(f"{url}/v1/models", headers=proof, trust_env=False).json()["data"]
        assert {card["id"]: card["parent"] for card in listed} == {"base": None, adapter: "base", "champion": adapter}

        # the calls that it has printed work as they stand
        command = re.search(r"^curl .*?(?=\n\n)", said, re.MULTILINE | re.DOTALL)[0]
        printed = json.loads(subprocess.run(["bash", "-c", f"{command} -s"], capture_output=True, check=True).stdout)
        assert printed["model"] == adapter and printed["choices"][0]["message"]["content"]
        assert ask("completions", model="champion", prompt="x", max_tokens=2).json()["model"] == adapter

        talked = chat(house, asked="What is 12 * 7?\n\nWhat is 20 - 3?\n")
        assert talked.stdout.count("> What is") == 2 and talked.returncode in (0, 1), talked
        assert "→ " in talked.stdout and "← " in talked.stdout
        alone = chat(house, "--adapter", "base", "--task", "What is 12 * 7?")
        assert alone.returncode in (0, 1) and alone.stdout

        house.run("rollback", "base", "--reason", "a test")
        moved = lines_until(process, "now (it was")
        assert f"Champion of campaign demo is the base model now (it was {adapter})" in moved
        assert ask("completions", model="champion", prompt="x", max_tokens=2).json()["model"] == "base"
        house.run("rollback", adapter, "--reason", "a test")
        lines_until(process, f"is {adapter} now (it was the base model)")
        answer = ask("chat/completions", model="champion", messages=[{"role": "user", "content": "What is 2 + 2?"}])
        assert answer.json()["model"] == adapter

        second = house.run("serve", "--port", "0", code=2)
        assert re.search(rf"agentloop serve \(campaign demo, process {process.pid}\) serves from it already", second)

        # vLLM dies: another one serves the same under the same address
        vllm = next(each for each in descendants(process) if "agentloop_vllm.standby" in " ".join(each.cmdline()))
        vllm.kill()
        lines_until(process, "it is started again")
        lines_until(process, f"{adapter} is served again")
        assert ask("completions", model="champion", prompt="x", max_tokens=2).json()["model"] == adapter

        below = descendants(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        _, alive = psutil.wait_procs(below, timeout=10)
        assert below and not alive


@pytest.mark.slow
def test_a_chat_by_itself_leaves_nothing_behind(house):
    done = chat(house, "--task", "What is 12 * 7?", "--temperature", "0.5")
    assert done.returncode in (0, 1), done
    assert served.now(house.root) is None
    mine = [each for each in psutil.process_iter() if str(house.root) in " ".join(_command(each))]
    assert mine == []


def _command(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.slow
def test_a_run_gets_the_card_and_gives_it_back(house):
    """As on a machine with a card: there is none here, so that only the order of things is shown."""
    campaign = endpoint.open_campaign(Campaign.open(house.settings("campaign=demo")))
    said, ready = [], threading.Semaphore(0)
    serving = endpoint.ChampionEndpoint(
        campaign, Front(key="secret"), key_file=house.root / "key", say=said.append, gives_way=True
    )
    urls = []

    def up(where):
        urls.append(where.url)
        ready.release()

    thread = threading.Thread(target=serving.run, args=(up,))
    thread.start()
    try:
        assert ready.acquire(timeout=200)
        assert served.now(house.root).url == urls[0]
        with lock.owned(house.root, campaign="night"):
            while served.now(house.root) is not None:
                threading.Event().wait(0.1)
            with pytest.raises(httpx.TransportError):
                httpx.get(f"{urls[0]}/health", trust_env=False)
            assert said[0].startswith("campaign night (process ") and "gets the card" in said[0]
        assert ready.acquire(timeout=200), "it is served again when the run has ended"
        assert len(said) == 1 and urls[0] == urls[1]
    finally:
        serving.stop.set()
        thread.join(60)
    assert not thread.is_alive() and served.now(house.root) is None


IDS = torch.tensor([[2, 3, 50, 7, 8, 90, 12, 44, 5]])


def test_the_exported_adapter_is_the_one_that_was_trained(house, tmp_path):
    adapter, out = champion(house), tmp_path / "out"
    said = house.run("export", str(out))
    assert f"{out}: {adapter} as an adapter for PEFT" in said
    assert re.search(r"^out: PEFT is \S+ nats per token from the trainer", said, re.MULTILINE)
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    base = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    ours, _ = FastLanguageModel.from_pretrained(TINY, load_in_4bit=False, dtype=torch.float32, cache_directory=tmp_path)
    ours = FastLanguageModel.get_peft_model(ours, r=config["r"], lora_alpha=config["lora_alpha"])
    ours.load_adapter(house.root / "adapters" / adapter)
    with torch.no_grad():
        plain = base(IDS).logits
        theirs = PeftModel.from_pretrained(base, out)(IDS).logits
        torch.testing.assert_close(theirs, ours(IDS).logits, rtol=0, atol=1e-4)
    assert (theirs - plain).abs().max() > 1e-2, "it does something"
    assert ModelCard.load(out / "README.md").data.library_name == "peft"
    assert (
        house.run("export", str(out), code=2)
        .strip()
        .endswith(f"error: {out}: exists already; an export is written to a directory of its own")
    )


def test_the_merged_model_is_what_was_measured(house, tmp_path):
    adapter, out = champion(house), tmp_path / "out"
    said = house.run(
        "export", adapter.removeprefix("adapter_")[:6], str(out), "--format", "merged", "--base", "me/tiny"
    )
    for program in ("transformers", "vLLM"):
        assert re.search(rf"^out: {program} is \S+ nats per token from the trainer", said, re.MULTILINE)
    ours, tokenizer = FastLanguageModel.from_pretrained(TINY, dtype=torch.float32, cache_directory=tmp_path)
    config = json.loads((house.root / "adapters" / adapter / "adapter_config.json").read_text())
    ours = FastLanguageModel.get_peft_model(ours, r=config["r"], lora_alpha=config["lora_alpha"])
    ours.load_adapter(house.root / "adapters" / adapter)
    merged = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(merged(IDS).logits, ours(IDS).logits, rtol=0, atol=1e-3)
    data = ModelCard.load(out / "README.md").data
    assert (data.library_name, data.base_model, data.base_model_relation) == ("transformers", "me/tiny", "finetune")


def test_the_tiny_model_is_no_gguf(house, tmp_path):
    said = house.run("export", str(tmp_path / "out"), "--format", "gguf", code=2)
    assert "llama.cpp computes gemma3n with 4 alone" in said.strip().splitlines()[-1] and not list(tmp_path.iterdir())


def test_a_push_that_cannot_be_leaves_the_export(house, tmp_path):
    out = tmp_path / "out"
    house.variables.setdefault("HF_TOKEN", "hf_nobody")
    house.variables.setdefault("HF_ENDPOINT", "http://127.0.0.1:9")
    try:
        said = house.run("export", str(out), "--push", "me/mine", code=2)
    finally:
        house.variables.clear()
    assert said.strip().splitlines()[-1].startswith("error: me/mine: the hub did not take it: ")
    assert (out / "README.md").is_file()
