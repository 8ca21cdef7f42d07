"""The SQL tool answers questions, changes nothing, reaches nothing outside, and ends."""

import os

import pytest

from agentloop.tools import ToolError
from agentloop.tools.sql import MAX_CELL_CHARACTERS, ReadOnlySQL

SCRIPT = (
    "CREATE TABLE pets (name TEXT, kind TEXT, age INTEGER)",
    "INSERT INTO pets VALUES ('Rex', 'dog', 7), ('Tom', 'cat', 3), ('Kim', 'cat', NULL)",
    "CREATE TABLE many AS SELECT range AS number FROM range(100)",
    "CREATE SEQUENCE counter",
)


@pytest.fixture
def sql():
    return ReadOnlySQL(SCRIPT, "pets(name TEXT, kind TEXT, age INTEGER)", seconds=0.5)


@pytest.mark.parametrize(
    "query, result",
    [
        ("SELECT count(*) FROM pets", "3"),
        ("SELECT name FROM pets WHERE kind = 'cat' ORDER BY name", "name\nKim\nTom"),
        ("SELECT name, age FROM pets WHERE age IS NULL", "name | age\nKim | NULL"),
        ("SELECT name FROM pets WHERE age > 100", "no rows"),
        ("SELECT kind, sum(age) AS total FROM pets GROUP BY kind HAVING count(*) > 1", "kind | total\ncat | 3"),
        ("WITH old AS (SELECT * FROM pets WHERE age BETWEEN 5 AND 9) SELECT name FROM old", "Rex"),
        ("SELECT 46 - 12", "34"),
        ("SELECT CAST(age AS DOUBLE) / 2 FROM pets WHERE name LIKE 'R%'", "3.5"),
    ],
)
def test_answers(sql, query, result):
    assert sql.call(query) == result
    assert sql.call(sql=query) == result


def test_leaves_no_thread_behind(sql):
    """Hundreds of episodes are in flight, and DuckDB by itself starts four threads for each core of the machine."""
    before = len(os.listdir("/proc/self/task"))
    sql.call("SELECT count(*) FROM pets")
    assert len(os.listdir("/proc/self/task")) == before


def test_shows_the_first_rows_only(sql):
    lines = sql.call("SELECT number FROM many ORDER BY number").splitlines()
    assert lines == ["number", *map(str, range(20)), "[only the first 20 rows]"]


def test_cuts_long_cells(sql):
    cell = sql.call(f"SELECT '{'x' * 500}'")
    assert cell == "x" * MAX_CELL_CHARACTERS + "…"


@pytest.mark.parametrize(
    "query",
    [
        "DROP TABLE pets",
        "INSERT INTO pets VALUES ('Bo', 'dog', 1)",
        "UPDATE pets SET age = 1",
        "WITH new AS (INSERT INTO pets VALUES ('Bo', 'dog', 1) RETURNING *) SELECT * FROM new",
        "SELECT nextval('counter')",
        "SELECT 1; DROP TABLE pets",
        "SET memory_limit = '8GB'",
        "ATTACH 'other.db'",
        "INSTALL httpfs",
        "PRAGMA version",
        "",
    ],
)
def test_changes_nothing(sql, query):
    before = sql.call("SELECT count(*), sum(age) FROM pets")
    with pytest.raises(ToolError):
        sql.call(query)
    assert sql.call("SELECT count(*), sum(age) FROM pets") == before


def test_reaches_nothing_outside(sql, tmp_path):
    secret = tmp_path / "secret.csv"
    secret.write_text("word\nxyzzy\n")
    python_list = [1, 2, 3]  # noqa: F841  a table to DuckDB, if it may look at Python's variables
    for query in (
        f"SELECT * FROM read_csv('{secret}')",
        f"SELECT * FROM '{secret}'",
        f"SELECT * FROM read_text('{secret}')",
        f"SELECT * FROM glob('{tmp_path}/*')",
        f"COPY pets TO '{tmp_path}/out.csv'",
        "SELECT * FROM python_list",
        "SELECT getenv('HOME')",
    ):
        with pytest.raises(ToolError):
            sql.call(query)
    assert list(tmp_path.iterdir()) == [secret]


def doubling(query: str, times: int) -> str:
    """Common table expressions, each of which names the one before twice."""
    ctes = ["a0 AS (SELECT * FROM pets)", *(f"a{n} AS ({query.format(n - 1)})" for n in range(1, times))]
    return f"WITH {', '.join(ctes)} SELECT count(*) FROM a{times - 1}"


@pytest.mark.parametrize(
    "query, complaint",
    [
        ("SELECT count(*) FROM many a, many b, many c, many d, many e, many f, many g", "longer than 0.5 seconds"),
        (
            "SELECT DISTINCT a.number + b.number * 100 + c.number * 10000 + d.number * 1000000 FROM many a, many b, many c, many d",
            "Out of Memory|longer than",
        ),
        # DuckDB's limits on memory and time do not reach inside a scalar function: these are refused before they run.
        ("SELECT repeat('x', 4000000000)", "repeat is not allowed"),
        ("SELECT lpad('x', 2000000000, 'y')", "lpad is not allowed"),
        ("SELECT 'a' || 'b'", "is not allowed"),
        ("SELECT list_sum(range(1000000000))", "is not allowed"),
        ("SELECT name.repeat(1000000000) FROM pets", "repeat is not allowed"),
        ("SELECT age::INTEGER[100000] FROM pets", "type array is not allowed"),
        ("SELECT * FROM range(10)", "functions in FROM"),
        ("WITH RECURSIVE r AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM r) SELECT count(*) FROM r", "recursive"),
        ("SELECT " + "- " * 900 + "age FROM pets", "nested too deeply"),
        ("SELECT 1 -- " + "x" * 2000, "longer than 2000 characters"),
        # DuckDB neither interrupts nor bounds its planning.
        (
            doubling("SELECT * FROM a{0} UNION ALL SELECT * FROM a{0}", 27),
            "too large: its parts are used [0-9,]+ times, at most 200",
        ),
        (doubling("SELECT x.* FROM a{0} x JOIN a{0} y USING (age)", 27), "too large"),
        (doubling("SELECT (SELECT max(age) FROM a{0}) + (SELECT max(age) FROM a{0}) age", 20), "too large"),
        (doubling("SELECT * FROM A{0}, (SELECT * FROM a{0})", 12), "too large"),
        ("SELECT 1 FROM " + ",".join(f"pets a{i}" for i in range(201)), "used 202 times"),
        # random samples: the same episode must give the same result
        ("SELECT * FROM pets TABLESAMPLE 10%", "random samples"),
        ("SELECT * FROM pets TABLESAMPLE reservoir(2 ROWS) REPEATABLE (1)", "random samples"),
        ("SELECT * FROM pets USING SAMPLE 3", "random samples"),
        ("SELECT * FROM (SELECT * FROM pets USING SAMPLE 50% (bernoulli))", "random samples"),
    ],
)
def test_is_bounded(sql, query, complaint):
    with pytest.raises(ToolError, match=complaint):
        sql.call(query)
    assert sql.call("SELECT count(*) FROM pets") == "3"


@pytest.mark.parametrize(
    "query, complaint",
    [
        ("SELECT FROM", "syntax error"),
        ("SELECT size FROM pets", "size"),
        ("SELECT name FROM plants", "plants"),
    ],
)
def test_says_what_is_wrong_in_one_line(sql, query, complaint):
    with pytest.raises(ToolError, match=complaint) as raised:
        sql.call(query)
    assert "\n" not in str(raised.value)


def test_refuses_wrong_arguments(sql):
    for args in ((), (1,), ("SELECT 1", "SELECT 2")):
        with pytest.raises(ToolError):
            sql.call(*args)
