"""Ollama's Modelfile: which file, whose turns, where they end.

Ollama asks its template once for each pair of turns and cuts the last one where the answer begins. The template is made from
the model's own: it is rendered with words of ours in place of the texts, and what stands around them is what Ollama writes.
Ollama itself puts <bos> before everything, as the GGUF tells it to.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentloop.errors import ModelError
from agentloop.model_directory import chat_template

NAME = "Modelfile"
_USER, _ANSWER, _SECOND = "agentloopuser", "agentloopanswer", "agentloopsecond"
"""Words that no template contains."""
_SYSTEM = "{{ if .System }}{{ .System }}\n\n{{ end }}"
"""Gemma has no such role: Google's template, too, puts the text before the first question."""
_QUOTES = '"""'

Conversation = Sequence[tuple[str, str]]
"""(question, answer) in turn; the last answer is empty where it is the model's to give."""


def write(path: Path, tokenizer: Any, *, model: str, adapter: str | None, stop: Sequence[str]) -> None:
    """Write the file for a GGUF `model`, with a GGUF `adapter` over it, both beside it.

    Raises ModelError, beginning with `path`, where the tokenizer's template has no turns that Ollama could write.
    """
    lines = [f"FROM ./{model}"]
    if adapter is not None:
        lines.append(f"ADAPTER ./{adapter}")
    lines.append(f"TEMPLATE {_QUOTES}{template(tokenizer, path)}{_QUOTES}")
    lines += [f'PARAMETER stop "{each}"' for each in stop]
    # as the model was sampled when it was measured; Ollama's own defaults are others
    lines += ["PARAMETER temperature 1", "PARAMETER top_k 0", "PARAMETER top_p 1", "PARAMETER repeat_penalty 1"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def template(tokenizer: Any, path: Path) -> str:
    """Return Ollama's template with the turns of the tokenizer's chat template."""
    pair = [{"role": "user", "content": _USER}, {"role": "assistant", "content": _ANSWER}]
    two = tokenizer.apply_chat_template(
        [*pair, {"role": "user", "content": _SECOND}],
        chat_template=tokenizer.chat_template or chat_template.GEMMA,
        tokenize=False,
    )
    bos = tokenizer.bos_token or ""
    found = re.fullmatch(
        f"(?:{re.escape(bos)})?(?P<question>.*){_USER}(?P<answer>.*){_ANSWER}(?P<end>.*){_SECOND}(?P<last>.*)",
        two,
        re.DOTALL,
    )
    if found is None or not found["end"].endswith(found["question"]) or not found["answer"].startswith(found["last"]):
        raise ModelError(f"{path}: the chat template of its tokenizer has no turns that follow each other alike")
    end = found["end"].removesuffix(found["question"])
    return f"{found['question']}{_SYSTEM}{{{{ .Prompt }}}}{found['answer']}{{{{ .Response }}}}{end}"


def rendered(modelfile: str, conversation: Conversation) -> str:
    """Return what Ollama writes for a conversation without a system text, up to where an answer is missing.

    Raises ModelError where the text has no template as `write` writes it.
    """
    found = re.search(f"^TEMPLATE {_QUOTES}(.*){_QUOTES}$", modelfile, re.DOTALL | re.MULTILINE)
    if found is None:
        raise ModelError(f"{NAME}: it has no TEMPLATE")
    plain = re.sub(r"\{\{ if \.System \}\}.*?\{\{ end \}\}", "", found[1], flags=re.DOTALL)
    if len(re.findall(r"\{\{ \.Prompt \}\}", plain)) != 1 or len(re.findall(r"\{\{ \.Response \}\}", plain)) != 1:
        raise ModelError(f"{NAME}: its TEMPLATE has not one .Prompt and one .Response")
    written = ""
    for question, answer in conversation:
        turn = plain.replace("{{ .Prompt }}", question)
        written += turn.replace("{{ .Response }}", answer) if answer else turn.partition("{{ .Response }}")[0]
    return written
