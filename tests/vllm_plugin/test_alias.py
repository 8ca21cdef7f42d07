"""Names that stand for what is served now: what a request for one becomes, and how they are listed."""

import asyncio
import json

import pytest

from agentloop_vllm.alias import Alias

CARDS = [{"id": "base", "root": "/models/tiny", "parent": None}, {"id": "one", "root": "/one", "parent": "base"}]


async def application(scope, receive, send):
    """Lists its models as vLLM does, and says again what it is asked, in the parts that it came in."""
    body = b""
    if scope["path"] == "/v1/models":
        parts = [json.dumps({"object": "list", "data": CARDS}).encode()]
    else:
        parts, more = [], True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        assert int(dict(scope["headers"])[b"content-length"]) == len(body)
        parts = [body[:7], body[7:]]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0"), (b"x-own", b"1")]})
    for place, part in enumerate(parts):
        await send({"type": "http.response.body", "body": part, "more_body": place + 1 < len(parts)})


def ask(server, method, path, *parts):
    """(status, body) of a request whose body comes in these parts."""
    waiting = [
        {"type": "http.request", "body": part, "more_body": place + 1 < len(parts)} for place, part in enumerate(parts)
    ]
    sent = []

    async def receive():
        return waiting.pop(0)

    async def send(message):
        sent.append(message)

    length = str(sum(map(len, parts))).encode()
    scope = {"type": "http", "method": method, "path": path, "headers": [(b"content-length", length)]}
    asyncio.run(server(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


@pytest.fixture
def server():
    return Alias(application)


def name(server, alias, model):
    return ask(server, "POST", "/v1/alias", json.dumps({"name": alias, "model": model}).encode())


def test_a_request_is_for_what_the_name_stands_for_at_that_moment(server):
    asked = {"prompt": "é", "model": "champion", "n": [1, 2]}
    body = json.dumps(asked, ensure_ascii=False).encode()
    for model in ("one", "another with a longer name", "base"):
        assert name(server, "champion", model)[0] == 200
        status, answer = ask(server, "POST", "/v1/completions", body[:5], body[5:])
        assert (status, json.loads(answer)) == (200, asked | {"model": model})


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "one", "prompt": "the \\"champion\\" said"}',
        b'{"model": "one", "prompt": "champion"}',
        b'{"prompt": "champion", "model": 7}',
        b'["champion"]',
        b'"champion" {',
        b'{"a":' * 100_000 + b'"champion"',
        b"",
    ],
)
def test_everything_else_arrives_as_it_was_sent(server, body):
    name(server, "champion", "one")
    assert ask(server, "POST", "/v1/chat/completions", body) == (200, body)


def test_names_are_listed_behind_what_they_stand_for(server):
    def listed():
        return json.loads(ask(server, "GET", "/v1/models", b"")[1])["data"]

    assert listed() == CARDS
    name(server, "champion", "one")
    name(server, "gone", "never served")
    assert listed() == [*CARDS, {"id": "champion", "root": "/one", "parent": "one"}]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"name": "champion"}', b'{"name": 1, "model": "one"}'])
def test_what_sets_no_name_is_refused(server, body):
    assert ask(server, "POST", "/v1/alias", body)[0] == 400
    assert ask(server, "POST", "/v1/completions", b'{"model": "champion"}')[1] == b'{"model": "champion"}'
