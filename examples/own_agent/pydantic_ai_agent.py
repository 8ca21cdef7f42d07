"""An agent on Pydantic AI."""

from calculator import calculate
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


async def run(question, *, base_url, api_key, model, task):
    chat = OpenAIChatModel(model, provider=OpenAIProvider(base_url=base_url, api_key=api_key))
    result = await Agent(chat, tools=[calculate]).run(question)
    return result.output
