"""examples/trl: the script as its README runs it."""

import json
import os
import subprocess
import sys

from peft import PeftConfig

from agentloop.project import CHECKOUT

EXAMPLE = CHECKOUT / "examples" / "trl"


def test_the_model_learns_the_rows_and_the_adapter_loads_again(tmp_path):
    variables = os.environ | {"AGENTLOOP_PATHS__CACHE": str(tmp_path / "cache")}
    command = [sys.executable, EXAMPLE / "train.py", "--output", tmp_path]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    facts = [json.loads(line) for line in (EXAMPLE / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    before = next(line for line in said if line.startswith("before:"))
    assert facts[0]["answer"] not in before
    assert [line for line in said if line.startswith("after:")] == [
        f"after: {fact['question']} {fact['answer']}" for fact in facts
    ]
    config = PeftConfig.from_pretrained(tmp_path / "adapter")
    assert config.r == 16 and config.base_model_name_or_path.endswith("models/tiny")
