"""Gemma's turns as a chat template, for a tokenizer that has none of its own."""

GEMMA = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{% set role = 'model' %}"
    "{% elif message['role'] in ('user', 'model') %}{% set role = message['role'] %}"
    "{% else %}{{ raise_exception('roles are user and model') }}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
"""There is no system role and no tool role."""
