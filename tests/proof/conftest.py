"""Committed proofs, and what they would be on another machine or with another outcome."""

import copy

import pytest

from agentloop.project import CHECKOUT
from agentloop.proof.proof import read


@pytest.fixture
def tiny() -> dict:
    return read(CHECKOUT / "docs" / "proofs" / "tiny_2cores.json")


@pytest.fixture
def on_a_card(tiny) -> dict:
    """The same proof as if a card had been there: it has one, and was measured while vLLM slept as well."""
    other = copy.deepcopy(tiny)
    other["machine"] |= {
        "cards": [{"name": "NVIDIA X", "memory_gib": 24.0, "compute_capability": "8.6"}],
        "driver": "580.1",
    }
    other["sleep"] = copy.deepcopy(tiny["restart"])
    other["training"]["process_memory_gib"] = 4.5
    other["sizes"]["smaller_for_the_cpu"] = False
    return other
