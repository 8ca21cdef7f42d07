"""A data root of its own with the tiny model as the student, and an endpoint that answers what an environment's experts say."""

import asyncio
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from agentloop import environments
from agentloop import settings as configuration
from agentloop.campaign import demonstrations
from agentloop.campaign import teaching as lessons
from agentloop.campaign.teaching import Teaching
from agentloop.rollout.grammar import ToolCall, parse
from agentloop.teaching.source import parse as parse_source
from agentloop.teaching.tasks import drawn

SMALL = (
    "evaluate.tasks=16",
    "evaluate.samples=1",
    "gate.max_tasks=16",
    "teach.tasks=12",
    "teach.shard_episodes=5",
    "collect.attempts=2",
)


@dataclass
class Lesson:
    """Teachings of the tiny model, in one data root."""

    root: object

    def settings(self, *words):
        paths = (f"paths.data={self.root / 'data'}", f"paths.cache={self.root / 'cache'}")
        return configuration.load([*SMALL, *words, *paths], profile="demo")

    def open(self, source="experts", *words, families=(), unverified=False, name=None) -> Teaching:
        return Teaching.open(
            lessons.Lesson(self.settings(*words), parse_source(str(source)), tuple(families), unverified, name)
        )

    def demonstrate(self, teaching: Teaching):
        """Play and judge everything: (what was planned, what came of it)."""
        with teaching.at_work():
            planned = demonstrations.plan(teaching)
            for shard in planned.shards:
                demonstrations.play(teaching, planned, shard)
            return planned, demonstrations.take_in(teaching, planned)

    def choose(self, teaching: Teaching):
        with teaching.at_work():
            return lessons.choose(teaching)

    def rows(self, teaching: Teaching, query: str, *parameters):
        with teaching.campaign.database() as database:
            return database.execute(query, list(parameters))


@pytest.fixture
def lesson(tmp_path) -> Lesson:
    return Lesson(tmp_path)


@dataclass
class ExpertServer:
    """Chat completions that say, turn by turn, what the environment's expert says of the first message's question."""

    environment: str
    requests: list[dict] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    faults: list[web.Response | float] = field(default_factory=list)
    """What the next requests get instead: an answer, or seconds that nothing happens."""
    models: tuple[str, ...] = ("expert",)
    url: str = ""

    async def complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.requests.append(body)
        self.keys.append(request.headers.get("Authorization"))
        if self.faults:
            fault = self.faults.pop(0)
            if isinstance(fault, float):
                await asyncio.sleep(fault)
            else:
                return fault
        turn = self._turn(body["messages"])
        return web.json_response(
            {
                "choices": [{"message": self._message(turn, body.get("tools")), "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 100, "completion_tokens": 10},
            }
        )

    async def list_models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": name} for name in self.models]})

    def _turn(self, messages: list[dict]) -> str:
        environment = environments.get(self.environment)
        asked = messages[0]["content"]
        demonstrated = drawn(environment, 100, 0)
        task = next(task for task in demonstrated if task.question in asked)
        return environment.expert(task)[sum(message["role"] == "assistant" for message in messages)]

    def _message(self, turn: str, tools: list[dict] | None) -> dict:
        read = parse(turn)
        if not tools or not isinstance(read, ToolCall):
            return {"role": "assistant", "content": turn}
        (schema,) = [tool["function"] for tool in tools if tool["function"]["name"] == read.name]
        arguments = dict(zip(schema["parameters"]["properties"], read.args, strict=True))
        function = {"name": read.name, "arguments": json.dumps(arguments)}
        return {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "x1", "type": "function", "function": function}],
        }


@contextmanager
def serving(server: ExpertServer):
    """The server on a port of its own, in a thread of its own."""
    loop = asyncio.new_event_loop()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", server.complete)
    app.router.add_get("/v1/models", server.list_models)
    runner = web.AppRunner(app, shutdown_timeout=0.1)

    async def start() -> int:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return site._server.sockets[0].getsockname()[1]

    port = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{port}/v1"
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@pytest.fixture
def expert_server():
    with serving(ExpertServer("arithmetic")) as server:
        yield server
