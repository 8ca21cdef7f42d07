"""What is never solved is never learnt: where a campaign meets that, it says so and offers to teach."""

import pytest

from agentloop.campaign import collect as rollouts
from agentloop.campaign import demonstrations, select
from agentloop.errors import StoreError
from agentloop.store import families

TASKS = """
from agentloop.environments import Environment, Question

class Halves(Environment):
    name = NAME

    def questions(self, rng):
        for n in range(400):
            yield Question("hard" if n % 2 else "easy", f"What comes after number {n} of the list?", str(n + 1), {})

    def tools(self, task):
        return {}

    def verify(self, task, answer):
        return float(answer == task.answer)

    def expert(self, task):
        wrong = task.family in FAILED
        return [f"Answer: {'none' if wrong else task.answer}"]
"""


@pytest.fixture
def collected(lesson, tmp_path):
    """Makes a campaign that has collected episodes in which these families were failed."""

    def collect(*failed):
        file = tmp_path / "halves.py"
        file.write_text(f"FAILED = {failed!r}\nNAME = {tmp_path.name!r}\n{TASKS}")  # a name is known once
        teaching = lesson.open("experts", f"environment={file}", "selection.max_success_rate=1")
        campaign = teaching.campaign
        with campaign.at_work():
            planned = demonstrations.plan(teaching)
            for shard in planned.shards:
                demonstrations.play(teaching, planned, shard)
            rollouts.take_in(campaign, planned.shards, policy=planned.policy, iteration=1, purpose="collect")
        return campaign

    return collect


def test_a_family_that_was_never_solved_is_named(collected):
    campaign = collected("hard")
    with campaign.database() as database:
        (family,) = families.unsolved(database, campaign.name)
    assert (family.name, family.solved) == ("hard", 0) and family.trajectories == family.tasks > 0
    assert select.never_solved(campaign) == (
        f"Never solved, so never learnt: hard ({family.trajectories} episodes). "
        "Demonstrations help: agentloop teach --family hard"
    )


def test_the_report_says_so(collected):
    from agentloop.campaign import report

    campaign = collected("hard")
    assert "agentloop teach --family hard" in report.write(campaign.settings).read_text()


def test_nothing_is_said_where_all_are_solved_now_and_then(collected):
    assert select.never_solved(collected()) == ""


def test_where_nothing_is_solved_the_error_offers_to_teach(collected):
    campaign = collected("easy", "hard")
    with pytest.raises(
        StoreError, match=r"nothing is left of 12 trajectories after the rule 'solved'; .*`agentloop teach`"
    ):
        select.select(campaign, 1)
