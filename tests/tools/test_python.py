"""The python tool runs what a model writes, and that reaches nothing but its folder, takes no more than it may, and ends."""

import asyncio
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from agentloop import settings as configuration
from agentloop.errors import WorldError
from agentloop.records import Task
from agentloop.tools import ToolError, by_name, sandbox
from agentloop.tools.files import file_tools
from agentloop.tools.folder import Folder
from agentloop.tools.python import Python
from agentloop.tools.sandbox import Limits
from agentloop.worlds.pool import Worlds

confined = pytest.mark.skipif(sandbox.available() is not None, reason=f"no namespaces: {sandbox.available()}")
LIMITS = Limits(seconds=5, memory=128 << 20, processes=8, bytes=1 << 20, files=50, output=5000)


@pytest.fixture(params=[pytest.param(False, marks=confined), True], ids=["confined", "unconfined"])
def either(request, monkeypatch):
    """The tool as it is, and as it is where a machine has no namespaces."""
    if request.param:
        monkeypatch.setattr(sandbox, "available", lambda: "none here")
    tool = Python(limits=LIMITS, unconfined=request.param)
    yield tool
    tool.close()


@pytest.fixture
def tool():
    made = Python(limits=LIMITS)
    yield made
    made.close()


def test_it_runs(either):
    assert either.call("import math\nprint(math.comb(10, 3))") == "120\n"
    assert either.call(code="x = 1") == "nothing printed"
    with pytest.raises(ToolError, match="(?s)ZeroDivisionError: division by zero\n.*exit code 1"):
        either.call("1 / 0")
    with pytest.raises(ToolError, match="SyntaxError"):
        either.call("print(")
    with pytest.raises(ToolError, match="exit code 7"):
        either.call("import sys; sys.exit(7)")
    with pytest.raises(ToolError, match="code must be of type str"):
        either.call(5)
    with pytest.raises(ToolError, match="null character"):
        either.call("print('\0')")


def test_files_stay_for_the_episode_and_file_tools_see_them():
    folder = Folder()
    tools = by_name(Python(folder, LIMITS, unconfined=True), *file_tools(folder))
    tools["write_file"].call("in.txt", "21")
    assert tools["python"].call("print(2 * int(open('in.txt').read()), file=open('out.txt', 'w'))") == "nothing printed"
    assert tools["read_file"].call("out.txt") == "42\n"
    path = folder.path
    tools["python"].close()
    assert not path.exists()


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("while True: pass", "longer than 5 seconds|signal"),
        ("import time; time.sleep(60)", "longer than 5 seconds"),
        ("x = bytearray(1 << 30)", "MemoryError"),
        ("import os\nwhile True: os.fork()", "more than 8 processes|BlockingIOError|longer than 5"),
        ("while True: print('x' * 1000)", "printed more than 5,000 bytes"),
        ("f = open('a', 'wb')\nwhile True: f.write(b'x' * 65536)", "wrote more than|File too large"),
        ("import time\nfor n in range(500): open(f'{n}', 'w')\ntime.sleep(60)", "wrote more than"),
        ("import os, time\nfor n in range(40): open(f'{n}', 'wb').write(b'x' * 60000)\ntime.sleep(60)", "wrote more than"),
        ("import os, time\nfor n in range(6):\n    if os.fork() == 0:\n        x = b'x' * (60 << 20)\n        time.sleep(60)\n"
         "time.sleep(60)", "more than 128 MiB"),
        ("def f(): f()\nimport sys; sys.setrecursionlimit(10**9); f()", "signal|exit code 1|longer than 5 seconds"),
        ("import os; os.close(1); os.close(2); import time; time.sleep(60)", "longer than 5 seconds"),
    ],
)  # fmt: skip
def test_what_it_takes_is_bounded(either, code, complaint):
    with pytest.raises(ToolError, match=complaint) as raised:
        either.call(code)
    assert len(str(raised.value)) < 10_000
    assert left() == []


def left() -> list[str]:
    """Processes that run the script or a program of the model's, once the call has come back."""
    deadline = time.monotonic() + 5
    while True:
        found = []
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if ("-X" in words and "utf8" in words and "-c" in words) or any(
                word.endswith("confined.py") for word in words
            ):
                found.append(" ".join(words)[:200])
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def test_what_it_leaves_behind_ends(either):
    """Also one that has left session and group, and whose parent has ended."""
    code = (
        "import os, time\n"
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        os.close(0); os.close(1); os.close(2)\n        time.sleep(300)\n"
        "    os._exit(0)\nprint('done')"
    )
    assert either.call(code) == "done\n"
    assert left() == []


@confined
def test_it_sees_no_files_of_the_user(tool, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret", encoding="utf-8")
    os.chmod(secret, 0o666)
    paths = [str(secret), str(Path(__file__)), "/etc/passwd", "/etc/shadow", str(Path.home() / ".bashrc"), "/proc/1/environ",
             "/proc/1/mem", "/proc/1/root/etc/passwd", "/proc/kcore", sandbox.__file__]  # fmt: skip
    code = f"for path in {paths}:\n    try:\n        print(path, open(path, 'rb').read(1))\n    except OSError: pass"
    assert tool.call(code) == "nothing printed"
    assert (
        tool.call(
            "import os\nos.symlink('/proc/self/root/../../etc/passwd', 'l')\ntry: open('l')\nexcept OSError: print('no')"
        )
        == "no\n"
    )


@confined
def test_it_writes_nothing_but_its_folder(tool):
    places = [
        "/usr/x",
        "/x",
        "/dev/x",
        "/bin/x",
        sys.base_prefix + "/x",
        "/proc/sys/kernel/core_pattern",
        "/proc/sysrq-trigger",
    ]
    code = f"for path in {places}:\n    try:\n        open(path, 'w').write('x'); print(path)\n    except OSError: pass\nopen('/tmp/x', 'w')"
    assert tool.call(code) == "nothing printed"
    assert tool.call("import os; print(os.listdir('/tmp'), os.listdir('/work'))") == "[] []\n"


@confined
def test_it_knows_no_variables_and_has_no_descriptors(monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "sesame")
    kept = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(kept, True)  # as a connection would be that somebody forgot to close
    ours, theirs = socket.socketpair()
    os.set_inheritable(theirs.fileno(), True)
    tool = Python(limits=LIMITS)
    try:
        said = tool.call("import os; print(sorted(os.environ), [os.readlink(f'/proc/self/fd/{n}') for n in (0, 1, 2)])\n"
                         "for n in range(3, 4096):\n    try: os.fstat(n); print('open', n)\n    except OSError: pass")  # fmt: skip
    finally:
        tool.close()
        os.close(kept)
        ours.close()
        theirs.close()
    assert "sesame" not in said and "SECRET" not in said and "open" not in said
    assert "['HOME', 'LANG', 'PATH', 'PYTHONDONTWRITEBYTECODE'" in said and "'/dev/null', 'pipe:" in said


@confined
def test_it_reaches_no_network_and_no_socket(tool):
    with socket.socket() as listening, socket.socket(socket.AF_UNIX) as abstract:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        name = f"\0agentloop-test-{os.getpid()}"
        abstract.bind(name)
        abstract.listen()
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(name)  # from outside it is there
        code = f"""
import socket
for family, address in ((socket.AF_INET, ("127.0.0.1", {listening.getsockname()[1]})), (socket.AF_UNIX, {name!r}),
                        (socket.AF_INET, ("1.1.1.1", 53))):
    try:
        with socket.socket(family) as s:
            s.settimeout(1)
            s.connect(address)
            print("connected", address)
    except OSError as error: print("no")
"""
        assert tool.call(code) == "no\nno\nno\n"


@confined
def test_it_sees_and_signals_no_other_process(tool):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"]) as other:
        code = f"""
import os, signal
print(len([each for each in os.listdir("/proc") if each.isdecimal()]), os.getppid())
for process in ({other.pid}, {os.getpid()}, 1, -1):
    try:
        os.kill(process, signal.SIGKILL)
    except OSError: pass
import ctypes
print(ctypes.CDLL(None).ptrace(16, 1, 0, 0))
"""
        assert tool.call(code) == "2 1\n-1\n"  # the program and its watcher, which no signal of its ends
        assert other.poll() is None
        other.kill()


@confined
def test_it_gets_no_capabilities_and_makes_no_namespaces(tool):
    code = """
import ctypes, re
libc = ctypes.CDLL(None, use_errno=True)
print([libc.unshare(flag) for flag in (0x10000000, 0x40000000, 0x00020000)])
print(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None), libc.umount2(b"/work", 2), libc.chroot(b"/tmp"), libc.setuid(0))
print(re.findall(r"(Cap(?:Eff|Prm|Bnd|Amb)|NoNewPrivs|Uid):\\s*(\\S+)", open("/proc/self/status").read()))
"""
    first, second, third = tool.call(code).splitlines()
    assert first == "[-1, -1, -1]" and second == "-1 -1 -1 -1"
    assert (
        re.sub(r"\W+", " ", third).split()
        == (
            "Uid 1000 CapPrm 0000000000000000 CapEff 0000000000000000 CapBnd 0000000000000000 CapAmb 0000000000000000 NoNewPrivs 1"
        ).split()
    )


def test_where_nothing_can_be_confined_it_is_refused(monkeypatch):
    monkeypatch.setattr(sandbox, "available", lambda: "unshare: Operation not permitted")
    with pytest.raises(TypeError, match="^tool python: programs cannot be confined on this machine .unshare: Op"):
        Python()


TASKS = """
from agentloop.environments import Environment, Question
from agentloop.tools import by_name
from agentloop.tools.python import Python

class Coding(Environment):
    name = "coding"
    def questions(self, rng):
        for number in range(9):
            yield Question("all", f"What is {number}?", str(number), {}, ("train", "heldout")[number % 2])
    def tools(self, task):
        return by_name(Python(unconfined=True))
    def verify(self, task, answer):
        return float(answer == task.answer)
"""


def test_in_a_world_it_ends_with_the_world(tmp_path):
    file = tmp_path / "coding.py"
    file.write_text(TASKS, encoding="utf-8")
    words = [
        f"paths.data={tmp_path / 'data'}",
        f"environment={file}",
        "collect.tool_seconds=4",
        "collect.tool_memory=0.5",
    ]
    settings = configuration.load(words)
    task = Task("coding", "all", "What is 1?", "1", "train", {})

    async def episode(code: str) -> str:
        async with worlds.open(task, session="s") as world:
            return (await world.call("python", [code], {})).text

    with Worlds(settings, [str(file)]) as worlds:
        assert asyncio.run(episode("print(6 * 7)")) == "42\n"
        # the tool's own limit is longer than the world's: the world is killed in the middle of it
        with pytest.raises(WorldError, match="tool python: no answer within collect.tool_seconds = 4"):
            asyncio.run(episode("import os, time\nif os.fork() == 0: os.setsid()\ntime.sleep(100)"))
        assert left() == []
        assert asyncio.run(episode("print('again')")) == "again\n"
