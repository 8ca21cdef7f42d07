"""Units as systemd itself reads them, and as its user manager runs them, whatever characters paths have."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import user_manager
from user_manager import Machine

from agentloop import project
from agentloop import settings as configuration
from agentloop.errors import SettingError
from agentloop_flows import units

ODD = ["plain", "it's mine", 'a "b" \\c', "50 % $HOME %n", "füße 日本", "a=b;c#d [x] *?", "- x"]
DUMP = "import json, os, sys; json.dump([sys.argv[1:], os.getcwd(), dict(os.environ)], open('out.tmp', 'w')); os.rename('out.tmp', 'out')"

verifying = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is missing (apt install systemd)"
)


@pytest.fixture(params=ODD)
def root(request, tmp_path, monkeypatch):
    """A project in a folder with that name, with an interpreter in it."""
    root = tmp_path / request.param
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "python").symlink_to(sys.executable)
    (root / "lib").symlink_to(Path(sys.prefix, "lib"))
    shutil.copy(Path(sys.prefix, "pyvenv.cfg"), root)
    monkeypatch.setenv(project.VARIABLE, str(root))
    monkeypatch.setattr(sys, "executable", str(root / "bin" / "python"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    return root


@pytest.fixture
def settings(root):
    settings = configuration.load({"paths": {"data": str(root / "data")}})
    settings.export()
    return settings


def verified(file: Path) -> str:
    """What systemd has understood, of a unit without any fault."""
    environment = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(file.parent), "HOME": str(file.parent)}
    command = ["systemd-analyze", "--user", "--man=no", "verify", str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return subprocess.run(
        command, env=environment | {"SYSTEMD_LOG_LEVEL": "debug"}, capture_output=True, text=True
    ).stdout


@verifying
def test_systemd_finds_no_fault_and_reads_the_paths_as_they_are(settings, root, tmp_path):
    units.environment_file(settings).write_text("")
    for service in reversed(units.NAMES):  # the worker's names the server's
        file = tmp_path / units.name(settings, service)
        (tmp_path / units.name(settings, "server")).write_text(units.text(settings, "server"))
        file.write_text(units.text(settings, service, ["campaign=a b", "seed=1"]))
        understood = [line.strip() for line in verified(file).splitlines()]
        assert f"WorkingDirectory: {root}" in understood
        assert f"StandardOutputFileToAppend: {settings.paths.logs}/prefect-{service}.log" in understood
        assert [line for line in understood if line.startswith("EnvironmentFile: ")]


def test_names_tell_projects_and_data_roots_apart(settings, root, tmp_path, monkeypatch):
    other = configuration.load({"paths": {"data": str(tmp_path / "other")}})
    monkeypatch.setenv(project.VARIABLE, str(tmp_path))
    elsewhere = units.name(settings, "server")
    monkeypatch.setenv(project.VARIABLE, str(root))
    names = {units.name(settings, "server"), units.name(settings, "worker"), units.name(other, "server"), elsewhere}
    assert len(names) == 4 and all(each.startswith("agentloop-") and each.isascii() for each in names)


def test_what_a_unit_cannot_hold_is_refused(settings):
    with pytest.raises(SettingError, match="no systemd unit can hold"):
        units.text(settings, "server", ["campaign=a\nExecStartPre=/bin/evil"])


def test_only_what_matters_of_a_session_is_kept(settings):
    session = {
        "PATH": "/usr/bin",
        "CUDA_VISIBLE_DEVICES": "1",
        "AGENTLOOP_SEED": "3",
        "https_proxy": "http://proxy",
        "NOTIFY_WEBHOOK": "https://x/y",
        "AWS_SECRET_ACCESS_KEY": "no",
        "PREFECT_API_URL": "http://elsewhere",
        "DISPLAY": ":0",
        "SSH_AUTH_SOCK": "/tmp/agent",
        "HF_HOME": "ours",
        "AGENTLOOP_EXPORTED": "HF_HOME",
        "LANG": "a\nb",
    }
    kept = units.environment_text(settings, session)
    names = {line.partition("=")[0] for line in kept.splitlines()}
    wanted = {"PATH", "CUDA_VISIBLE_DEVICES", "AGENTLOOP_SEED", "https_proxy", "NOTIFY_WEBHOOK", "AGENTLOOP_PROJECT"}
    assert names == wanted


def test_without_systemd_it_says_how(settings, monkeypatch, tmp_path, capsys):
    from agentloop.cli import app

    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))  # nobody answers there
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    words = ["agentloop", "up", "--install", f"paths.data={settings.paths.data}"]
    monkeypatch.setattr(sys, "argv", words)
    assert app.run() == (1, None)
    said = capsys.readouterr().out
    assert "@reboot" in said and "crontab -e" in said and "launchd" in said
    assert not units.folder().exists() and not units.environment_file(settings).exists()
    (line,) = [line.strip() for line in said.splitlines() if line.startswith("  @reboot ")]
    command = line.removeprefix("@reboot ").replace("\\%", "%")  # as cron does
    done = subprocess.run(
        ["/bin/sh", "-c", command.replace(" up ", " doctor --help ")], cwd="/", capture_output=True, text=True
    )
    assert done.returncode == 0 and "Versions, paths" in done.stdout, done.stderr


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    if lack := user_manager.lacking():
        pytest.skip(f"no systemd user manager can be started: {lack}")
    machine = Machine(tmp_path_factory.mktemp("machine") / "home")
    machine.boot()
    yield machine
    machine.lose_power()


def test_the_manager_starts_exactly_this_program_with_these_words_and_variables(settings, root, machine):
    value = 'a "b" $HOME %n `x` \\n \\ ü'
    session = {"PATH": "/usr/bin:/bin", "AGENTLOOP_CAMPAIGN": value, "NOTIFY_WEBHOOK": value}
    units.environment_file(settings).write_text(units.environment_text(settings, session))
    service = units.name(settings, "server")
    whole = units.text(settings, "server", ["x"])
    words = [sys.executable, "-c", DUMP, value, "%n", "$PATH", "'"]
    changed = [
        f"ExecStart={units._command_line(words)}" if line.startswith("ExecStart=") else line
        for line in whole.splitlines()
    ]
    folder = machine.home / ".config" / "systemd" / "user"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / service).write_text("\n".join(changed).replace("Restart=always", "Restart=no"))
    for call in (["daemon-reload"], ["start", service]):
        done = machine.run("systemctl", "--user", *call)
        assert done.returncode == 0, done.stderr
    deadline = time.monotonic() + 60
    while not (root / "out").exists():
        assert time.monotonic() < deadline, machine.run("systemctl", "--user", "status", service).stdout
        time.sleep(0.1)
    given, folder, variables = json.loads((root / "out").read_text())
    assert given == words[3:] and folder == str(root)
    assert {name: variables[name] for name in session} == session and variables[project.VARIABLE] == str(root)


STANDING = """
import sys
from pathlib import Path
from agentloop import settings as configuration
from agentloop_flows import units
settings = configuration.load()
settings.export()
if sys.argv[1:]:
    print(*getattr(units, sys.argv[1])(settings, *([[]] if sys.argv[1] == "install" else [])), sep="\\n")
print(units.standing(settings), units.standing(settings).survives)
"""


def test_they_are_installed_enabled_and_removed(machine, tmp_path):
    """Without being started."""
    (tmp_path / project.FILE).touch()

    def units_of(*words):
        done = machine.run(
            sys.executable,
            "-c",
            STANDING,
            *words,
            cwd=tmp_path,
            PYTHONPATH=os.pathsep.join(sys.path),
            **{project.VARIABLE: str(tmp_path)},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    assert units_of() == ["Standing(installed=False, enabled=False, lingers=False) False"]
    said = units_of("install")
    assert said[0].startswith("Installed in ") and said[1].startswith("Lingering is off")
    assert said[2] == "  loginctl enable-linger root"
    assert said[-1] == "Standing(installed=True, enabled=True, lingers=False) False"
    machine.run("touch", "/var/lib/systemd/linger/root")
    assert units_of("install")[-1] == "Standing(installed=True, enabled=True, lingers=True) True"
    listed = machine.run("systemctl", "--user", "list-dependencies", "--plain", "default.target").stdout
    assert listed.count(f"agentloop-{tmp_path.name.rstrip('_')[:40]}") == 2, listed
    assert units_of("uninstall")[0].startswith("Removed from ")
    assert units_of() == ["Standing(installed=False, enabled=False, lingers=True) False"]
    assert units_of("uninstall")[0] == "No units of this project are installed"
    assert not list((machine.home / ".config" / "systemd").rglob(f"*{tmp_path.name}*"))
