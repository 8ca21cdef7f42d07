"""A server or worker that does not start: the reason out of its log, in one line, and the next `up` mends it."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from home import Home, free_port

from agentloop.errors import ServerError
from agentloop_flows import services


@pytest.fixture
def home():
    """By a short path: the worker's temporary folder is in the data root where its name is not too long for sockets."""
    with TemporaryDirectory(dir="/tmp") as root:
        made = Home(Path(root, "home"), free_port())
        made.settings().export()
        yield made
        services.down(made.settings())


def test_a_worker_that_dies_is_noticed_and_the_next_up_mends_it(home):
    settings = home.settings()
    in_the_way = settings.paths.data / "prefect" / "tmp" / "runner_storage"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("a file where the worker wants a folder")
    told = home.run("up", code=2)
    log = settings.paths.logs / "prefect-worker.log"
    assert told.splitlines()[-1].startswith("error: the Prefect worker did not start: [Errno 20] Not a directory: ")
    assert told.endswith(f"(log: {log})\n")
    assert services.is_running(settings, "server") and not services.is_running(settings, "worker")
    in_the_way.unlink()
    assert "Prefect worker started in the pool agentloop" in home.run("up")
    assert services.is_running(settings, "worker")


def test_a_worker_has_a_temporary_folder_of_its_own_whatever_the_data_roots_name(home, tmp_path):
    settings = home.settings()
    far = settings.model_copy(update={"paths": settings.paths.model_copy(update={"data": tmp_path / ("x" * 100)})})
    folders = [Path(services._worker_environment(each)["TMPDIR"]) for each in (settings, far)]
    assert folders[0] == home.root / "prefect" / "tmp" and folders[1].name == f".agentloop-tmp-{os.getuid()}"
    assert all(folder.stat().st_mode & 0o777 == 0o700 for folder in folders)


def test_a_server_that_does_not_start_says_why(home, monkeypatch):
    settings = home.settings()
    database = settings.paths.data / "prefect" / "prefect.db"
    database.parent.mkdir(parents=True, exist_ok=True)
    database.write_text("this is no database of Prefect's" * 100)
    with pytest.raises(ServerError, match=r"^the Prefect server did not start: .*file is not a database.* \(log: "):
        services.up_server(settings)
    database.unlink()
    assert services.up_server(settings)[-1].startswith("Prefect server started")


def test_no_home_to_be_found(home, monkeypatch):
    """As in a container whose user id has no name: libraries ask for the home as soon as they are imported."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    assert os.path.expanduser("~") == "~"
    assert home.settings().child_environment()["HOME"] == str(home.root)
