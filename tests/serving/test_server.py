"""The child process: refused early, explained when it dies, and gone with everything it started, whatever ended its parent."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import httpx
import psutil
import pytest
from conftest import largest_gap, random_prompt, serving_settings
from safetensors import safe_open
from safetensors.torch import save_file

from agentloop.errors import ServerError, SettingError
from agentloop.serving.server import ModelServer


def processes_of(group: int) -> list[psutil.Process]:
    """Everything in the session of the child, zombies aside."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def gone(group: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not processes_of(group):
            return True
        time.sleep(0.1)
    return False


def test_port_in_use(checkpoint, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ServerError, match=f"serving.port: {port} cannot be used: Address already in use"):
            ModelServer(serving_settings(tmp_path, port=port), checkpoint).start()


def test_interpreter_that_does_not_exist(checkpoint, tmp_path):
    with pytest.raises(SettingError, match="serving.python: no interpreter at /nowhere/python"):
        ModelServer(serving_settings(tmp_path, python="/nowhere/python"), checkpoint).start()


def test_interpreter_without_vllm(checkpoint, tmp_path):
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    with pytest.raises(SettingError, match="serving.python: .*bare/bin/python has no vLLM"):
        ModelServer(serving_settings(tmp_path, python=str(bare / "bin" / "python")), checkpoint).start()


def test_a_server_that_dies_says_why(checkpoint, tmp_path):
    server = ModelServer(serving_settings(tmp_path, extra_arguments=["--nonsense"]), checkpoint)
    with pytest.raises(
        ServerError, match=r"vLLM ended with exit code 2: unrecognized arguments: --nonsense \(log: .*\.log\)"
    ):
        server.start()
    assert server.log.is_file() and not server.alive()


def test_a_server_that_is_late(checkpoint, tmp_path):
    server = ModelServer(serving_settings(tmp_path, start_seconds=0.5), checkpoint)
    with pytest.raises(ServerError, match="serving.start_seconds: vLLM was not healthy after 0.5 s"):
        server.start()
    assert not server.alive()


def test_the_key_is_needed_and_hidden(server):
    answer = httpx.post(f"{server.url}/v1/completions", json={"model": "base", "prompt": [2], "max_tokens": 1})
    assert answer.status_code == 401
    arguments = [" ".join(process.cmdline()) for process in processes_of(server._child.pid)]
    assert any("api_server" in text for text in arguments)
    assert not any(server.api_key in text for text in arguments)
    assert server.api_key not in server.log.read_text()
    assert server.api_key not in repr(server.endpoint)


def as_transformers_4(checkpoint: Path, directory: Path) -> Path:
    """The checkpoint as transformers 4 saved it: key norms, keys and values of layers that never use them included."""
    directory.mkdir()
    for file in checkpoint.iterdir():
        if file.suffix != ".safetensors":
            (directory / file.name).write_bytes(file.read_bytes())
    with safe_open(checkpoint / "model.safetensors", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    for layer in (3, 4):
        for name in ("k_proj", "v_proj", "k_norm"):
            assert f"model.layers.{layer}.self_attn.{name}.weight" not in tensors
            tensors[f"model.layers.{layer}.self_attn.{name}.weight"] = (
                tensors[f"model.layers.2.self_attn.{name}.weight"] + 1
            )
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def test_a_killed_parent_leaves_no_process(checkpoint, reference, tmp_path):
    """And, since it takes a server of its own: checkpoints that transformers 4 saved are served the same."""
    model = as_transformers_4(checkpoint, tmp_path / "tiny-4")
    script = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from conftest import serving_settings
        from agentloop.serving.server import ModelServer
        with ModelServer(serving_settings(Path({str(tmp_path)!r})), Path({str(model)!r})) as server:
            print(server.url, server.api_key, server._child.pid, flush=True)
            sys.stdin.read()
    """)
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    url, key, group = parent.stdout.readline().split()
    ids = random_prompt(3, 90)
    answer = httpx.post(
        f"{url}/v1/completions",
        headers={"Authorization": f"Bearer {key}"},
        timeout=60,
        json={"model": "base", "prompt": ids, "max_tokens": 1, "prompt_logprobs": 0},
    )
    rows = answer.json()["choices"][0]["prompt_logprobs"][1:]
    served = [row[str(token)]["logprob"] for row, token in zip(rows, ids[1:], strict=True)]
    assert largest_gap(served, reference(None, ids)) < 1e-3

    names = {process.name() for process in processes_of(int(group))}
    assert {"VLLM::EngineCore", "VLLM::Worker"} <= names
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert gone(int(group), 20)
    parent.stdin.close()
    parent.stdout.close()


def test_stopping_leaves_no_process_and_frees_the_port(checkpoint, tmp_path):
    """Also when an exception ends the block, and again on the same port."""
    settings = serving_settings(tmp_path)
    with pytest.raises(KeyError, match="an exception inside"):
        with ModelServer(settings, checkpoint) as server:
            group, port = server._child.pid, server.port
            assert server.alive() and processes_of(group)
            raise KeyError("an exception inside")
    assert not processes_of(group)
    assert not server.alive()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
