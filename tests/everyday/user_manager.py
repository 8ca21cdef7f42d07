"""A real systemd user manager in namespaces of its own, which can lose its power and be started again.

It takes root, or user namespaces, and systemd's package; it does not take a machine that systemd has booted.
"""

import os
import shutil
import signal
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_CGROUPS = Path("/sys/fs/cgroup/systemd")
_BOOT = """
set -e
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/systemd/system "$XDG_RUNTIME_DIR" /var/lib/systemd
chmod 700 "$XDG_RUNTIME_DIR"
mount -t tmpfs tmpfs /var/lib/systemd
mkdir /var/lib/systemd/linger
cat /proc/sys/kernel/random/uuid > /run/boot-id
mount --bind /run/boot-id /proc/sys/kernel/random/boot_id
/usr/lib/systemd/systemd --user --log-target=console --log-level=notice &
wait
"""


def lacking() -> str | None:
    """What keeps a user manager from being started here; None where nothing does."""
    for program in ("unshare", "nsenter", "systemctl", "/usr/lib/systemd/systemd"):
        if shutil.which(program) is None:
            return f"no {program}"
    tried = subprocess.run(["unshare", "-m", "-p", "-f", "--mount-proc", "mount", "-t", "tmpfs", "tmpfs", "/run"])
    return None if tried.returncode == 0 else "namespaces cannot be made here (it takes root)"


@dataclass
class Machine:
    """One user's part of a machine: home, and what systemd starts for that user."""

    home: Path
    variables: dict[str, str] = field(default_factory=dict)
    _process: subprocess.Popen | None = None
    _cgroup: Path | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a log-in gives, and no more."""
        return {"HOME": str(self.home), "PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": "/run/user/0", "LANG": "C.UTF-8"}

    def boot(self) -> None:
        self.home.mkdir(exist_ok=True)
        if _CGROUPS.is_dir():  # so that nothing of it is left over
            self._cgroup = _CGROUPS / f"agentloop-test-{uuid.uuid4().hex[:8]}"
            self._cgroup.mkdir()
        with open(self.home / "systemd.log", "ab") as log:
            self._process = subprocess.Popen(
                ["unshare", "-m", "-p", "-f", "--mount-proc", "--kill-child", "bash", "-c", _BOOT],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=self._join,
            )
        deadline = time.monotonic() + 60
        while self.run("systemctl", "--user", "is-active", "default.target").returncode:
            assert time.monotonic() < deadline, (self.home / "systemd.log").read_text()
            time.sleep(0.2)

    def _join(self) -> None:
        if self._cgroup is not None:
            (self._cgroup / "cgroup.procs").write_text(str(os.getpid()))

    def lose_power(self) -> None:
        """End every process at once."""
        if self._process is None:
            return
        first = self._first()
        if first is not None:
            os.kill(first, signal.SIGKILL)
        self._process.wait()
        self._process = None
        if self._cgroup is not None:
            for _ in range(100):
                if not any((folder / "cgroup.procs").read_text() for folder in self._folders()):
                    break
                time.sleep(0.1)
            for folder in self._folders():
                folder.rmdir()

    def _folders(self) -> list[Path]:
        return [*sorted((Path(root) for root, _, _ in os.walk(self._cgroup)), reverse=True)]

    def _first(self) -> int | None:
        """The process with the number 1 of its own namespace."""
        children = psutil.Process(self._process.pid).children()
        return children[0].pid if children else None

    def run(self, *words: str, cwd: str | Path = "/", **variables: str) -> subprocess.CompletedProcess:
        """What a person who is logged in gets from a command."""
        first = self._first()
        if first is None:
            return subprocess.CompletedProcess(words, 1, "", "not up yet")
        enter = ["nsenter", "-t", str(first), "-m", "-p", f"--wd={cwd}", "--", *words]
        environment = self.environment | self.variables | variables
        return subprocess.run(
            enter, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600
        )
