"""The shop's assistant, on the OpenAI SDK: its own words, its own loop, its own tool. It knows nothing of agentloop."""

import json
import sqlite3

from openai import AsyncOpenAI
from sales import COLUMNS, connect

SYSTEM = f"You are the assistant of a furniture shop. Its database has one table, sales({COLUMNS})."
TOOL = {
    "type": "function",
    "function": {
        "name": "query",
        "description": "Rows that an SQL query on the shop's database gives.",
        "parameters": {"type": "object", "properties": {"sql": {"type": "string"}}, "required": ["sql"]},
    },
}
CLIENT = AsyncOpenAI(base_url="http://127.0.0.1", api_key="none")  # made once: it takes longer than a short episode


async def run(question, *, base_url, api_key, model, task):
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    database = connect(task["payload"]["shop"])
    async with CLIENT.with_options(base_url=base_url, api_key=api_key) as client:
        while True:
            completion = await client.chat.completions.create(model=model, messages=messages, tools=[TOOL])
            message = completion.choices[0].message
            messages.append(message.model_dump(exclude_none=True))
            if not message.tool_calls:
                return message.content
            for call in message.tool_calls:
                result = query(database, **json.loads(call.function.arguments))
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


def query(database, sql):
    try:
        rows = database.execute(sql).fetchmany(20)
    except sqlite3.Error as error:
        return f"error: {error}"
    return "\n".join(", ".join(map(str, row)) for row in rows) or "no rows"
