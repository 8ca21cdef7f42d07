"""The tiny model's prompt format, and an episode that a scripted policy answers."""

import pytest
from scripted_policy import Scripted
from transformers import AutoTokenizer

from agentloop import settings as configuration
from agentloop.recording.episode import RecordedEpisode
from agentloop.records import Sampling
from agentloop.rollout.prompt import PromptFormat


@pytest.fixture(scope="session")
def tokenizer():
    return AutoTokenizer.from_pretrained(configuration.load(profile="demo").model_directory())


@pytest.fixture(scope="session", params=["bare", "described"])
def prompt(request, tokenizer):
    return PromptFormat(tokenizer, describe_tools=request.param == "described")


@pytest.fixture(scope="session")
def bare(tokenizer):
    return PromptFormat(tokenizer, describe_tools=False)


@pytest.fixture
def begin(prompt):
    """Begins an episode: (episode, policy). To be called in an event loop."""

    def begun(*texts, **limits):
        policy = Scripted(prompt, *texts)
        sampling = Sampling(**{"max_turns": 6, "max_turn_tokens": 100, "max_tokens": 1000} | limits)
        return RecordedEpisode(generate=policy, prompt=prompt, sampling=sampling, session="s"), policy

    return begun
