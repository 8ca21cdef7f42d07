"""Commands about the base and what quantisation does to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from agentloop.card import GIB
from agentloop.cli.common import Overrides, Profile, console, load, user_path
from agentloop.errors import SettingError
from agentloop.settings import Settings

if TYPE_CHECKING:
    from agentloop.campaign.campaign import Campaign


def show(settings: Settings, *, success: bool) -> None:
    """Show what quantisation does to the base: bytes, KL divergence and success of 16 bit, dynamic and NF4 side by side."""
    from agentloop.campaign import judge
    from agentloop.quantization.plan import most_lost

    with _at_hand(settings) as campaign:
        found = judge.side_by_side(campaign, success=success, say=lambda line: console.print(line, soft_wrap=True))
    columns = "KL, nats per token", "of an episode", "at most lost", "same choice", "solved", "in 16 bit"
    table = Table("training.quantization", "GiB", *columns, box=None)
    for kind, each in found.items():
        solved = each["success"]
        table.add_row(
            kind,
            f"{each['bytes'] / GIB:.3f}",
            f"{each['kl']:.2g}",
            f"{each['episode_kl']:.2g}",
            f"{most_lost(each['episode_kl']):.1%}",
            f"{each['same_choice']:.1%}",
            f"{solved['estimate']:.1%} ({solved['low']:.1%} to {solved['high']:.1%})" if solved else "not measured",
            {"none": "all", "nf4": "none"}.get(kind, f"{len(each['in_16bit'])} linears"),
        )
    console.print(table)


def quantize(
    model: Annotated[str, typer.Argument(help="A model directory, or a name under models/.")],
    output: Annotated[Path, typer.Option(help="The directory to be written.")],
    overrides: Overrides = None,
    profile: Profile = None,
    size: Annotated[
        float | None,
        typer.Option(
            "--bytes", help="GiB that the language model's weights may take. Default: what the tolerance asks for."
        ),
    ] = None,
) -> None:
    """Write a base in dynamic NF4 as a bitsandbytes directory, which transformers and vLLM read."""
    directory = user_path(output)
    if directory.exists():
        raise SettingError(f"--output: {directory} exists already")
    if size is not None and not size > 0:
        raise SettingError(f"--bytes: {size} is not a number of GiB above 0")
    settings = load(profile, [*(overrides or []), f"model={model}"])
    from agentloop.campaign import material
    from agentloop.quantization.measuring import measure
    from agentloop.quantization.plan import most_lost
    from agentloop.records import Quantization

    with _at_hand(settings) as campaign:
        found = measure(
            settings,
            campaign.model,
            material.gather(campaign),
            tolerance=settings.training.quantization_tolerance,
            total_bytes=None if size is None else int(size * GIB),
        )["dynamic"]
        # torch only now: the process that measured is gone, and its memory with it
        from agentloop.quantization import bitsandbytes

        bitsandbytes.write(campaign.model, directory, Quantization.of(found), cache=settings.paths.cache)
    left = len(found.get("in_16bit", ()))
    console.print(
        f"{directory}: {found['bytes'] / GIB:.3f} GiB, {left} linears in 16 bit; an episode's KL from the base in 16 bit is "
        f"{found['episode_kl']:.2g} nats, so success differs by at most {most_lost(found['episode_kl']):.1%}",
        soft_wrap=True,
    )


@contextmanager
def _at_hand(settings: Settings) -> Iterator[Campaign]:
    """A campaign to look at its base: nothing of it is registered. Where a run owns the data root, its end is awaited."""
    from agentloop.campaign.campaign import Campaign
    from agentloop.campaign.lock import owned

    campaign = Campaign.open(settings)
    with owned(settings.paths.data), campaign.worlds:
        yield campaign
