"""docs/engine.md: its code runs as it stands there."""

from __future__ import annotations

import re

from datasets import Dataset

from agentloop.project import CHECKOUT


def test_code_in_the_docs(checkpoint, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("AGENTLOOP_PATHS__CACHE", str(cache))
    text = (CHECKOUT / "docs" / "engine.md").read_text()
    names = {
        "base": checkpoint,
        "out": tmp_path,
        "dataset": Dataset.from_dict({"text": [line for line in text.splitlines() if line][:12]}),
        "sequences": [([5, 9, 17, 4, 30, 8, 7], [False, True, True, False, True, True, True])] * 3,
    }
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(block, dict(names))
    assert list((tmp_path / "old").rglob("events.out.tfevents*"))
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "merged" / "model.safetensors").is_file()
