"""An agent on the OpenAI SDK: its own loop, its own tool."""

import json

from calculator import calculate
from openai import AsyncOpenAI

TOOL = {
    "type": "function",
    "function": {
        "name": "calculate",
        "description": "Value of an arithmetic expression with + - * / and parentheses.",
        "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]},
    },
}

CLIENT = AsyncOpenAI(base_url="http://127.0.0.1", api_key="none")  # made once: it takes longer than a short episode


async def run(question, *, base_url, api_key, model, task):
    messages = [{"role": "user", "content": question}]
    async with CLIENT.with_options(base_url=base_url, api_key=api_key) as client:
        while True:
            completion = await client.chat.completions.create(model=model, messages=messages, tools=[TOOL])
            message = completion.choices[0].message
            messages.append(message.model_dump(exclude_none=True))
            if not message.tool_calls:
                return message.content
            for call in message.tool_calls:
                result = calculate(**json.loads(call.function.arguments))
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
