"""The endpoint over HTTP: who is let in, what is refused and how, and what OpenAI's own client makes of its answers."""

import asyncio
import json

import aiohttp
import pytest
from test_conversations import ADD, USER

from agentloop.errors import ServerError
from agentloop.recording.server import RecordingServer
from agentloop.rollout.grammar import call_text


def served(begin, *texts, **limits):
    """Runs `script(server, episode, key, policy)` against a server with one episode."""

    def run(script):
        async def play():
            async with RecordingServer() as server:
                episode, policy = begin(*texts, **limits)
                with server.serving(episode) as key:
                    return await script(server, episode, key, policy)

        return asyncio.run(play())

    return run


async def post(server, key, body=None, *, path="/chat/completions", method="POST", headers=None):
    given = {"Authorization": f"Bearer {key}"} | (headers or {})
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    async with aiohttp.ClientSession() as session:
        async with session.request(method, server.url + path, data=data, headers=given) as response:
            return response.status, json.loads(await response.read())


def body(**options):
    return {"model": "agentloop", "messages": [USER], "tools": [ADD]} | options


@pytest.mark.parametrize(
    "sent, status, code, message",
    [
        (b"{", 400, None, "the body is no JSON"),
        (b"[]", 400, None, "the body is no JSON object"),
        (body(model="gpt-5"), 404, "model_not_found", "there is no model 'gpt-5'; there is 'agentloop' (OPENAI_MODEL)"),
        (body(n=2), 400, "unsupported_parameter", "n is not supported by agentloop's endpoint: one answer is given to each request"),
        (body(logprobs=True), 400, "unsupported_parameter", "logprobs is not supported"),
        (body(guided_json={}), 400, "unsupported_parameter", "guided_json is not supported"),
        (body(response_format={"type": "json_object"}), 400, "unsupported_parameter", "response_format is not supported"),
        (body(messages=[]), 400, None, "messages: a list with one message at least is needed"),
        (body(messages=[{"role": "robot", "content": ""}]), 400, None, "messages[0].role: 'robot' is none of system, developer, user"),
        (body(messages=[{"role": ["user"], "content": ""}]), 400, None, "messages[0].role: \"['user']\" is none of system, developer, user"),
        (body(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]), 400, None,
         "messages[0].content: only text is supported, not image_url"),
        (body(messages=[USER, {"role": "assistant", "content": "3"}]), 400, None, "messages: the last one is the assistant's"),
        (body(tools=[{"type": "web_search"}]), 400, None, "tools: only tools of the type function, with a name, are supported"),
        (body(tools=[ADD, ADD]), 400, None, "tools: add: there are two of that name"),
        (body(tools=[{"type": "function", "function": {"name": "class"}}]), 400, None, "tools: class: no name that a call can be written with"),
        (body(tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a-b": {}}}}}]), 400, None,
         "tools: f: parameter 'a-b': no name that a call can be written with"),
        (body(tool_choice={"type": "function", "function": {"name": "other"}}), 400, None, "tool_choice: auto, none, required or"),
        (body(max_tokens=0), 400, None, "max_tokens: a whole number from 1 on is needed"),
        (body(stop=[1]), 400, None, "stop: a text, or a list of texts, is needed"),
        (body(stream="yes"), 400, None, "stream: true or false is needed"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_refused_in_one_line(begin, sent, status, code, message):
    async def script(server, episode, key, policy):
        found, answer = await post(server, key, sent)
        assert found == status
        error = answer["error"]
        assert error["message"].startswith(message) and "\n" not in error["message"]
        assert (error["type"], error["code"]) == ("invalid_request_error", code)
        assert not policy.asked and list(episode.refused) == [error["message"]]

    served(begin, "Answer: 3")(script)


def test_options_that_decide_nothing_are_taken(begin):
    async def script(server, episode, key, policy):
        options = {"temperature": 0.2, "top_p": 0.5, "seed": 7, "parallel_tool_calls": False, "store": True, "n": 1, "logprobs": False,
                   "reasoning_effort": "low", "user": "u", "metadata": {}, "tool_choice": "auto", "stop": None, "response_format": {"type": "text"}}  # fmt: skip
        status, answer = await post(server, key, body(**options))
        assert status == 200 and answer["choices"][0]["message"]["content"] == "3"

    served(begin, "Answer: 3")(script)


@pytest.mark.parametrize(
    "path, method, status, message",
    [
        ("/responses", "POST", 404, 'the Responses API is not served; use chat completions (OpenAI Agents SDK: set_default_openai_api("chat_completions")'),
        ("/completions", "POST", 404, "/v1/completions is not served; /v1/chat/completions and /v1/models are"),
        ("/chat/completions", "GET", 405, "GET is no way to ask for a completion: POST is"),
        ("/../v1/embeddings", "POST", 404, "/v1/embeddings is not served"),
    ],
)  # fmt: skip
def test_other_paths_are_named(begin, path, method, status, message):
    async def script(server, episode, key, policy):
        found, answer = await post(server, key, body(), path=path, method=method)
        assert found == status and answer["error"]["message"].startswith(message)

    served(begin, "Answer: 3")(script)


def test_nobody_gets_in_without_the_key_of_a_running_episode(begin):
    async def script(server, episode, key, policy):
        for wrong in ("", "sk-wrong", key[:-1], f"{key}x"):
            assert (await post(server, wrong, body()))[0] == 401
        with server.serving(begin("Answer: 4")[0]) as other:
            assert (await post(server, other, body()))[1]["choices"][0]["message"]["content"] == "4"
        status, answer = await post(server, other, body())
        assert status == 401 and answer["error"]["code"] == "invalid_api_key"
        page = server.url.removesuffix("/v1")
        for headers in (
            {"Origin": "http://evil.example"},
            {"Origin": page},
            {"Origin": "null"},
            {"Host": "evil.example"},
        ):
            for path, method in (("/chat/completions", "POST"), ("/models", "GET"), ("/chat/completions", "OPTIONS")):
                assert (await post(server, key, body(), path=path, method=method, headers=headers))[0] == 403
        assert not policy.asked
        status, answer = await post(server, key, path="/models", method="GET")
        assert status == 200 and [model["id"] for model in answer["data"]] == ["agentloop"]

    served(begin, "Answer: 3")(script)


def test_it_listens_on_loopback_alone(begin):
    async def script(server, *_):
        assert server.url.startswith("http://127.0.0.1:") and {host for host, _ in server._runner.addresses} == {
            "127.0.0.1"
        }

    served(begin, "Answer: 3")(script)


def test_a_policy_out_of_reach_ends_the_episode_and_is_no_answer(begin):
    async def script(server, episode, key, policy):
        async def lost(*_, **__):
            raise ServerError("vLLM is gone")

        episode._generate = lost
        status, answer = await post(server, key, body())
        assert status == 503 and answer["error"]["type"] == "server_error"
        with pytest.raises(ServerError, match="vLLM is gone"):
            await episode.over

    served(begin, "Answer: 3")(script)


def test_an_agent_that_hangs_up_has_heard_nothing(begin):
    async def script(server, episode, key, policy):
        asked, answer = asyncio.Event(), asyncio.Event()
        generate = episode._generate

        async def slow(*given, **options):
            asked.set()
            await answer.wait()
            return await generate(*given, **options)

        episode._generate = slow
        request = asyncio.create_task(post(server, key, body()))
        await asked.wait()
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        for _ in range(50):  # until the server has seen the end of the connection
            await asyncio.sleep(0.01)
        answer.set()
        status, _ = await post(server, key, body())
        assert status == 200
        whole, starts = episode.conversations.joined()
        assert len(starts) == 2 and whole.mask.index(True) > starts[1]

    served(begin, "Answer: 3")(script)


@pytest.mark.parametrize("stream", [False, True])
def test_openais_client_understands_it(begin, stream):
    openai = pytest.importorskip("openai")

    async def script(server, episode, key, policy):
        async with openai.AsyncOpenAI(base_url=server.url, api_key=key) as client:
            messages = [USER]
            turns = []
            for _ in range(2):
                if stream:
                    options = {"include_usage": True}
                    async with client.chat.completions.stream(
                        model="agentloop", messages=messages, tools=[ADD], stream_options=options
                    ) as events:
                        async for _ in events:
                            pass
                        completion = await events.get_final_completion()
                else:
                    completion = await client.chat.completions.create(model="agentloop", messages=messages, tools=[ADD])
                message = completion.choices[0].message
                turns.append(completion)
                messages.append(
                    message.model_dump(
                        exclude_none=True, exclude={"tool_calls": {"__all__": {"function": {"parsed_arguments"}}}}
                    )
                )
                messages += [
                    {"role": "tool", "tool_call_id": call.id, "content": "3"} for call in message.tool_calls or []
                ]
            first, last = turns
            assert first.choices[0].finish_reason == "tool_calls"
            assert json.loads(first.choices[0].message.tool_calls[0].function.arguments) == {"a": 1, "b": 2}
            assert (last.choices[0].message.content, last.choices[0].finish_reason) == ("3", "stop")
            assert last.usage.prompt_tokens == len(policy.asked[1].prompt_ids)
            assert last.usage.completion_tokens == len(policy.given[1].token_ids)
            with pytest.raises(openai.BadRequestError, match="agent.max_turns = 2"):
                await client.chat.completions.create(model="agentloop", messages=messages[:1])
            assert [model.id async for model in client.models.list()] == ["agentloop"]
        _, starts = episode.conversations.joined()
        assert starts == (0,)

    served(begin, call_text("add", (1, 2)), "Answer: 3", max_turns=2)(script)
