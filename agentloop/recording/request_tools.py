"""The tools that a request offers: described in the prompt as those of an environment are, called by the agent itself."""

from __future__ import annotations

import inspect
import json
import keyword
import re
from dataclasses import dataclass, field
from typing import Any

from agentloop.recording.refusal import Refused
from agentloop.rollout.grammar import ToolCall
from agentloop.text import encodable, one_line_of
from agentloop.tools import ToolError
from agentloop.tools.json_schema import SchemaArguments
from agentloop.worlds.toolbox import ToolDescription


@dataclass(frozen=True)
class RequestTool:
    """A function tool of a request."""

    name: str
    """Name that the agent knows it by."""
    description: ToolDescription
    """Describes it to the model, which may call it by another name: `get_sum` for `get-sum`."""
    parameters: SchemaArguments = field(repr=False, compare=False)

    def arguments(self, call: ToolCall) -> str:
        """Return the call's arguments by name, as JSON. Raises ToolError, naming the one that does not fit the schema."""
        return json.dumps(self.parameters.bind(call.args, call.kwargs), ensure_ascii=False)

    def answered(self, text: str) -> str | None:
        """Return the arguments, as JSON, of a call that hands in a final answer; None where it takes another number of them,
        or anything else than a text.
        """
        try:
            return (
                self.arguments(ToolCall(self.name, (text,))) if len(self.parameters.signature.parameters) == 1 else None
            )
        except ToolError:
            return None


def read_tools(tools: Any) -> tuple[RequestTool, ...]:
    """Return the tools of a request. Raises Refused, naming the tool."""
    if not isinstance(tools, list):
        raise Refused("tools: a list is needed", param="tools")
    read: dict[str, RequestTool] = {}
    for tool in tools:
        function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise Refused("tools: only tools of the type function, with a name, are supported", param="tools")
        try:
            made = _tool(function)
        except TypeError as error:
            raise Refused(f"tools: {one_line_of(function['name'], most=60)}: {error}", param="tools") from None
        if made.description.name in read:
            raise Refused(f"tools: {one_line_of(made.name, most=60)}: there are two of that name", param="tools")
        read[made.description.name] = made
    return tuple(read.values())


def _tool(function: dict[str, Any]) -> RequestTool:
    shown = re.sub(r"\W", "_", function["name"], flags=re.ASCII)
    if not shown.isidentifier() or keyword.iskeyword(shown):
        raise TypeError("no name that a call can be written with")
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    if not isinstance(schema, dict):
        raise TypeError("its parameters are no JSON schema")
    parameters = SchemaArguments(schema)
    lines = [inspect.cleandoc(str(function.get("description") or "")), *parameters.notes]
    description = encodable("\n".join(line for line in lines if line))
    return RequestTool(function["name"], ToolDescription(shown, str(parameters.signature), description), parameters)
