"""Where the command is started and what the user has set for Python change nothing: real commands and real children."""

import os
import subprocess
import sys

import pytest
from home import Home, free_port

from agentloop.child import ChildProcess

HIDING = ("random", "types", "json", "typing", "logging")
"""Modules of Python's own, by whose names a user may well call a file of tasks."""
TASKS = """
import os
from agentloop.environments.arithmetic import Arithmetic
from agentloop.tools.calculator import Calculator
from helper_of_the_tasks import NAME

class Looking(Calculator):
    def call(self, /, *args, **kwargs):
        return str(os.environ.get("PYTHONSAFEPATH"))

class Mine(Arithmetic):
    name = NAME
    def tools(self, task):
        return {Calculator.name: Looking()}
"""


@pytest.fixture
def folder(tmp_path):
    """The user's folder of tasks."""
    made = tmp_path / "tasks"
    made.mkdir()
    for name in HIDING:
        (made / f"{name}.py").write_text("raise ImportError('a file of the user has hidden a module of Python')\n")
    (made / "helper_of_the_tasks.py").write_text("NAME = 'mine'\n")
    return made


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home", free_port())


def run(home, *words, cwd=None, before=("-m", "agentloop"), **variables):
    environment = {name: value for name, value in home.environment.items() if name != "PYTHONSAFEPATH"} | variables
    environment["AGENTLOOP_PROJECT"] = str(home.project)  # a folder of tasks need not lie in it
    command = [sys.executable, *before, *words]
    return subprocess.run(
        command,
        cwd=cwd or home.project,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("before", [("-m", "agentloop"), ("-c", "from agentloop.cli.app import main; main()")])
def test_a_folder_whose_files_are_named_like_pythons_own(home, folder, before):
    if before[0] == "-c":  # as the script beside the interpreter does, which looks in its own folder first
        before = ("-P", *before)
    shown = run(home, "run", "--profile", "demo", "--dry-run", cwd=folder, before=before)
    assert shown.returncode == 0, shown.stderr
    doctor = run(home, "doctor", cwd=folder, before=before)
    assert "compiler" in doctor.stdout and not doctor.stderr


def test_children_do_not_look_there_either(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    with ChildProcess([sys.executable, "-m", "timeit", "-n1", "pass"], environment={}, log=tmp_path / "log") as child:
        assert child.wait(60) == 0, child.last_words(20)


def test_tools_of_the_users_may_import_what_lies_there(folder, home, monkeypatch):
    """And what their own subprocesses import is not changed: the variable that protects children ends with the host."""
    file = folder / "mine.py"
    file.write_text(TASKS)
    code = "\n".join(
        [
            "import asyncio, sys",
            "from agentloop import environments, settings",
            "from agentloop.worlds.pool import Worlds",
            "async def look(worlds, task):",
            "    async with worlds.open(task, session='only') as world:",
            "        return (await world.call('calculate', ['1'], {})).text",
            "loaded = settings.load([f'paths.data={sys.argv[1]}', f'paths.cache={sys.argv[1]}/cache'])",
            "loaded.export()",
            "sys.path.append('.')",
            "task = environments.get(sys.argv[2]).tasks('train', 1, 0)[0]",
            "with Worlds(loaded, [sys.argv[2]]) as worlds:",
            "    print(asyncio.run(look(worlds, task)))",
        ]
    )
    said = run(home, str(home.root), str(file), cwd=folder, before=("-P", "-c", code))
    assert said.stdout == "None\n", said.stderr


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONWARNINGS": "error"},
        {"PYTHONOPTIMIZE": "2", "PYTHONDEVMODE": "1"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONINSPECT": "1", "PYTHONSTARTUP": "/nowhere.py"},
    ],
)
def test_variables_for_a_program_at_the_keyboard(home, variables):
    """The command, and a child of it: the interpreter that vLLM is looked for in."""
    doctor = run(home, "doctor", **variables)
    assert "compiles, with Python.h" in doctor.stdout, doctor.stdout + doctor.stderr
    assert "Error" not in doctor.stderr


LATIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""Python's text is ASCII then, which stands for every encoding but UTF-8: no 8-bit locale is installed everywhere."""


def test_text_is_utf8_under_any_locale(home):
    (home.project / "agentloop.toml").write_text('model = "Größe 日本"\n', encoding="utf-8")
    refused = run(home, "run", "--dry-run", **LATIN)
    assert refused.stderr.startswith("error: model: 'Größe 日本' is not a model directory")


def test_children_are_utf8_under_any_locale(home, monkeypatch, tmp_path):
    for name, value in LATIN.items():
        monkeypatch.setenv(name, value)
    with ChildProcess(
        [
            sys.executable,
            "-c",
            "import sys; print(sys.flags.utf8_mode, 'ß', open(sys.argv[1]).read())",
            str(tmp_path / "f"),
        ],
        environment=home.settings().child_environment(),
        log=tmp_path / "log",
    ) as child:
        (tmp_path / "f").write_text("日本", encoding="utf-8")
        assert child.wait(60) == 0
    assert (tmp_path / "log").read_text(encoding="utf-8").split() == ["1", "ß", "日本"]


@pytest.mark.parametrize(("given", "told"), [("", ["agentloop_gemma3n"]), ("theirs", ["theirs", "agentloop_gemma3n"])])
def test_the_plugin_is_among_those_that_vllm_may_load(home, monkeypatch, given, told):
    from agentloop.serving import command, installation

    monkeypatch.setenv("VLLM_PLUGINS", given)
    vllm = installation.find(installation.Path(sys.executable))
    assert command.environment(home.settings(), vllm, api_key="")["VLLM_PLUGINS"].split(",") == told
    loaded = "from vllm.plugins import load_plugins_by_group as l; print(list(l('vllm.general_plugins')))"
    variables = {**os.environ, "VLLM_PLUGINS": ",".join(told)}
    found = subprocess.run([sys.executable, "-c", loaded], env=variables, capture_output=True, text=True, timeout=120)
    assert found.stdout.splitlines()[-1] == "['agentloop_gemma3n']"


def test_variables_of_another_vllm_are_left_out(home, monkeypatch):
    from agentloop.child import inherited
    from agentloop.serving import command, installation

    theirs = {
        "VLLM_PORT": "1",
        "VLLM_LOGGING_LEVEL": "nonsense",
        "VLLM_LOGGING_CONFIG_PATH": "/nowhere",
        "VLLM_DP_SIZE": "2",
    }
    theirs |= {"VLLM_USE_MODELSCOPE": "1", "VLLM_CONFIGURE_LOGGING": "0", "VLLM_USE_RUST_FRONTEND": "1"}
    for name, value in {**theirs, "VLLM_ATTENTION_BACKEND": "kept"}.items():
        monkeypatch.setenv(name, value)
    vllm = installation.find(installation.Path(sys.executable))
    found = inherited(command.environment(home.settings(), vllm, api_key="secret"))
    assert not theirs.keys() & found.keys() and found["VLLM_ATTENTION_BACKEND"] == "kept"
    assert found["VLLM_HOST_IP"] == "127.0.0.1" and found["VLLM_API_KEY"] == "secret"
