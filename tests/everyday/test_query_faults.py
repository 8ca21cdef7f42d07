"""What goes wrong in a question to the database: one line, and it names the statement, the recipe, the shard or the database."""

import random

import duckdb
import pytest
from typer.testing import CliRunner

from agentloop.cli.app import app
from agentloop.curation.scoring import rescore, score
from agentloop.curation.selection import select
from agentloop.errors import AgentloopError, ShardError, StoreError
from agentloop.records import Sampling, Task, Trajectory, Turn
from agentloop.settings import Selection
from agentloop.store.database import Database
from agentloop.store.ingest import ingest
from agentloop.store.shards import write_shard

TOKENS = "SELECT trajectory, token_ids, mask, logprobs FROM v_tokens"


def episode(number: int) -> Trajectory:
    rng = random.Random(number)
    tokens, answer = tuple(rng.randrange(400) for _ in range(300)), f"Answer: {number}"
    return Trajectory(
        policy="policy_0",
        task=Task("arithmetic", "sum", f"What is {number} + 0?", str(number), "train"),
        sample=0,
        sampling=Sampling(),
        seed=1,
        status="answered",
        answer=str(number),
        token_ids=tokens,
        mask=(False,) * 100 + (True,) * 200,
        logprobs=tuple(-rng.random() for _ in tokens),
        turns=(Turn("user", "What?", 0, 100), Turn("model", answer, 100, 300)),
        seconds=1.0,
    )


@pytest.fixture
def path(tmp_path):
    """A database of two shards."""
    shards = [tmp_path / "shards" / f"{number}.parquet" for number in range(2)]
    for number, shard in enumerate(shards):
        episodes = [episode(10 * number + each) for each in range(5)]
        write_shard(shard, episodes, purpose="collect", campaign="main", iteration=1)
    with Database.open(tmp_path / "agentloop.duckdb") as database:
        ingest(database, shards)
        score(database, {"arithmetic": lambda task, answer: float(answer == task.answer)})
    return tmp_path / "agentloop.duckdb"


def told(error: BaseException) -> str:
    assert isinstance(error, AgentloopError) and len(str(error).splitlines()) == 1 and ".snapshot" not in str(error)
    return str(error)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "sql: the statement has no result; a query begins with SELECT or FROM"),
        ("SELEC 1", 'sql: Parser Error: syntax error at or near "SELEC"'),
        (
            "FROM trajectoris",
            'sql: Catalog Error: Table with name trajectoris does not exist! Did you mean "trajectories"?',
        ),
        ("SELECT nothing FROM tasks", 'sql: Binder Error: Referenced column "nothing" not found in FROM clause!'),
        ("SELECT 'a'::INT", "sql: Conversion Error: Could not convert string 'a' to INT32"),
        ("SELECT $a", "sql: Invalid Input Error: Values were not provided for the following parameters: a"),
        ("SELECT error('')", "sql: Invalid Input Error:"),
        ("FROM read_parquet('/nowhere.parquet')", "sql: IO Error: No files found that match the pattern"),
        ("COPY (SELECT 1) TO '/nowhere/a.csv'", 'sql: IO Error: Cannot open file "/nowhere/a.csv": No such file'),
        (
            "CREATE TABLE a (b INT)",
            'sql: Invalid Input Error: Cannot execute statement of type "CREATE" on database "agentloop"',
        ),
        (
            "DELETE FROM tasks",
            'sql: Invalid Input Error: Cannot execute statement of type "DELETE" on database "agentloop"',
        ),
    ],
)
def test_a_statement_that_is_wrong(path, query, message):
    asked = CliRunner().invoke(app, ["sql", query, f"paths.data={path.parent}"])
    assert told(asked.exception).startswith(message)


def test_memory_that_does_not_do(path):
    with Database.open_snapshot(path) as database:
        database.execute("SET memory_limit = '20MB'")
        database.execute("SET max_temp_directory_size = '1MB'")
        with pytest.raises(StoreError) as error:
            database.execute(
                "SELECT count(DISTINCT i) FROM (SELECT hash(range)::VARCHAR || repeat('x', 200) AS i FROM range(1000000))"
            )
    assert told(error.value).startswith(f"{path}: Out of Memory Error: ")
    assert "solutions" not in str(error.value)


def damaged(path) -> str:
    for open_database in (Database.open_snapshot, Database.open):
        with open_database(path) as database, pytest.raises(ShardError) as error:
            database.execute(TOKENS)
    return told(error.value)


def test_a_shard_that_is_truncated_or_gone_is_named(path):
    shard = path.parent / "shards" / "1.parquet"
    shard.write_bytes(shard.read_bytes()[:700])
    assert damaged(path).startswith(f"{shard}: truncated or not a Parquet file")
    shard.unlink()
    assert damaged(path) == f"{shard}: no such shard"


def test_a_shard_with_other_bytes_inside_is_named(path):
    """DuckDB says "don't know what type" or "Invalid data", and of no file."""
    shard = path.parent / "shards" / "0.parquet"
    whole, rng, caught = shard.read_bytes(), random.Random(0), 0
    for _ in range(40):
        at = rng.randrange(4, len(whole) - 48)
        shard.write_bytes(whole[:at] + rng.randbytes(40) + whole[at + 40 :])
        with Database.open_snapshot(path) as database:
            try:
                database.execute(TOKENS)
            except ShardError as error:
                assert told(error).startswith(f"{shard}: ")
                caught += 1
    assert caught > 5


def test_a_recipe_and_a_scorer_of_ones_own_are_named_by_file(path, tmp_path):
    recipe, scorer = tmp_path / "mine.sql", tmp_path / "short.sql"
    for sql, message in [
        ("-- rules: a\nSELECT * FROM nothing", "Catalog Error: Table with name nothing does not exist!"),
        ("-- rules: a\nSELEC 1", "is not one SQL query"),
        ("-- rules: a\nSELECT 1; SELECT 2", "is not one SQL query"),
        ("-- rules: a\nSELECT $speed FROM pool", "needs $speed, which is not given"),
        ("SELECT * FROM pool", "has no comment '-- rules: …'"),
    ]:
        recipe.write_text(sql, encoding="utf-8")
        with Database.open_snapshot(path) as database, pytest.raises(StoreError) as error:
            select(database, recipe, "main", 1, Selection(), save=False)
        assert told(error.value).startswith(f"recipe {recipe}: {message}")
    for sql, message in [
        ("-- version: 1\nSELECT id, nothing FROM trajectories", 'Binder Error: Referenced column "nothing" not found'),
        ("SELECT 1", "its first line is not a comment '-- version: N'"),
    ]:
        scorer.write_text(sql, encoding="utf-8")
        with Database.open(path) as database, pytest.raises(StoreError) as error:
            rescore(database, {}, [str(scorer)])
        assert told(error.value).startswith(f"scorer {scorer}: {message}")


def test_what_is_not_found_is_not_found_in_the_database(path):
    from agentloop.store import adapters, tasks

    with Database.open_snapshot(path) as database:
        assert database.path == path
        for load in (adapters.load, tasks.load):
            with pytest.raises(StoreError) as error:
                load(database, "none_0")
            assert told(error.value).startswith(f"{path}: no ")


def test_a_fault_of_a_statement_stays_duckdbs(path):
    """Who wrote the statement knows what to call it."""
    with Database.open_snapshot(path) as database, pytest.raises(duckdb.CatalogException) as error:
        database.execute("FROM datasett")
    assert (
        database.said(error.value) == 'Catalog Error: Table with name datasett does not exist! Did you mean "datasets"?'
    )
