"""The API reference: it builds as `make docs` builds it, without a warning, and has what users touch."""

import html
import re
import subprocess
import sys

import pytest
from pydantic import BaseModel

from agentloop import settings
from agentloop.project import CHECKOUT

PUBLIC = {
    "agentloop/engine": "FastLanguageModel FastLanguageModel.from_pretrained FastLanguageModel.get_peft_model FastModel",
    "agentloop/engine/api/model": "Gemma Gemma.save_pretrained Gemma.save_pretrained_merged",
    "agentloop/engine/step/model": "LanguageModel LanguageModel.loss_and_gradients LossSum.mean",
    "agentloop/engine/batch": "PackedBatch PackedBatch.labels join pack",
    "agentloop/engine/optimizer": "FlatAdamW FlatAdamW.step",
    "agentloop/engine/api/facade": "TrainerFacade.forward TrainerFacade.generate",
    "agentloop/engine/api/outputs": "CausalLMOutput CausalLMOutput.log_probs CausalLMOutput.to_tuple",
    "agentloop/environments": "Environment Environment.verify Environment.expert QuestionFile ScriptedEnvironment Question get",
    "agentloop/tools": "FunctionTool Tool Tool.call ToolError by_name",
    "agentloop/tools/calculator": "Calculator",
    "agentloop/tools/mcp": "McpServer McpServer.tools",
    "agentloop/tools/sql": "ReadOnlySQL",
    "agentloop/tools/python": "Python Python.call",
    "agentloop/tools/files": "file_tools",
    "agentloop/tools/folder": "Folder Folder.read",
    "agentloop/tools/search": "Search Search.call",
    "agentloop/curation/verifiers": "Verifier register from_file closeness",
    "agentloop/records": "Task Trajectory Trajectory.mask Evaluation.successes Verdict.reason",
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """{path without .html: content}, as the command writes them."""
    folder = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-W", "default::UserWarning", CHECKOUT / "docs" / "reference" / "build.py"]
    built = subprocess.run([*command, "--output", folder], capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    assert built.stdout == f"{folder / 'index.html'}\n" and "pdoc" not in built.stderr, built.stderr
    return {
        str(path.relative_to(folder).with_suffix("")): path.read_text(encoding="utf-8")
        for path in folder.rglob("*.html")
    }


@pytest.mark.parametrize("page", PUBLIC)
def test_public_names_are_there_with_a_docstring(pages, page):
    sections = re.split(r'<(?:section|div) id="', pages[page])
    for name in PUBLIC[page].split():
        (section,) = (each for each in sections if each.startswith(f'{name}"'))
        assert '<div class="docstring">' in section, name


def every_setting(section: type[BaseModel] = settings.Settings, prefix: str = ""):
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from every_setting(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.default


def test_every_setting_has_its_default_and_says_what_it_is(pages):
    rows = {}
    for row in re.findall(r"<tr>\n(.*?)</tr>", pages["settings"], re.DOTALL):
        name, accepted, default, about, *_ = [
            html.unescape(re.sub(r"<[^>]+>", "", cell)).strip()
            for cell in re.findall(r"<td>(.*?)</td>", row, re.DOTALL)
        ] or [""] * 4
        rows[name] = accepted, default, about
    for name, default in every_setting():
        accepted, shown, about = rows[name]
        assert accepted and about.endswith("."), name
        if isinstance(default, int | float) and not isinstance(default, bool):
            assert float(shown) == default
        elif isinstance(default, str):
            assert shown == default
    assert "gate.guards.ENVIRONMENT.margin" in rows
    assert rows["training.quantization"][:2] == ("auto none dynamic nf4", "auto")
    assert rows["prefect_port"][:2] == ("whole number ≥ 1, ≤ 65,535", "4200")


def test_nothing_of_this_machine_and_nothing_from_a_network(pages):
    for page, content in pages.items():
        assert str(CHECKOUT) not in content, page
        assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?:', content), page
