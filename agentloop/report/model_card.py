"""The card of an adapter that leaves the house: a header that the Hugging Face Hub reads, and what a stranger has to know."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agentloop.markdown import listed, table
from agentloop.records import ExportForm, Interval, Sampling
from agentloop.report.comparison import Comparison, percent, points, probability, span

TERMS = "https://ai.google.dev/gemma/terms"
_PLACE = "{question}"
_UNNAMED = ("load_in_4bit", "in_16bit")
"""Training settings that the lines on quantisation tell."""


@dataclass(frozen=True)
class Origin:
    """The origin of an exported adapter, as far as the store knows it."""

    adapter: str
    campaign: str
    role: str
    """`challenger`, `control`, or `teaching`."""
    champion: bool
    """Champion of the campaign now."""
    lineage: Mapping[str, Any]
    """As `store.lineage.lineage` gives it."""
    environment: str
    gain: Comparison | None
    """Base model against it, on held-out tasks; None where they were not both measured."""
    families: tuple[tuple[str, float, float], ...]
    """(family, success of the base model, of the adapter)"""
    unseen: Comparison | None
    """The same on tasks that no verdict was based on."""
    over_control: Comparison | None
    """Control against it, where it is the challenger that the control is matched to."""
    guards: tuple[tuple[str, Interval, float], ...]
    """(environment, difference from the champion of the day, margin)"""
    model: str
    """Name of the base model's directory."""
    hub: str | None
    """Repository that the base came from; None where none is known."""
    from_gguf: bool
    gemma: bool
    """Made from Google's weights."""
    served: Literal["bf16", "dequantised"]
    """Weights of the base that were served when it was measured."""
    describes_tools: bool
    opening: str | None
    """First turn of an episode, `{question}` in the question's place; None where the rows' files are gone."""
    sampling: Sampling
    settings: tuple[str, ...]
    """Settings that define the campaign and differ from their defaults, as words of the command line."""
    version: str
    """Of agentloop."""


_LIBRARIES: dict[ExportForm, str] = {
    "adapter": "peft",
    "merged": "transformers",
    "gguf": "gguf",
    "gguf-adapter": "gguf",
}


def text(origin: Origin, *, form: ExportForm) -> str:
    """The whole of README.md."""
    return f"---\n{_header(origin, form)}\n---\n\n{_body(origin, form)}"


def _header(origin: Origin, form: ExportForm) -> str:
    from huggingface_hub import EvalResult, ModelCardData  # takes a second

    results = []
    for comparison, split in ((origin.gain, "held-out"), (origin.unseen, "held-out, not used in verdicts")):
        if comparison is not None:
            results.append(
                EvalResult(
                    task_type="text-generation",
                    task_name="Questions answered with tools",
                    dataset_type=origin.environment,
                    dataset_name=origin.environment,
                    dataset_split=split,
                    metric_type="accuracy",
                    metric_name="success",
                    metric_value=round(comparison.after_success.estimate, 4),
                )
            )
    card = ModelCardData(
        model_name=f"{origin.campaign}-{origin.adapter}",
        base_model=origin.hub,
        base_model_relation=("finetune" if _is_whole(form) else "adapter") if origin.hub else None,
        library_name=_LIBRARIES[form],
        pipeline_tag="text-generation",
        license="gemma" if origin.gemma else None,
        license_link=TERMS if origin.gemma else None,
        tags=["agentloop", "tool-use", *([] if _is_whole(form) else ["lora"])],
        eval_results=results or None,
    )
    return card.to_yaml()


def _is_whole(form: ExportForm) -> bool:
    return form in ("merged", "gguf")


def _body(origin: Origin, form: ExportForm) -> str:
    what = "A whole model, made" if _is_whole(form) else "A LoRA adapter"
    base = f"`{origin.hub or origin.model}`"
    parts = [
        f"# {origin.campaign}: {origin.adapter}\n",
        f"{what} of {base}: an agent that answers questions of the environment `{origin.environment}` with tools. "
        f"agentloop trained it on episodes of its own that a verifier found right. {_standing(origin)}\n",
        "## Evaluation\n",
        *_evaluation(origin),
        "## Data\n",
        *_data(origin),
        "## Training\n",
        _training(origin),
        "## Lineage\n",
        _lineage(origin),
        "## How it is asked\n",
        *_asked(origin),
        "## Use\n",
        *_use(origin, form),
        "## Make it again\n",
        *_again(origin),
        "## Licence\n",
        _licence(origin),
    ]
    return "\n".join(parts)


def _standing(origin: Origin) -> str:
    if origin.role == "control":
        return "It is a control: trained on randomly chosen episodes, for comparison."
    if origin.champion:
        return f"It is the champion of the campaign `{origin.campaign}`."
    promoted = [reign for reign in origin.lineage["champion"] if reign["campaign"] == origin.campaign]
    return "It was champion, and is no longer." if promoted else "It was never promoted."


def _evaluation(origin: Origin) -> list[str]:
    parts = []
    if origin.gain is None:
        parts.append("Not measured on the same tasks as the base model: no gain can be stated.\n")
    else:
        parts += _measured(origin.gain, "the training tasks' own generator, held out from training")
        if origin.families:
            rows = [(f"`{name}`", percent(before), percent(after)) for name, before, after in origin.families]
            parts += ["By family:\n", table(("family", "base model", "this"), rows)]
    if origin.unseen is not None:
        parts += ["On further tasks, on which no verdict was based:\n", *_measured(origin.unseen, "held out, too")]
    if verdicts := origin.lineage["verdicts"]:
        said = [
            (each["campaign"], str(each["iteration"]), f"{each['look']} of {each['looks']}", each["reason"])
            for each in verdicts
        ]
        parts += [
            "What the gate said of it, against the champion of the day:\n",
            table(("campaign", "iteration", "look", "verdict"), said),
        ]
    for environment, difference, margin in origin.guards:
        parts.append(
            f"Guard `{environment}`: {span(difference)}, where a loss of {100 * margin:g} points would have been tolerated.\n"
        )
    if origin.over_control is not None:
        control = origin.over_control
        parts.append(
            f"A control trained on as many randomly chosen episodes solves {percent(control.before_success.estimate)} of these "
            f"tasks; this one differs from it by {span(control.difference)}.\n"
        )
    parts.append("Nothing else was measured: nobody has looked at what it says elsewhere.\n")
    return parts


def _measured(seen: Comparison, where: str) -> list[str]:
    tasks, samples = len(seen.after.tasks), seen.after.samples
    head = ("", "success", "95 % interval")
    rows = [
        (name, percent(each.estimate), f"{percent(each.low)} to {percent(each.high)}")
        for name, each in (("base model", seen.before_success), ("this", seen.after_success))
    ]
    difference = seen.difference
    rows.append(
        (
            "difference",
            f"{points(difference.estimate)} points",
            f"{points(difference.low)} to {points(difference.high)}",
        )
    )
    return [
        f"{tasks} tasks × {samples} episodes of {where}, at temperature {seen.after.sampling.temperature:g}; McNemar's exact "
        f"test: p {_equals(probability(seen.mcnemar_p))}.\n",
        table(head, rows),
    ]


def _equals(p: str) -> str:
    return p if p.startswith("<") else f"= {p}"


def _data(origin: Origin) -> list[str]:
    dataset = origin.lineage["dataset"]
    rows = [
        ("dataset", f"`{dataset['id']}`"),
        ("rows", f"{dataset['rows']:,} episodes"),
        ("environment", f"`{origin.environment}`: its generator asks, its verifier judges the answers"),
        ("recipe", f"`{Path(dataset['recipe']).name}`"),
        ("its parameters", f"`{json.dumps(_without_folders(dataset['parameters']), ensure_ascii=False)}`"),
    ]
    sources = [
        (f"`{each['policy']}`", each["adapter"] or "none", each["base"] or "unknown", f"{each['rows']:,}")
        for each in origin.lineage["sources"]
    ]
    parts = [
        table(("", ""), rows),
        "Who acted in them:\n",
        table(("policy", "adapter", "base", "rows"), sources),
    ]
    if funnel := next((use["funnel"] for use in origin.lineage["uses"] if use["funnel"]), None):
        parts += [
            "The recipe's rules, and what each left:\n",
            table(("rule", "left"), [(n, f"{c:,}") for n, c in funnel]),
        ]
    parts.append("No task that it was measured on is among the rows: held-out tasks are never trained on.\n")
    return parts


def _training(origin: Origin) -> str:
    settings = origin.lineage["settings"]
    held = "4 bit (NF4)" if settings.get("load_in_4bit") else "16 bit"
    if left := settings.get("in_16bit"):
        held += f", but for {len(left)} linears in 16 bit"
    rows = [("method", f"LoRA on a frozen base in {held}"), ("seed", str(origin.lineage["seed"]))]
    rows += [
        (f"`{name}`", ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value))
        for name, value in sorted(settings.items())
        if name not in _UNNAMED
    ]
    for run in origin.lineage["training"]:
        if run["seconds"] is not None:
            rows.append(("took", f"{run['seconds']:,.0f} s for {run['tokens'] or 0:,} tokens"))
    return table(("", ""), rows)


def _lineage(origin: Origin) -> str:
    story = origin.lineage
    gguf = "; its weights were read from a GGUF file" if origin.from_gguf else ""
    hub = f" (from `{origin.hub}` on the hub)" if origin.hub else ""
    rows = [("base", f"`{story['base']}`: weights, configuration and tokenizer of `{origin.model}`{hub}{gguf}")]
    for taught in story["taught"]:
        rows.append(
            (
                "taught",
                f"`{taught['name']}` was made of `{taught['student']}` by {taught['rows']:,} demonstrations "
                f"({taught['source'].get('kind', 'unknown')}), `{taught['dataset']}`",
            )
        )
    made = [f"`{use['campaign']}`, iteration {use['iteration']}, as {use['role']}" for use in story["uses"]]
    rows += [
        ("adapter", f"`{origin.adapter}`: named by base, data, settings, seed and code"),
        ("made in", "; ".join(made)),
        ("training code", f"version {story['code']}"),
        ("continues", f"`{story['parent']['adapter']}`" if story["parent"] else "nothing: begun anew on the base"),
        ("earlier adapters whose episodes it was trained on", listed(list(story["ancestors"])) or "none"),
    ]
    return table(("", ""), rows)


def _asked(origin: Origin) -> list[str]:
    sampling = origin.sampling
    parts = [
        "In Gemma's turns. A turn of the model ends with one call or with the answer:\n",
        "````text\n```tool_code\nname(arguments)\n```\n````\n",
        "````text\nAnswer: the answer alone\n````\n",
        "The arguments are literal values, to be read and never evaluated. The result is given in the next user turn:\n",
        "````text\n```tool_output\nthe result\n```\n````\n",
    ]
    if not origin.describes_tools:
        parts.append("The first user turn is the question alone: the model was taught its tools.\n")
    elif origin.opening is None:
        parts.append(
            "The first user turn describes the tools, then asks; the episodes that would show it are not there any more.\n"
        )
    else:
        parts += ["The first user turn, word by word:\n", f"````text\n{origin.opening}\n````\n"]
    parts.append(
        f"It was measured with at most {sampling.max_turns} turns of at most {sampling.max_turn_tokens} tokens, "
        f"{sampling.max_tokens} tokens in all.\n"
    )
    return parts


def _use(origin: Origin, form: ExportForm) -> list[str]:
    base = origin.hub or "PATH OF THE BASE"
    onto = "4-bit weights, dequantised: those that it was trained on" if origin.served == "dequantised" else "weights"
    if form in ("gguf", "gguf-adapter"):
        laid = "merged onto" if form == "gguf" else "a file of its own, to be laid over the base beside it:"
        return [
            f"The adapter is {laid} the base's {onto}. Ollama takes the Modelfile, llama.cpp the files that it names:\n",
            "```sh\nollama create NAME -f Modelfile\n```\n",
        ]
    if form == "merged":
        code = 'model = AutoModelForCausalLM.from_pretrained("PATH", dtype="auto")\n'
        load = f"```python\nfrom transformers import AutoModelForCausalLM\n\n{code}```\n"
        return [f"The adapter is merged onto the base's {onto}.\n", load]
    parts = [
        "```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
        f'base = AutoModelForCausalLM.from_pretrained("{base}", dtype="auto")\n'
        'model = PeftModel.from_pretrained(base, "PATH")\n```\n'
    ]
    if not origin.hub:
        parts.append(
            f"Its base `{origin.model}` (`{origin.lineage['base']}`) is on no hub that is known here; another base gives other "
            "answers.\n"
        )
    if origin.served == "dequantised":
        parts.append(
            "It was trained, and measured, on the base in NF4: load the base with bitsandbytes in NF4 for what the figures "
            "are about (`BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type='nf4')`), or take the merged model.\n"
        )
    return parts


def _again(origin: Origin) -> list[str]:
    words = " ".join(origin.settings)
    return [
        f"With agentloop {origin.version}, where the campaign's data are, bit for bit on the same kind of machine:\n",
        f"```sh\nagentloop reproduce {origin.adapter}\n```\n",
        "From the beginning, with the same settings:\n",
        f"```sh\nagentloop run {words}\n```\n",
    ]


def _licence(origin: Origin) -> str:
    if origin.gemma:
        return (
            f"Gemma is provided under and subject to the Gemma Terms of Use found at {TERMS}. This is a derivative of it, "
            "modified by the training described here: who passes it on has to pass on these terms with their restrictions of "
            "use.\n"
        )
    return "Not stated: fill in `license` in the header before it is passed on.\n"


def _without_folders(value: Any) -> Any:
    """A JSON value without the folders of this machine."""
    if isinstance(value, dict):
        return {name: _without_folders(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_folders(each) for each in value]
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value
