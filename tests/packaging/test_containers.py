"""The Dockerfile and the compose files: what can be known of them without a Docker daemon."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from agentloop.project import CHECKOUT
from agentloop_flows import services

DOCKER = CHECKOUT / "docker"
FILES = ("compose.yaml", "compose.gpu.yaml")


def program(name: str) -> str:
    """The linter, of this environment or on the path; the test is skipped without it."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    return found or pytest.skip(f"{name} is missing (pip install 'agentloop[dev]')")


def compose(name: str) -> dict:
    return yaml.safe_load((DOCKER / name).read_text())


def instructions() -> list[tuple[str, str]]:
    text = "\n".join(line for line in (DOCKER / "Dockerfile").read_text().splitlines() if not line.startswith("#"))
    return [tuple(line.split(maxsplit=1)) for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def test_hadolint_finds_nothing():
    done = subprocess.run([program("hadolint"), DOCKER / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_the_compose_files_follow_the_specification():
    command = [
        program("check-jsonschema"),
        "--builtin-schema",
        "vendor.compose-spec",
        *(DOCKER / name for name in FILES),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_loopback_is_published():
    published = [
        port for name in FILES for each in compose(name)["services"].values() for port in each.get("ports", [])
    ]
    assert published and all(re.match(r"127\.0\.0\.1:", port) for port in published)


def test_nothing_runs_as_root_or_can_become_it():
    users = [words for name, words in instructions() if name == "USER"]
    assert users == ["$UID"]  # of the last stage, after everything that needs root
    for each in compose("compose.yaml")["services"].values():
        assert each["cap_drop"] == ["ALL"] and each["security_opt"] == ["no-new-privileges:true"]


def ignored(path: str) -> bool:
    """As Docker reads .dockerignore: the last line that matches decides, and `!` lets in."""
    found = False
    for line in (CHECKOUT / ".dockerignore").read_text().splitlines():
        pattern = line.lstrip("!")
        if not line or line.startswith("#"):
            continue
        expression = re.escape(pattern).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if any(re.fullmatch(expression, str(each)) for each in [Path(path), *Path(path).parents]):
            found = not line.startswith("!")
    return found


@pytest.mark.parametrize(
    "path", [".env", "flows/.env", "data/services/key", "agentloop.toml", ".git/config", "models/big/x"]
)
def test_keys_data_and_settings_do_not_get_into_the_image(path):
    assert ignored(path)


def test_what_the_image_is_built_from_gets_in():
    package = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
    wanted = [
        "agentloop/cli/app.py",
        "models/tiny/config.json",
        "prefect.toml",
        "pyproject.toml",
        "README.md",
        *package.values(),
    ]
    for name, words in instructions():
        if name == "COPY" and "--from" not in words:
            wanted += [source for source in shlex.split(words)[:-1] if source != "."]
    for path in wanted:
        assert (CHECKOUT / path).exists() and not ignored(path), path
    links = [each for each in (CHECKOUT / "agentloop" / "shipped").rglob("*") if each.is_symlink()]
    assert links and not [each for each in links if ignored(str(each.resolve().relative_to(CHECKOUT)))]


def test_versions_are_those_of_the_other_environments():
    text, makefile = (DOCKER / "Dockerfile").read_text(), (CHECKOUT / "Makefile").read_text()
    pinned = (CHECKOUT / "requirements" / "cpu.txt").read_text()
    torch = re.search(r"torch==([\d.]+)", text)[1]
    assert f"torch=={torch}" in makefile
    assert re.search(r"setuptools==[\d.]+", text)[0] in pinned


@pytest.mark.parametrize("service", ["server", "worker", "init"])
def test_its_command_is_one_that_there_is(service):
    module, *words = compose("compose.yaml")["services"][service]["command"]
    done = subprocess.run([sys.executable, "-m", module, *words, "--help"], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0 and "usage" in done.stdout.lower(), done.stderr
    assert service == "init" or service in services.NAMES


def test_what_is_laid_over_it_names_the_same_services():
    above = compose("compose.gpu.yaml")["services"]
    assert set(above) == set(compose("compose.yaml")["services"])
    assert {each["build"]["args"]["VARIANT"] for each in above.values()} == {"cuda"}
    (devices,) = above["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices["capabilities"] == ["gpu"]


def test_the_worker_is_where_the_server_can_be_reached_and_sees_its_processes():
    worker = compose("compose.yaml")["services"]["worker"]
    assert worker["network_mode"] == worker["pid"] == "service:server"
    assert worker["depends_on"]["server"]["condition"] == "service_healthy"
