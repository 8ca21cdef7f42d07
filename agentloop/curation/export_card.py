"""The card of an exported dataset: a header that `datasets` and the Hugging Face Hub read, and what a person wants to know."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from agentloop.curation.contamination import SHARE
from agentloop.curation.recipes import Recipe
from agentloop.curation.selection import Funnel, Selected
from agentloop.markdown import listed, table
from agentloop.naming import canonical_json
from agentloop.store.database import Database

QUERIES = Path(__file__).with_name("export_dataset")

COLUMNS = {
    "position": "place in the dataset, from 0: the order in which it is trained on",
    "task": "name of the task",
    "environment": "where the task comes from",
    "family": "kind of task",
    "question": "what the task asks",
    "expected": "the answer that the verifier expects",
    "payload": "what else tools and verifier are given, JSON",
    "policy": "name of what acted: base, adapter and prompt format",
    "base": "fingerprint of its base model",
    "adapter": "its adapter; null where the base itself acted",
    "prompt_format": "name and version of the format in which it was asked",
    "sampling": "temperature and limits, JSON",
    "trajectory": "name of the episode",
    "iteration": "the campaign's iteration that first used the episode",
    "sample": "number of the episode among those of the same policy at the same task",
    "seed": "of the run",
    "status": "how the episode ended: answered, ended (by its world), malformed, turn_limit, token_limit, time_limit",
    "answer": "the answer as it was parsed; null where there is none",
    "outcome": "what the world knew at the end, JSON; null where it has no outcome",
    "success": "what the environment says the episode is worth, 0 to 1",
    "scores": "newest value of each scorer, with its version",
    "turns": "the episode in spans of its tokens, the prompt's too, with tool, arguments (JSON), error and reward",
    "messages": "the episode as a chat: calls of tools as the model writes them, their results as the user's",
    "prompt": "the question as a chat; without the descriptions of tools, which `prompt_ids` have",
    "chosen": "what is preferred, as the rest of the chat",
    "rejected": "what is not preferred",
    "token_ids": "the tokens as the model saw and produced them",
    "prompt_ids": "the tokens of the prompt",
    "ids": "the tokens that follow",
    "mask": "true where the model produced the token",
    "logprobs": "log probability of each produced token under the policy that acted; 0 elsewhere",
}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


@dataclass(frozen=True)
class Split:
    """A split as it was written."""

    name: str
    rows: int
    num_bytes: int
    """In memory."""
    file_bytes: int


@dataclass(frozen=True)
class Made:
    """The origin of a dataset, as far as the store knows it."""

    dataset: str
    recipe: Recipe
    parameters: str
    """As JSON."""
    campaign: str
    iteration: int
    model: str | None
    """Name of the base model's directory, where the store has the campaign's settings."""
    funnel: Funnel
    policies: tuple[tuple[str, str | None, str | None, str | None, int], ...]
    """(policy, base, adapter, prompt format, trajectories)"""
    scorers: tuple[tuple[str, int, int], ...]
    """(scorer, version, trajectories)"""
    environments: tuple[str, ...]
    heldout: int
    """Tasks of the store that must not be trained on."""
    benchmarks: str | None
    """Name of the file of prompts that the rows were compared with."""

    @classmethod
    def of(
        cls,
        database: Database,
        selected: Selected,
        recipe: Recipe,
        *,
        campaign: str,
        iteration: int,
        benchmarks: Path | None,
    ) -> Made:
        names = {"names": list(selected.dataset.trajectories)}
        environments = tuple(name for (name,) in database.execute(_query("environments"), names))
        ((heldout,),) = database.execute(_query("heldout"))
        settings = database.execute("SELECT settings FROM campaigns WHERE name = ?", [campaign])
        return cls(
            dataset=selected.dataset.id,
            recipe=recipe,
            parameters=canonical_json(selected.dataset.parameters),
            campaign=campaign,
            iteration=iteration,
            model=Path(json.loads(settings[0][0])["model"]).name if settings else None,
            funnel=selected.funnel,
            policies=tuple(database.execute(_query("policies"), names)),
            scorers=tuple(database.execute(_query("scorers"), names)),
            environments=environments,
            heldout=heldout,
            benchmarks=benchmarks.name if benchmarks else None,
        )


def text(made: Made, splits: Sequence[Split], schema: pa.Schema) -> str:
    """The whole of README.md."""
    return f"---\n{_header(splits, schema)}\n---\n\n{_body(made, splits, schema)}"


def _header(splits: Sequence[Split], schema: pa.Schema) -> str:
    from datasets import Features, SplitDict, SplitInfo  # takes seconds
    from datasets.info import DatasetInfo, DatasetInfosDict
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCardData

    rows = sum(split.rows for split in splits)
    files = [{"split": split.name, "path": f"data/{split.name}-*"} for split in splits]
    infos = {split.name: SplitInfo(split.name, split.num_bytes, split.rows) for split in splits}
    info = DatasetInfo(
        features=Features.from_arrow_schema(schema),
        splits=SplitDict(infos),
        download_size=sum(split.file_bytes for split in splits),
        dataset_size=sum(split.num_bytes for split in splits),
    )
    size = next((name for most, name in _SIZES if rows < most), "n>1M")
    card = DatasetCardData(tags=["agentloop"], task_categories=["text-generation"], size_categories=[size])
    MetadataConfigs({"default": {"data_files": files}}).to_dataset_card_data(card)
    DatasetInfosDict({"default": info}).to_dataset_card_data(card)
    return card.to_yaml()


def _body(made: Made, splits: Sequence[Split], schema: pa.Schema) -> str:
    rows = sum(split.rows for split in splits)
    kind = "preference pairs" if made.recipe.paired else "episodes"
    base = f"`{made.model}`" if made.model else "a base model"
    what = "demonstrations" if made.recipe.purpose == "demonstrate" else f"what {base} and its adapters did"
    parts = [
        f"# {made.campaign}, iteration {made.iteration}: {made.recipe.name}\n",
        f"{rows:,} {kind} of an agent with tools, at tasks of {listed(made.environments)}: chosen by agentloop from "
        f"{what}.\n",
        "## How it was made\n",
        table(
            ("", ""),
            [
                ("dataset", f"`{made.dataset}`"),
                ("campaign", f"`{made.campaign}`, up to iteration {made.iteration}"),
                ("recipe", f"`{made.recipe.name}`"),
                ("its parameters", f"`{made.parameters}`"),
                *((f"split `{split.name}`", f"{split.rows:,} rows") for split in splits),
            ],
        ),
        "The recipe's rules, and what each left:\n",
        table(("rule", "left"), [(rule, f"{left:,}") for rule, left in made.funnel]),
        "Who acted:\n",
        table(
            ("policy", "base model", "adapter", "prompt format", "episodes"),
            [
                (f"`{policy}`", base or "unknown", adapter or "none", prompt or "unknown", f"{count:,}")
                for policy, base, adapter, prompt, count in made.policies
            ],
        ),
        "## Columns\n",
        table(
            ("column", "type", "meaning"),
            [(f"`{each.name}`", _type(each.type), _meaning(each.name)) for each in schema],
        ),
        "Scorers, and how many of the episodes each version has scored:\n",
        table(
            ("scorer", "version", "episodes"), [(f"`{name}`", str(n), f"{count:,}") for name, n, count in made.scorers]
        ),
        "## Contamination\n",
        _contamination(made),
        "## Licence\n",
        "Not stated: fill in `license` in the header before it is passed on. The questions come under the terms of their "
        "source, and what a model wrote may come under those of the model.\n",
        "## Use\n",
        f'```python\nfrom datasets import load_dataset\n\nrows = load_dataset("PATH", split="{splits[0].name}")\n```\n',
        "Columns that a chat trainer reads: `prompt`, `chosen` and `rejected`.\n"
        if made.recipe.paired
        else "The column that a chat trainer reads: `messages`.\n",
    ]
    return "\n".join(parts)


def _contamination(made: Made) -> str:
    share = f"{SHARE:.0%}"
    compared = (
        f"Nor is one nearly a prompt of `{made.benchmarks}`."
        if made.benchmarks
        else "They were compared with no benchmark: `selection.benchmarks` was not set."
    )
    return (
        f"As far as the store knows: it has {made.heldout:,} tasks that are held out or were measured. None of them is among "
        f"the rows, and no question of a row has {share} or more of its runs of 13 words in common with one of theirs. "
        f"{compared} What the base model had seen before, and what is held out elsewhere, the store does not know.\n"
    )


def _meaning(column: str) -> str:
    side, _, name = column.partition("_")
    if side in ("chosen", "rejected") and name in COLUMNS:
        return f"of `{side}`: {COLUMNS[name]}"
    return COLUMNS[column]


def _type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"list of {_type(kind.value_type)}"
    if pa.types.is_struct(kind):
        return "{" + ", ".join(field.name for field in kind) + "}"
    return {"string": "text", "double": "float64", "float": "float32"}.get(str(kind), str(kind))


def _query(name: str) -> str:
    return (QUERIES / f"{name}.sql").read_text(encoding="utf-8")
