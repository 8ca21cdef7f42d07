"""The plugin without agentloop: its own distribution, in an interpreter that has vLLM and nothing of this project besides."""

import os
import re
import shlex
import shutil
import socket
import sys
import time
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from installed import environment, interpreter_without_agentloop, run
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from agentloop import settings
from agentloop.child import ChildProcess
from agentloop.errors import SettingError
from agentloop.project import CHECKOUT
from agentloop.serving import installation

FOLDER = CHECKOUT / "vllm_plugin"
MODEL = CHECKOUT / "models" / "tiny"
TOLERANCE = 1e-3
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WEIGHTS = "adapter_model.safetensors"
KEY = "a key of the test"
PROMPTS = [[2, *range(6, 30)], [2, *range(100, 190, 3)]]
SMALL_MACHINE = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "TORCH_COMPILE_DISABLE": "1"}
START_SECONDS = 300


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that nothing is left in the checkout and nothing that lies there gets in."""
    folder = tmp_path_factory.mktemp("wheel")
    source = shutil.copytree(
        FOLDER, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    )
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    built = run(sys.executable, "-m", "pip", "wheel", *offline, "--wheel-dir", folder, source)
    assert built.returncode == 0, built.stderr
    return next(folder.glob("agentloop_vllm-*.whl"))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """An interpreter that has vLLM and the plugin, but not agentloop."""
    made = interpreter_without_agentloop(tmp_path_factory.mktemp("alone") / "venv")
    offline = ["--no-deps", "--no-index", "--disable-pip-version-check"]
    installed = run(made, "-m", "pip", "install", *offline, wheel)
    assert installed.returncode == 0, installed.stderr
    return made


def with_interpreter(python: Path, folder: Path) -> settings.Settings:
    paths = {"data": str(folder / "data"), "cache": str(folder / "cache")}
    return settings.load({"paths": paths, "serving": {"python": str(python)}})


def test_the_wheel_holds_the_package_and_asks_for_nothing(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
        modules = {name for name in names if name.startswith("agentloop_vllm/")}
        sources = (FOLDER / "agentloop_vllm").glob("*.py")
        assert modules == {"agentloop_vllm/py.typed", *(f"agentloop_vllm/{file.name}" for file in sources)}
        assert not any(re.search(rb"\bagentloop\b(?!-vllm)", archive.read(name)) for name in modules)
    assert "Requires-Dist" not in metadata and metadata.endswith((FOLDER / "README.md").read_text())


def test_both_distributions_name_the_same_entry_point():
    ours, whole = (tomllib.loads((folder / "pyproject.toml").read_text())["project"] for folder in (FOLDER, CHECKOUT))
    group = "vllm.general_plugins"
    assert ours["entry-points"][group] == whole["entry-points"][group]


def test_agentloop_accepts_the_interpreter(python, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    found = installation.find(with_interpreter(python, tmp_path).serving.python)
    here = installation.find(Path(sys.executable))
    assert (found.python, found.prefix) == (python, python.parents[1])
    assert (found.version, found.on_cpu, found.name) == (here.version, here.on_cpu, here.name)
    assert found.torch.is_relative_to(python.parents[1])


def test_agentloop_says_what_an_interpreter_without_the_plugin_lacks(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    bare = interpreter_without_agentloop(tmp_path / "venv")
    command = re.escape(shlex.join([str(bare), "-m", "pip", "install", str(FOLDER)]))
    lacks = rf"^serving\.python: {re.escape(str(bare))} has vLLM but not its plugin for Gemma \({command}\)$"
    with pytest.raises(SettingError, match=lacks):
        installation.find(with_interpreter(bare, tmp_path).serving.python)
    # one of two distributions that hold the same files was uninstalled: it took them along
    left = next(bare.parents[1].glob("lib/python*/site-packages")) / "agentloop-0.1.0.dist-info"
    left.mkdir()
    (left / "METADATA").write_text("Metadata-Version: 2.1\nName: agentloop\nVersion: 0.1.0\n")
    (left / "entry_points.txt").write_text(
        "[vllm.general_plugins]\nagentloop_gemma3n = agentloop_vllm.plugin:register\n"
    )
    with pytest.raises(SettingError, match=lacks):
        installation.find(with_interpreter(bare, tmp_path).serving.python)


def test_the_command_that_waits_says_how_it_is_used(python):
    """It is the module that agentloop starts in that interpreter."""
    told = run(python, "-m", "agentloop_vllm.standby")
    assert told.returncode == 2 and "usage: python -m agentloop_vllm.standby [-h] ORDERS" in told.stderr


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    """An adapter on the seven projections in PEFT's format, random in B as well, so that it matters."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules=TARGETS, task_type="CAUSAL_LM"))
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.05)
    directory = tmp_path_factory.mktemp("adapters") / "fit"
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def unfit(adapter) -> Path:
    """The same with keys for a layer that shares those of an earlier one and has no projection for them."""
    directory = Path(shutil.copytree(adapter, adapter.parent / "unfit"))
    tensors = load_file(directory / WEIGHTS)
    more = {
        name.replace("layers.2.", "layers.4."): tensor.clone()
        for name, tensor in tensors.items()
        if "layers.2.self_attn.k_proj" in name
    }
    assert len(more) == 2 and not more.keys() & tensors.keys()
    save_file(tensors | more, directory / WEIGHTS, metadata={"format": "pt"})
    return directory


@pytest.fixture(scope="module")
def server(python, adapter, tmp_path_factory) -> Iterator[httpx.Client]:
    """The command of the README, as it stands there and with what a test adds, and a client that has the key."""
    folder = tmp_path_factory.mktemp("server")
    (command,) = re.findall(r"```sh\n(VLLM_[^`]*api_server[^`]*)\n```", (FOLDER / "README.md").read_text())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = f"cd {folder} && {command} --port {port} --dtype float32 --enforce-eager --kv-cache-memory-bytes {1 << 28}"
    found = f"{python.parent}:{os.environ['PATH']}"
    variables = environment(
        folder, PATH=found, MODEL=str(MODEL), ADAPTER=str(adapter), VLLM_API_KEY=KEY, **SMALL_MACHINE
    )
    child = ChildProcess(["bash", "-c", script], environment=variables, log=folder / "log")
    address, proof = f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {KEY}"}
    with child, httpx.Client(base_url=address, headers=proof, timeout=60, trust_env=False) as client:
        deadline = time.monotonic() + START_SECONDS
        while not answers(client):
            assert child.poll() is None, child.last_words(30)
            assert time.monotonic() < deadline, f"not healthy after {START_SECONDS} s: {child.last_words(5)}"
            time.sleep(0.2)
        yield client


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health").is_success
    except httpx.TransportError:
        return False  # it does not listen yet


def completed(client: httpx.Client, model: str, prompt: list[int]) -> tuple[list[int], list[float]]:
    """Tokens drawn, always with the same seed, and their log probabilities."""
    body = {"model": model, "prompt": prompt, "max_tokens": 24, "temperature": 1, "seed": 1, "ignore_eos": True}
    answer = client.post("/v1/completions", json=body | {"logprobs": 0, "return_token_ids": True})
    (choice,) = answer.raise_for_status().json()["choices"]
    return choice["token_ids"], choice["logprobs"]["token_logprobs"]


@torch.no_grad()
def expected(model: torch.nn.Module, prompt: list[int], produced: list[int]) -> list[float]:
    """What transformers, and PEFT where `model` is its, give the tokens produced."""
    ids = torch.tensor([[*prompt, *produced]])
    logprobs = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return logprobs.gather(1, torch.tensor(produced)[:, None])[:, 0].tolist()


def test_it_serves_without_agentloop(server, python):
    alone = run(python, "-c", "import vllm, agentloop_vllm; import agentloop")
    assert alone.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'agentloop'"
    listed = server.get("/v1/models").raise_for_status().json()["data"]
    assert [model["id"] for model in listed] == ["base", "mine"]
    answer = server.post(
        "/v1/chat/completions", json={"model": "mine", "messages": [{"role": "user", "content": "Who are you?"}]}
    )
    assert answer.raise_for_status().json()["model"] == "mine"


def test_base_and_adapter_are_those_of_transformers_and_peft(server, adapter):
    base = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32, attn_implementation="eager").eval()
    plain = [completed(server, "base", prompt) for prompt in PROMPTS]
    for prompt, (produced, logprobs) in zip(PROMPTS, plain, strict=True):
        assert logprobs == pytest.approx(expected(base, prompt, produced), abs=TOLERANCE)
    adapted = PeftModel.from_pretrained(base, adapter).eval()
    for prompt, (of_base, _) in zip(PROMPTS, plain, strict=True):
        produced, logprobs = completed(server, "mine", prompt)
        assert produced != of_base
        assert logprobs == pytest.approx(expected(adapted, prompt, produced), abs=TOLERANCE)
        with adapted.disable_adapter():
            assert logprobs != pytest.approx(expected(adapted, prompt, produced), abs=100 * TOLERANCE)


def test_an_adapter_that_does_not_fit_is_refused_and_one_that_does_is_not(server, adapter, unfit):
    def load(name: str, directory: Path) -> httpx.Response:
        return server.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(directory)})

    refused = load("unfit", unfit)
    assert refused.is_server_error  # so vLLM answers whatever its worker says
    reason = "adapter unfit: 1 of 32 modules would be dropped: model.layers.4.self_attn.k_proj"
    assert reason in refused.json()["error"]["message"]
    assert load("again", adapter).is_success
    listed = server.get("/v1/models").raise_for_status().json()["data"]
    assert [model["id"] for model in listed] == ["base", "mine", "again"]
    assert completed(server, "again", PROMPTS[0])[0] == completed(server, "mine", PROMPTS[0])[0]


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/tokenize"])
def test_nobody_comes_in_without_the_key(server, path):
    assert httpx.get(server.base_url.join(path), trust_env=False).status_code == 401
