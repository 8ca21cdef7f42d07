"""The command that hands an adapter on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agentloop.cli import choosing, ids
from agentloop.cli.common import Named, Profile, load, reading, say, split, user_path
from agentloop.cli.serving import as_it_was_run
from agentloop.errors import SettingError, StoreError
from agentloop.records import ExportForm

_WHAT: dict[ExportForm, str] = {
    "adapter": "an adapter for PEFT",
    "merged": "a whole model",
    "gguf": "a whole model for llama.cpp and Ollama",
    "gguf-adapter": "base and adapter for llama.cpp and Ollama",
}

if TYPE_CHECKING:
    from agentloop.settings import Settings
    from agentloop.store.database import Database


def export(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[ADAPTER] OUT [SECTION.NAME=VALUE]...",
            help="The directory to write, before it an adapter's id, as much of it as is enough (default: the champion's), and "
            "settings.",
        ),
    ],
    form: Annotated[
        ExportForm,
        typer.Option(
            "--format",
            help="adapter: for PEFT. merged: a whole model for transformers and vLLM. gguf: a whole model for llama.cpp and "
            "Ollama. gguf-adapter: base and adapter apart for them.",
        ),
    ] = "adapter",
    kinds: Annotated[
        list[str] | None,
        typer.Option(
            "--quantization",
            metavar="TYPE",
            help="Type of a GGUF: f32, f16, bf16, q8_0 (default), q4_k_m. More than once: a file for each.",
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="ORG/NAME",
            help="The repository of the base model, for the adapter's configuration. Default: the one it was fetched from.",
        ),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="ORG/NAME",
            help="Upload it to this repository of the hub as well; one that is not there is made, private. Needs HF_TOKEN.",
        ),
    ] = None,
    profile: Profile = None,
    campaign: Named = None,
) -> None:
    """Write the champion for others, with a card that states what it was shown to do.

    What is written is checked first: another program's log probabilities of fixed prompts against the trainer's.
    """
    named, overrides = split(words)
    if not 1 <= len(named) <= 2:
        raise SettingError("export: name the directory to write, and before it an adapter if it is not the champion")
    from agentloop.campaign import export as exporting
    from agentloop.fetching import hub
    from agentloop.gguf import types

    directory = user_path(named[-1])
    exporting.refuse(directory)
    for repository in (base, push):
        if repository is not None:
            hub.check_name(repository)
    if kinds and not form.startswith("gguf"):
        raise SettingError(f"--quantization: of a GGUF, not of --format {form}")
    chosen = kinds or ["q8_0"]
    for kind in chosen if form.startswith("gguf") else ():
        types.check(kind)
    key = hub.token() if push else None
    settings = load(profile, overrides)
    with reading(settings) as database:
        owner, adapter = _chosen(database, settings, named[:-1], profile, overrides, campaign)
    opened = as_it_was_run(profile, overrides, owner)
    made = exporting.export(opened, adapter, directory, form=form, kinds=chosen, base=base or hub.origin(opened.model))
    for line in made.checks:
        say(line)
    say(f"{made.directory}: {made.adapter} as {_WHAT[form]}, with its card in README.md")
    if form == "adapter" and not made.on_hub:
        say(
            f"Others do not have its base {made.base}: name its repository with --base, or hand on the whole with "
            "--format merged."
        )
    if push and key:
        say(f"Pushed: {hub.push(made.directory, push, key)}")


def _chosen(
    database: Database,
    settings: Settings,
    named: list[str],
    profile: str | None,
    words: list[str],
    campaign: str | None,
) -> tuple[str, str]:
    """(campaign, adapter). Without --campaign, that of the adapter that is named."""
    from agentloop.store import adapters, champions

    if not named:
        name = choosing.of_a_campaign(database, settings, campaign, profile=profile, words=words).campaign
        champion = champions.champion(database, name)
        if champion is None:
            raise StoreError(f"the base model is champion of campaign {name}: there is no adapter to export yet")
        return name, champion
    adapter = ids.whole(database, "adapter", named[0])
    own = adapters.campaigns(database, adapter)
    asked = campaign or (settings.campaign if choosing.said(words) else None)
    if asked is not None and asked not in own:
        raise StoreError(f"{adapter}: of campaign {' and '.join(own)}, not of {asked}")
    return asked or (settings.campaign if settings.campaign in own else own[0]), adapter
