"""Four faults, planted in the real server, and each is caught and called by its name: by a trainer in fp32 and in bf16."""

import dataclasses
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_prompt, write_adapter
from safetensors.torch import load_file, save_file

from agentloop import canary_reference
from agentloop.campaign.canary import inspect
from agentloop.cli import app as cli
from agentloop.cli.serving import canary
from agentloop.engine import FastLanguageModel
from agentloop.errors import AdapterError, ServerError
from agentloop.serving import adapters as adapter_files
from agentloop.serving import models
from agentloop.serving.canary import FACTOR, FLOOR, Expected, compare
from agentloop.serving.client import Endpoint
from agentloop.tiny.architecture import random_checkpoint
from agentloop.training import reference as trainer

SEQUENCES = [(random_prompt(seed, 60), ()) for seed in (31, 32, 33)]
WEIGHTS = "adapter_model.safetensors"


class Trainer:
    """The trainer's own forward, in one dtype, and what it stores beside an adapter."""

    def __init__(self, base: Path, dtype: torch.dtype) -> None:
        self.model, _ = FastLanguageModel.from_pretrained(
            base, max_seq_length=64, dtype=dtype, load_in_4bit=False, cache_directory=base.parent / "cache"
        )
        self.base = trainer.measure_base(self.model, SEQUENCES)
        FastLanguageModel.get_peft_model(self.model, r=16, lora_alpha=32)

    def stored(self, adapter: Path) -> canary_reference.Reference:
        self.model.load_adapter(adapter)
        trainer.write(adapter, self.model, self.base)
        return canary_reference.read(adapter)


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def trained(request, checkpoint) -> Trainer:
    return Trainer(checkpoint, request.param)


@pytest.fixture
def look(server):
    """`look(name, stored, others)`: the canary on what the shared server serves as `name`."""

    def run(name, stored, others=()):
        return inspect(server.endpoint, server.settings.serving, stored, base="base", adapter=name, others=others)

    return run


@pytest.fixture
def served(server, request):
    """`served(directory)` loads it under a name of its own for this test."""
    loaded = []

    def load(directory: Path) -> str:
        name = f"adapter_{request.node.name}_{len(loaded)}"
        server.load_adapter(name, directory)
        loaded.append(name)
        return name

    yield load
    for name in loaded:
        server.unload_adapter(name)


def test_what_is_served_rightly_passes(look, served, adapters, trained):
    stored = trained.stored(adapters["adapter_0"])
    report = look("adapter_0", stored)
    assert report.passed and report.tokens == 3 * 59
    assert report.base_max < 10 * report.tolerance and report.adapter_mean < report.tolerance < report.effect_mean
    assert report.share == pytest.approx(1, abs=0.01)
    rounding = np.abs([value for prompt in stored.prompts for value in prompt.rounding]).mean()
    assert report.tolerance == (FLOOR if stored.dtype == "float32" else pytest.approx(FACTOR * rounding))


def test_adapter_not_applied(look, served, adapters, trained, copied):
    empty = copied(adapters["adapter_0"])
    tensors = load_file(empty / WEIGHTS)
    save_file({name: tensor * (0 if "lora_B" in name else 1) for name, tensor in tensors.items()}, empty / WEIGHTS)
    report = look(served(empty), trained.stored(adapters["adapter_0"]))
    assert report.fault.startswith("adapter not applied: the base answers in its place")
    assert report.share == pytest.approx(0, abs=0.01)


def test_adapter_applied_in_part(look, served, adapters, trained, copied):
    part = copied(adapters["adapter_1"])
    save_file({name: tensor for name, tensor in load_file(part / WEIGHTS).items() if ".mlp." in name}, part / WEIGHTS)
    report = look(served(part), trained.stored(adapters["adapter_1"]))
    assert report.fault.startswith(f"adapter applied in part: {report.share:.0%} of its effect is served")
    assert 0.1 < report.share < 0.9


def test_stale_adapter(look, served, checkpoint, trained, tmp_path):
    """The file is written anew under the same name, and the server still serves the old weights."""
    directory = write_adapter(tmp_path / "current", checkpoint, seed=41)
    earlier = served(shutil.copytree(directory, tmp_path / "earlier"))
    current = served(directory)
    shutil.rmtree(directory)
    stored = trained.stored(write_adapter(directory, checkpoint, seed=42))
    assert look(current, stored, ["adapter_0", earlier]).fault.startswith(f"stale adapter: {earlier} is served")
    little = "stale adapter: what is served has little in common with what was trained"
    assert look(current, stored).fault.startswith(little)


def test_another_base(look, adapters, tmp_path, trained):
    random_checkpoint(tmp_path / "tiny", seed=9)
    other = Trainer(tmp_path / "tiny", trained.model.dtype)
    copy = shutil.copytree(adapters["adapter_0"], tmp_path / "copy")
    report = look("adapter_0", other.stored(copy))
    assert report.fault.startswith("another base: without the adapter, served and trained differ by")


def test_a_reference_of_another_layout(tmp_path):
    with pytest.raises(AdapterError, match="no reference.json; the trainer writes it"):
        canary_reference.read(tmp_path)
    prompt = {"token_ids": [2, 7], "base": [-1.0], "adapted": [-1.0], "rounding": [0.0]}

    def write(**changed):
        layout = {"dtype": "float32", "in_4bit": False, "prompts": [prompt | changed]}
        (tmp_path / "reference.json").write_text(json.dumps(layout))

    write()
    assert canary_reference.read(tmp_path).token_ids == [(2, 7)]
    for changed in ({"base": [-1.0, -2.0]}, {"adapted": ["-1"]}, {"token_ids": ["2", "7"]}, {"of": []}, {"base": None}):
        write(**changed)
        with pytest.raises(AdapterError, match="reference.json: another layout than this version writes"):
            canary_reference.read(tmp_path)


REFERENCE, CONFIG, RECORD = "reference.json", "adapter_config.json", "agentloop.json"


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        (REFERENCE, b'{"dtype": "float32", "promp', "not to be read: "),
        (REFERENCE, b"\xff\xfe\x00", "is UTF-16; save it as UTF-8"),
        (REFERENCE, b"[]", "not a JSON object"),
        (REFERENCE, b'{"dtype": "float32", "in_4bit": false, "prompts": []}', "another layout"),
        (CONFIG, b'{"r": 16, "base_mod', "not to be read: "),
        (CONFIG, b"null", "not a JSON object"),
        (CONFIG, b'{"base_model_name_or_path": 7}', "base_model_name_or_path 7 is not a name"),
        (RECORD, b"{", "not to be read: "),
        (RECORD, b"{}", "base None is not a name"),
        (WEIGHTS, b"", "not to be read as safetensors: "),
        (WEIGHTS, b'\x08\x00\x00\x00\x00\x00\x00\x00{"a": {', "not to be read as safetensors: "),
    ],
)
def test_the_command_names_a_broken_file(checkpoint, tmp_path, monkeypatch, capsys, name, content, complaint):
    adapter = write_adapter(tmp_path / "adapter", checkpoint, seed=1)
    broken = adapter / name
    broken.write_bytes(content)
    words = [f"model={checkpoint}", f"paths.data={tmp_path / 'data'}", f"paths.cache={checkpoint.parent / 'cache'}"]
    monkeypatch.setattr("sys.argv", ["agentloop", "canary", str(adapter), "--url", "http://127.0.0.1:9", *words])
    capsys.readouterr()  # what making the checkpoint has said
    code, line = cli.run()
    assert code == 2 and line.startswith(f"error: {broken}: {complaint}") and "\n" not in line
    assert capsys.readouterr().err == ""


def test_a_truncated_adapter_is_refused_before_vllm_sees_it(checkpoint, tmp_path):
    adapter = write_adapter(tmp_path / "adapter", checkpoint, seed=1)
    whole = (adapter / WEIGHTS).read_bytes()
    (adapter / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AdapterError, match=f"^{adapter / WEIGHTS}: not to be read as safetensors"):
        adapter_files.check_base(adapter, fingerprint=None, model=checkpoint)


@pytest.mark.parametrize("rank", ["16", 0, True, None])
def test_a_rank_that_is_none(tmp_path, rank):
    (tmp_path / CONFIG).write_text(json.dumps({"r": rank}))
    with pytest.raises(AdapterError, match=f"{CONFIG}: r {rank!r} is not a rank"):
        adapter_files.rank(tmp_path)


def test_the_command_tells_with_its_exit_code(server, adapters, trained, checkpoint, copied, tmp_path, capsys):
    def run(directory: Path, key: str = server.api_key) -> tuple[int, str]:
        words = [f"model={checkpoint}", f"paths.data={tmp_path / 'data'}", "serving.dtype=float32"]
        with pytest.raises(SystemExit) as ended:
            canary(str(directory), words, url=server.url, api_key=key)
        return ended.value.code, capsys.readouterr().out

    for name in ("adapter_0", "adapter_1"):
        trained.stored(adapters[name])
    code, output = run(adapters["adapter_0"])
    assert code == 0 and output.endswith(f"{server.url}: served as trained\n") and "nats per token" in output

    other = copied(adapters["adapter_0"], "adapter_0")
    shutil.copy(adapters["adapter_1"] / "reference.json", other)
    code, output = run(other)
    assert code == 1 and f"{server.url}: stale adapter: what is served has little in common" in output

    with pytest.raises(AdapterError, match="does not serve adapter_nobody, but base with adapter_0, adapter_1, "):
        run(other.rename(tmp_path / "adapter_nobody"))
    with pytest.raises(ServerError, match="401"):
        run(adapters["adapter_0"], key="another")
    with pytest.raises(AdapterError, match="neither an adapter in .*adapters nor a directory"):
        run(tmp_path / "nowhere")


@pytest.mark.parametrize("answer", ["<html>\nWelcome</html>", "{}", '{"data": []}', '{"data": [{"id": "gpt"}]}'])
def test_a_url_where_something_else_listens(answer):
    class Site(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer.encode())

    with HTTPServer(("127.0.0.1", 0), Site) as site:
        threading.Thread(target=site.handle_request).start()
        url = f"http://127.0.0.1:{site.server_port}"
        with pytest.raises(ServerError) as refused:
            models.served(Endpoint(url, "key"))
    assert str(refused.value) == f"{url}: no vLLM: it lists its models as {answer!r}"


# What follows needs no server: log probabilities in which effect and rounding are known.

TOKENS = 600


def rounded(share: float, *, effect: float, rounding: float, seed: int = 0):
    """(served base, served adapter, expected) where `share` of an effect is served and each side rounds by itself."""
    draw = np.random.default_rng(seed)

    def rows(exact: np.ndarray) -> list[list[float]]:
        return [list(exact + draw.normal(0, rounding, TOKENS))]

    base = draw.normal(-3, 1, TOKENS)
    moved = draw.normal(0, effect, TOKENS)
    errors = [list(draw.normal(0, rounding, TOKENS))]
    expected = Expected(base=rows(base), adapter=rows(base + moved), rounding=errors, exact=False)
    return rows(base), rows(base + share * moved), expected


@pytest.mark.parametrize("seed", range(5))
def test_an_effect_below_the_tolerance_is_told_from_none(seed):
    served_base, served_adapter, expected = rounded(1.0, effect=0.0175, rounding=0.01, seed=seed)
    report = compare(served_base=served_base, served_adapter=served_adapter, expected=expected)
    assert report.passed and 0.5 < report.share < 1
    served_base, served_adapter, expected = rounded(0.0, effect=0.0175, rounding=0.01, seed=seed)
    report = compare(served_base=served_base, served_adapter=served_adapter, expected=expected)
    assert report.adapter_mean < report.tolerance and report.fault.startswith("adapter not applied")


@pytest.mark.parametrize("share", [0.5, 1.6])
def test_part_of_an_effect_and_too_much_of_it(share):
    served_base, served_adapter, expected = rounded(share, effect=0.05, rounding=0.01)
    report = compare(served_base=served_base, served_adapter=served_adapter, expected=expected)
    assert report.fault.startswith("adapter applied in part") and abs(report.share - share) < 0.15


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_an_effect_that_drowns_in_rounding_is_not_judged(share):
    served_base, served_adapter, expected = rounded(share, effect=0.003, rounding=0.01)
    report = compare(served_base=served_base, served_adapter=served_adapter, expected=expected)
    assert report.passed and report.share is None


def test_nothing_finite_is_no_pass():
    rows, nothing = [[-1.0, -2.0]], [[float("nan"), -2.0]]
    expected = Expected(base=rows, adapter=[[-1.5, -2.5]], rounding=[[0.1, 0.1]], exact=False)
    faults = [
        compare(served_base=nothing, served_adapter=rows, expected=expected).fault,
        compare(served_base=rows, served_adapter=nothing, expected=expected).fault,
        compare(served_base=rows, served_adapter=rows, expected=dataclasses.replace(expected, base=nothing)).fault,
    ]
    assert faults[0].startswith("another base") and faults[1] and faults[2].startswith("another base")
