"""A taskset of the package verifiers in the interpreter that has it: its tasks, tools and rewards (see `guest_process.py`).

The single agent's case is played here as verifiers plays it: prompt, tool calls and their results become a trace, node by node,
and the task scores it by its own rewards. What needs more than that (a sandbox, a judge, several agents) is refused.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Coroutine, Sequence
from importlib import metadata
from itertools import islice
from typing import Any

from mcp.server.mcpserver import MCPServer
from pydantic import TypeAdapter, ValidationError
from verifiers.v1.configs.agent import AgentConfig
from verifiers.v1.configs.judge import JudgeConfig
from verifiers.v1.envs.single_agent import SingleAgentEnv
from verifiers.v1.graph import MessageNode
from verifiers.v1.runtimes import SubprocessConfig
from verifiers.v1.session import hook_boundary
from verifiers.v1.state import state_cls
from verifiers.v1.task import Task
from verifiers.v1.trace import AgentInfo, Trace, TraceTask
from verifiers.v1.types import (
    AssistantMessage,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
    content_text,
)
from verifiers.v1.types import Tool as ToolDocument
from verifiers.v1.utils import loaders
from verifiers.v1.utils.decorators import discover_decorated, invoke

_HARNESS = "bash"
"""What verifiers says of a taskset that brings no harness of its own."""


class Refusal(Exception):
    """Raised for what cannot be played here, or is not there."""

    refusal = True


def prepare(config: dict[str, Any]) -> Guest:
    """Load the taskset. `config`: `version` of verifiers, the taskset's `id`, its `options`, and how many `rows` at most.

    Raises Refusal, in one line that names what cannot be played.
    """
    if (found := metadata.version("verifiers")) != config["version"]:
        raise Refusal(f"verifiers is {found} there, not {config['version']}")
    taskset = _taskset(config["id"], config["options"])
    tasks = list(islice(iter(taskset), config["rows"]))
    if not tasks:
        raise Refusal("it has no tasks")
    for task in tasks:
        _refuse(task)
    return Guest(taskset, tasks)


def _taskset(name: str, options: dict[str, Any]) -> Any:
    try:
        kind = loaders.taskset_class(name)
    except ModuleNotFoundError as error:
        raise Refusal(f"{' '.join(str(error).split())[:300]}") from None
    except (AttributeError, TypeError, ValueError) as error:
        raise Refusal(str(error)) from None
    if (env := loaders.environment_class(name)) is not SingleAgentEnv:
        raise Refusal(f"its episodes are played by a program of its own ({env.__name__}), which cannot be taken")
    if loaders.default_harness_id(name) != _HARNESS:
        raise Refusal("it brings a harness of its own, which cannot be taken")
    try:
        config = loaders.taskset_config_type(name).model_validate({**options, "id": name})
    except ValidationError as error:
        first = error.errors()[0]
        raise Refusal(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return kind(config)


def _refuse(task: Task) -> None:
    """Raise Refusal for a task that cannot be played here."""
    data, about = task.data, f"its task {task.data.idx}"
    if task.NEEDS_CONTAINER or data.image or data.agent_user:
        raise Refusal(f"{about} needs a sandbox: a container")
    if data.skills or data.artifacts:
        raise Refusal(f"{about} needs a sandbox: for its {'skills' if data.skills else 'artifacts'}")
    if task.config.judges:
        raise Refusal(f"{about} is scored by a judge ({task.config.judges[0].id}), which needs a network")
    for name in type(task.config).model_fields:
        if isinstance(getattr(task.config, name), JudgeConfig):
            raise Refusal(f"{about} is scored by a judge (task.{name}), which needs a network")
    for reward in task.hooks("reward"):
        if _needs_runtime(reward):
            raise Refusal(f"{about} needs a sandbox: its reward {reward.__name__} looks into it")
    if not task.hooks("reward"):
        raise Refusal(f"{about} has no reward")
    if discover_decorated(task, "intercept"):
        raise Refusal(f"{about} rewrites what is said (@intercept), which cannot be taken")
    for stop in task.hooks("stop"):
        if hook_boundary(stop, allow_trace=True) is not Trace:
            raise Refusal(f"{about} stops by a request or a response ({stop.__name__}), not by a trace")
    if data.prompt is None:
        raise Refusal(f"{about} has no prompt")
    for message in _messages(data.prompt):
        if not isinstance(message, SystemMessage | UserMessage):
            raise Refusal(f"{about} begins in the middle of a conversation")
        if not isinstance(message.content, str) and any(part.type != "text" for part in message.content):
            raise Refusal(f"{about} shows an image")


def _needs_runtime(hook: Any) -> bool:
    parameter = inspect.signature(hook).parameters.get("runtime")
    return parameter is not None and parameter.default is inspect.Parameter.empty


def _messages(prompt: Any) -> Sequence[Any]:
    return [UserMessage(content=prompt)] if isinstance(prompt, str) else prompt


class Guest:
    """A loaded taskset."""

    def __init__(self, taskset: Any, tasks: Sequence[Task]) -> None:
        self._taskset, self._tasks = taskset, tasks
        self.about = {"tasks": len(tasks)}

    def tasks(self, first: int, count: int) -> list[dict[str, str]]:
        """Return tasks from number `first` on: what is asked, the answer where the task has one, and the task's key."""
        return [_row(task) for task in self._tasks[first : first + count]]

    def open(self, index: int, key: str) -> Play:
        """Return an episode of the task number `index`. Raises Refusal where it is another one than `key` says."""
        if index >= len(self._tasks) or self._tasks[index].key != key:
            raise Refusal(f"the taskset has another task number {index} now")
        return Play(self._taskset, self._tasks[index])


def _row(task: Task) -> dict[str, str]:
    said = [message for message in _messages(task.data.prompt) if isinstance(message, UserMessage)]
    answer = getattr(task.data, "answer", None)
    return {
        "question": "\n\n".join(content_text(message.content) for message in said),
        "answer": str(answer) if isinstance(answer, str | int | float) else "",
        "key": task.key,
    }


class _NoSandbox:
    """Stands for a runtime where a hook is given one: most do not use it."""

    def __getattr__(self, name: str) -> Any:
        raise Refusal(f"it needs a sandbox: a hook of its tasks uses runtime.{name}")


class Play:
    """One episode of one task."""

    def __init__(self, taskset: Any, task: Task) -> None:
        self._task = task
        self._loop = asyncio.new_event_loop()
        self._trace = Trace(
            task=TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash),
            state=state_cls(type(task))(),
            agent=AgentInfo(config=AgentConfig()),
        )
        self._tools: dict[str, tuple[MCPServer, str]] = {}
        self._documents: list[ToolDocument] = []
        self._run(self._begin(taskset))

    def describe(self) -> dict[str, Any]:
        """Return the instructions, None where the task has none, and the tools."""
        said = [node.message for node in self._trace.nodes if isinstance(node.message, SystemMessage)]
        return {
            "instructions": "\n\n".join(content_text(message.content) for message in said) or None,
            "tools": [
                {"name": each.name, "description": each.description, "schema": each.parameters}
                for each in self._documents
            ],
        }

    def call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the tool's answer; what it raises is told the model, as verifiers does."""
        return self._run(self._call(tool, arguments))

    def observe(self, turn: str) -> dict[str, Any]:
        """Take a turn without a call, which is the last one."""
        self._add(AssistantMessage(content=turn), sampled=True)
        return {"text": "", "reward": None, "done": True}

    def outcome(self) -> dict[str, Any]:
        """Score the episode as it is. Returns the weighted sum of the task's rewards, each of them, and its metrics."""
        return self._run(self._score())

    def close(self) -> None:
        """Nothing is left: the process ends."""

    def _run(self, what: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(what)

    async def _begin(self, taskset: Any) -> None:
        task = self._task
        if task.data.system_prompt:
            self._add(SystemMessage(content=task.data.system_prompt))
        for message in _messages(task.data.prompt):
            self._add(message)
        await _done(invoke(task.setup, {"trace": self._trace, "runtime": _NoSandbox()}))
        for toolset in (*taskset.toolsets(taskset.config), *task.toolsets(task.config)):
            await self._serve(toolset)
        if self._trace.nodes:
            self._trace.nodes[0].tools = self._documents
        self._trace.tools = self._documents

    async def _serve(self, toolset: Any) -> None:
        """Make the toolset's tools known, without the server that verifiers would start."""
        name = toolset.server_name
        if toolset.config.url:
            raise Refusal(f"its toolset {name} is a server elsewhere ({toolset.config.url}), which needs a network")
        if not isinstance(toolset.config.runtime, SubprocessConfig):
            raise Refusal(f"its toolset {name} needs a sandbox ({toolset.config.runtime.type})")
        _share_state(toolset, self._trace)
        await _done(toolset.setup())
        await _done(toolset.setup_task(self._task.data))
        server = MCPServer(name or type(toolset).__name__)
        toolset.register(server)
        for tool in await server.list_tools():
            full = f"{name}_{tool.name}" if name else tool.name
            if full in self._tools:
                raise Refusal(f"there are two tools named {full}")
            self._tools[full] = server, tool.name
            self._documents.append(
                ToolDocument(name=full, description=tool.description or "", parameters=tool.input_schema)
            )

    async def _call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        server, name = self._tools[tool]
        call = ToolCall(id=f"call_{len(self._trace.nodes)}", name=tool, arguments=json.dumps(arguments))
        self._add(AssistantMessage(content="", tool_calls=[call]), sampled=True)
        try:
            result = await server.call_tool(name, arguments)
            text, complaint = _text_of(result), bool(getattr(result, "is_error", False))
        except Refusal:
            raise
        except Exception as error:
            text, complaint = str(error), True
        self._add(ToolMessage(tool_call_id=call.id, content=text, name=tool))
        done = await self._stopped()
        return {"text": text, "complaint": complaint and not done, "reward": None, "done": done}

    async def _stopped(self) -> bool:
        for stop in self._task.hooks("stop"):
            if await _done(invoke(stop, {Trace: self._trace})):
                self._trace.stop(stop.__name__)
                return True
        return False

    async def _score(self) -> dict[str, Any]:
        trace = self._trace
        trace.stop("agent_completed")
        await _done(invoke(self._task.finalize, {"trace": trace, "runtime": _NoSandbox()}))
        trace.ok = True
        await self._task.score(trace, None)
        missing = [name for name, reward in trace.rewards.items() if reward is None]
        if missing:
            raise RuntimeError(f"its reward {missing[0]} was not given")
        return {
            "reward": trace.reward,
            "rewards": {name: reward.score for name, reward in trace.rewards.items() if reward is not None},
            "metrics": {name: value for name, value in trace.metrics.items() if value is not None},
        }

    def _add(self, message: Any, *, sampled: bool = False) -> None:
        nodes = self._trace.nodes
        nodes.append(MessageNode(parent=len(nodes) - 1 if nodes else None, message=message, sampled=sampled))


def _share_state(toolset: Any, trace: Trace) -> None:
    """Give the toolset the trace's state before each call, and take it back after it, as JSON, as verifiers does over HTTP."""
    theirs, ours = toolset._state_adapter, TypeAdapter(type(trace.state))

    async def pull() -> Any:
        return theirs.validate_json(ours.dump_json(trace.state))

    async def push(before: bytes) -> None:
        after = theirs.dump_json(toolset.state)
        if after != before:
            trace.state = ours.validate_json(after)

    toolset._pull_state, toolset._push_state = pull, push


async def _done(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


def _text_of(result: Any) -> str:
    """Return a result's blocks as the model reads them, what is no text by the name of its kind."""
    parts = [block.text if block.type == "text" else f"[{block.type}]" for block in result.content]
    return "\n".join(parts) if parts else json.dumps(result.structured_content, ensure_ascii=False)
