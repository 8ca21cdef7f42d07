"""A chat client that sends the agent's texts as messages puts the very tokens before the model that the agent does."""

import pytest

from agentloop.model_directory import chat_template
from agentloop.model_directory.tokenizer import load_tokenizer
from agentloop.project import CHECKOUT
from agentloop.rollout.grammar import answer_text, call_text
from agentloop.rollout.prompt import PromptFormat, described
from agentloop.worlds.stage import WorldDescription
from agentloop.worlds.toolbox import ToolDescription

WORLD = WorldDescription((ToolDescription("calculator", "(expression: str) -> str", "Evaluate an expression."),))
QUESTION = "What is 12 * 7?"


@pytest.mark.parametrize("describe_tools", [False, True])
def test_messages_and_episode_are_the_same_tokens(describe_tools):
    tokenizer = load_tokenizer(CHECKOUT / "models" / "tiny")
    assert tokenizer.chat_template == chat_template.GEMMA
    prompt = PromptFormat(tokenizer, describe_tools)
    call = call_text("calculator", ["12 * 7"])
    episode = [
        *prompt.opening(QUESTION, WORLD),
        *prompt.spoken(call),
        *prompt.tool_result("84"),
        *prompt.spoken(answer_text("84")),
    ]
    messages = [
        {"role": "user", "content": described(QUESTION, WORLD) if describe_tools else QUESTION},
        {"role": "assistant", "content": call},
        {"role": "user", "content": "```tool_output\n84\n```"},
        {"role": "assistant", "content": "Answer: 84"},
    ]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    assert tokenizer.encode(rendered.removesuffix("\n"), add_special_tokens=False) == episode
    begun = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    assert tokenizer.encode(begun, add_special_tokens=False) == prompt.opening(QUESTION, WORLD)
