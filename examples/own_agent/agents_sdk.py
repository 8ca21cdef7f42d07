"""An agent on the OpenAI Agents SDK, which streams."""

from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool
from calculator import calculate
from openai import AsyncOpenAI


async def run(question, *, base_url, api_key, model, task):
    client = AsyncOpenAI(base_url=base_url, api_key=api_key)
    agent = Agent(
        name="Calculator",
        model=OpenAIChatCompletionsModel(model=model, openai_client=client),  # the SDK's default is the Responses API
        tools=[function_tool(calculate)],
    )
    result = Runner.run_streamed(agent, question)
    async for _ in result.stream_events():
        pass
    return result.final_output
