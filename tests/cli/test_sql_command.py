"""`agentloop sql` shows what is stored, on terminals of any width, in pipes and as JSON."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
from home import python_path
from rich.cells import cell_len
from typed import mistake

from agentloop.project import CHECKOUT

STYLE = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def asked(agentloop, database):
    """Ask the database; returns standard output."""
    database.close()

    def ask(query: str, *words: str) -> str:
        code, output, errors = agentloop("sql", query, *words)
        assert (code, errors) == (0, ""), errors
        return output

    return ask


def on_a_terminal(data, width: int, query: str) -> list[str]:
    """The lines that a terminal of this width shows; styles are left out, all else is as it was written."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    environment = kept | {
        "AGENTLOOP_PATHS__DATA": str(data),
        "AGENTLOOP_PATHS__CACHE": str(data.parent / "cache"),
        "PYTHONPATH": python_path(CHECKOUT),
        "TERM": "xterm",
    }
    command = [sys.executable, "-m", "agentloop", "sql", query]
    process = subprocess.Popen(command, env=environment, cwd=CHECKOUT, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    written = b""
    while True:
        try:
            read = os.read(master, 1 << 16)
        except OSError:  # the other end is closed
            break
        written += read
    os.close(master)
    assert process.wait() == 0, written
    return STYLE.sub("", written.decode()).replace("\r\n", "\n").splitlines()


def test_text_that_looks_like_markup_is_shown_as_it_is(asked):
    text = "[bold]a[/bold] [red] :smile: [/] \\[x]"
    assert asked(f"SELECT '{text}' AS \"[b]\"").splitlines() == ["[b]", text]


def test_two_columns_of_one_name_are_both_shown(asked):
    query = "SELECT 1 AS a, 2 AS a, 3 AS a_1, 4 AS a"
    assert asked(query).splitlines() == ["a\ta\ta_1\ta", "1\t2\t3\t4"]
    assert json.loads(asked(query, "--json")) == {"a": 1, "a_2": 2, "a_1": 3, "a_3": 4}


@pytest.mark.parametrize(
    ("expression", "shown"),
    [
        ("'a' || chr(27) || '[31mb' || chr(7)", r"a\x1b[31mb\x07"),
        ("'a' || chr(10) || chr(9) || chr(13) || 'b'", r"a\n\t\rb"),
        ("'a' || chr(8238) || 'b' || chr(8203) || chr(8232)", r"a\u202eb\u200b\u2028"),
        ("chr(917505)", r"\U000e0001"),
        ("'日本 é ñ 🙂'", "日本 é ñ 🙂"),
        ("NULL", "NULL"),
        ("''", ""),
        ("true", "true"),
        ("0.1::FLOAT", "0.1"),
        ("'NaN'::DOUBLE", "NaN"),
        ("12345678901234567890::HUGEINT", "12345678901234567890"),
        ("1.50::DECIMAL(4, 2)", "1.50"),
        ("[1, NULL, 3]", "[1, null, 3]"),
        ("{'x': 'a\"b', 'y': [0.1::FLOAT]}", None),
        ("TIMESTAMP '2026-01-02 03:04:05'", "2026-01-02 03:04:05"),
        ("TIMESTAMP '2026-01-02 03:04:05' - TIMESTAMP '2026-01-01 03:04:04'", "1 day 0:00:01"),
        ("INTERVAL '90 seconds'", "0:01:30"),
        ("'\\x00\\xffa'::BLOB", r"\x00\xffa"),
    ],
)
def test_a_value_as_it_is_stored_with_all_that_is_not_seen(asked, expression, shown):
    lines = asked(f"SELECT {expression} AS v").split("\n")
    assert lines[0] == "v" and lines[2:] == [""]
    if shown is not None:
        assert lines[1] == shown
    else:
        assert json.loads(lines[1]) == {"x": 'a"b', "y": [pytest.approx(0.1)]}


def test_a_pipe_gets_whole_values_a_line_a_row(asked):
    lines = asked("SELECT range AS n, repeat('x', 5000) AS long FROM range(3)").splitlines()
    assert [line.split("\t") for line in lines] == [["n", "long"], *([str(n), "x" * 5000] for n in range(3))]


def test_json_is_exact(asked):
    query = "SELECT 'a' || chr(27) || chr(10) AS t, NULL AS n, [1.50, NULL] AS l, sum(range) AS sum, 0.1234567890123456789 AS fine, 'NaN'::DOUBLE AS f, DATE '2026-01-02' AS d FROM range(5)"
    (line,) = asked(query, "--json").splitlines()
    assert json.loads(line, parse_constant=pytest.fail) == {
        "t": "a\x1b\n",
        "n": None,
        "l": [1.5, None],
        "sum": 10,
        "fine": "0.1234567890123456789",
        "f": "NaN",
        "d": "2026-01-02",
    }


def test_no_rows_are_the_names_alone(asked):
    assert asked("SELECT 1 AS a, 2 AS b WHERE false") == "a\tb\n"
    assert asked("SELECT 1 AS a WHERE false", "--json") == ""


@pytest.mark.parametrize("query", ["", "  \n", "/* nothing */", ";"])
def test_an_empty_query_is_one_line(agentloop, database, query):
    database.close()
    assert mistake(agentloop("sql", query)).startswith("sql: the statement has no result; a query begins with SELECT")


@pytest.mark.parametrize(
    ("query", "hint"),
    [
        ("FROM trajectoris", 'Did you mean "trajectories"?'),
        ("SELECT lenght('a')", 'Did you mean "length"?'),
        ("SELECT anser FROM trajectories", 'Candidate bindings: "answer"'),
        ("SELECT abs('a', 'b')", "abs(x DOUBLE) -> DOUBLE"),
    ],
)
def test_what_duckdb_would_have_meant_is_in_the_one_line(agentloop, database, query, hint):
    database.close()
    assert hint in mistake(agentloop("sql", query))


@pytest.mark.parametrize("width", [40, 80, 160])
def test_no_line_is_wider_than_the_terminal(database, data, width):
    database.close()
    query = (
        "SELECT range AS n, repeat('word ', 30) AS text, repeat('z', 300) AS long, '🙂' || repeat('字', 90) AS wide, "
        "[range, range] AS list FROM range(2)"
    )
    lines = on_a_terminal(data, width, query)
    assert max(map(cell_len, lines)) <= width
    # nothing is lost: what was folded is there in pieces
    assert {sign: "".join(lines).count(sign) for sign in ("word", "z", "字")} == {"word": 60, "z": 600, "字": 180}


def test_columns_that_have_room_are_a_table(database, data):
    database.close()
    query = "SELECT 7 AS n, 'a' || chr(27) || '[1mb' AS t, NULL AS nothing, repeat('long ', 40) AS l, 'x' || chr(10) || 'y' AS two"
    head, *lines = on_a_terminal(data, 60, query)
    assert head.split() == ["n", "t", "nothing", "l", "two"]
    first = lines[0].split()
    assert first[:3] == ["7", r"a\x1b[1mb", "NULL"] and first[-1] == r"x\n"
    assert sum(line.count("long") for line in lines) == 40
    assert lines[1].rstrip().endswith("y")


def test_columns_that_have_none_are_lists(database, data):
    database.close()
    names = [f"column_{number}" for number in range(20)]
    query = f"SELECT {', '.join(f'range + {place} AS {name}' for place, name in enumerate(names))} FROM range(2)"
    lines = on_a_terminal(data, 60, query)
    assert [line.strip() for line in lines if line.startswith("row")] == ["row 1", "row 2"]
    assert [line.split() for line in lines[1:21]] == [[name, str(place)] for place, name in enumerate(names)]
    assert len(on_a_terminal(data, 400, query)) == 3


def test_a_very_long_value_is_cut_on_a_terminal_and_says_so(database, data):
    database.close()
    shown = "".join(line.strip() for line in on_a_terminal(data, 80, "SELECT repeat('z', 100000) AS long"))
    assert shown == "long" + "z" * 2000 + "…"
