"""Agents as functions: each does one thing."""

import asyncio
import json
import os
import sys
import time
import urllib.request

from neighbour import SIGN  # a module beside this file

STARTED = []


def complete(base_url, api_key, model, *messages, **options):
    request = urllib.request.Request(
        f"{base_url}/chat/completions",
        json.dumps({"model": model, "messages": list(messages), **options}).encode(),
        {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:
        return json.load(response)["choices"][0]["message"]["content"]


def plain(question, *, base_url, api_key, model, task):
    return complete(base_url, api_key, model, {"role": "user", "content": question})


async def later(question, *, base_url, api_key, model, task):
    return await asyncio.to_thread(plain, question, base_url=base_url, api_key=api_key, model=model, task=task)


def by_variables(question, **_):
    assert "answer" not in json.loads(os.environ["AGENTLOOP_TASK"])
    said = plain(question, base_url=os.environ["OPENAI_BASE_URL"], api_key=os.environ["OPENAI_API_KEY"],
                 model=os.environ["OPENAI_MODEL"], task=None)  # fmt: skip
    secrets = [name for name in ("PREFECT_API_KEY", "VLLM_API_KEY", "NOTIFY_WEBHOOK") if name in os.environ]
    return f"{said}{SIGN}{secrets}"


def fresh(question, *, base_url, api_key, model, task):
    """Sees nothing of other episodes."""
    STARTED.append(question)
    plain(question, base_url=base_url, api_key=api_key, model=model, task=task)
    return str(len(STARTED))


def silent(question, *, base_url, api_key, model, task):
    return "I asked nobody"


def failing(question, *, base_url, api_key, model, task):
    plain(question, base_url=base_url, api_key=api_key, model=model, task=task)
    raise KeyError("lost")


def refused(question, *, base_url, api_key, model, task):
    complete(base_url, api_key, model, {"role": "user", "content": question}, n=2)


def insisting(question, *, base_url, api_key, model, task):
    while True:
        try:
            plain(question, base_url=base_url, api_key=api_key, model=model, task=task)
        except OSError:
            pass


def giving_up(question, *, base_url, api_key, model, task):
    while True:
        plain(question, base_url=base_url, api_key=api_key, model=model, task=task)


def quiet(question, *, base_url, api_key, model, task):
    plain(question, base_url=base_url, api_key=api_key, model=model, task=task)
    print("this goes nowhere")


def hanging(question, *, base_url, api_key, model, task):
    plain(question, base_url=base_url, api_key=api_key, model=model, task=task)
    os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "31415")
    time.sleep(3600)


def wrong_arguments(question):
    return question


not_callable = sys.path
