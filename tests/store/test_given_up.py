"""Episodes that were not sampled: nobody's failure, and no bias of what is said of a collection."""

import random

from made_by_hand import episode, sum_task

from agentloop.curation.scoring import score
from agentloop.rollout.collection import not_sampled
from agentloop.store import campaigns
from agentloop.store.ingest import IngestReport, ingest
from agentloop.store.shards import read_shard, shard_id, write_shard

SAMPLES, FIRST, TASKS = 8, 3, 600


def collected(outcomes):
    """Episodes as a collection leaves them: `outcomes` of each task's samples, the later ones only where one of the first is."""
    episodes = []
    for number, solved in enumerate(outcomes):
        for sample, right in enumerate(solved):
            played = episode(sum_task(number), sample=sample, answer=None if right else "no idea")
            if sample >= FIRST and not any(solved[:FIRST]):
                about = {"policy": played.policy, "sampling": played.sampling, "seed": played.seed}
                played = not_sampled(played.task, sample, **about)
            episodes.append(played)
    return episodes


def taken_in(database, path, outcomes) -> IngestReport:
    episodes = collected(outcomes)
    file = path / f"{shard_id([each.id for each in episodes], given_up_after=FIRST)}.parquet"
    write_shard(file, episodes, purpose="collect", campaign="main", iteration=1, given_up_after=FIRST)
    assert read_shard(file) == episodes
    campaigns.begin_iteration(database, "main", 1, champion=None)
    report = ingest(database, [file])
    score(database, {"arithmetic": lambda task, answer: float(answer == task.answer)})
    return report


def test_what_was_not_sampled_is_noted_and_is_no_trajectory(database, tmp_path):
    outcomes = [[True] * 4, [False] * 4, [False, False, True, False]]
    report = taken_in(database, tmp_path, outcomes)
    assert (report.trajectories, report.failed, report.duplicates, report.unsampled) == (11, 0, 0, 1)
    given_up = sum_task(1).id
    assert database.execute("SELECT task, sample FROM unsampled_episodes") == [(given_up, FIRST)]
    assert database.execute("SELECT count(*) FROM failed_episodes") == [(0,)]
    assert database.execute("SELECT samples FROM v_solved WHERE task = ?", [given_up]) == [(FIRST,)]
    assert database.execute("SELECT success, trajectories FROM v_iterations") == [(4 / 9, 11)]
    # the same episode, sampled in a shard of a plan that gives nothing up
    whole = [episode(sum_task(1), sample=FIRST)]
    write_shard(tmp_path / "whole.parquet", whole, purpose="collect", campaign="other", iteration=1)
    assert ingest(database, [tmp_path / "whole.parquet"]).trajectories == 1


def test_success_of_a_collection_is_unbiased(database, tmp_path):
    chance = random.Random(1)
    rates = [chance.random() ** 3 for _ in range(TASKS)]
    taken_in(database, tmp_path, [[chance.random() < rate for _ in range(SAMPLES)] for rate in rates])
    [(told,)] = database.execute("SELECT success FROM v_iterations")
    [(pooled, by_task)] = database.execute("SELECT sum(solved) / sum(samples), avg(success) FROM v_solved")
    truth = sum(rates) / TASKS
    error = (sum(rate * (1 - rate) for rate in rates) / FIRST) ** 0.5 / TASKS
    assert abs(told - truth) < 3 * error
    assert pooled > truth + 3 * error and by_task != told  # what it would be if all that was played counted alike
