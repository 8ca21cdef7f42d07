"""From the wheel, in an empty folder: a project is begun, runs, takes a task of one's own; nothing is written beside the code."""

import re
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest
from home import free_port
from installed import Installed, installed, wheel

from agentloop.project import CHECKOUT

SMALL = {
    "AGENTLOOP_ITERATIONS": "1",
    "AGENTLOOP_COLLECT__TASKS": "32",
    "AGENTLOOP_COLLECT__SAMPLES": "4",
    "AGENTLOOP_COLLECT__SHARD_EPISODES": "64",
    "AGENTLOOP_EVALUATE__TASKS": "24",
    "AGENTLOOP_EVALUATE__SAMPLES": "2",
    "AGENTLOOP_TRAINING__EPOCHS": "2",
    "AGENTLOOP_GATE__CONTROL": "false",
    "AGENTLOOP_GATE__MAX_TASKS": "24",
    "AGENTLOOP_GATE__RESAMPLES": "1000",
}


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    return installed(folder / "environment", wheel(folder))


@pytest.fixture
def empty(python, tmp_path) -> Installed:
    return Installed(python, tmp_path)


@pytest.fixture(scope="module")
def project(python, tmp_path_factory):
    above = Installed(python, tmp_path_factory.mktemp("above"))
    begun = above.run("init", "night")
    assert "night/agentloop.toml" in begun and "agentloop demo" in begun
    project = Installed(python, above.folder / "night", AGENTLOOP_PREFECT_PORT=str(free_port()), **SMALL)
    yield project
    project.run("down")


def test_outside_a_project_it_says_how_to_begin_one(empty):
    for words in (("status",), ("run",), ("up",), ("demo",), ("sql", "SELECT 1")):
        line = empty.run(*words, code=2).strip()
        assert line.startswith(
            f"error: no project: neither {empty.folder} nor a folder above it has an agentloop.toml;"
        )
        assert "\n" not in line and "agentloop init DIR" in line
    assert not list(empty.folder.iterdir())


def test_nothing_is_overwritten(empty):
    (empty.folder / "mine").mkdir()
    (empty.folder / "mine" / "prefect.yaml").write_text("mine")
    assert empty.run("init", "mine", code=2) == "error: mine: has a prefect.yaml already; nothing is overwritten\n"
    assert [file.name for file in (empty.folder / "mine").iterdir()] == ["prefect.yaml"]
    empty.run("init", "night")
    assert empty.run("init", "night", code=2) == "error: night: is a project already\n"
    (empty.folder / "file").write_text("")
    assert empty.run("init", "file", code=2) == "error: file: is a file, not a folder\n"


def test_the_project_is_found_from_below_and_by_name(project, empty):
    below = Installed(project.python, project.folder / "tasks")
    told = f"{project.folder}/models/tiny"
    assert told in below.run("run", "--profile", "demo", "--dry-run")
    assert told in empty.run("--project", str(project.folder), "run", "--profile", "demo", "--dry-run")
    assert empty.run("--project", "nowhere", "status", code=2).startswith(
        "error: AGENTLOOP_PROJECT: there is no folder"
    )


@pytest.mark.slow
def test_the_whole_loop_runs_through_prefect(project):
    before = project.digest()
    assert "vllm" in project.run("doctor")
    shown = project.run("demo")
    assert "Success on held-out tasks" in shown and f"Report:     {project.folder}/data/reports/demo.html" in shown
    assert (project.folder / "data" / "reports" / "demo.html").is_file()
    assert stat.S_IMODE((project.folder / ".env").stat().st_mode) == 0o600
    assert project.digest() == before


@pytest.mark.slow
def test_a_task_of_ones_own(project):
    own = ("environment=tasks/units.py", "campaign=units", "collect.tasks=8", "evaluate.tasks=8", "gate.max_tasks=8")
    assert "8 held-out tasks" in project.run("run", "--profile", "demo", *own, "--dry-run")
    measured = project.run("eval", "--profile", "demo", *own)
    assert "0.0" in measured  # the tiny model was taught other tools
    lines = (project.folder / "agentloop.toml").read_text().splitlines()
    told = [line.removeprefix("# ") for line in lines if line.startswith("# ") and " = " in line]
    assert len(told) == 5
    copy = Installed(project.python, project.folder.with_name("told"))
    shutil.copytree(project.folder, copy.folder, ignore=shutil.ignore_patterns("data", ".env"))
    (copy.folder / "agentloop.toml").write_text("\n".join(told))
    assert "environment tasks/units.py" in copy.run("run", "--profile", "demo", "--dry-run")


def test_the_engine_alone_needs_no_project(python, tmp_path):
    cache = tmp_path / "cache"
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom agentloop.engine import FastLanguageModel\n"
        "from agentloop.shipped import MODELS\n"
        "model, tokenizer = FastLanguageModel.from_pretrained(str(MODELS / 'tiny'), max_seq_length=64)\n"
        "print(model.config.model_type if hasattr(model, 'config') else 'loaded')\n"
    )
    engine = Installed(python, tmp_path, XDG_CACHE_HOME=str(cache))
    done = subprocess.run(
        [str(python), "-P", str(script)],
        cwd=tmp_path,
        env=engine.variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (cache / "agentloop").is_dir()
    assert {each.name for each in tmp_path.iterdir()} == {"cache", "script.py"}


@pytest.fixture(scope="module")
def engine_alone(tmp_path_factory) -> Path:
    """An environment without the packages of the extras, but for those that transformers needs itself."""
    described = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = {re.match(r"[\w-]+", each)[0] for extra in ("loop", "trl") for each in described[extra]}
    assert {"prefect", "duckdb", "pyarrow", "trl", "peft", "bitsandbytes", "datasets"} <= names
    folder = tmp_path_factory.mktemp("engine")
    return installed(folder / "environment", wheel(folder), lacks=names - {"httpx", "packaging", "typer", "rich"})


def test_the_engine_needs_no_extra(engine_alone, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from agentloop.engine import FastLanguageModel\n"
        "from agentloop.shipped import MODELS\n"
        "model, tokenizer = FastLanguageModel.from_pretrained(str(MODELS / 'tiny'), max_seq_length=64)\n"
        "model = FastLanguageModel.get_peft_model(model, r=8)\n"
        "FastLanguageModel.for_inference(model)\n"
        "print(float(model(**tokenizer('What is 3 + 4?', return_tensors='pt')).logits.sum()) != 0)\n"
    )
    engine = Installed(engine_alone, tmp_path, XDG_CACHE_HOME=str(tmp_path / "cache"))
    command = [str(engine_alone), "-P", str(script)]
    done = subprocess.run(command, cwd=tmp_path, env=engine.variables, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_without_the_loop_the_command_line_says_what_to_install(engine_alone, tmp_path):
    (tmp_path / "agentloop.toml").touch()
    line = Installed(engine_alone, tmp_path).run("status", code=2)
    assert re.fullmatch(r"error: \w+ is not installed, which this needs: pip install 'agentloop\[loop\]'\n", line), line
