"""Commands about what vLLM serves: the champion for other programs, and whether an adapter is served as it was trained."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from agentloop.cli import choosing, ids
from agentloop.cli.common import Named, Overrides, Profile, console, load, reading, say, user_path
from agentloop.errors import AdapterError
from agentloop.settings import Settings

if TYPE_CHECKING:
    from agentloop.campaign.campaign import Campaign
    from agentloop.serving.canary import CanaryReport
    from agentloop.serving.client import Endpoint

_PORT = 8000
KEY_FILE = "champion.key"


def serve(
    profile: Profile = None,
    overrides: Overrides = None,
    campaign: Named = None,
    port: Annotated[
        int | None, typer.Option(metavar="PORT", min=0, max=65535, help="0 takes a free one. Default: 8000.")
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Address to listen on; 0.0.0.0 for all of this machine's. Whoever reaches it needs the key, which then "
            "travels unencrypted.",
        ),
    ] = "127.0.0.1",
    beside: Annotated[
        bool,
        typer.Option(
            "--beside",
            help="Go on while a run is at work: where the run has another card (CUDA_VISIBLE_DEVICES), or both fit "
            "(serving.gpu_memory_utilization). Default: the run gets the card, and the champion is served again afterwards.",
        ),
    ] = False,
) -> None:
    """Serve the champion to other programs, behind an OpenAI-compatible endpoint; a new champion takes over at once."""
    from agentloop import card, key_file
    from agentloop.campaign.endpoint import ChampionEndpoint
    from agentloop.serving.command import Front

    opened = as_it_was_run(profile, overrides, campaign)
    settings = opened.settings
    chosen = port if port is not None else settings.serving.port or _PORT
    serving = settings.serving.model_copy(update={"port": chosen})
    opened = opened.served_by(serving)
    file = settings.paths.services / KEY_FILE
    front = Front(host, key_file.load(file))
    on_loopback = front.on_loopback
    endpoint = ChampionEndpoint(opened, front, key_file=file, say=_tell, gives_way=card.present() and not beside)

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: vLLM is being ended
        if not endpoint.end_soon():
            raise SystemExit(0)

    signal.signal(signal.SIGTERM, end)

    def ready(where: Endpoint) -> None:
        say(f"Champion of campaign {opened.name}: {endpoint.champion or 'the base model'}")
        _tell_how(opened, where, file)
        if not on_loopback:
            say(
                f"Other machines reach it at {host}: what is said there, the key too, is not encrypted (docs/leaving.md)."
            )
        _tell("It follows the champion while it runs; Ctrl-C ends it.")

    endpoint.run(ready)


def as_it_was_run(profile: str | None, overrides: list[str] | None, named: str | None) -> Campaign:
    """The campaign that the words mean, opened with the settings of its newest run but for what the words say themselves."""
    settings = load(profile, overrides)
    with reading(settings) as database:
        chosen = choosing.of_a_campaign(database, settings, named, profile=profile, words=overrides)
        words = choosing.as_it_was_run(database, chosen.campaign, also="serving")
    own = [word for word in overrides or () if word.partition("=")[0].strip() != "campaign"]
    from agentloop.campaign import endpoint
    from agentloop.campaign.campaign import Campaign

    return endpoint.open_campaign(Campaign.open(load(profile, [*words, *own])))


def _tell(line: str) -> None:
    say(line)
    sys.stdout.flush()


def _tell_how(campaign: Campaign, endpoint: Endpoint, key_file: Path) -> None:
    """Print a call of curl and one of OpenAI's client that work as they stand, with a question of the campaign's own."""
    question = campaign.environment.tasks("train", 1, campaign.settings.seed)[0].question
    message = {"role": "user", "content": question}
    body = json.dumps({"model": "champion", "messages": [message]}, ensure_ascii=False)
    say(f"Endpoint: {endpoint.url}/v1 (models: champion, its id, base)")
    say(f"Key: in {key_file}, which only you can read\n")
    say(
        f"curl {endpoint.url}/v1/chat/completions -H 'Content-Type: application/json' \\\n"
        f'  -H "Authorization: Bearer $(cat {shlex.quote(str(key_file))})" \\\n'
        f"  -d {shlex.quote(body)}\n"
    )
    say(
        f'client = openai.OpenAI(base_url="{endpoint.url}/v1", api_key=open({str(key_file)!r}).read())\n'
        f'client.chat.completions.create(model="champion", messages={[message]!r})\n'
    )
    say(_format(campaign))


def _format(campaign: Campaign) -> str:
    if campaign.settings.agent.describe_tools:
        return (
            "The champion was trained to read its tools' descriptions before the question, and calls them in its text "
            "(docs/leaving.md); agentloop chat does it all."
        )
    return (
        "The champion was trained to read the question alone, and calls its tools in its text (docs/leaving.md); agentloop "
        "chat runs them."
    )


def canary(
    adapter: Annotated[str, typer.Argument(help="An adapter's id, as much of it as is enough, or its directory.")],
    overrides: Overrides = None,
    profile: Profile = None,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="A vLLM that serves it already, under its directory's name. Default: one is started."
        ),
    ] = None,
    api_key: Annotated[str, typer.Option(envvar="VLLM_API_KEY", help="The key of that vLLM.")] = "",
) -> None:
    """Is the adapter served as it was trained? Compares log probabilities, token by token. Exit code 1 where it is not."""
    settings = load(profile, overrides)
    directory = _directory(settings, adapter)
    from agentloop.campaign import canary as canaries
    from agentloop.campaign.campaign import Campaign
    from agentloop.serving import adapters

    campaign = Campaign.open(settings)
    adapters.check_base(directory, fingerprint=campaign.base, model=campaign.model)
    if url:
        reports = {url: canaries.inspect_running(settings.serving, url, api_key, directory)}
        judged = url
    else:
        reports = dict(canaries.inspect_bases(campaign, directory.name, directory))
        judged = settings.serving.base if settings.serving.base in reports else "original"
    console.print(_table(reports))
    for name, report in reports.items():
        print(f"{name}: {_verdict(report)}{'' if name == judged else ' (for comparison)'}")
    sys.exit(0 if reports[judged].passed else 1)


def _directory(settings: Settings, adapter: str) -> Path:
    for directory in (settings.paths.adapters / adapter, user_path(adapter)) if adapter else ():
        if directory.is_dir():
            return directory.resolve()
    there = [each.name for each in settings.paths.adapters.glob("*") if each.is_dir()]
    if found := ids.only("adapter", adapter, there):
        return (settings.paths.adapters / found).resolve()
    if adapter and settings.paths.database.is_file():
        from agentloop.store import adapters, pruned

        with reading(settings) as database:
            gone = pruned.adapters(database)
        if found := ids.only("adapter", adapter, list(gone)):
            raise AdapterError(adapters.gone(found, gone[found]))
    raise AdapterError(f"{adapter}: neither an adapter in {settings.paths.adapters} nor a directory")


def _table(reports: dict[str, CanaryReport]) -> Table:
    names = ("Base served", "Base: mean", "largest", "Adapter: mean", "largest", "Effect of it", "served", "Tolerance")
    table = Table(
        *names, title="Served against trained log probabilities, in nats per token", title_justify="left", box=None
    )
    for name, report in reports.items():
        figures = (report.base_mean, report.base_max, report.adapter_mean, report.adapter_max, report.effect_mean)
        share = "unknown" if report.share is None else f"{report.share:.0%}"
        table.add_row(name, *(f"{figure:.2g}" for figure in figures), share, f"{report.tolerance:.2g}")
    return table


def _verdict(report: CanaryReport) -> str:
    if report.passed and report.share is None:
        return "served as trained, as far as can be told: the adapter changes no more than rounding does"
    return report.fault or "served as trained"
