"""Data roots and databases that cannot be used: one line that names setting and path. Reading asks for less than writing."""

import os
import shutil
import socket
import subprocess
import sys

import pytest
from command_line import call, refusal
from hostile_systems import as_an_ordinary_user, read_only, without_locks
from recorded_campaign import CAMPAIGN, recorded

from agentloop import settings as configuration
from agentloop.errors import SettingError, StoreError
from agentloop.project import CHECKOUT
from agentloop.store.database import Database
from agentloop.store.schema import MIGRATIONS
from agentloop.store.snapshots import snapshot

assert recorded  # a fixture

VERBS = [
    ("run",),
    ("eval",),
    ("demo",),
    ("up",),
    ("down",),
    ("reconcile",),
    ("status",),
    ("sql", "SELECT 1"),
    ("report",),
    ("lineage", "adapter_0"),
    ("champion",),
    ("rollback",),
    ("reproduce", "adapter_0"),
    ("select",),
    ("rescore",),
    ("forget", "--reason", "x", "--task", "task_0"),
    ("canary", "adapter_0"),
    ("doctor",),
    ("bootstrap",),
]
NOBODY = 65534

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files to others and to mount")


@pytest.fixture
def root(tmp_path, recorded):
    """The data root of a finished campaign."""
    shutil.copytree(recorded.root, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def database(root):
    return root / "agentloop.duckdb"


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_every_verb_refuses_a_file(tmp_path, verb):
    data = tmp_path / "data"
    data.write_bytes(b"")
    assert refusal(*verb, data=data) == f"error: paths.data: {data} is a file, not a folder"


def make_file_above(tmp_path):
    (tmp_path / "x").write_bytes(b"")
    return tmp_path / "x" / "data", f"{tmp_path / 'x'} is a file, not a folder"


def make_dangling_link(tmp_path):
    (tmp_path / "x").symlink_to(tmp_path / "gone")
    return tmp_path / "x", f"{tmp_path / 'x'} is a link to {tmp_path / 'gone'}, which does not exist"


def make_loop(tmp_path):
    (tmp_path / "x").symlink_to(tmp_path / "x")
    return tmp_path / "x", "Too many levels of symbolic links"


def make_long_name(tmp_path):
    return tmp_path / ("x" * 300), "File name too long"


@pytest.mark.parametrize("make", [make_file_above, make_dangling_link, make_loop, make_long_name])
@pytest.mark.parametrize("setting", ["data", "cache"])
def test_a_root_that_cannot_be(tmp_path, make, setting):
    path, reason = make(tmp_path)
    roots = {"data": tmp_path / "data", "cache": tmp_path / "cache"} | {setting: path}
    with pytest.raises(SettingError, match=f"^paths.{setting}: ") as refused:
        configuration.load([f"paths.{name}={folder}" for name, folder in roots.items()]).export()
    assert reason in str(refused.value) and str(path) in str(refused.value)


@pytest.mark.parametrize("name", ["shards", "adapters", "checkpoints", "logs", "reports", "services"])
def test_a_file_where_a_folder_of_the_root_should_be(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    message = refusal("up", data=tmp_path)
    assert message == f"error: paths.data: {tmp_path / name} is a file, not a folder"


@pytest.mark.parametrize(
    "verb", [("status",), ("sql", "SELECT 1"), ("rescore",), ("report",)], ids=lambda verb: verb[0]
)
@pytest.mark.parametrize("name", ["agentloop.duckdb", "agentloop.duckdb.lock", "agentloop.duckdb.turn"])
def test_a_folder_where_a_file_should_be(root, name, verb):
    (root / name).unlink(missing_ok=True)
    (root / name).mkdir()
    message = refusal(*verb, f"campaign={CAMPAIGN}", data=root)
    assert str(root / name) in message and ".snapshot" not in message


def test_a_folder_where_the_owners_lock_should_be(root):
    (root / "run.lock").mkdir()
    assert str(root / "run.lock") in refusal("rollback", f"campaign={CAMPAIGN}", data=root)


def test_a_rollback_needs_data(tmp_path):
    assert f"{tmp_path / 'data'}: no data here yet" in refusal("rollback", data=tmp_path / "data")


@only_root
@pytest.mark.parametrize("verb", [("run",), ("up",), ("eval",)], ids=lambda verb: verb[0])
def test_a_root_of_somebody_else_is_not_written_to(tmp_path, verb):
    data = tmp_path / "data"
    data.mkdir()
    os.chown(data, NOBODY, NOBODY)
    data.chmod(0o755)
    message = refusal(*verb, data=data, before=as_an_ordinary_user)
    assert message.startswith(f"error: paths.data: {data} is not writable for this user (it belongs to ")


@only_root
def test_a_root_of_somebody_else_that_is_closed(root):
    os.chown(root, NOBODY, NOBODY)
    root.chmod(0o700)
    for verb in (("status",), ("up",)):
        message = refusal(*verb, data=root, before=as_an_ordinary_user)
        assert message.startswith(f"error: paths.data: {root} cannot be ") and "it belongs to" in message


def all_can_be_read(tmp_path, data, **how):
    """What a finished data root has to say, and that nothing was written to it."""
    before = sorted(path.relative_to(data) for path in data.rglob("*"))
    assert any(CAMPAIGN in line for line in call("status", data=data, **how))
    query = "SELECT count(*) AS n FROM v_tokens JOIN trajectories ON id = trajectory"  # reads the shards as well
    (row,) = call("sql", "--json", query, data=data, **how)
    assert int(row.removeprefix('{"n": ').removesuffix("}")) > 0
    adapter = call("sql", "--json", "SELECT min(id) AS id FROM adapters", data=data, **how)[0].split('"')[3]
    assert any("Dataset" in line for line in call("lineage", adapter, data=data, **how))
    page = tmp_path / "report.html"
    assert call("report", f"campaign={CAMPAIGN}", "--output", page, data=data, **how) == [str(page)]
    assert CAMPAIGN in page.read_text(encoding="utf-8")
    words = ("select", "--dry-run", f"campaign={CAMPAIGN}", "--export", tmp_path / "rows.jsonl")
    call(*words, data=data, **how)
    assert (tmp_path / "rows.jsonl").stat().st_size
    assert sorted(path.relative_to(data) for path in data.rglob("*")) == before


@only_root
def test_a_root_of_somebody_else_can_be_read(tmp_path, root):
    for path in (root, *root.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
        path.chmod(0o755 if path.is_dir() else 0o644)
    all_can_be_read(tmp_path, root, before=as_an_ordinary_user)


@only_root
def test_a_root_on_a_read_only_disk_can_be_read(tmp_path, root):
    with read_only(root, tmp_path / "mounted") as data:
        all_can_be_read(tmp_path, data)
        message = f"error: paths.data: {data} is on a read-only file system"
        assert refusal("run", data=data) == message
        assert str(data / "reports") in refusal("report", f"campaign={CAMPAIGN}", data=data)
        for verb in (("rescore",), ("rollback", f"campaign={CAMPAIGN}")):
            assert "Read-only file system" in refusal(*verb, data=data)


@pytest.mark.parametrize(
    "verb",
    [("status",), ("sql", "SELECT 1"), ("rescore",), ("rollback",), ("run",), ("up",), ("eval",)],
    ids=lambda verb: verb[0],
)
def test_a_disk_without_locks(root, verb):
    message = refusal(*verb, f"campaign={CAMPAIGN}", data=root, before=without_locks)
    assert "this disk has no file locks" in message and str(root) in message and "paths.data" in message


def test_looking_creates_nothing(tmp_path):
    data = tmp_path / "deep" / "data"
    for words in (("run", "--dry-run"), ("eval", "--dry-run"), ("run", "--profile", "demo", "--dry-run"), ("down",)):
        call(*words, data=data)
    call("doctor", data=data, code=None)
    for words in (
        ("status",),
        ("sql", "SELECT 1"),
        ("report",),
        ("champion",),
        ("rescore",),
        ("rollback",),
        ("select",),
    ):
        refusal(*words, data=data)
    assert list(tmp_path.iterdir()) == []


def test_the_home_folder_is_what_a_tilde_means(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    model = tmp_path / "my" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_bytes(b"{}")
    (tmp_path / "mine.sql").write_bytes(b"")
    loaded = configuration.load(
        [
            "paths.data=~/d",
            "paths.cache=~/c",
            "paths.models=~/m",
            "model=~/my/model",
            "environment=~/my.py",
            "selection.recipe=~/mine.sql",
            "selection.benchmarks=~/b.txt",
            "serving.python=~/bin/python",
        ]
    )
    paths = loaded.paths
    assert (paths.data, paths.cache, paths.models) == (tmp_path / "d", tmp_path / "c", tmp_path / "m")
    assert loaded.model_directory() == model and loaded.environment == f"{tmp_path}/my.py"
    assert loaded.selection.recipe == f"{tmp_path}/mine.sql" and loaded.selection.benchmarks == tmp_path / "b.txt"
    assert loaded.serving.python == tmp_path / "bin" / "python"
    monkeypatch.setenv("AGENTLOOP_PATHS__DATA", "~/e")
    assert configuration.load().paths.data == tmp_path / "e"
    (tmp_path / "my.toml").write_bytes(b'[paths]\ncache = "~/f"\n')
    monkeypatch.setenv("AGENTLOOP_CONFIG", "~/my.toml")
    assert configuration.load().paths.cache == tmp_path / "f"
    monkeypatch.setenv("X", str(tmp_path))
    assert configuration.load(["paths.data=$X/d"]).paths.data == CHECKOUT / "$X" / "d"
    assert configuration.load(["paths.data=~root/d"]).paths.data.parts[-2:] == ("root", "d")
    with pytest.raises(SettingError, match="^paths.data: there is no user named nobody-of-that-name"):
        configuration.load(["paths.data=~nobody-of-that-name/d"])


def test_tildes_in_arguments(tmp_path, root):
    home = {"HOME": str(tmp_path)}
    words = ("select", "--dry-run", f"campaign={CAMPAIGN}", "--export=~/rows.jsonl", "--plot=~/funnel.svg")
    call(*words, data=root, variables=home)
    assert (tmp_path / "rows.jsonl").exists() and (tmp_path / "funnel.svg").exists()
    (tmp_path / "scorer.sql").write_bytes(b"-- version: 1\nSELECT id AS trajectory, 1.0 AS value FROM trajectories\n")
    assert any("scorer" in line for line in call("rescore", "~/scorer.sql", data=root, variables=home))


def test_data_must_not_lie_in_the_cache(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "cache")
    for data in ("cache", "cache/x/y", "link/x", "cache/../cache/x"):
        with pytest.raises(SettingError, match="^paths.data: .* paths.cache, which may be deleted at any time"):
            configuration.load([f"paths.data={tmp_path / data}", f"paths.cache={tmp_path / 'cache'}"])
    configuration.load([f"paths.data={tmp_path}", f"paths.cache={tmp_path / 'cache'}"])


HOLD = """
import sys, time, duckdb
connection = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "reads")
print("held", flush=True)
time.sleep(float(sys.argv[3]))
"""


@pytest.fixture
def hold(database):
    """Another program that opens the database as its own."""
    running = []

    def start(how: str, seconds: float) -> subprocess.Popen:
        other = subprocess.Popen(
            [sys.executable, "-c", HOLD, database, how, str(seconds)], stdout=subprocess.PIPE, text=True
        )
        running.append(other)
        assert other.stdout.readline() == "held\n"
        return other

    yield start
    for other in running:
        other.kill()
        other.communicate()


def test_another_program_that_has_the_database_open_is_named(database, hold):
    other = hold("writes", 600)
    for opened in (
        lambda: Database.open(database, wait_seconds=0.5),
        lambda: Database.open(database, read_only=True, wait_seconds=0.5),
        lambda: Database.open_snapshot(database, wait_seconds=0.5),
    ):
        with pytest.raises(StoreError, match=rf"^{database}: in use by .* \(process {other.pid}\)") as refused:
            opened()
        assert "\n" not in str(refused.value)
    assert not list(database.parent.glob("*.tmp*"))


def test_another_program_is_waited_for(database, hold):
    hold("writes", 1)
    Database.open(database, wait_seconds=60).close()
    hold("writes", 1)
    Database.open_snapshot(database, wait_seconds=60).close()
    hold("reads", 1)
    Database.open(database, wait_seconds=60).close()


def test_while_another_program_writes_readers_have_the_copy_before(database, hold):
    copy = snapshot(database)
    hold("writes", 600)
    assert snapshot(database, wait_seconds=0.2) == copy
    with Database.open_snapshot(database, wait_seconds=0.2) as reader:
        assert reader.execute("SELECT name FROM campaigns") == [(CAMPAIGN,)]


def test_readers_see_an_older_schema_as_todays(tmp_path, monkeypatch):
    """In their copy: the database itself waits for a command that writes."""
    path = tmp_path / "data" / "agentloop.duckdb"
    older = tmp_path / "older"
    older.mkdir()
    *before, newest = sorted(MIGRATIONS.glob("*.sql"))
    for file in before:
        shutil.copy(file, older)
    with monkeypatch.context() as then:
        then.setattr("agentloop.store.schema.MIGRATIONS", older)
        Database.open(path).close()
        copy = snapshot(path)
    with Database.open_snapshot(path) as reader:
        assert reader.execute("SELECT count(*) FROM migrations") == [(len(before) + 1,)]
    assert snapshot(path) != copy
    with pytest.raises(StoreError, match=f"^{path}: has an older schema .*{newest.name}.*`agentloop run`"):
        Database.open(path, read_only=True)


def test_a_broken_database_is_named_and_not_its_copy(root, database):
    database.write_bytes(database.read_bytes()[:5000])
    for verb in (("status",), ("sql", "SELECT 1"), ("report", f"campaign={CAMPAIGN}")):
        message = refusal(*verb, data=root)
        assert message.startswith(f"error: {database}: ") and ".snapshot" not in message


def test_a_deleted_database_is_not_read_from_its_copy(database):
    snapshot(database)
    database.unlink()
    with pytest.raises(StoreError, match="no database here yet"):
        Database.open_snapshot(database)


def test_a_socket_in_the_way(tmp_path):
    path = tmp_path / "data"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(path))
        assert refusal("status", data=path) == f"error: paths.data: {path} is a file, not a folder"


def test_a_config_that_is_a_folder(tmp_path):
    message = refusal("status", data=tmp_path / "data", variables={"AGENTLOOP_CONFIG": str(tmp_path)})
    assert message == f"error: AGENTLOOP_CONFIG: {tmp_path} is a folder"
