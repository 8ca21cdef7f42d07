"""The child process: refused early, explained when it dies, and gone with everything it started, whatever ended its parent."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import httpx
import pytest
from conftest import gone, largest_gap, processes_of, random_prompt, serving_settings
from safetensors.torch import load_file, save_file

from agentloop.errors import ServerError, SettingError
from agentloop.serving.server import ModelServer


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
    """Here over a checkpoint with an output head of its own, which would be served wrongly."""
    model = shutil.copytree(checkpoint, tmp_path / "tiny-head")
    tensors = load_file(model / "model.safetensors")
    tensors["lm_head.weight"] = 2 * tensors["model.embed_tokens.weight"]
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    server = ModelServer(serving_settings(tmp_path), model)
    reason = "Gemma 3n with an output head of its own is not supported: lm_head.weight is not the embedding"
    with pytest.raises(ServerError, match=rf"^vLLM ended with exit code 1: {reason} \(log: .*\.log\)$"):
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


def with_unused_weights(checkpoint: Path, directory: Path) -> Path:
    """The checkpoint with what transformers 4 saved, keys, values and key norms of layers that never use them, and a head."""
    shutil.copytree(checkpoint, directory)
    tensors = load_file(directory / "model.safetensors")
    # Some tools write the tied head out as well, and say so.
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    for layer in (3, 4):
        for name in ("k_proj", "v_proj", "k_norm"):
            assert f"model.layers.{layer}.self_attn.{name}.weight" not in tensors
            tensors[f"model.layers.{layer}.self_attn.{name}.weight"] = (
                tensors[f"model.layers.2.self_attn.{name}.weight"] + 1
            )
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def test_a_killed_parent_leaves_no_process(checkpoint, reference, tmp_path):
    """And, since it takes a server of its own: checkpoints with weights that nobody uses are served the same."""
    model = with_unused_weights(checkpoint, tmp_path / "tiny-4")
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
