"""The outline of a run, told before it begins."""

from __future__ import annotations

from agentloop.campaign import suites
from agentloop.errors import SettingError
from agentloop.model_directory import files
from agentloop.settings import Settings


def outline(settings: Settings) -> str:
    """A few lines for a person. Raises SettingError for a model, an environment or an interpreter that does not exist,
    ModelError for a model with a broken file.
    """
    model = settings.model_directory()
    files.check(model)
    *_, last = suites.planned_looks(settings)
    suites.check_tools(settings)
    if settings.serving.python and not settings.serving.python.is_file():
        raise SettingError(f"serving.python: there is no interpreter at {settings.serving.python}")
    collect, evaluate, training, gate = settings.collect, settings.evaluate, settings.training, settings.gate
    guards = " and ".join(gate.guards)
    return (
        f"Campaign {settings.campaign}: {settings.iterations} iterations of the environment {settings.environment} "
        f"with {model}\n"
        f"  collect   {collect.tasks} tasks x {collect.samples} episodes at temperature {collect.temperature:g}, "
        f"by the champion\n"
        f"  select    {settings.selection.recipe}: at most {settings.selection.per_task} a task"
        f"{', from all iterations so far' if settings.selection.accumulate else ''}\n"
        f"  train     LoRA rank {training.rank}, {training.epochs} epochs at {training.learning_rate:g}, "
        f"{'from the champion' if training.continue_adapter else 'from the base'}\n"
        f"  evaluate  {evaluate.tasks} held-out tasks x {evaluate.samples} episodes, champion and challenger"
        f"{f', up to {evaluate.tasks * last.scale} where it is not clear' if last.scale > 1 else ''}\n"
        f"  promote   on McNemar p < {last.share(gate.alpha):.2g}"
        f"{f', if no worse at {guards}' if guards else ''}\n"
        f"  control   {'as many random trajectories, at the end' if gate.control else 'none'}"
    )
