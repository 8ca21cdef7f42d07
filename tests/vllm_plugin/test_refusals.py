"""What ends vLLM with one line instead of serving wrongly or openly: its version, a missing key, arguments that are none."""

import os
import subprocess
import sys

import pytest

from agentloop_vllm import standby
from agentloop_vllm.plugin import unsupported


@pytest.mark.parametrize("version", ["0.26.0", "0.26.1rc2", "0.32.0+cpu", "1.0", "dev", "0.1.dev1+g1234567"])
def test_versions_that_the_plugin_is_for(version):
    assert unsupported(version) is None


@pytest.mark.parametrize("version", ["0.9.2", "0.25.1", "0.25.1+cpu"])
def test_versions_that_are_too_old(version):
    assert unsupported(version).startswith(f"agentloop-vllm needs vLLM 0.26 or newer and this is {version}; ")


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "VLLM_API_KEY"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=inherited | variables, capture_output=True, text=True, timeout=120)


def test_a_door_without_a_key_does_not_let_the_server_start():
    """By uvicorn, vLLM's server, which would go on after an exception."""
    code = """if True:
        import uvicorn
        from agentloop_vllm.serving_door import ServingDoor
        async def application(scope, receive, send):
            print("somebody came in", flush=True)
        uvicorn.run(ServingDoor(application), host="127.0.0.1", port=0)
    """
    ended = run(code)
    assert ended.returncode == 3 and "somebody came in" not in ended.stdout
    assert "VLLM_API_KEY is not set, so nobody could come in" in ended.stderr


@pytest.mark.parametrize(("variables", "key"), [({"VLLM_API_KEY": "secret"}, "secret"), ({}, None)])
def test_compiled_code_does_not_depend_on_the_key(variables, key):
    """vLLM 0.26 hashes its variables to find what it compiled before; the key may be another at every start."""
    code = """if True:
        from vllm import envs
        from agentloop_vllm import standby
        standby.hide_key()
        print(envs.VLLM_API_KEY, envs.environment_variables["VLLM_API_KEY"]())
    """
    assert run(code, **variables).stdout.splitlines()[-1] == f"{key} None"


@pytest.mark.parametrize("text", ["", "--port 8000", '{"port": 8000}', '["--port", 8000]'])
def test_orders_that_are_no_list_of_arguments(tmp_path, text):
    orders = tmp_path / "orders.json"
    orders.write_text(text)
    with pytest.raises(SystemExit, match=str(orders)):
        standby._words(orders)
