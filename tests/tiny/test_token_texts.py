"""The text of a token without transformers is the text with it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from agentloop.errors import ModelError
from agentloop.model_directory.tokenizer import load_tokenizer, token_texts
from agentloop.project import CHECKOUT

TINY = CHECKOUT / "models" / "tiny"


def test_every_token_of_the_tiny_model_has_its_text():
    tokenizer, text = load_tokenizer(TINY), token_texts(TINY)
    assert [text(token) for token in range(len(tokenizer))] == [
        tokenizer.decode([token]) for token in range(len(tokenizer))
    ]
    assert text(10**6) == "⟨1000000⟩"


def test_torch_is_not_needed_for_it():
    code = (
        "import sys; from pathlib import Path; from agentloop.model_directory.tokenizer import token_texts; "
        "token_texts(Path(sys.argv[1]))(5); print('torch' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code, str(TINY)], text=True).strip() == "False"


def test_a_broken_tokenizer_is_one_line(tmp_path):
    shutil.copytree(TINY, tmp_path / "broken")
    file = tmp_path / "broken" / "tokenizer.json"
    broken = json.loads(file.read_text()) | {"model": {"type": "nothing"}}
    file.write_text(json.dumps(broken))
    with pytest.raises(ModelError) as told:
        token_texts(tmp_path / "broken")
    assert str(told.value).startswith(str(file)) and "\n" not in str(told.value)
