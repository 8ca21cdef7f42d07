"""A real vLLM as the teacher: the tiny model behind /v1/chat/completions teaches another base what it happens to solve."""

from agentloop.serving.server import ModelServer


def test_the_tiny_model_teaches(lesson, monkeypatch):
    settings = lesson.settings()
    with ModelServer(settings, settings.model_directory(), base="the-teacher") as server:
        monkeypatch.setenv("TEACHERS_KEY", server.endpoint.api_key)
        words = (
            "teach.calls=bare",  # it was taught the format
            "teach.key_variable=TEACHERS_KEY",
            f"teach.teacher_model={server.model_name}",
            "teach.tasks=24",
            "teach.samples=2",
            "teach.max_turn_tokens=48",
            "teach.temperature=1",
        )
        teaching = lesson.open(server.endpoint.url, *words)
        _, judged = lesson.demonstrate(teaching)
    # a third of the tasks are solved by it
    assert judged["tried"] == 48 and 4 <= judged["accepted"] <= 40
    spent = judged["spent"]
    assert spent["requests"] >= 48 and spent["completion_tokens"] > 0
    # in the student's tokens, and by the student's measure as well: only what was solved is chosen
    chosen = lesson.choose(teaching)
    assert 1 <= chosen["rows"] <= judged["accepted"]
    assert lesson.rows(
        teaching,
        "SELECT count(*) FROM trajectories t JOIN v_tool_calls c ON c.trajectory = t.id WHERE c.error IS NULL",
    ) > [(20,)]
