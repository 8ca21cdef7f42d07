"""Conversations as Unsloth's notebooks prepare them: Gemma's chat template, ShareGPT's rows, training on answers alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from agentloop.engine.trl.responses import train_on_responses_only
from agentloop.errors import SettingError

GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}"
    "{% set first = messages[0]['content'] if messages[0]['content'] is string else messages[0]['content'][0]['text'] %}"
    "{% set prefix = first + '\n\n' %}{% set turns = messages[1:] %}"
    "{% else %}{% set prefix = '' %}{% set turns = messages %}{% endif %}"
    "{% for message in turns %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('user and assistant have to take turns, beginning with user') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}"
    "{% if loop.first %}{{ prefix }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] | trim }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] | trim }}"
    "{% else %}{{ raise_exception('only text is supported, not ' + part['type']) }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<end_of_turn>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
"""Gemma's turns. A system message stands before the first user's; contents are texts, or lists of `{"type": "text"}`."""
TEMPLATES = {"gemma": True, "gemma2": True, "gemma-3": False, "gemma3": False, "gemma-3n": False, "gemma3n": False}
"""Name of a chat template -> whether `<end_of_turn>` becomes the token that ends a text, as it does for these in Unsloth."""
STOP = "<end_of_turn>"
USUAL = {"role": "role", "content": "content", "user": "user", "assistant": "assistant"}
SYSTEM, USER, ASSISTANT = ("system",), ("user", "human", "input"), ("gpt", "assistant", "output", "model")
"""Names of the roles in data sets."""
_ROLES, _CONTENTS = ("role", "from"), ("content", "value")


def get_chat_template(
    tokenizer: Any,
    chat_template: str | Sequence[str] = "gemma-3",
    mapping: Mapping[str, str] = USUAL,
    map_eos_token: bool = True,
    system_message: str | None = None,
) -> Any:
    """Return a copy of the tokenizer with a chat template.

    - `chat_template`: gemma, gemma2, gemma-3 or gemma-3n, or a pair of a template of your own and the token that ends a turn.
    - `mapping`: the names of role, content, user and assistant in your rows; rows with the usual ones are read too.
    - `map_eos_token`: let the token that ends a turn end a text as well, where Unsloth does: gemma, gemma2, your own pair.
    - `system_message`: None; Gemma has none of its own.

    Raises SettingError for another template, or where the tokenizer lacks a token.
    """
    if system_message:
        raise SettingError(
            "system_message: Gemma has no place for one; put it before the conversation, with role 'system'"
        )
    if isinstance(chat_template, str):
        if chat_template.lower() not in TEMPLATES:
            raise SettingError(
                f"chat_template: {chat_template!r} is none of {', '.join(TEMPLATES)}, nor a pair of template and token"
            )
        text, stop, ends = GEMMA, STOP, TEMPLATES[chat_template.lower()]
    else:
        text, stop = chat_template
        ends = stop != "eos_token"
    if ends or text is GEMMA:
        if stop not in tokenizer.get_vocab():
            raise SettingError(f"chat_template: the tokenizer has no token {stop!r}")
    found = copy.deepcopy(tokenizer)
    found.chat_template = text if dict(mapping) == USUAL else _mapped(text, {**USUAL, **mapping})
    if ends and map_eos_token:
        found.eos_token = stop
    return found


def _mapped(text: str, names: Mapping[str, str]) -> str:
    """The template for messages with these names; it is used as it is for messages that have a role."""
    roles = {names["user"]: "user", names["assistant"]: "assistant"}
    role, content = names["role"], names["content"]
    condition = "true" if role == "role" else "messages[0]['role'] is not defined"
    return (
        f"{{% if {condition} %}}{{% set roles = {roles!r} %}}{{% set named = namespace(turns=[]) %}}"
        f"{{% for message in messages %}}{{% set named.turns = named.turns + [{{"
        f"'role': roles.get(message[{role!r}], message[{role!r}]), 'content': message[{content!r}]}}] %}}{{% endfor %}}"
        f"{{% set messages = named.turns %}}{{% endif %}}{text}"
    )


def standardize_data_formats(
    dataset: Any,
    tokenizer: Any = None,
    aliases_for_system: Sequence[str] = SYSTEM,
    aliases_for_user: Sequence[str] = USER,
    aliases_for_assistant: Sequence[str] = ASSISTANT,
    batch_size: int = 1000,
    num_proc: int | None = None,
) -> Any:
    """Return the data set with `conversations` of `{"role", "content"}`, roles system, user and assistant.

    ShareGPT's `{"from", "value"}` and like rows are read. A data set without `conversations` comes back as it is. `tokenizer`
    is accepted and ignored. Raises SettingError, naming the row, for a role without an alias or a message of another form.
    """
    aliases = {
        **dict.fromkeys(aliases_for_system, "system"),
        **dict.fromkeys(aliases_for_user, "user"),
        **dict.fromkeys(aliases_for_assistant, "assistant"),
    }

    def standard(rows: dict[str, Any], indices: list[int]) -> dict[str, Any]:
        return {
            "conversations": [
                [_message(message, aliases, index) for message in conversation]
                for conversation, index in zip(rows["conversations"], indices, strict=True)
            ]
        }

    first = next(iter(dataset), None)
    if first is None or "conversations" not in first:
        return dataset
    processes = {"num_proc": num_proc} if hasattr(dataset, "num_rows") else {}
    return dataset.map(standard, batched=True, with_indices=True, batch_size=batch_size, **processes)


def _message(message: Any, aliases: Mapping[str, str], index: int) -> dict[str, str]:
    found = {name: value for name, value in message.items() if value is not None} if isinstance(message, dict) else {}
    role = next((found[name] for name in _ROLES if name in found), None)
    content = next((found[name] for name in _CONTENTS if name in found), None)
    if role is None or content is None:
        raise SettingError(f"row {index}: a message has {sorted(found)}, not role and content, or from and value")
    if role not in aliases:
        raise SettingError(f"row {index}: the role {role!r} is none of {', '.join(aliases)}; name it in aliases_for_…")
    return {"role": aliases[role], "content": content}


standardize_sharegpt = standardize_data_formats
"""`standardize_data_formats` by its older name."""

__all__ = ["get_chat_template", "standardize_data_formats", "standardize_sharegpt", "train_on_responses_only"]
