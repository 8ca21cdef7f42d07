"""Text is UTF-8, whatever the locale says, and what is not is one line that names the file."""

import ast
import codecs
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import call, refusal
from recorded_campaign import CAMPAIGN, recorded

from agentloop import settings as configuration
from agentloop.curation import contamination, recipes, scoring
from agentloop.errors import SettingError, StoreError
from agentloop.project import CHECKOUT
from agentloop.store.database import Database

assert recorded  # a fixture

EIGHT_BITS = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "latin-1"}
"""Files and standard output are not UTF-8, whatever locales this machine has."""
SEVEN_BITS = EIGHT_BITS | {"PYTHONIOENCODING": "ascii"}

STARTS_A_PROCESS = {"run", "Popen", "check_output"}
READ_BY_LOCALE = {"read_text", "write_text"}
MADE_BY_LOCALE = {"fdopen", "makefile", "NamedTemporaryFile", "TemporaryFile", "TextIOWrapper", "SpooledTemporaryFile"}


def mode(call: ast.Call, position: int) -> str:
    given = [keyword.value for keyword in call.keywords if keyword.arg == "mode"] + call.args[position : position + 1]
    return given[0].value if given and isinstance(given[0], ast.Constant) and isinstance(given[0].value, str) else "r"


OF_A_PATH = {"mode", "buffering", "encoding", "errors", "newline"}
"""Arguments of Path.open."""


def decodes_by_locale(call: ast.Call) -> bool:
    """True for a call that reads or writes text in whatever encoding the user's locale has."""
    keywords = {keyword.arg for keyword in call.keywords}
    if "encoding" in keywords:
        return False
    if isinstance(call.func, ast.Name):
        return call.func.id == "open" and "b" not in mode(call, 1)
    if not isinstance(call.func, ast.Attribute):
        return False
    name, of = call.func.attr, call.func.value
    if name in READ_BY_LOCALE or name in STARTS_A_PROCESS and {"text", "universal_newlines"} & keywords:
        return True
    if name in MADE_BY_LOCALE:
        return "b" not in mode(call, 1 if name == "fdopen" else 0)
    # Path.open; not os.open, nor the `open` of a class of ours
    of_a_class = isinstance(of, ast.Name) and (of.id in ("os", "cls", "archive") or of.id[0].isupper())
    # what a class of ours opens is given, not said: `environment.open(task)`, `guest.open(seed=3)`
    ours = keywords - OF_A_PATH or (call.args and not isinstance(call.args[0], ast.Constant))
    return name == "open" and not of_a_class and "b" not in mode(call, 0) and not ours


def test_the_guard_sees_what_it_is_for():
    faults = [
        "path.open(errors='replace')",
        "open(x)",
        "open(x, 'w')",
        "open(x, mode='a')",
        "path.read_text()",
        "path.write_text(x, errors='replace')",
        "path.open()",
        "path.open('w')",
        "subprocess.run(x, text=True)",
        "os.fdopen(3, 'w')",
    ]
    right = ["open(x, 'rb')", "open(x, encoding='utf-8')", "os.open(x, 0)", "Database.open(x)", "path.read_bytes()"]
    right += ["environment.open(task)", "guest.open(seed=3)", "guest.open(**given)", "path.open('rb')"]
    for source in faults + right:
        assert decodes_by_locale(ast.parse(source).body[0].value) == (source in faults), source


@pytest.mark.parametrize("package", ["agentloop", "flows", "kernels"])
def test_no_file_is_read_or_written_in_the_encoding_of_the_locale(package):
    found = []
    for file in sorted((CHECKOUT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and decodes_by_locale(node):
                found.append(f"{file.relative_to(CHECKOUT)}:{node.lineno}: {ast.unparse(node)}")
    assert found == []


@pytest.fixture
def root(tmp_path, recorded):
    shutil.copytree(recorded.root, tmp_path / "données 日本")
    return tmp_path / "données 日本"


@pytest.mark.parametrize("locale", [EIGHT_BITS, SEVEN_BITS], ids=["latin-1", "ascii"])
def test_every_view_of_the_data_in_such_a_locale(root, locale):
    how = {"data": root, "variables": locale | {"AGENTLOOP_PATHS__DATA": str(root)}}
    assert any(CAMPAIGN in line for line in call("status", **how))
    (row,) = call("sql", "--json", "SELECT '日本 “é” 🙂' AS text", **how)
    assert json.loads(row) == {"text": "日本 “é” 🙂"}
    table = call("sql", "SELECT '日本' AS text", **how)
    assert any("\\u65e5\\u672c" in line for line in table), table
    shown = call("select", "--dry-run", f"campaign={CAMPAIGN}", **how)
    assert any(line.strip().startswith("solved") for line in shown)
    assert any("promote" in line for line in call("run", "--dry-run", "--profile", "demo", **how))
    page = root.parent / "report.html"
    call("report", f"campaign={CAMPAIGN}", "--output", page, **how)
    assert "×" in page.read_text(encoding="utf-8")
    assert "zz" in refusal("sql", "SELECT zz", **how)
    call("rescore", "tokens", **how)


def test_names_are_those_of_every_other_locale(root, tmp_path):
    """A question in Latin-1's disguise would be another task, and a schema another version's."""
    tasks = tmp_path / "questions.jsonl"
    rows = [{"question": f"Où est « {n} » ?", "answer": f"là {n}"} for n in range(8)]
    tasks.write_bytes("\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode())
    mine = tmp_path / "mine.py"
    mine.write_bytes(
        f"from pathlib import Path\nfrom agentloop.environments import QuestionFile\n\n\n"
        f"class Mine(QuestionFile):\n    name = 'mine'\n    path = Path({str(tasks)!r})\n\n    def tools(self, task):\n        return {{}}\n".encode()
    )
    print_tasks = f"from agentloop import environments; print([t.id for t in environments.get({str(mine)!r}).tasks('train', 4, 0)])"
    named = [python(print_tasks, locale) for locale in ({}, EIGHT_BITS)]
    assert named[0] == named[1] and named[0].count("task_") == 4


def python(code: str, variables) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=CHECKOUT,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)} | variables,
        capture_output=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.decode("latin-1")


FAULTS = [
    ("seed = 1\n# é\n".encode("latin-1"), ", line 2: is not UTF-8"),
    ("seed = 1\n".encode("utf-16"), ": is UTF-16; save it as UTF-8"),
    (codecs.BOM_UTF16_BE + "seed = 1\n".encode("utf-16-be"), ": is UTF-16; save it as UTF-8"),
    (b"seed = 1\n\nmodel = '\0'\n", ", line 3: holds a null character"),
]


@pytest.mark.parametrize(("content", "message"), FAULTS)
def test_settings_in_another_encoding(tmp_path, monkeypatch, content, message):
    file = tmp_path / "agentloop.toml"
    file.write_bytes(content)
    monkeypatch.setenv("AGENTLOOP_CONFIG", str(file))
    with pytest.raises(SettingError) as refused:
        configuration.load()
    assert str(refused.value).startswith(f"{file}{message}") and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "content", [b"seed = 1 = 2", b"seed = 1\nseed = 2", b"[a\nb = 1", b"seed = " + b"9" * 5000, b"x=" + b"[" * 5000]
)
def test_settings_that_are_no_toml(tmp_path, monkeypatch, content):
    file = tmp_path / "agentloop.toml"
    file.write_bytes(content)
    monkeypatch.setenv("AGENTLOOP_CONFIG", str(file))
    with pytest.raises(SettingError) as refused:
        configuration.load()
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 1500


def test_settings_with_a_byte_order_mark_and_other_line_ends(tmp_path, monkeypatch):
    file = tmp_path / "agentloop.toml"
    file.write_bytes(codecs.BOM_UTF8 + b'seed = 7\r\n[paths]\r\ndata = "/tmp/\xc3\xa9"\r\n')
    monkeypatch.setenv("AGENTLOOP_CONFIG", str(file))
    loaded = configuration.load()
    assert loaded.seed == 7 and loaded.paths.data == Path("/tmp/é")


@pytest.mark.parametrize(("content", "message"), FAULTS)
def test_queries_and_prompts_of_the_users_in_another_encoding(tmp_path, content, message):
    file = tmp_path / "mine.sql"
    file.write_bytes(content)
    with pytest.raises(StoreError) as refused:
        recipes.load(file)
    assert str(file) + message in str(refused.value)
    with Database.open(tmp_path / "data" / "agentloop.duckdb") as database:
        with pytest.raises(StoreError) as refused:
            scoring.rescore(database, lambda name: None, [str(file)])
        assert str(file) + message in str(refused.value)
        for table in ("chosen (trajectory VARCHAR, place BIGINT)", "pool (trajectory VARCHAR, task VARCHAR)"):
            database.execute(f"CREATE TEMP TABLE {table}")
        with pytest.raises(StoreError) as refused:
            contamination.refuse(database, file)
        assert str(refused.value).startswith(f"selection.benchmarks: {file}{message}")
