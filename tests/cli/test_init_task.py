"""`agentloop init --task NAME`: a task that can be checked and run as it is, in a project that is there."""

import pytest
from typed import mistake

from agentloop import environments
from agentloop.project import VARIABLE


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setattr(environments, "_ENVIRONMENTS", dict(environments._ENVIRONMENTS))
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "agentloop.toml").write_text("", encoding="utf-8")
    return folder


def test_it_is_checked_and_nothing_is_wrong(agentloop, project, monkeypatch):
    code, output, errors = agentloop("init", str(project), "--task", "my_dates")
    assert (code, errors) == (0, "")
    assert sorted(each.name for each in (project / "tasks").iterdir()) == ["my_dates.jsonl", "my_dates.py"]
    assert output.splitlines()[:2] == [str(project / "tasks" / name) for name in ("my_dates.jsonl", "my_dates.py")]
    text = (project / "tasks" / "my_dates.py").read_text(encoding="utf-8")
    assert "emplate" not in text and "class MyDatesTask(QuestionFile)" in text
    monkeypatch.setenv(VARIABLE, str(project))
    (told,) = (line.split()[1:] for line in output.splitlines() if line.startswith("  agentloop check "))
    code, output, errors = agentloop(*told, f"paths.models={environments.project.CHECKOUT / 'models'}")
    assert (code, errors) == (0, ""), output
    assert "the expert solves 2 of 2 tasks" in output and "120 of 120 are right" in output


def test_nothing_is_overwritten(agentloop, project):
    (project / "tasks").mkdir()
    (project / "tasks" / "mine.jsonl").write_text("mine", encoding="utf-8")
    line = mistake(agentloop("init", str(project), "--task", "mine"))
    assert line == f"--task: {project / 'tasks' / 'mine.jsonl'} is there already; nothing is overwritten"
    assert [each.name for each in (project / "tasks").iterdir()] == ["mine.jsonl"]


@pytest.mark.parametrize("name", ["", "My", "a-b", "../a", "1a", "a.py", "a" * 41])
def test_a_name_that_is_none(agentloop, project, name):
    assert mistake(agentloop("init", str(project), "--task", name)).startswith("--task: ")
    assert not (project / "tasks").exists()


def test_where_there_is_no_project(agentloop, tmp_path):
    assert mistake(agentloop("init", str(tmp_path), "--task", "mine")).startswith(f"{tmp_path}: is no project")
    assert mistake(agentloop("init")).startswith("init: say in which folder")
