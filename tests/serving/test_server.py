"""The child process: refused early, and explained when it dies. That it ends with its parent: tests/end_to_end/test_kill.py."""

import shutil
import socket
import subprocess
import sys
import time

import httpx
import psutil
import pytest
from conftest import processes_of, serving_settings
from safetensors.torch import load_file, save_file

from agentloop.child import ChildProcess
from agentloop.errors import ServerError, SettingError
from agentloop.serving.server import ModelServer


def test_port_in_use(checkpoint, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SettingError, match=f"serving.port: {port} cannot be used: Address already in use"):
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


CUTS_AND_DIES = """
import socket, sys, time
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
listener.accept()[0].close()
listener.close()
time.sleep(1)
sys.exit("error: the licence has expired")
"""


def test_a_server_that_cuts_the_connection_is_about_to_end_and_says_why(checkpoint, tmp_path):
    server = ModelServer(serving_settings(tmp_path), checkpoint)
    with socket.create_server(("127.0.0.1", 0)) as free:
        server.port = free.getsockname()[1]
    server.log = tmp_path / "vllm.log"
    command = [sys.executable, "-c", CUTS_AND_DIES, str(server.port)]
    server._child = ChildProcess(command, environment={}, log=server.log)
    while not listens(server.port):  # not asked of it: the first connection is the one that is cut
        time.sleep(0.05)
    assert "the licence has expired" in server.failure()
    server.stop()


def listens(port: int) -> bool:
    return any(each.laddr.port == port and each.status == "LISTEN" for each in psutil.net_connections("tcp4"))


def test_a_server_that_is_late(checkpoint, tmp_path):
    server = ModelServer(serving_settings(tmp_path, start_seconds=0.5), checkpoint)
    with pytest.raises(ServerError, match="serving.start_seconds: vLLM was not healthy after 0.5 s"):
        server.start()
    assert not server.alive()


def test_a_prepared_server_may_be_given_up(checkpoint, tmp_path):
    server = ModelServer(serving_settings(tmp_path), checkpoint)
    server.prepare()
    group = server._child.pid
    assert server.alive() and processes_of(group)
    server.stop()
    assert not server.alive() and not processes_of(group)


def test_the_key_is_needed_and_hidden(server):
    answer = httpx.post(f"{server.url}/v1/completions", json={"model": "base", "prompt": [2], "max_tokens": 1})
    assert answer.status_code == 401
    arguments = [" ".join(process.cmdline()) for process in processes_of(server._child.pid)]
    assert any("agentloop_vllm.standby" in text for text in arguments)
    assert not any(server.api_key in text for text in arguments)
    assert server.api_key not in server.log.read_text()
    assert server.api_key not in repr(server.endpoint)
