"""An agent of one's own in a campaign: checked before anything starts, part of every policy's name, at work instead of ours."""

from __future__ import annotations

from agentloop import environments
from agentloop.errors import SettingError
from agentloop.recording.command import AgentCommand
from agentloop.rollout.prompt import PromptFormat
from agentloop.settings import Settings
from agentloop.teaching.source import Source


def command(settings: Settings) -> AgentCommand | None:
    """Return the agent that the settings name, None for this project's own. Raises SettingError."""
    return None if settings.agent.command is None else AgentCommand.read(settings.agent.command)


def check(settings: Settings) -> None:
    """Raises SettingError, in one line, for an agent that cannot be started, and for a world that would have no part in it."""
    if (agent := command(settings)) is None:
        return
    for name in (settings.environment, *settings.gate.guards):
        if not environments.get(name).plain:
            raise SettingError(
                f"agent.command: the environment {name} opens a session of its own, of which an agent of your own knows nothing"
            )
    agent.check()


def check_teaching(settings: Settings, source: Source) -> None:
    """Raises SettingError for a way to demonstrate that cannot be shown to the agent that the settings name."""
    if source.kind == "teacher" and (settings.teach.calls != "text" or not settings.agent.describe_tools):
        raise SettingError(
            "teach.calls: behind an agent of your own a teacher reads what the model reads, which must tell it of the tools: "
            "teach.calls=text and agent.describe_tools=true"
        )


def prompt_name(prompt: PromptFormat, settings: Settings) -> str:
    """Return what a policy's name says of its prompts: their format, and the agent that writes them."""
    agent = command(settings)
    return prompt.name if agent is None else f"{prompt.name}/{agent.name}"
