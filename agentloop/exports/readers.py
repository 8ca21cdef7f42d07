"""The programs that an export is for, each asked what it makes of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from agentloop import sizes
from agentloop.errors import ModelError
from agentloop.exports import llama, modelfile, prompts
from agentloop.exports.verification import Expected, Figures, compare, same_tokens, same_turns
from agentloop.gguf.file import open_gguf
from agentloop.gguf.importing import imported
from agentloop.model_directory import tensors
from agentloop.model_directory.files import weight_bytes
from agentloop.model_directory.tokenizer import load_tokenizer

_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""safetensors' name of a dtype -> torch's."""
_KINDS = {"float64": "f32", "float32": "f32", "float16": "f16", "bfloat16": "bf16"}
_SPARE_BYTES = 1 << 30
"""For what is computed, and so that the machine does not swap."""


def check_directory(directory: Path, expected: Expected, *, name: str, kinds: Sequence[str] | None = None) -> Figures:
    """Ask transformers about the model in `directory`: tokens, turns, log probabilities.

    `kinds`: the types that its weights were rounded to; by default the one that they are stored in. Raises ModelError, which
    begins with `name`.
    """
    tokenizer = load_tokenizer(directory)
    if tokenizer.chat_template:
        _check_template(tokenizer, tokenizer.chat_template, expected, name)
    bos = tokenizer.bos_token_id
    given = [[bos, *tokenizer.encode(text, add_special_tokens=False)] for text in expected.prompts.texts]
    same_tokens(expected, given, export=name, program="its tokenizer")
    return _ask_transformers(directory, expected, name=name, program="transformers", kinds=kinds)


def check_adapter(adapter: Path, base: Path, expected: Expected, *, name: str) -> Figures:
    """Ask transformers and PEFT about the adapter over the model in `base`. Raises ModelError, which begins with `name`."""
    return _ask_transformers(base, expected, name=name, program="PEFT", adapter=adapter)


def check_file(
    file: Path, expected: Expected, *, kinds: Sequence[str], tokenizer: Any, adapter: Path | None = None
) -> Figures:
    """Ask llama.cpp about a GGUF, with a GGUF adapter over it where one is given.

    `kinds`: the types that its weights were rounded to, one after the other; `tokenizer` renders its chat template. Where
    llama.cpp is not installed transformers is asked about what the file gives when it is read again. Raises ModelError, naming
    the file; for an adapter also where llama.cpp is not installed.
    """
    export = adapter or file
    if reason := llama.missing():
        if adapter is not None:
            raise ModelError(f"{adapter.name}: nobody here can check it: {reason}")
        with TemporaryDirectory(dir=file.parent) as folder:
            directory = imported(file, Path(folder), cache=Path(folder))
            return check_directory(directory, expected, name=file.name, kinds=kinds)
    template = open_gguf(file).single("tokenizer.chat_template", str)
    if template is None:
        raise ModelError(f"{file.name}: it has no chat template")
    _check_template(tokenizer, template, expected, file.name)
    answers = llama.ask(file, adapter=adapter, sequences=expected.prompts.asked, texts=expected.prompts.texts)
    same_tokens(expected, answers.tokens, export=file.name, program="llama.cpp")
    return compare(expected, answers.logprobs, export=export.name, program="llama.cpp", kinds=kinds)


def stored_kind(directory: Path) -> str:
    """Return the type that the model's weights are stored in, by its norm, which no quantisation and no adapter touches."""
    return _KINDS[_stored_dtype(directory)]


def check_modelfile(file: Path, expected: Expected) -> None:
    """Raise ModelError, naming the file, where Ollama would write other turns by it than are trained on."""
    text = modelfile.rendered(file.read_text(encoding="utf-8"), prompts.conversation())
    same_turns(expected, text, export=file.name, program="Ollama")


def _check_template(tokenizer: Any, template: str, expected: Expected, name: str) -> None:
    text = prompts.rendered(tokenizer, template)
    same_turns(expected, text, export=name, program="its chat template")


def _ask_transformers(
    directory: Path,
    expected: Expected,
    *,
    name: str,
    program: str,
    kinds: Sequence[str] | None = None,
    adapter: Path | None = None,
) -> Figures:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    stored = _stored_dtype(directory)
    computed_in = _dtype_with_room(directory, stored, name)
    prefix, _ = tensors.headers(directory)
    try:
        # the language model alone, whatever else there is; eager: the others leave out Gemma 2's soft-capping
        model, loading = AutoModelForCausalLM.from_pretrained(
            directory,
            config=AutoConfig.from_pretrained(directory).get_text_config(),
            key_mapping={f"^{re.escape(prefix)}": "model."},
            dtype=getattr(torch, computed_in),
            attn_implementation="eager",
            output_loading_info=True,
        )
        if adapter is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, adapter, key_mapping={"language_model\\.": ""})
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{name}: {program} does not load it: {' '.join(str(error).split())[:300]}") from None
    if missing := sorted(loading["missing_keys"]):
        raise ModelError(f"{name}: not what was trained: its weights lack {missing[0]}")
    model.eval()
    rows = []
    with torch.no_grad():
        for ids in expected.prompts.asked:
            logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].double()
            labels = torch.tensor(ids[1:]).unsqueeze(1)
            rows.append((logits.gather(1, labels).squeeze(1) - logits.logsumexp(1)).tolist())
    kinds = kinds or [_KINDS[stored]]
    return compare(expected, rows, export=name, program=program, kinds=kinds, computed_in=computed_in)


def _stored_dtype(directory: Path) -> str:
    """As torch calls it."""
    _, headers = tensors.headers(directory)
    return _DTYPES[headers["norm.weight"].type]


def _dtype_with_room(directory: Path, stored: str, name: str) -> str:
    """fp32, or where the machine's memory has no room for that, what the weights are stored in. Raises ModelError where it has
    none for that either."""
    size = weight_bytes(directory)
    free = psutil.virtual_memory().available
    widened = size * (2 if stored in ("bfloat16", "float16") else 1)
    if widened + _SPARE_BYTES <= free:
        return "float32"
    if size + _SPARE_BYTES <= free:
        return stored
    raise ModelError(
        f"{name}: to check it takes {sizes.said(size + _SPARE_BYTES)} of memory, {sizes.said(free)} are free; unchecked with "
        "verify=False"
    )
