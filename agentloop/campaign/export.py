"""An adapter made ready for others, as PEFT, transformers, llama.cpp or Ollama have it, with a card that says what it is."""

from __future__ import annotations

import asyncio
import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentloop import __version__
from agentloop.campaign import lock, results
from agentloop.campaign.campaign import Campaign
from agentloop.campaign.suites import UNSEEN
from agentloop.errors import AdapterError, ModelError, SettingError, ShardError, StoreError
from agentloop.exports.verification import Rows, compare
from agentloop.files import atomic
from agentloop.model_directory import chat_template
from agentloop.model_directory.files import GGUF_RECORD
from agentloop.model_directory.tokenizer import load_tokenizer
from agentloop.reading import read_object
from agentloop.records import Adapter, ExportForm, Quantization
from agentloop.report import model_card, query
from agentloop.report.model_card import Origin
from agentloop.serving import adapters as adapter_files
from agentloop.serving import installation
from agentloop.serving.canary import ask
from agentloop.serving.client import CompletionClient
from agentloop.serving.server import ModelServer
from agentloop.settings import Settings
from agentloop.store import adapters, campaigns, champions, datasets, evaluations, lineage, tasks, verdicts
from agentloop.store.database import Database
from agentloop.training import exporting
from agentloop.training.exporting import Written
from agentloop.training.run import TrainingRun

CARD = "README.md"
_LICENCES = ("LICENSE*", "NOTICE*", "USE_POLICY*", "*_TERMS*")
"""Files of a base that have to go with what is made of it."""
_OWN_WEIGHTS = "recipe.json"
"""In the directory of a model that was made here and not by Google."""


@dataclass(frozen=True)
class Exported:
    """An export as it was written."""

    adapter: str
    directory: Path
    base: str
    """The base as the configuration names it."""
    on_hub: bool
    """A stranger finds the base under that name."""
    checks: tuple[str, ...]
    """Lines for people: what each program that the export is for computed with it, or why it was not asked."""


def refuse(directory: Path) -> None:
    """Raise SettingError where something is there already."""
    if directory.exists() or directory.is_symlink():
        raise SettingError(f"{directory}: exists already; an export is written to a directory of its own")


def export(
    campaign: Campaign, adapter: str, directory: Path, *, form: ExportForm, kinds: Sequence[str], base: str | None
) -> Exported:
    """Write `directory`, whole or not at all, once the programs that it is for have computed what the trainer does.

    `base`: the repository that the base came from, as ORG/NAME. `kinds`: types of GGUF. Raises SettingError where the directory
    exists, AdapterError where the weights are gone or of another base, ModelError where the campaign's model is another one by
    now or another program computes something else, StoreError, DiskError, RoomError, TrainerError, ServerError.
    """
    refuse(directory)
    with Database.open_snapshot(campaign.settings.paths.database) as database:
        record = adapters.load(database, adapter)
        weights = adapters.weights(database, adapter)
        if record.base != campaign.base:
            raise ModelError(f"{campaign.model}: is {campaign.base} now, but {adapter} was trained on {record.base}")
        adapter_files.check_base(weights, fingerprint=campaign.base, model=campaign.model)
        origin = origin_of(database, campaign, record, base)
    card = model_card.text(origin, form=form)
    with atomic(directory) as temporary:
        beside = {CARD: card}
        if form == "adapter":
            _write_peft(campaign, weights, temporary, card, origin)
        if form == "merged" and not load_tokenizer(campaign.model).chat_template:
            beside["chat_template.jinja"] = chat_template.GEMMA
        written = exporting.write(
            _run(campaign, record), temporary.absolute(), campaign.settings, name=directory.name, form=form, kinds=kinds,
            onto=_served(campaign), beside=beside,
        )  # fmt: skip
        _add_licences(campaign, temporary)
        checks = (
            *written.checks,
            *([_by_vllm(campaign, temporary, written, directory.name)] if form == "merged" else []),
        )
    return Exported(adapter, directory, origin.hub or origin.model, origin.hub is not None, checks)


def _write_peft(campaign: Campaign, weights: Path, directory: Path, card: str, origin: Origin) -> None:
    config = read_object(weights / adapter_files.CONFIG, AdapterError)
    config |= {"base_model_name_or_path": origin.hub or origin.model}
    directory.mkdir()
    shutil.copy(weights / adapter_files.WEIGHTS, directory / adapter_files.WEIGHTS)
    (directory / adapter_files.CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")
    if (weights / adapter_files.RECORD).is_file():
        shutil.copy(weights / adapter_files.RECORD, directory / adapter_files.RECORD)
    (directory / CARD).write_text(card, encoding="utf-8")


def _add_licences(campaign: Campaign, directory: Path) -> None:
    for file in {each for pattern in _LICENCES for each in campaign.model.glob(pattern)}:
        shutil.copy(file, directory / file.name)


def _run(campaign: Campaign, record: Adapter) -> TrainingRun:
    settings = campaign.settings
    settings.export()
    return TrainingRun(
        record,
        campaign.model,
        rows=settings.paths.data / "datasets",
        adapters=settings.paths.adapters,
        checkpoints=settings.paths.checkpoints,
        cache=settings.paths.cache,
    )


def _by_vllm(campaign: Campaign, model: Path, written: Written, name: str) -> str:
    """What vLLM computes with a whole model, in one line, or why it was not asked. Raises ModelError, ServerError."""
    settings = campaign.settings
    try:
        installation.find(settings.serving.python or Path(sys.executable))
    except SettingError as error:
        return f"vLLM was not asked: {error}"
    if (owner := lock.owner(settings.paths.data)) is not None:
        return f"vLLM was not asked: {owner} is running"
    with lock.owned(settings.paths.data), ModelServer(settings, model) as server:
        rows = asyncio.run(_ask(server, settings, written))
    # left to itself it computes in 16 bit on a card, whatever the weights are stored in
    computed_in = "bfloat16" if settings.serving.dtype == "auto" else settings.serving.dtype
    return str(compare(written.expected, rows, export=name, program="vLLM", kinds=["bf16"], computed_in=computed_in))


async def _ask(server: ModelServer, settings: Settings, written: Written) -> Rows:
    async with CompletionClient([server.endpoint], settings.serving) as client:
        return await ask(client, server.model_name, written.expected.prompts.asked)


def _served(campaign: Campaign) -> Any:
    return "dequantised" if campaign.serves_dequantised else "bf16"


def origin_of(database: Database, campaign: Campaign, adapter: Adapter, repository: str | None) -> Origin:
    """Return everything that the card tells. `repository`: the base's, on the hub; None where it is on none."""
    settings, name = campaign.settings, adapter.id
    gain = results.compare(database, campaign.name, None, name)
    made = query.rows(database, "candidates", campaign=campaign.name)
    control = query.rows(database, "control", campaign=campaign.name)
    matched = control[0] if control and control[0]["challenger"] == name else None
    story = lineage.lineage(database, name)
    return Origin(
        adapter=name,
        campaign=campaign.name,
        role=next(each["role"] for each in made if each["adapter"] == name),
        champion=champions.champion(database, campaign.name) == name,
        lineage=story,
        environment=campaign.environment.name,
        gain=gain,
        families=_families(database, gain),
        unseen=results.compare(database, campaign.name, None, name, suite=UNSEEN),
        over_control=results.compare(database, campaign.name, matched["adapter"], name) if matched else None,
        guards=tuple(
            (guard.environment, guard.difference, guard.margin)
            for each in story["verdicts"][-1:]
            for guard in verdicts.load(database, each["id"]).guards
        ),
        model=campaign.model.name,
        hub=repository,
        from_gguf=(campaign.model / GGUF_RECORD).is_file(),
        gemma=not (campaign.model / _OWN_WEIGHTS).is_file(),
        served="dequantised" if campaign.serves_dequantised and Quantization.of(adapter.training).in_4bit else "bf16",
        describes_tools=settings.agent.describe_tools,
        opening=_opening(database, campaign, adapter) if settings.agent.describe_tools else None,
        sampling=campaign.sampling(settings.evaluate.temperature),
        settings=tuple(_words(settings)),
        version=__version__,
    )


def _families(database: Database, gain: results.Comparison | None) -> tuple[tuple[str, float, float], ...]:
    if gain is None:
        return ()
    before, after = (evaluations.by_family(database, each.id) for each in (gain.before, gain.after))
    return tuple((family, share, after[family]) for family, share in before.items() if family in after)


def _opening(database: Database, campaign: Campaign, adapter: Adapter) -> str | None:
    """The first turn of the first row as the model read it, without its question; None where the row's shard is gone."""
    try:
        row = next(iter(datasets.rows(database, adapter.dataset)))
    except (ShardError, StoreError, OSError):
        return None
    ((task,),) = database.execute("SELECT task FROM trajectories WHERE id = ?", [row.trajectory])
    question = tasks.load(database, task).question
    first = campaign.prompt.conversation(row.token_ids.tolist())[0]
    return first.removesuffix(question) + "{question}" if first.endswith(question) else None


def _words(settings: Settings) -> list[str]:
    """Settings that define the campaign, where they differ from their defaults; of files only the name."""
    default = campaigns.defining_settings(Settings.model_construct())
    words = [f"campaign={settings.campaign}", f"iterations={settings.iterations}"]
    for name, value in campaigns.defining_settings(settings).items():
        if value != default.get(name) and value is not None:
            told = Path(value).name if isinstance(value, str) and "/" in value else value
            words.append(shlex.quote(f"{name}={told if isinstance(told, str) else json.dumps(told)}"))
    return words
