"""A user's environment whose file is damaged, or does what no file should: one line that names it, and nothing else ends."""

import locale
import os
import signal
import subprocess
import sys
import threading
import warnings
from decimal import Decimal
from pathlib import Path

import pytest

from agentloop import environments
from agentloop.curation.verifiers import from_file, verified
from agentloop.environments import Environment, Question, TooFewTasks
from agentloop.errors import SettingError, StoreError
from agentloop.records import Task
from agentloop.settings import load
from agentloop.trial import try_out
from agentloop.worlds.pool import Worlds

GOOD = """
from agentloop.environments import Environment, Question

class Own(Environment):
    name = "own_file"

    def questions(self, rng):
        for number in range(100):
            yield Question("all", f"What is {number}?", str(number), {})

    def tools(self, task):
        return {}

    def verify(self, task, answer):
        return float(answer == task.answer)
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(environments, "_ENVIRONMENTS", dict(environments._ENVIRONMENTS))
    return tmp_path / "own.py"


def refused(file) -> str:
    with pytest.raises(SettingError) as error:
        environments.get(str(file))
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def ended(how: str) -> str:
    return f"its process {how} while it was imported"


@pytest.mark.parametrize(
    ("last_lines", "line", "message"),
    [
        ("def x(:", 16, "SyntaxError: invalid syntax"),
        ("1 / 0", 16, "ZeroDivisionError: division by zero"),
        ("import no_such_module", 16, "ModuleNotFoundError: No module named 'no_such_module'"),
        ("from . import sibling", 16, "ImportError: attempted relative import with no known parent package"),
        ("raise ValueError('a\\nb\\r\\nc')", 16, "ValueError: a b c"),
        ("raise ValueError('\\ud800')", 16, "ValueError: \ufffd"),
        ("exit()", 16, "SystemExit"),
        ("import sys\nsys.exit(0)", 17, "SystemExit: 0"),
        ("raise KeyboardInterrupt", 16, "KeyboardInterrupt"),
        ("raise BaseException('enough')", 16, "BaseException: enough"),
        ("def deeper():\n    deeper()\ndeeper()", 17, "RecursionError: maximum recursion depth exceeded"),
        ("input('name? ')", 16, "EOFError: EOF when reading a line"),
        ("x = 1\0", None, "source code string cannot contain null bytes"),
        ("import os\nos._exit(0)", None, ended("ended with exit code 0")),
        ("import os\nos.abort()", None, ended("was ended by SIGABRT")),
        ("import ctypes\nctypes.string_at(0)", None, ended("was ended by SIGSEGV")),
        ("import json\njson.dumps = None", None, "replaces json.dumps for the whole program"),
        (
            "import builtins\nbuiltins.open = None\nbuiltins.len = None",
            None,
            "replaces builtins.len, builtins.open for",
        ),
        ("class Other(Own):\n    name = 'other'", None, " defines 2 environments (Own, Other), it must be one"),
        ("Own.name = 7", None, "the name '7' is none, or that of a file"),
        ("Own.name = ''", None, "Own lacks name"),
        (
            "def made(self):\n    raise OSError('no disk')\nOwn.__init__ = made",
            None,
            "OSError: no disk when it is made",
        ),
        ("Own.verify = lambda self, task, answer: None", None, "verify(): says None of '"),
        (
            "import os\nOwn.verify = lambda self, task, answer: os._exit(1)",
            None,
            "ended with exit code 1 in questions()",
        ),
        (
            "import os\nOwn.tools = lambda self, task: os._exit(1)",
            None,
            "ended with exit code 1 in questions(), tools() or",
        ),
        ("Own.tools = lambda self, task: exit(1)", None, "SystemExit: 1"),
    ],
)
def test_files_that_fail_are_told_in_one_line(file, last_lines, line, message):
    file.write_text(GOOD + last_lines + "\n")
    told = refused(file)
    assert told.startswith("environment: ") and message in told
    assert line is None or f"{file}, line {line}: {message}" in told


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf" + GOOD.encode(), b"print('noise' * 1000)\n" + GOOD.encode()])
def test_files_that_are_right(file, content, capfd):
    file.write_bytes(content)
    assert len(environments.get(str(file)).tasks("train", 20, seed=0)) == 20
    assert capfd.readouterr().out == ""


def test_latin_1(file):
    file.write_bytes(GOOD.encode() + b"PLACE = 'caf\xe9'\n")
    assert "(unicode error) 'utf-8' codec can't decode byte 0xe9" in refused(file)
    file.write_bytes(b"# coding: latin-1\n" + GOOD.encode() + b"PLACE = 'caf\xe9'\n")
    assert environments.get(str(file)).name == "own_file"


def test_an_import_without_an_end(file):
    file.write_text(GOOD + "while True:\n    pass\n")
    with pytest.raises(SettingError) as error:
        try_out(file, about="environment:", use="agentloop.environments.trying:use", error=SettingError, seconds=8)
    assert str(error.value) == f"environment: {file}: nothing came back for 8 s while it was imported"


def test_questions_without_an_end(file):
    file.write_text(GOOD.replace("in range(100)", "in iter(int, 1)").replace('f"What is {number}?"', "'What is it?'"))
    assert "fewer than the 1 asked for" in ask(environments.get(str(file)))
    file.write_text(
        GOOD.replace(GOOD[GOOD.index("        for") : GOOD.index("    def tools")], "        while True: pass\n")
    )
    with pytest.raises(SettingError, match="nothing came back for 8 s in questions"):
        try_out(file, about="environment:", use="agentloop.environments.trying:use", error=SettingError, seconds=8)


def ask(environment: Environment) -> str:
    with pytest.raises(TooFewTasks) as error:
        for split in ("train", "heldout"):
            environment.tasks(split, 1, seed=0)
    return str(error.value)


def test_a_thread_without_an_end(file):
    code = "import threading, time\nthreading.Thread(target=time.sleep, args=(3600,), daemon={}).start()\n"
    file.write_text(GOOD + code.format(False))
    before = set(threading.enumerate())  # those that other tests' libraries keep
    assert "does not end, and the program would wait for it; make it a daemon" in refused(file)
    assert all(thread.daemon for thread in set(threading.enumerate()) - before)
    file.write_text(GOOD + code.format(True))
    environments.get(str(file))


def test_what_it_started_is_ended_with_the_trial(file, tmp_path):
    code = "import os, subprocess\nchild = subprocess.Popen(['sleep', '3600'], start_new_session=True)\n"
    file.write_text(GOOD + code + f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n1 / 0\n")
    refused(file)
    state = Path("/proc", (tmp_path / "pid").read_text(), "status")
    assert not state.exists() or "State:\tZ" in state.read_text()


def test_the_process_is_as_it_was(file):
    code = """
import locale, os, signal, socket, sys, warnings
os.chdir("/")
os.umask(0)
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
socket.setdefaulttimeout(1)
sys.setrecursionlimit(5000)
warnings.simplefilter("error")
locale.setlocale(locale.LC_ALL, "C")
sys.stdout = sys.stderr = None
sys.stdin = None
"""

    def state():
        mask = os.umask(0o022)
        os.umask(mask)
        return (
            os.getcwd(),
            mask,
            [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
            sys.getrecursionlimit(),
            list(warnings.filters),
            locale.setlocale(locale.LC_ALL),
            (sys.stdin, sys.stdout, sys.stderr),
            os.fstat(0).st_ino,
        )

    file.write_text(code + GOOD)
    before = state()
    environments.get(str(file))
    assert state() == before


def test_a_module_beside_the_file(file, tmp_path):
    (tmp_path / "beside_own.py").write_text("NUMBER = 7\n")
    (tmp_path / "random.py").write_text("raise RuntimeError('not this one')\n")
    file.write_text("import random\nfrom beside_own import NUMBER\nassert random.random() < NUMBER\n" + GOOD)
    assert environments.get(str(file)).name == "own_file"


def test_what_is_no_file(file):
    file.mkdir()
    assert refused(file) == f"environment: {file} is no file"
    file.rmdir()
    os.mkfifo(file)
    assert refused(file) == f"environment: {file} is no file"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys\nsys.exit()\n", ", line 2: SystemExit"),
        ("import os\nos._exit(0)\n", ": its process ended with exit code 0 while it was imported"),
        ("1 / 0\n", ", line 1: ZeroDivisionError: division by zero"),
        ("x = 1\n", ": registers no verifier (agentloop.curation.verifiers.register)"),
    ],
)
def test_a_file_of_verifiers(tmp_path, code, message):
    file = tmp_path / "own_verifiers.py"
    file.write_text(code)
    with pytest.raises(StoreError) as error:
        from_file(file)
    assert str(error.value) == f"scorer {file}{message}"


def test_a_long_reason_from_the_host_of_the_tools(file, tmp_path):
    """What it says fits into one message, and is whole JSON."""
    file.write_text(GOOD + f"raise ValueError('\U0001f600' * 5000, {'x' * 5000!r})\n")
    with Worlds(load([f"paths.data={tmp_path / 'data'}"], profile="demo"), [str(file)]) as worlds:
        with pytest.raises(SettingError) as error:
            worlds.start()
    assert str(error.value).startswith(f"environment: {file}, line 16: ValueError: ")


@pytest.mark.parametrize("last_line", ["raise SystemExit(0)", "import os; os._exit(0)", "Own.tools = None"])
@pytest.mark.parametrize("command", ["run", "eval"])
def test_the_command_ends_with_that_line(file, tmp_path, command, last_line):
    file.write_text(GOOD + f"print('noise')\n{last_line}\n")
    words = [command, "--profile", "demo", "--dry-run", f"environment={file}", f"paths.data={tmp_path / 'data'}"]
    ended = subprocess.run([sys.executable, "-m", "agentloop", *words], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.splitlines()[-1].startswith("error: environment: ") and "Traceback" not in ended.stderr


class Strange(Environment):
    """Yields what it is given."""

    name = "strange_stream"

    def __init__(self, questions):
        self._questions = questions

    def questions(self, rng):
        return self._questions()

    def tools(self, task):
        return {}

    def verify(self, task, answer):
        return 0.0


def question(text="What?", answer="1", payload=None, split=None, family="all"):
    return Question(family, text, answer, {} if payload is None else payload, split)


def raising():
    yield question(split="train")
    raise LookupError("no such book")


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        (raising, ": questions(), line {line}: LookupError: no such book"),
        (lambda: 1 / 0, ": questions(), line {line}: ZeroDivisionError: division by zero"),
        (lambda: sys.exit(), ": questions(), line {line}: SystemExit"),
        (lambda: None, ": questions(): TypeError: 'NoneType' object is not iterable"),
        (lambda: iter([None]), ": questions() yields NoneType, not a Question"),
        (lambda: iter([("a", "b")]), ": questions() yields tuple, not a Question"),
        (lambda: iter("ab"), ": questions() yields str, not a Question"),
        (lambda: [question(text=7)], ": questions() yields a question whose text is int, not str"),
        (lambda: [question(answer=None)], ": questions() yields a question whose answer is NoneType, not str"),
        (lambda: [question(payload=[1])], ": questions() yields a question whose payload is list, not dict"),
        (lambda: [question(text=" ")], ": questions() yields a question whose text is empty"),
        (lambda: [question(answer="a\0")], ": questions() yields a question whose answer has a null character"),
        (lambda: [question(split="dev")], ": questions() yields a question whose split is 'dev', not train or heldout"),
        (lambda: [question(split="train"), question(split="heldout")], ": the question 'What?' is in two splits"),
        (lambda: iter(()), " has 0 train tasks, fewer than the 2 asked for"),
        (lambda: [question(split="train")] * 9, " has 1 train tasks, fewer than the 2 asked for"),
        (lambda: iter(lambda: question(split="train"), 0), " has 1 train tasks, fewer than the 2 asked for"),
    ],
)
def test_questions_that_are_none(questions, message):
    with pytest.raises(SettingError) as error:
        Strange(questions).tasks("train", 2, seed=0)
    line = str(error.value).partition("line ")[2].partition(":")[0]
    assert str(error.value) == "environment: strange_stream" + message.format(line=line)
    if line:
        (wrong,) = [line for line in Path(__file__).read_text().splitlines()[int(line) - 1 : int(line)]]
        assert any(word in wrong for word in ("no such book", "1 / 0", "sys.exit()"))


class Number:
    """As numpy's and torch's scalars are."""

    def __init__(self, value):
        self.value = value

    def __float__(self):
        if self.value is None:
            raise RuntimeError("a tensor with 2 elements cannot be converted to a scalar")
        return self.value


@pytest.mark.parametrize("value", [1, True, 0.5, Decimal("0.5"), Number(1.0)])
def test_numbers_that_a_verifier_may_say(value):
    task = Task("own", "all", "What?", "1", "train")
    assert verified(lambda task, answer: value, task, "1", who="own") == float(value)


@pytest.mark.parametrize(
    "value", [None, float("nan"), float("inf"), 2.0, -1, "1", b"1", "right", [1.0], 1j, Number(None), 10**400, object()]
)
def test_what_a_verifier_may_not_say(value):
    task = Task("own", "all", "What?", "1", "train")
    with pytest.raises(StoreError) as error:
        verified(lambda task, answer: value, task, "1", who="environment 'own': its verifier")
    told = str(error.value)
    assert told.startswith("environment 'own': its verifier: says ") and len(told.splitlines()) == 1
    assert f"of '1' to {task.id}, which is no number from 0 to 1" in told


def test_torch_and_numpy_scalars():
    import numpy
    import torch

    task = Task("own", "all", "What?", "1", "train")
    for value in (numpy.float32(1), numpy.bool_(True), numpy.array(1.0), torch.tensor(1.0), torch.tensor(True)):
        assert verified(lambda task, answer, value=value: value, task, "1", who="own") == 1.0
    for value in (numpy.array([1.0, 1.0]), torch.ones(2), torch.tensor(float("nan"))):
        with pytest.raises(StoreError, match="which is no number from 0 to 1"):
            verified(lambda task, answer, value=value: value, task, "1", who="own")
