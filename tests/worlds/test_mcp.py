"""Tools of an MCP server: called as the project's own are, and whatever the server does ends one attempt and nothing else."""

import asyncio
import dataclasses
import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from transformers import AutoTokenizer

from agentloop import environments
from agentloop import settings as configuration
from agentloop.errors import SettingError, WorldError
from agentloop.records import Sampling
from agentloop.rollout.episode import run_episode
from agentloop.rollout.grammar import answer_text, call_text
from agentloop.rollout.prompt import PromptFormat
from agentloop.worlds.pool import Worlds

FOLDER = Path(__file__).parent
FILE = str(FOLDER / "tasks_over_mcp.py")
COMMAND = [sys.executable, str(FOLDER / "mcp_server.py")]
SECONDS = 15.0


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    root = tmp_path_factory.mktemp("mcp")
    settings = configuration.load([f"paths.data={root}", f"environment={FILE}", f"collect.tool_seconds={SECONDS}"])
    settings.export()
    return settings


@pytest.fixture(scope="module")
def worlds(settings):
    with Worlds(settings, [FILE]) as worlds:
        yield worlds


@pytest.fixture(scope="module")
def task(settings):
    return environments.get(FILE).tasks("train", 1, 0)[0]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A server that is reached by an address, and runs on after every episode."""
    with running(tmp_path_factory.mktemp("http") / "port") as address:
        yield address


@contextmanager
def running(file):
    with subprocess.Popen([*COMMAND, str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(300):
                time.sleep(0.1)
                if file.exists() and answers(int(file.read_text() or 0)):
                    break
            yield f"http://127.0.0.1:{file.read_text()}/mcp"
        finally:
            process.kill()


def answers(port):
    return any(each.laddr.port == port for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN)


def call(tool, /, *args, **kwargs):
    return tool, args, kwargs


def ask(worlds, task, *calls):
    """The replies to one episode's calls."""

    async def episode():
        async with worlds.open(task, session="s") as world:
            return [await world.call(*each) for each in calls]

    return asyncio.run(episode())


def told(worlds, task, *calls):
    return [reply.text for reply in ask(worlds, task, *calls)]


def described(worlds, task):
    async def episode():
        async with worlds.open(task, session="s") as world:
            return list((await world.describe()).tools)

    return asyncio.run(episode())


def offering(task, **server):
    """The task with the tools of another server."""
    return dataclasses.replace(task, payload=server if "url" in server else {"command": COMMAND} | server)


def servers():
    """Servers, and their children, that some world here has started."""
    found = []
    for process in psutil.process_iter(["cmdline", "status", "ppid"]):
        line = " ".join(process.info["cmdline"] or ())
        if ("mcp_server.py" in line and len(process.info["cmdline"]) == 2) or "sleep(3601)" in line:
            found.append(process)
    return found


def none_left():
    deadline = time.monotonic() + 10
    while servers() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not servers()


def test_tools_are_described_as_functions_are(worlds, task):
    tools = described(worlds, task)
    assert [(tool.name, tool.signature) for tool in tools] == [
        ("add", "(a: int, b: int | None = None, way: Literal['up', 'down'] = 'up') -> str"),
        (
            "of_cities",
            "(cities: list[{'name': str, 'people'?: int}], weights: dict[str, float] | None = None, note: Any = None) -> str",
        ),
        ("count", "(by: int = 1) -> str"),
        ("fail", "(how: str) -> str"),
        ("hang", "() -> str"),
        ("die", "(code: int) -> str"),
        ("rubbish", "() -> str"),
        ("picture", "(caption: str = '') -> str"),
        ("structured", "() -> str"),
        ("texts", "() -> str"),
        ("variables", "() -> str"),
    ]
    assert tools[0].description == "Sum of two numbers."
    assert tools[1].description == "People of all cities.\n\nCounted twice a year.\ncities: the cities, at most three"
    assert described(worlds, task) == tools


CALLS = [
    (call("add", 1), "1 up"),
    (call("add", 1, 2, way="down"), "3 down"),
    (call("add", a=1, b=None), "1 up"),
    (call("add", "1"), "error: a must be of type int"),
    (call("add", 1.5), "error: a must be of type int"),
    (call("add", True), "error: a must be of type int"),
    (call("add"), "error: missing a required argument: 'a'"),
    (call("add", a=1, c=2), "error: got an unexpected keyword argument 'c'"),
    (call("add", 1, 2, "sideways"), "error: way must be one of 'up', 'down'"),
    (call("of_cities", [{"name": "Rom", "people": 3}, {"name": "Ulm"}], {"a": 0.5}), "3 {'a': 0.5} None"),
    (call("of_cities", [], note=[1, {"a": None}]), "0 None [1, {'a': None}]"),
    (call("of_cities", [{"people": 3}]), "error: cities.0: 'name' is a required property"),
    (call("of_cities", [{"name": 3}]), "error: cities.0.name must be of type str"),
    (call("of_cities", [{"name": "a"}] * 4), "error: cities: "),
    (call("fail", "no such thing"), "error: Error executing tool fail: no such thing"),
    (call("fail", ""), "error: Error executing tool fail"),
    (call("picture"), "[image]"),
    (call("picture", "a cat"), "a cat\n[image]"),
    (call("structured"), '{"people": [1, 2], "name": "Köln"}'),
    (call("texts"), "one\ntwo\ninside"),
    (call("nothing"), "error: there is no tool named nothing; "),
]


@pytest.mark.parametrize("over", ["command", "url"])
def test_a_call_is_answered_or_refused(worlds, task, url, over):
    if over == "url":
        task = offering(task, url=url, only=[each.name for each in described(worlds, task)])
    replies = ask(worlds, task, *(made for made, _ in CALLS))
    for (made, text), reply in zip(CALLS, replies, strict=True):
        exact = not text.endswith((": ", "; "))
        assert reply.text == text if exact else reply.text.startswith(text), (made, reply.text)
        assert reply.complaint == text.startswith("error: "), made


@pytest.mark.parametrize(
    "made, complaint",
    [
        (
            call("die", 3),
            "tool die: McpFault: MCP server python mcp_server.py: its process ended with exit code 3: last words",
        ),
        (call("hang"), f"tool hang: no answer within collect.tool_seconds = {SECONDS:g}"),
        (
            call("rubbish"),
            "tool rubbish: McpFault: MCP server python mcp_server.py: wrote to its standard output what is no MCP message: "
            "'Hello, I am a log line'",
        ),
    ],
)
def test_a_fault_ends_this_attempt(worlds, task, made, complaint):
    with pytest.raises(WorldError) as raised:
        ask(worlds, task, made)
    assert re.sub(r"python[\d.]*", "python", str(raised.value)) == complaint
    assert none_left()
    assert told(worlds, task, call("add", 1)) == ["1 up"]


def test_a_server_is_an_episodes_own_and_ends_with_it(worlds, task):
    for _ in range(2):
        assert told(worlds, task, call("count"), call("count", 5)) == ["1", "6"]
        assert none_left()


def test_a_server_that_does_not_end_is_ended(worlds, task):
    stubborn = offering(task, only=["count"], env={"STUBBORN": "1"})
    assert told(worlds, stubborn, call("count")) == ["1"]
    assert servers()  # its input is closed and it is told to end before it is killed
    assert none_left()


def test_a_shared_server_stays_for_the_next_episode(settings, task):
    with Worlds(settings, [FILE]) as worlds:
        shared = offering(task, only=["count", "die"], shared=True)
        assert told(worlds, shared, call("count")) == ["1"]
        assert told(worlds, shared, call("count")) == ["2"]
        assert len(servers()) == 1
        with pytest.raises(WorldError, match="exit code 7"):
            ask(worlds, shared, call("die", 7))
        assert told(worlds, shared, call("count")) == ["1"]
    assert none_left()


def test_a_server_behind_an_address_keeps_what_episodes_leave(worlds, task, url):
    there = offering(task, url=url, only=["count"])
    [first] = told(worlds, there, call("count"))
    assert told(worlds, there, call("count")) == [str(int(first) + 1)]


def test_a_server_behind_an_address_that_dies_is_a_fault(worlds, task, tmp_path):
    with running(tmp_path / "port") as address:
        there = offering(task, url=address, only=["die"])
        with pytest.raises(WorldError, match=f"^tool die: McpFault: MCP server {address}: "):
            ask(worlds, there, call("die", 1))
    with pytest.raises(WorldError, match=f"^the environment's tools: McpFault: MCP server {address}: ConnectError: "):
        ask(worlds, there, call("die", 1))
    assert told(worlds, task, call("add", 1)) == ["1 up"]


def test_episodes_side_by_side(worlds, task):
    async def episodes():
        async def one(number):
            async with worlds.open(task, session=str(number)) as world:
                return [(await world.call("count", [number], {})).text for _ in range(2)]

        return await asyncio.gather(*map(one, range(1, 5)))

    assert asyncio.run(episodes()) == [[str(number), str(2 * number)] for number in range(1, 5)]
    assert none_left()


def test_variables_are_not_passed_on_unless_they_are_named(settings, task, monkeypatch):
    monkeypatch.setenv("OTHER", "1")
    monkeypatch.setenv("GIVEN", "1")
    monkeypatch.setenv("VLLM_API_KEY", "$ecret")
    with Worlds(settings, [FILE]) as worlds:
        [text] = told(worlds, task, call("variables"))
        assert re.match(r"\['LC_CTYPE', 'MODE', 'PATH', 'TMPDIR'\] test \d+$", text), text
        [text] = told(worlds, offering(task, only=["variables"], pass_env=["GIVEN"]), call("variables"))
        assert "'GIVEN'" in text and "OTHER" not in text and "None" in text
        with pytest.raises(WorldError, match="pass_env: the variable VLLM_API_KEY is not set$"):
            described(worlds, offering(task, pass_env=["VLLM_API_KEY"]))


def test_a_server_has_the_bounds_of_its_world(worlds, task):
    async def episode():
        async with worlds.open(task, session="s") as world:
            await world.call("count", [], {})
            [server] = servers()
            limit, _ = server.rlimit(psutil.RLIMIT_DATA)
            return os.getpgid(server.pid), server.ppid(), limit

    group, world, limit = asyncio.run(episode())
    assert group == world  # who kills the world's group kills the server
    assert 0 < limit < 2**33


@pytest.mark.parametrize(
    "server, complaint",
    [
        ({}, "tool not-a-name: its name cannot be written in a call; leave it out by only=, or use rename="),
        ({"only": ["with_keyword"]}, "tool with_keyword: parameter 'lambda': no name that a call can be written with"),
        ({"only": ["add", "minus"]}, "tool minus: MCP server .* has none of that name; it has: add, of_cities, .*"),
        ({"only": ["add", "count"], "rename": {"add": "count"}}, "tool count: there are two of that name"),
        ({"command": ["no-such-command"]}, "MCP server no-such-command: FileNotFoundError: .*"),
        ({"command": [sys.executable, "-c", "1 / 0"]}, "MCP server python.* -c: its process ended with exit code 1: ZeroDivisionError: division by zero"),
        ({"command": ["echo", "hello"]}, "MCP server echo hello: wrote to .* what is no MCP message: 'hello'"),
        ({"url": "http://127.0.0.1:9/mcp"}, "MCP server http://127.0.0.1:9/mcp: .*"),
    ],
)  # fmt: skip
def test_what_cannot_be_offered_is_named(worlds, task, server, complaint):
    with pytest.raises(WorldError) as raised:
        described(worlds, offering(task, **server))
    assert re.fullmatch(f"the environment's tools: (TypeError|.*McpFault): {complaint}", str(raised.value)), (
        raised.value
    )
    assert none_left()


def test_a_name_that_is_none_may_be_another(worlds, task):
    renamed = offering(task, only=["not-a-name"], rename={"not-a-name": "a_name"})
    assert told(worlds, renamed, call("a_name")) == ["called"]


def test_the_file_is_tried_with_its_server(settings, tmp_path):
    environment = environments.get(FILE)
    environments.check_tools(environment, seed=0)
    assert none_left()
    file = tmp_path / "broken.py"
    text = Path(FILE).read_text().replace('"over_mcp"', '"broken"').replace('"mcp_server.py"', '"no_server.py"')
    file.write_text(text)
    with pytest.raises(
        SettingError, match="^environment: broken: tools for .*: McpFault: MCP server .*No such file"
    ) as raised:
        environments.get(str(file))
    assert "\n" not in str(raised.value)


def test_without_the_package_one_line_says_what_to_install():
    code = "import sys; sys.modules['mcp'] = None; from agentloop.tools.mcp import McpServer; McpServer(['a'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert last.endswith("SettingError: mcp is not installed, which this needs: pip install 'agentloop[mcp]'")


def test_an_episode_from_the_prompt_to_the_score(worlds, task):
    """The policy writes what it is told to; the prompt, the calls and what comes back are what a model would have met."""
    tokenizer = AutoTokenizer.from_pretrained(configuration.load(profile="demo").model_directory())
    prompt = PromptFormat(tokenizer, describe_tools=True)
    turns = iter([call_text("add", ["one"]), call_text("add", [0], {"b": 1}), answer_text("1 up")])

    async def says(prompt_ids, *, max_tokens, seed, session):
        text = tokenizer.encode(next(turns), add_special_tokens=False, split_special_tokens=True)
        ids = [*text, prompt.stop_token_ids[0]]
        return SimpleNamespace(token_ids=ids, logprobs=[-1.0] * len(ids), finish_reason="stop")

    async def episode():
        sampling = Sampling(max_turn_tokens=500, max_tokens=10_000)
        async with worlds.open(task, session="s") as world:
            return await run_episode(
                task, 0, policy="p", generate=says, prompt=prompt, world=world, sampling=sampling, seed=0
            )

    played = asyncio.run(episode())
    assert "add(a: int, b: int | None = None, way: Literal['up', 'down'] = 'up') -> str\n    Sum of two numbers.\n" in (
        prompt.decode(played.token_ids)
    )
    assert [(turn.text, turn.error) for turn in played.turns if turn.role == "tool"] == [
        ("error: a must be of type int", "error: a must be of type int"),
        ("1 up", None),
    ]
    assert played.answer == task.answer == "1 up" and environments.get(FILE).verify(task, played.answer) == 1.0
    assert none_left()
