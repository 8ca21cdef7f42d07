"""An agent of one's own in a campaign: checked before anything starts, part of every policy's name, at work instead of ours."""

from __future__ import annotations

from agentloop.recording.command import AgentCommand
from agentloop.rollout.prompt import PromptFormat
from agentloop.settings import Settings


def command(settings: Settings) -> AgentCommand | None:
    """Return the agent that the settings name, None for this project's own. Raises SettingError."""
    return None if settings.agent.command is None else AgentCommand.read(settings.agent.command)


def check(settings: Settings) -> None:
    """Raises SettingError, in one line, for an agent that cannot be started."""
    if (agent := command(settings)) is not None:
        agent.check()


def prompt_name(prompt: PromptFormat, settings: Settings) -> str:
    """Return what a policy's name says of its prompts: their format, and the agent that writes them."""
    agent = command(settings)
    return prompt.name if agent is None else f"{prompt.name}/{agent.name}"
