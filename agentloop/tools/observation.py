"""What a world says back to the model: text, and with it a reward for the turn or the end of the episode."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Observation:
    """An answer of a session to a turn of the model, or of a tool to a call, where a text alone does not say it all."""

    text: str
    """What the model is told."""
    reward: float | None = None
    """Reward of the model's turn that led to it, any finite number; it is stored with the turn. None: none was given."""
    done: bool = False
    """True: the episode ends here, as where a game is over. The text is stored, and the model is not asked again."""
