"""systemd user units for the server and the worker, so that schedules fire after a reboot with nobody logged in.

A unit starts `agentloop_flows.service`, which resolves the settings anew: nothing that can change, and no key, is written into
it. What a person has set in the environment, and a service would not see, goes into a file beside the other state.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentloop import project
from agentloop.errors import SettingError
from agentloop.files import atomic
from agentloop.settings import Settings
from agentloop.settings.variables import EXPORTED_VARIABLE

NAMES = ("server", "worker")
_KEPT = re.compile(
    r"(AGENTLOOP|CUDA|NVIDIA|HF|HUGGINGFACE|TRITON|TORCH|TORCHINDUCTOR|PYTORCH|VLLM|OMP|MKL|NCCL|GLOO|XDG_(CACHE|DATA|CONFIG))_\w+"
    r"|PATH|PYTHONPATH|LD_LIBRARY_PATH|LD_PRELOAD|CC|CXX|CPATH|LIBRARY_PATH|TMPDIR|TZ|LANG|LC_\w+|(?i:\w+_PROXY)"
)
"""Variables that matter to a run. The rest of a session (display, agent, terminal, other programs' keys) stays out."""
_UNSAFE_PROGRAM = re.compile("[\"'\\\\]")
"""Characters that systemd refuses in the path of a program, though not among its arguments."""
_SECONDS = 60


@dataclass(frozen=True)
class Standing:
    """The extent to which the machine starts the services by itself."""

    installed: bool
    enabled: bool
    """systemd starts them with the user's other services."""
    lingers: bool | None
    """These start with the machine, not with the user's log-in; None where nothing tells."""

    @property
    def survives(self) -> bool:
        """Return True where a reboot brings the services back with nobody logged in."""
        return self.installed and self.enabled and self.lingers is True


def name(settings: Settings, service: str) -> str:
    """Return the name of a unit's file: it tells projects and data roots of one user apart."""
    root = project.root()
    digest = hashlib.sha256(f"{root}\0{settings.paths.data}".encode()).hexdigest()[:8]
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", root.name).strip("-") or "project"
    return f"agentloop-{readable[:40]}-{digest}-{service}.service"


def folder() -> Path:
    """Return where the user's units lie."""
    configured = os.environ.get("XDG_CONFIG_HOME", "")
    above = Path(configured) if os.path.isabs(configured) else Path.home() / ".config"
    return above / "systemd" / "user"


def text(settings: Settings, service: str, words: Sequence[str] = ()) -> str:
    """Return the unit of the server or the worker. Raises SettingError for a path that no unit can hold."""
    root = project.root()
    command = [sys.executable, "-m", "agentloop_flows.service", service, *words]
    log = settings.paths.logs / f"prefect-{service}.log"
    of_the_worker = service == "worker"
    order = [f"Wants={name(settings, 'server')}", f"After={name(settings, 'server')}"] if of_the_worker else []
    # what the kernel kills for want of memory is vLLM or the trainer, which the run starts again
    memory = ["OOMPolicy=continue"] if of_the_worker else []
    return "\n".join(
        [
            "# Written by `agentloop up --install`, and again each time; `agentloop up --uninstall` removes it.",
            "[Unit]",
            f"Description=agentloop: Prefect {service} of {_plain(str(root))}",
            *order,
            "StartLimitIntervalSec=0",
            "",
            "[Service]",
            "Type=exec",
            f"ExecStart={_command_line(command)}",
            f"WorkingDirectory={_value(str(root))}",
            f"EnvironmentFile={_pattern(str(environment_file(settings)))}",
            f"StandardOutput=append:{_value(str(log))}",
            f"StandardError=append:{_value(str(log))}",
            "Restart=always",
            "RestartSec=10",
            # first the main process alone: to the others it would be Ctrl-C, and a run would end as one that nobody wanted
            "KillMode=mixed",
            "KillSignal=SIGINT",
            "TimeoutStopSec=30",
            *memory,
            "UMask=0077",
            "NoNewPrivileges=yes",
            "LockPersonality=yes",
            "RestrictSUIDSGID=yes",
            "",
            "[Install]",
            "WantedBy=default.target",
            "",
        ]
    )


def environment_file(settings: Settings) -> Path:
    """Return the file with the variables that the units' processes get."""
    return settings.paths.services / "units.env"


def environment_text(settings: Settings, variables: Mapping[str, str]) -> str:
    """Return the content of that file: what matters to a run, and the secrets that the settings name."""
    ours = {*variables.get(EXPORTED_VARIABLE, "").split(","), EXPORTED_VARIABLE, project.VARIABLE}
    secrets = {settings.notify.webhook_variable, settings.teach.key_variable}
    kept = {
        each: value
        for each, value in variables.items()
        if (_KEPT.fullmatch(each) or each in secrets) and each not in ours and _is_writable(value)
    }
    kept[project.VARIABLE] = str(project.root())
    return "".join(f"{each}={_quoted(value, also='$`')}\n" for each, value in sorted(kept.items()))


def installed(settings: Settings) -> bool:
    """Return True where both units are there."""
    return all((folder() / name(settings, each)).is_file() for each in NAMES)


def standing(settings: Settings) -> Standing:
    """Return how far the machine starts the services by itself."""
    wants = folder() / "default.target.wants"
    enabled = all((wants / name(settings, each)).is_symlink() for each in NAMES)
    return Standing(installed(settings), enabled, _lingers())


def is_active(settings: Settings, service: str) -> bool:
    """Return True where systemd runs the unit, or is about to."""
    if not installed(settings) or not manager_answers():
        return False
    state = _systemctl("is-active", name(settings, service)).stdout.strip()
    return state in ("active", "activating", "reloading")


def start(settings: Settings, service: str) -> None:
    """Start an installed unit. Raises SettingError where systemd does not."""
    done = _systemctl("start", name(settings, service))
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no reason given"]
        raise SettingError(
            f"systemctl --user start {name(settings, service)}: {said[-1]} (agentloop up --uninstall does without units)"
        )


def stop(settings: Settings, service: str) -> None:
    """Stop a unit where it is installed; it starts again with the machine."""
    if installed(settings) and manager_answers():
        _systemctl("stop", name(settings, service))


def install(settings: Settings, words: Sequence[str]) -> list[str]:
    """Write the units and have them started with the machine; lines for a person. `words`: settings of the command line."""
    folder().mkdir(parents=True, exist_ok=True)
    environment = environment_text(settings, os.environ)
    with atomic(environment_file(settings)) as temporary:
        temporary.touch(mode=0o600)
        temporary.write_text(environment, encoding="utf-8")
    for each in NAMES:
        content = text(settings, each, words)
        with atomic(folder() / name(settings, each)) as temporary:
            temporary.write_text(content, encoding="utf-8")
    units = [name(settings, each) for each in NAMES]
    for call in (["daemon-reload"], ["enable", *units]):
        done = _systemctl(*call)
        if done.returncode:
            raise SettingError(f"systemctl --user {call[0]}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return [f"Installed in {folder()}: {', '.join(units)}", *_about_lingering()]


def uninstall(settings: Settings) -> list[str]:
    """Remove what `install` has written; lines for a person. The processes are to be ended before."""
    units = [name(settings, each) for each in NAMES]
    there = [each for each in units if (folder() / each).exists()]
    if manager_answers() and there:
        _systemctl("disable", "--now", *there)
    for each in units:
        (folder() / each).unlink(missing_ok=True)
        (folder() / "default.target.wants" / each).unlink(missing_ok=True)
    environment_file(settings).unlink(missing_ok=True)
    if manager_answers() and there:
        _systemctl("daemon-reload")
        _systemctl("reset-failed", *there)
    return [f"Removed from {folder()}: {', '.join(there)}" if there else "No units of this project are installed"]


def manager_answers() -> bool:
    """Return True where a systemd user manager can be talked to."""
    return shutil.which("systemctl") is not None and not _systemctl("show-environment").returncode


def without_systemd(words: Sequence[str]) -> list[str]:
    """Lines that say how to have the services started without systemd."""
    import shlex

    command = shlex.join([sys.executable, "-m", "agentloop", "--project", str(project.root()), "up", *words])
    return [
        "Nothing is installed: no systemd user manager answers here (systemctl --user).",
        "With cron, which starts them once after each reboot; `crontab -e`, and this line:",
        f"  @reboot {command.replace('%', chr(92) + '%')}",
        "On macOS, a launchd agent with RunAtLoad whose ProgramArguments are the words of that line after @reboot.",
        "In containers, docker/compose.yaml of the checkout: its services start again with Docker.",
    ]


def _about_lingering() -> list[str]:
    if _lingers():
        return ["Lingering is on: they start with the machine, before anybody logs in."]
    return [
        "Lingering is off: they start when you log in and end with your last session. To have them start with the machine:",
        f"  loginctl enable-linger {getpass.getuser()}",
    ]


def _lingers() -> bool | None:
    """True where the user's services start with the machine; None where there is no systemd."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return None
    if Path("/var/lib/systemd/linger", user).exists():
        return True
    return False if Path("/run/systemd/system").is_dir() else None


def _systemctl(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemctl", "--user", *words],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        stdin=subprocess.DEVNULL,
        timeout=_SECONDS,
    )


def _command_line(words: Sequence[str]) -> str:
    """Words as ExecStart takes them; the colon keeps systemd from replacing $NAME."""
    if _UNSAFE_PROGRAM.search(words[0]):
        words = ["/bin/sh", "-c", 'exec "$0" "$@"', *words]
    return ":" + " ".join(_quoted(word) for word in words).replace("%", "%%")


def _quoted(word: str, *, also: str = "") -> str:
    """The word in double quotes, with what systemd would read in it escaped."""
    if not _is_writable(word):
        raise SettingError(f"{word!r}: no systemd unit can hold a line break or another control character")
    if re.fullmatch(r"[\w@%+=:,./-]+", word, re.ASCII):
        return word
    for character in ("\\", '"', *also):
        word = word.replace(character, f"\\{character}")
    return f'"{word}"'


def _value(path: str) -> str:
    """A path that is the rest of its line, where quotes mean nothing."""
    if not _is_writable(path) or path != path.strip() or path.endswith("\\"):
        raise SettingError(f"{path!r}: no systemd unit can hold this path")
    return path.replace("%", "%%")


def _pattern(path: str) -> str:
    """A path where systemd takes a pattern of a shell, which matches this path alone."""
    return re.sub(r"[\\*?\[\]]", r"\\\g<0>", _value(path))


def _plain(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text).replace("%", "%%").rstrip("\\")


def _is_writable(text: str) -> bool:
    return not any(each < " " or each == "\x7f" for each in text) and text.isprintable()
