"""A Prefect server that the user has already is used as it is; else the project's own is, whatever else is set."""

import os
import re
import subprocess
import sys
import time

import httpx
import pytest

from agentloop import settings as configuration
from agentloop_flows import connection, users_server

PROFILES = """
active = "mine"
[profiles.mine]
PREFECT_API_URL = "https://prefect.example/api"
PREFECT_API_AUTH_STRING = "me:secret"
[profiles.cloud]
PREFECT_API_URL = "https://api.prefect.cloud/api/accounts/a1/workspaces/w2"
PREFECT_API_KEY = "pnu_1"
[profiles.local]
PREFECT_SERVER_ALLOW_EPHEMERAL_MODE = "true"
"""
OWN = "http://127.0.0.1:4299/api"


@pytest.fixture
def settings(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("AGENTLOOP_PREFECT_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return configuration.load([f"paths.data={tmp_path / 'data'}", "prefect_port=4299"], profile="demo")


@pytest.fixture
def profiles(settings, tmp_path):
    (tmp_path / "home" / "profiles.toml").write_text(PROFILES)


def test_without_one_the_project_s_own_is_used_and_nothing_of_the_user_s(settings, monkeypatch):
    monkeypatch.setenv("PREFECT_API_KEY", "theirs")
    settings.export()
    variables = connection.environment(settings)
    assert connection.users(settings) is None and variables["PREFECT_API_URL"] == OWN
    assert "PREFECT_API_KEY" not in variables and variables["PREFECT_API_AUTH_STRING"].startswith("agentloop:")
    # a child of that process is of this project as well
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert connection.users(settings) is None
    assert connection.users(settings.model_copy(update={"prefect_port": 4298})) is None


@pytest.mark.parametrize("url", [OWN, f"{OWN}/", "http://localhost:4299/api"])
def test_the_project_s_own_address_is_nobody_else_s(settings, monkeypatch, url):
    monkeypatch.setenv("PREFECT_API_URL", url)
    assert connection.users(settings) is None


def test_a_profile_names_one_and_the_environment_counts_more(settings, profiles, monkeypatch):
    variables = connection.environment(settings)
    assert variables["PREFECT_API_URL"] == "https://prefect.example/api"
    assert variables["PREFECT_API_AUTH_STRING"] == "me:secret"
    assert connection.entrance(settings) == "https://prefect.example"
    monkeypatch.setenv("PREFECT_PROFILE", "cloud")
    assert connection.address(settings) == "https://app.prefect.cloud/account/a1/workspace/w2"
    assert connection.environment(settings)["PREFECT_API_KEY"] == "pnu_1"
    monkeypatch.setenv("PREFECT_API_URL", "http://10.0.0.5:4200/api")
    assert connection.environment(settings)["PREFECT_API_URL"] == "http://10.0.0.5:4200/api"
    monkeypatch.delenv("PREFECT_API_URL")
    monkeypatch.setenv("PREFECT_PROFILE", "local")
    assert connection.users(settings) is None


@pytest.mark.parametrize("text", ["", "active = 3", "active = 'gone'", "not toml [", "[profiles]\nmine = 3\n"])
def test_a_file_of_profiles_that_names_none(settings, tmp_path, text):
    (tmp_path / "home" / "profiles.toml").write_text(text)
    assert users_server.find(OWN) is None


@pytest.fixture(scope="module")
def their_server(tmp_path_factory, free_port):
    """Prefect's own server as its users start it, with a password."""
    folder = tmp_path_factory.mktemp("theirs")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    own = {
        "PREFECT_HOME": str(folder),
        "PREFECT_SERVER_API_AUTH_STRING": "me:secret",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(free_port), "--no-ui"]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, env=clean | own, cwd=folder, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{free_port}/api"
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{url}/health", trust_env=False).status_code in (200, 401):
                    break
            except httpx.TransportError:
                time.sleep(0.3)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def agentloop(tmp_path, *words, **variables):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "AGENTLOOP_"))}
    places = [f"paths.data={tmp_path / 'data'}", f"paths.cache={tmp_path / 'cache'}"]
    return subprocess.run(
        [sys.executable, "-m", "agentloop", *words, *places],
        env=clean | {"PREFECT_HOME": str(tmp_path), **variables},
        text=True,
        capture_output=True,
        timeout=300,
    )


@pytest.mark.slow
def test_everything_goes_to_the_user_s_server(their_server, tmp_path):
    given = {"PREFECT_API_URL": their_server, "PREFECT_API_AUTH_STRING": "me:secret"}
    try:
        done = agentloop(tmp_path, "up", **given)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"Your Prefect server is used: {their_server.removesuffix('/api')}" in done.stdout
        assert "Prefect worker started" in done.stdout and "self-improve/nightly" in done.stdout
        with httpx.Client(base_url=their_server, auth=("me", "secret"), trust_env=False) as api:
            assert api.get("/deployments/name/self-improve/nightly").json()["parameters"]["more"] is True
        # no server of this project's, and a run by hand is their server's
        assert not (tmp_path / "data" / "services" / "server.json").exists()
        command = [sys.executable, "-m", "prefect", "deployment", "run", "reconcile/runs", "--watch"]
        run = subprocess.run(
            command,
            env=os.environ | {"PREFECT_HOME": str(tmp_path), **given},
            text=True,
            capture_output=True,
            timeout=180,
        )
        assert run.returncode == 0 and "Reconciled" in run.stdout, run.stdout + run.stderr
    finally:
        down = agentloop(tmp_path, "down", **given)
    assert "Prefect worker ended" in down.stdout and "Prefect server is not running" in down.stdout


@pytest.mark.parametrize(
    "given, reason",
    [
        ({"PREFECT_API_AUTH_STRING": "me:wrong"}, "does not accept PREFECT_API_AUTH_STRING or PREFECT_API_KEY"),
        ({}, "does not accept PREFECT_API_AUTH_STRING or PREFECT_API_KEY"),
        ({"PREFECT_API_URL": "http://127.0.0.1:1/api"}, r"cannot be reached \(ConnectError\)"),
        ({"PREFECT_API_URL": "not a url"}, r"cannot be reached \(UnsupportedProtocol\)"),
    ],
)
def test_a_server_that_does_not_let_in_is_told_in_one_line(their_server, tmp_path, given, reason):
    done = agentloop(tmp_path, "up", **({"PREFECT_API_URL": their_server} | given))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert re.match(f"error: PREFECT_API_URL: .* {reason}; where neither", done.stderr.strip().splitlines()[-1]), (
        done.stderr
    )
