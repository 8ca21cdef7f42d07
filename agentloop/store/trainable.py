"""How much of what an agent of one's own had the model write is trained on, and why the rest is not."""

from __future__ import annotations

from agentloop.store.database import Database


def told(database: Database, campaign: str, iteration: int | None = None) -> str | None:
    """Return a sentence about what the campaign has collected, in one iteration or in all; None where that is nothing."""
    [(episodes, conversations, written, trainable)] = database.execute(
        """
        SELECT sum(trajectories), sum(conversations), sum(written), sum(trainable) FROM v_trainable
        WHERE campaign = $campaign AND purpose = 'collect' AND iteration = coalesce($iteration, iteration)
        """,
        {"campaign": campaign, "iteration": iteration},
    )
    if not written:
        return None
    share = int(1000 * trainable / written) / 10  # 100 % only where it is all of them
    rest = (
        f"; {written - trainable:,} are not: the agent had hung up before it heard them" if written > trainable else ""
    )
    several = f", in {conversations:,} conversations of {episodes:,} episodes" if conversations > episodes else ""
    return f"Of the {written:,} tokens that the agent had the model write{several}, {share:g} % are trainable{rest}."
