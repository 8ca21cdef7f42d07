"""The outline of a run, told before it begins: what is planned, and what is left of it to do."""

from __future__ import annotations

from agentloop import card
from agentloop.campaign import judge, lock, own_agent, position, suites
from agentloop.campaign.position import ROLL_OUTS
from agentloop.curation import recipes
from agentloop.errors import SettingError
from agentloop.model_directory import files
from agentloop.serving import server_group
from agentloop.settings import Collect, Settings
from agentloop.store import base_judgements, campaigns, champions
from agentloop.store.database import Database


def check(settings: Settings) -> None:
    """Raises SettingError for a model, an environment or an interpreter that does not exist, for a card that is too old, and
    for more held-out tasks than there are, ModelError for a model with a broken file.
    """
    files.check(settings.model_directory())
    card.check()
    server_group.check(settings.serving)
    suites.planned_looks(settings)
    suites.check_tools(settings)
    own_agent.check(settings)
    if settings.serving.python and not settings.serving.python.is_file():
        raise SettingError(f"serving.python: there is no interpreter at {settings.serving.python}")


def outline(settings: Settings) -> str:
    """Return what a run is to do, in a few lines for a person.

    Raises as `check` does, also for more training tasks than there are.
    """
    check(settings)
    suites.check_training_tasks(settings)
    *_, last = suites.planned_looks(settings)
    collect, evaluate, training, gate = settings.collect, settings.evaluate, settings.training, settings.gate
    guards = " and ".join(gate.guards)
    renewed = f"others after {gate.block_challengers} challengers"
    if not suites.has_block(settings, last, 2):
        renewed = "the same for all challengers, there are no more"
    return (
        f"Campaign {settings.campaign}: {settings.iterations} iterations of the environment {settings.environment} "
        f"with {settings.model_directory()}\n"
        f"  collect   {collect.tasks} tasks x {collect.samples} episodes at {_heat(collect)}, "
        f"by the champion{_patience(collect)}\n"
        f"  select    {_recipe(settings)}"
        f"{', from all iterations so far' if settings.selection.accumulate else ''}\n"
        f"  train     {training.objective}, LoRA rank {training.rank}, {training.epochs} epochs at {training.learning_rate:g}, "
        f"{'from the champion' if training.continue_adapter else 'from the base'}\n"
        f"  evaluate  {evaluate.tasks} held-out tasks x {evaluate.samples} episodes, champion and challenger"
        f"{f', up to {evaluate.tasks * last.scale} where it is not clear' if last.scale > 1 else ''}; "
        f"{renewed}\n"
        f"  promote   on evidence, wrongly in the whole life of the campaign with a probability of {gate.alpha:g} at most"
        f"{f', if no worse at {guards}' if guards else ''}\n"
        f"  control   {'as many random trajectories, at the end' if gate.control else 'none'}"
    )


def _recipe(settings: Settings) -> str:
    recipe = recipes.for_training(settings)
    most = "all samples of a task" if recipe == "groups" else f"at most {settings.selection.per_task} a task"
    return f"{recipe}: {most}"


def _heat(collect: Collect) -> str:
    if not collect.temperatures:
        return f"temperature {collect.temperature:g}"
    return f"temperatures {', '.join(f'{each:g}' for each in collect.temperatures)} in turn"


def _patience(collect: Collect) -> str:
    first = collect.give_up_after
    if first is None or first >= collect.samples:
        return ""
    return f"; a task that none of the first {first} has solved is given up"


def prospect(settings: Settings) -> str:
    """Return what a run would do now, in a line or two for a person. Raises StoreError or SettingError, as the run would, where
    it is refused.
    """
    path = settings.paths.database
    if not path.is_file():
        return f"It begins: there is no database at {path} yet."
    with Database.open_snapshot(path) as database:
        campaigns.refuse(database, settings)
        said = _next(database, settings)
    owner = lock.owner(settings.paths.data)
    return f"{said}\nIt waits first: {owner} is at work on {settings.paths.data}." if owner else said


def _next(database: Database, settings: Settings) -> str:
    name = settings.campaign
    known = campaigns.names(database)
    if name not in known:
        return f"It begins: there is no campaign {name} yet{f', but {_listed(known)}' if known else ''}."
    if changed := campaigns.changes(database, settings):
        names = ", ".join(each.name for each in changed)
        return f"It begins again: {names} changed, and nothing has been collected with the earlier settings."
    if judged := base_judgements.newest(database, name):
        judge.refuse(judged, settings.training.max_quantization_loss)
    place = position.find(database, name, iterations=settings.iterations, control=settings.gate.control)
    if place.step is None:
        control = " and the control" if settings.gate.control else ""
        return f"Complete, nothing to do: all {settings.iterations} iterations{control} are there; the report is written again."
    champion = champions.champion(database, name) or "the base model"
    if not place.begun:
        return (
            f"It {'begins' if place.iteration == 1 else 'continues'} with iteration {place.iteration}, by {champion}."
        )
    return f"It continues at {place.of}, step {place.step}{_played(database, settings, place)}."


def _played(database: Database, settings: Settings, place: position.Position) -> str:
    """How many of the episodes are there already."""
    if place.step not in ROLL_OUTS:
        return ""
    about = (settings.campaign, place.iteration, place.step)
    there = sum(
        (footer.campaign, footer.iteration, footer.purpose) == about
        for _, footer in position.waiting_shards(database, settings.paths.shards)
    )
    planned = position.planned_shards(settings.model_dump(mode="json"), place.step, place.looks)
    return f" ({there} of {planned} shards of episodes are there)" if 0 < there <= planned else ""


def _listed(names: list[str], most: int = 5) -> str:
    more = ", …" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"
