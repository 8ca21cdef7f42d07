"""The door, by itself: who comes in, and what a WebSocket may say before it has proved the key."""

import asyncio

import pytest

from agentloop_vllm.door import Door
from agentloop_vllm.serving_door import OpenServingDoor, ServingDoor

PROOF = (b"authorization", b"Bearer secret")
HOME = (b"host", b"127.0.0.1:4200")


async def application(scope, receive, send):
    """Greets at once, then says again what it hears."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"inside"})
        return
    await receive()
    await send({"type": "websocket.accept"})
    if scope["path"] == "/hasty":
        await send({"type": "websocket.send", "text": "a secret"})
        return
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": f"heard {message.get('text')}"})


def knock(scope, *messages, token="secret"):
    """What the client gets to see."""
    waiting, sent = list(messages), []

    async def receive():
        return waiting.pop(0) if waiting else {"type": "websocket.disconnect"}

    async def send(message):
        sent.append(message)

    asyncio.run(Door(application, "Bearer secret", token=token)(scope, receive, send))
    return sent


def status(*headers, path="/v1/models", method="GET"):
    return knock({"type": "http", "path": path, "method": method, "headers": list(headers)})[0]["status"]


def said(*texts, headers=(HOME,), path="/socket", **options):
    messages = [{"type": "websocket.connect"}, *({"type": "websocket.receive", **text} for text in texts)]
    sent = knock({"type": "websocket", "path": path, "headers": list(headers)}, *messages, **options)
    return [message.get("text", message["type"]) for message in sent]


def test_requests():
    assert status(HOME, PROOF) == 200
    assert status((b"host", b"localhost"), PROOF, (b"origin", b"http://localhost")) == 200
    assert status(HOME) == 401
    assert status(HOME, (b"authorization", b"Bearer secre")) == 401
    assert status(HOME, path="/health") == 200
    assert status(HOME, path="/health", method="POST") == 401
    assert status(HOME, path="/health/x") == 401


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ((b"host", b""),),
        ((b"host", b"evil.test:4200"),),
        ((b"host", b"127.0.0.1.evil.test"),),
        ((b"host", b"127.0.0.1@evil.test"),),
        (HOME, (b"origin", b"null")),
        (HOME, (b"origin", b"")),
        (HOME, (b"origin", b"http://127.0.0.1:4201")),
        (HOME, (b"origin", b"http://localhost:4200")),
        (HOME, (b"origin", b"https://127.0.0.1:4200")),
        (HOME, (b"origin", b"http://127.0.0.1:4200.evil.test")),
    ],
)
def test_foreign_pages_stay_outside_even_with_the_key(headers):
    assert status(*headers, PROOF) == 403
    assert status(*headers, path="/health") == 403
    assert said({"text": '{"type": "auth", "token": "secret"}'}, headers=(*headers, PROOF)) == ["websocket.close"]


def test_a_socket_with_the_key_in_its_header_is_let_in():
    assert said({"text": "hi"}, headers=(HOME, PROOF), token=None) == ["websocket.accept", "heard hi"]
    assert said({"text": "hi"}, token=None) == ["websocket.close"]


def test_a_socket_may_prove_the_key_first():
    proof = {"text": '{"type": "auth", "token": "secret"}'}
    assert said(proof, {"text": "hi"}) == ["websocket.accept", f"heard {proof['text']}", "heard hi"]


@pytest.mark.parametrize(
    "first",
    [
        {"text": "hi"},
        {"text": ""},
        {"bytes": b'{"type": "auth", "token": "secret"}'},
        {"text": '{"type": "auth"}'},
        {"text": '{"type": "auth", "token": null}'},
        {"text": '{"type": "auth", "token": "secret "}'},
        {"text": '{"type": "auth", "token": "\\ud800"}'},
        {"text": '{"type": "event", "token": "secret"}'},
        {"text": '["auth", "secret"]'},
        {"text": "[" * 4000},
        {"text": "[" * 1_000_000},
    ],
)
def test_a_socket_that_does_not_is_closed_unheard(first):
    proof = {"text": '{"type": "auth", "token": "secret"}'}
    assert said(first, proof) == ["websocket.accept", "websocket.close"]


def test_nothing_is_told_before_the_proof():
    assert said(path="/hasty") == ["websocket.accept", "websocket.close"]


def test_a_server_that_others_reach_has_any_name_but_still_a_key_and_no_page(monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "secret")

    def status(door, *headers):
        sent = []

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "path": "/v1/models", "method": "GET", "headers": list(headers)}
        asyncio.run(door(application)(scope, None, send))
        return sent[0]["status"]

    elsewhere = (b"host", b"machine.example:8000")
    assert status(OpenServingDoor, elsewhere, PROOF) == 200
    assert status(OpenServingDoor, elsewhere) == 401
    assert status(OpenServingDoor, elsewhere, PROOF, (b"origin", b"http://page.example")) == 403
    assert status(ServingDoor, elsewhere, PROOF) == 403
    assert status(ServingDoor, HOME, PROOF) == 200
