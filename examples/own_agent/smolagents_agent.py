"""An agent on smolagents, whose final answer is a tool call, and which writes its history anew for every request."""

from calculator import calculate
from smolagents import OpenAIServerModel, ToolCallingAgent, tool


def run(question, *, base_url, api_key, model, task):
    chat = OpenAIServerModel(model_id=model, api_base=base_url, api_key=api_key)
    return str(ToolCallingAgent(tools=[tool(calculate)], model=chat, verbosity_level=0).run(question))
