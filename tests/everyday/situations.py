"""Everyday situations that take minutes: `python tests/everyday/situations.py [NAME …]` prints a Markdown table.

Each is a real command with the tiny model, vLLM, Prefect and the trainer, in a folder of its own that goes afterwards. Those
that change what a process sees of the machine (mounts, users, a memory limit) need root, and are left out without it.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "end_to_end"))

from home import SMALL, Home, free_port  # noqa: E402

from agentloop.project import CHECKOUT  # noqa: E402

SECONDS = 1200
CAMPAIGN = (*SMALL, "iterations=1")
RUN = ("run", "--profile", "demo", *CAMPAIGN)
COMPILERS = re.compile(r"(.*-)?(cc|gcc|g\+\+|c\+\+|c89|c99|clang|clang\+\+)(-\d+)?")
FINISHED = r"Report: .*demo\.html"
AS_IT_SHOULD_BE = "ok"
MEMORY_LIMIT = 1400 << 20


class LeftOut(Exception):
    """The situation cannot be had on this machine; the text says why."""


@dataclass
class Place:
    """A data root with a copy of the project, and what was seen there."""

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    faults: list[str] = field(default_factory=list)
    last_line: str = ""
    output: str = ""

    @property
    def home(self) -> Home:
        return Home(self.folder / "home", self.port, self.variables)

    def command(self, *words: str, **options) -> None:
        """`agentloop WORDS`, judged by its exit code, its last line and whatever else it has to say."""
        home = self.home
        self.run([sys.executable, "-m", "agentloop", *words], home.environment, **{"cwd": home.project, **options})

    def run(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        cwd: Path,
        last: str,
        code: int = 0,
        says: Sequence[str] = (),
        before: Sequence[str] = (),
        prepare: Callable[[], None] | None = None,
    ) -> None:
        process = subprocess.Popen(
            [*before, *command],
            env=dict(environment),
            cwd=cwd,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=prepare,
        )
        try:
            self.output, _ = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            self.output, _ = process.communicate()
            self.faults.append(f"did not end within {SECONDS} s")
        lines = self.output.strip().splitlines()
        self.last_line = lines[-1].strip() if lines else ""
        self.expect(process.returncode == code, f"exit code {process.returncode}")
        self.expect(re.search(last, self.last_line), f"the last line is not {last!r}")
        for text in says:
            self.expect(re.search(text, " ".join(self.output.split())), f"does not say {text!r}")
        self.expect("Traceback" not in self.output, "a traceback")
        if self.faults:
            print(self.output, file=sys.stderr)

    def expect(self, true: object, fault: str) -> None:
        if not true:
            self.faults.append(fault)

    def down(self) -> None:
        home = self.home
        command = [sys.executable, "-m", "agentloop", "down"]
        subprocess.run(command, cwd=home.project, env=home.environment, stdout=subprocess.DEVNULL, timeout=120)


SITUATIONS: dict[str, tuple[str, Callable[[Place], None]]] = {}


def situation(done: str) -> Callable[[Callable[[Place], None]], Callable[[Place], None]]:
    def add(function: Callable[[Place], None]) -> Callable[[Place], None]:
        SITUATIONS[function.__name__.replace("_", " ")] = (done, function)
        return function

    return add


@situation("PATH without any compiler; a campaign")
def no_compiler(place: Place) -> None:
    programs = place.folder / "programs"
    programs.mkdir()
    for folder in reversed(os.environ["PATH"].split(":")):
        for program in Path(folder).iterdir() if Path(folder).is_dir() else ():
            if not COMPILERS.fullmatch(program.name):
                (programs / program.name).unlink(missing_ok=True)
                (programs / program.name).symlink_to(program)
    place.variables["PATH"] = str(programs)
    place.command(*RUN, last=FINISHED, says=["vLLM runs uncompiled, which is slower: no C.. compiler", "apt install g"])
    place.command("doctor", last="Prefect", says=["slower compiler"])


@situation("an empty folder in place of Python's headers; a campaign")
def no_headers(place: Place) -> None:
    import sysconfig

    hide = mounting(f"mount -t tmpfs none '{sysconfig.get_path('include')}'")
    place.command(*RUN, last=FINISHED, says=["uncompiled, which is slower: no Python.h in"], before=hide)


@situation("checkout and environment below `My Projects/it's`; make demo; then moved, make demo again")
def space_and_quote_then_moved(place: Place) -> None:
    checkout = whole_checkout(place, place.folder / "My Projects" / "it's" / "agentloop")
    environment = {"PATH": os.environ["PATH"], "HOME": str(place.folder), "COLUMNS": "160"}
    quiet = r"`agentloop down` ends them"
    try:
        place.run(["make", "demo"], environment, cwd=checkout, last=quiet, says=["Success on held-out tasks"])
        place.expect("uncompiled" not in place.output, "ran uncompiled")
        down(checkout, environment)
        moved = checkout.rename(checkout.with_name("moved here"))
        place.run(["make", "demo"], environment, cwd=moved, last=quiet, says=["with 1 of 1 iterations"])
        checkout = moved
    finally:
        down(checkout, environment)


@situation("the cache on a file system that is mounted noexec; a campaign")
def cache_on_noexec(place: Place) -> None:
    cache = place.home.root / "cache"
    cache.mkdir(parents=True)
    place.variables["XDG_CACHE_HOME"] = str(place.folder / "xdg")
    noexec = mounting(f"mount -t tmpfs -o noexec,size=2g none '{cache}'")
    place.command(*RUN, last=FINISHED, before=noexec)
    place.expect("uncompiled" not in place.output, "ran uncompiled")
    place.expect(any((place.folder / "xdg" / "agentloop").glob("*/*")), "nothing was compiled elsewhere")


@situation("a campaign of one iteration; then its port is taken; then another port is set, as the message says")
def port_taken_then_another(place: Place) -> None:
    place.command(*RUN, last=FINISHED)
    place.down()
    with socket.create_server(("127.0.0.1", place.port)):
        place.command(
            *RUN, last=rf"prefect_port: port {place.port} is in use by another program .*; set another one", code=2
        )
    place.port = free_port()
    place.command("run", "--profile", "demo", *SMALL, "iterations=2", last=FINISHED)


@situation("`up`; the time at which the machine started is two hours later, as after a clock step; `up`, `down`")
def clock_step(place: Place) -> None:
    place.command("up", last="Prefect UI")
    shifted = place.folder / "stat"
    text = Path("/proc/stat").read_text()
    shifted.write_text(re.sub(r"^btime (\d+)", lambda found: f"btime {int(found[1]) + 7200}", text, flags=re.M))
    step = mounting(f"mount --bind '{shifted}' /proc/stat")
    place.command("up", last="Prefect UI", says=["server is already up", "worker is already up"], before=step)
    place.command("down", last="Prefect server ended", says=["Prefect worker ended"], before=step)


@situation("started in a folder with random.py, types.py, json.py; a campaign")
def folder_with_random(place: Place) -> None:
    tasks = place.folder / "tasks"
    tasks.mkdir()
    for name in ("random", "types", "json", "logging"):
        (tasks / f"{name}.py").write_text("raise ImportError('hidden')\n")
    place.command(*RUN, last=FINISHED, cwd=tasks)


@situation('VLLM_PLUGINS="", VLLM_PORT, VLLM_LOGGING_LEVEL=nonsense, VLLM_USE_V1=0; a campaign')
def variables_of_vllm(place: Place) -> None:
    place.variables |= {"VLLM_PLUGINS": "", "VLLM_PORT": "1", "VLLM_LOGGING_LEVEL": "nonsense", "VLLM_USE_V1": "0"}
    place.command(*RUN, last=FINISHED)


@situation("HF_HOME, TRITON_CACHE_DIR, TORCHINDUCTOR_CACHE_DIR, VLLM_CACHE_ROOT of the user's; a campaign")
def caches_of_the_users(place: Place) -> None:
    names = ("HF_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "VLLM_CACHE_ROOT")
    place.variables |= {name: str(place.folder / "theirs" / name) for name in names}
    place.command(*RUN, last=FINISHED)
    place.expect(any((place.folder / "theirs").glob("T*/*")), "theirs are not used")
    place.expect(not (place.home.root / "cache" / "inductor").exists(), "ours are used")


@situation("HTTP_PROXY, HTTPS_PROXY, ALL_PROXY (SOCKS) that lead nowhere; `up`, a campaign")
def proxies(place: Place) -> None:
    nowhere = {name: "http://127.0.0.1:9" for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")}
    place.variables |= nowhere | {"ALL_PROXY": "socks5://127.0.0.1:9", "all_proxy": "socks5://127.0.0.1:9"}
    place.command("up", last="Prefect UI")
    place.command(*RUN, last=FINISHED)


@situation("LC_ALL=en_US.ISO-8859-1; a campaign, `status`")
def eight_bit_locale(place: Place) -> None:
    locales = place.folder / "locales"
    locales.mkdir()
    made = [*("localedef", "-i", "en_US", "-f", "ISO-8859-1"), str(locales / "en_US.ISO-8859-1")]
    if not shutil.which("localedef") or subprocess.run(made, capture_output=True).returncode > 1:
        raise LeftOut("no localedef")
    place.variables |= {"LOCPATH": str(locales), "LC_ALL": "en_US.ISO-8859-1", "LANG": "en_US.ISO-8859-1"}
    place.command(*RUN, last=FINISHED)
    place.command("status", last="demo", says=["demo"])


@situation("PREFECT_API_DATABASE_CONNECTION_URL, …_AUTH_STRING, …_BASE_PATH, …_PROFILE of the user's; `up`")
def variables_of_prefect(place: Place) -> None:
    theirs = place.folder / "theirs.db"
    place.variables |= {
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{theirs}",
        "PREFECT_SERVER_API_AUTH_STRING": "some:body",
        "PREFECT_SERVER_API_BASE_PATH": "/elsewhere",
        "PREFECT_PROFILE": "cloud",
    }
    place.command("up", last="Prefect UI", says=["Deployed: "])
    place.expect(not theirs.exists(), "the user's database was written to")


@situation("two clones at one port: `up` in the second")
def port_of_another_clone(place: Place) -> None:
    place.command("up", last="Prefect UI")
    other = Place(place.folder / "second", port=place.port)
    whose = rf"port {place.port} is in use by the Prefect server of .*home-project \(process \d+\); set another one"
    other.command("up", last=whose, code=2)
    place.faults += other.faults
    place.last_line = other.last_line


@situation(
    "a memory limit of 1.4 GB (a cgroup, where this process may make one; else its files alone); `doctor`, a campaign"
)
def memory_limit(place: Place) -> None:
    lacking = {"last": "Prefect", "code": 1, "says": [r"missing memory .*of this container's 1\.4"]}
    with memory_group(MEMORY_LIMIT) as enter:
        if enter is None:
            files = f"mount -t tmpfs none /sys/fs/cgroup; cd /sys/fs/cgroup; echo {MEMORY_LIMIT} > memory.max; echo 0 > memory.current"
            place.command("doctor", before=mounting(f"{files}; cd '{place.home.project}'"), **lacking)
            return
        place.command("doctor", prepare=enter, **lacking)
        killed = r"was killed \(SIGKILL\), most often for want of memory \(the container's limit is 1\.4 GiB\)"
        place.command(*RUN, last=killed, code=2, prepare=enter)


@situation("a user id without a name, HOME and USER unset, a checkout of root's; `up`, a campaign")
def user_without_a_name(place: Place) -> None:
    needs_root()
    user = 54321
    place.home.project.chmod(0o755)
    for path in (place.folder, *place.folder.parents):
        if not path.stat().st_mode & stat.S_IXOTH:
            path.chmod(path.stat().st_mode | stat.S_IXOTH)
    place.home.root.mkdir()
    os.chown(place.home.root, user, user)
    as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "env", "-u", "HOME", "-u", "USER"]
    if subprocess.run([*as_user, sys.executable, "-c", ""], capture_output=True).returncode:
        raise LeftOut(f"other users cannot run {sys.executable}")
    place.command("up", last="Prefect UI", before=as_user)
    place.command(*RUN, last=FINISHED, before=as_user)


@situation("TMPDIR on a full disk; TMPDIR of 120 characters; a campaign each")
def temporary_folder(place: Place) -> None:
    needs_root()
    full, far = place.folder / "full", place.folder / ("x" * 120)
    full.mkdir()
    far.mkdir()
    fill = f"mount -t tmpfs -o size=64k none '{full}'; head -c 1M /dev/zero > '{full}/filler'"
    place.variables["TMPDIR"] = str(full)
    place.command(*RUN, last="No space left on device|disk is full|database or disk", code=2, before=mounting(fill))
    place.down()
    told = place.last_line
    place.variables["TMPDIR"] = str(far)
    place.command(*RUN, last=FINISHED)
    place.last_line = f"{told}; {place.last_line}"


def needs_root() -> None:
    if os.getuid():
        raise LeftOut("needs root")


def mounting(script: str) -> list[str]:
    """Before a command: mounts that it and its children alone see."""
    needs_root()
    return ["unshare", "--mount", "sh", "-c", f'{script} 2>/dev/null; exec "$@"', "sh"]


@contextmanager
def memory_group(limit: int) -> Iterator[Callable[[], None] | None]:
    """A function by which a process enters a new memory group with this limit; None where there is none to be had.

    It is made only where this process is in no group of somebody else's, who might count on finding it there.
    """
    groups = Path("/proc/self/cgroup").read_text().split()
    [(root, file)] = [
        *((Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes") for line in groups if line.endswith(":memory:/")),
        *((Path("/sys/fs/cgroup"), "memory.max") for line in groups if line == "0::/" and len(groups) == 1),
    ][:1] or [(None, "")]
    made = None if root is None else root / f"agentloop-situation-{os.getpid()}"
    try:
        if made is not None:
            made.mkdir()
            (made / file).write_text(str(limit))
    except OSError:
        made = None
    try:
        yield None if made is None else lambda: (made / "cgroup.procs").write_text(str(os.getpid()))
    finally:
        if made is not None:
            for process in (made / "cgroup.procs").read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(process), signal.SIGKILL)
            while made.exists():
                with suppress(OSError):
                    made.rmdir()
                time.sleep(0.2)


def whole_checkout(place: Place, folder: Path) -> Path:
    """The project with a copy of the environment that runs this, as if it had been installed elsewhere and moved here."""
    shutil.copytree(
        CHECKOUT,
        folder,
        ignore=lambda path, names: {
            name
            for name in names
            if name in (".git", ".venv", "__pycache__", "agentloop.toml", ".env")
            or Path(path, name) == CHECKOUT / "data"
        },
    )
    (folder / "data").mkdir()
    environment = Path(sys.prefix)
    subprocess.run(["cp", "-a", "--reflink=auto", str(environment), str(folder / ".venv")], check=True)
    (folder / ".venv" / ".installed").write_text("/somewhere/else\n")
    sections: dict[str, list[str]] = {"": [f"prefect_port = {place.port}"]}
    for name, value in dict(word.split("=") for word in CAMPAIGN).items():  # of one that is said twice the later holds
        section, _, leaf = name.rpartition(".")
        sections.setdefault(section, []).append(f"{leaf} = {value}")
    (folder / "agentloop.toml").write_text(
        "".join((f"[{name}]\n" if name else "") + "\n".join(lines) + "\n" for name, lines in sections.items())
    )
    return folder


def down(checkout: Path, environment: Mapping[str, str]) -> None:
    command = [checkout / ".venv" / "bin" / "python", "-m", "agentloop", "down"]
    subprocess.run(command, cwd=checkout, env=dict(environment), stdout=subprocess.DEVNULL, timeout=120)


def main(*names: str) -> None:
    print("| situation | what was done | last line | verdict |\n|---|---|---|---|")
    for name, (done, act) in SITUATIONS.items():
        if names and name not in names:
            continue
        # a short path: sockets are made below it
        place = Place(Path(tempfile.mkdtemp(prefix="s", dir="/tmp")))
        try:
            act(place)
            verdict = "; ".join(place.faults) and f"**FAULT**: {'; '.join(place.faults)}" or AS_IT_SHOULD_BE
        except LeftOut as reason:
            verdict = f"left out: {reason}"
        finally:
            with suppress(subprocess.SubprocessError):
                place.down()
            shutil.rmtree(place.folder, ignore_errors=True)
        told = re.sub(r"/enter#\S+", "/enter#…", place.last_line).replace(str(place.folder), "…").replace("|", "\\|")
        print(f"| {name} | {done} | {told} | {verdict} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
