"""A judge over HTTP: asked once, its replies kept and used again, its faults one line, its key nowhere."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from agentloop import environments
from agentloop.environments import Judge, model_judge
from agentloop.environments.check import check_verifier
from agentloop.environments.model_judge import NotAsked, kept_in
from agentloop.errors import JudgeError, StoreError
from agentloop.verification import scored

KEY = "sk-of-nobody"


@pytest.fixture
def site(monkeypatch):
    """An endpoint that replies what `site.replies` says next, the last one for ever: a text, or (status, body)."""
    monkeypatch.setattr(model_judge, "_FIRST_PAUSE", 0.001)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.asked.append((self.path, self.headers.get("Authorization"), body))
            reply = server.replies.pop(0) if len(server.replies) > 1 else server.replies[0]
            message = {"choices": [{"message": {"content": reply}}], "usage": {"total_tokens": 7}}
            status, said = reply if isinstance(reply, tuple) else (200, json.dumps(message))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(said.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.replies = [], ["It is fine.\nGrade: 0.75"]
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def test_it_is_asked_once_and_says_the_same_for_ever(site, tmp_path):
    judge = Judge(site.url, "m", max_tokens=64)
    with kept_in(tmp_path / "judgements"):
        assert [judge.grade("How good is 1?"), judge.grade("How good is 1?")] == [0.75, 0.75]
        assert judge.grade("How good is 2?") == 0.75
    [(path, key, body), _] = site.asked
    assert (path, key) == ("/v1/chat/completions", None)
    assert {name: body[name] for name in ("model", "temperature", "max_tokens")} == {
        "model": "m",
        "temperature": 0.0,
        "max_tokens": 64,
    }
    assert body["messages"][0]["content"].startswith("How good is 1?\n\nEnd your reply with one line: Grade: N")
    site.shutdown()
    with kept_in(tmp_path / "judgements"):
        assert Judge("http://127.0.0.1:9/elsewhere", "m", max_tokens=64).grade("How good is 1?") == 0.75
    records = [json.loads(file.read_text(encoding="utf-8")) for file in (tmp_path / "judgements").iterdir()]
    assert len(records) == 2 and {record["reply"] for record in records} == {"It is fine.\nGrade: 0.75"}
    assert all(
        record["url"] == f"{site.url}/chat/completions" and record["usage"] == {"total_tokens": 7} for record in records
    )


def test_asked_again_it_is_asked_once_more_and_then_that_counts(site, tmp_path):
    judge = Judge(site.url, "m")
    with kept_in(tmp_path):
        assert judge.ask("?") == "It is fine.\nGrade: 0.75"
    site.replies = ["no longer"]
    with kept_in(tmp_path):
        assert judge.ask("?") == "It is fine.\nGrade: 0.75"
    with kept_in(tmp_path, anew=True):
        assert [judge.ask("?"), judge.ask("?")] == ["no longer", "no longer"]
    with kept_in(tmp_path):
        assert judge.ask("?") == "no longer"
    assert len(site.asked) == 2


def test_outside_of_scoring_it_is_not_asked_unless_it_has_a_folder_of_its_own(site, tmp_path):
    with pytest.raises(NotAsked):
        Judge(site.url, "m").ask("?")
    assert site.asked == []
    assert Judge(site.url, "m", keep=tmp_path).grade("?") == Judge(site.url, "m", keep=tmp_path).grade("?") == 0.75
    assert len(site.asked) == 1


@pytest.mark.parametrize(
    ("line", "grade"),
    [("Grade: 1", 1), ("**Grade: 0.5**", 0.5), ("grade: 0", 0), ("Grade: .25", 0.25), ("Grade: 1.0.", 1.0)],
)
def test_the_last_line_has_the_grade(site, tmp_path, line, grade):
    site.replies = [f"Grade: 0.1\n{line}\n"]
    assert Judge(site.url, "m", keep=tmp_path).grade("?") == grade


@pytest.mark.parametrize("line", ["Grade: 2", "Grade: good", "", "Grade: 1 of 10", "0.5", "Grade: -1"])
def test_without_a_grade_it_is_asked_three_times(site, tmp_path, line):
    site.replies = [f"Well.\n{line}"]
    judge = Judge(site.url, "m", keep=tmp_path)
    with pytest.raises(JudgeError, match=f"^{site.url}/chat/completions: m gives no grade: "):
        judge.grade("?")
    assert [body.get("seed") for _, _, body in site.asked] == [None, 1, 2]
    site.replies = ["Grade: 1"]
    with pytest.raises(JudgeError):
        judge.grade("?")  # what it said is kept, and is not asked for until somebody says so


def test_what_passes_is_tried_again_and_what_does_not_is_one_line(site, tmp_path):
    judge = Judge(site.url, "m", keep=tmp_path)
    site.replies = [(503, "busy"), (429, "slow down"), "Grade: 1"]
    assert judge.grade("?") == 1 and len(site.asked) == 3
    for reply, message, times in (
        ((400, "no such\nmodel"), "400 no such model", 1),
        ((500, "broken"), "500 broken [(]4 tries[)]", 4),
        ((200, "<html>"), "the answer is not a JSON object: <html>", 1),
        ((200, '{"choices": []}'), "the answer is no chat completion with a text: .*", 1),
        ((401, "who?"), "401 who[?] [(]no key was sent: key_variable names none[)]", 1),
    ):
        site.replies, site.asked = [reply], []
        with pytest.raises(JudgeError, match=f"^{site.url}/chat/completions: {message}$"):
            judge.ask(f"about {message}")
        assert len(site.asked) == times


def test_nobody_listens(tmp_path, monkeypatch):
    monkeypatch.setattr(model_judge, "_FIRST_PAUSE", 0.001)
    with pytest.raises(JudgeError, match=r"^http://127.0.0.1:9/v1/chat/completions: [^\n]+ \(4 tries\)$"):
        Judge("http://127.0.0.1:9", "m", keep=tmp_path).ask("?")


def test_the_key_is_sent_and_kept_nowhere(site, tmp_path, monkeypatch):
    judge = Judge(site.url, "m", key_variable="JUDGE_KEY", keep=tmp_path)
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(JudgeError, match="the environment variable JUDGE_KEY with the key is not set$"):
        judge.ask("?")
    monkeypatch.setenv("JUDGE_KEY", KEY)
    judge.ask("?")
    assert site.asked[0][1] == f"Bearer {KEY}"
    assert all(KEY not in file.read_text(encoding="utf-8") for file in tmp_path.iterdir())
    site.replies = [(403, f"the key {KEY} is bad")]
    with pytest.raises(
        JudgeError, match="403 the key … is bad [(]the key is that of the environment variable JUDGE_KEY[)]$"
    ):
        judge.ask("another")


@pytest.mark.parametrize("url", ["ftp://x/v1", "x", "http://user:secret@x/v1", "http://x/v1?key=1", "http://x:port/v1"])
def test_an_address_that_is_none_or_holds_a_key_is_refused(url):
    with pytest.raises(JudgeError, match="^judge: ") as raised:
        Judge(url, "m")
    assert "secret" not in str(raised.value)


JUDGED = """
from agentloop.environments import Environment, Judge, Question


class Judged(Environment):
    name = "judged"
    judge = Judge("{url}", "m")

    def questions(self, rng):
        for number in range(99):
            yield Question("all", f"Write a line about {{number}}", "", {{}})

    def tools(self, task):
        return {{}}

    def verify(self, task, answer):
        return self.judge.grade(f"{{task.question}}: {{answer}}")
"""


def test_an_environment_with_a_judge_is_tried_without_asking_it_and_scored_by_asking_it(site, tmp_path):
    file = tmp_path / "judged.py"
    file.write_text(JUDGED.format(url=site.url), encoding="utf-8")
    environment = environments.get(str(file))
    check_verifier(environment, seed=0)
    assert site.asked == []
    [task] = environment.tasks("train", 1, 0)
    with kept_in(tmp_path / "judgements"):
        assert scored(environment, task, "A line.", None, who="judged") == {"success": 0.75}
        assert scored(environment, task, None, None, who="judged") == {"success": 0.0}
    assert len(site.asked) == 1
    site.replies = [(404, "gone")]
    with (
        kept_in(tmp_path / "judgements"),
        pytest.raises(StoreError, match="^judged: JudgeError: .*404 gone at 'Another'"),
    ):
        scored(environment, task, "Another", None, who="judged")
