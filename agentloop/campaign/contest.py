"""Contests: on which held-out tasks a challenger meets the champion, and how much evidence it needs."""

from __future__ import annotations

from agentloop.campaign import heldout, suites
from agentloop.campaign.campaign import Campaign
from agentloop.curation import contamination
from agentloop.curation.forget import forget
from agentloop.records import Entry
from agentloop.store import champions, contests, meetings
from agentloop.store.contests import Contest
from agentloop.store.database import Database

TOLD = 3
"""Forgotten tasks that are told one by one."""


def begin(campaign: Campaign, iteration: int, challenger: str) -> Entry:
    """Return where the challenger stands; noted once, so that a run that was killed makes the same plan again."""

    def plan() -> Entry:
        entry = upcoming(campaign, database)
        if entry.used_up:
            environment = campaign.environment.name
            print(f"block {entry.block} of the held-out tasks is used further: {environment} has no more of them")
        return entry

    with campaign.database() as database:
        return contests.note(database, campaign.name, iteration, challenger, plan)


def upcoming(campaign: Campaign, database: Database) -> Entry:
    """Return where the next challenger will stand.

    A block of held-out tasks is renewed when `gate.block_challengers` have met on it, and after a rollback, which somebody
    may have decided on by what was seen on it. Where the environment has no further tasks the last block is used further.
    """
    known = contests.all_of(database, campaign.name)
    if not known:
        return Entry()
    last = known[-1].entry
    since = known[-last.place]
    rolled_back = any(
        move.verdict is None and move.number > since.moves for move in champions.moves(database, campaign.name)
    )
    due = last.place >= campaign.settings.gate.block_challengers or rolled_back
    # where the champion lost a meeting on a block, that block has decided something already
    lost = [each.block for each in meetings.all_of(database, campaign.name) if each.better and each.kind != "itself"]
    following = max(last.block, *lost, 0) + 1
    if due and suites.has_block(campaign.settings, campaign.looks[-1], following, take=campaign.take(database)):
        return Entry(last.number + 1, following)
    promotions = last.promotions + known[-1].promoted
    return Entry(last.number + 1, last.block, last.place + 1, promotions, due)


def guard_entry(campaign: Campaign, database: Database, guard: str, entry: Entry) -> Entry:
    """Return where a guard's question about the challenger at `entry` stands among those that it was asked before."""
    before = [
        each
        for each in contests.all_of(database, campaign.name)
        if each.entry.number < entry.number and guard in each.guards
    ]

    def block_of(entry: Entry) -> int:
        return suites.guard_block(
            campaign.settings, guard, campaign.looks[-1], entry.block, take=campaign.take(database)
        )

    block = block_of(entry)
    same: list[Contest] = [each for each in before if block_of(each.entry) == block]
    return Entry(len(before) + 1, block, len(same) + 1, sum(each.promoted for each in same))


def make_known(campaign: Campaign, iteration: int) -> None:
    """Note the held-out tasks of all blocks up to the next one, used or not, so that selection refuses them.

    What the iteration has collected, or any before it where a new block is noted, is forgotten where it nearly is one of
    them, which is said: no night ends on it.
    """
    with campaign.database() as database:
        block = upcoming(campaign, database).block
        ends = suites.reserve(campaign.settings, campaign.looks[-1], block)
        new = heldout.note(database, campaign.name, campaign.settings.seed, ends)
        near = contamination.near_heldout(database, campaign.name, first=0 if new else iteration)
        for task, name in near.items():
            forget(database, tasks=[task], reason=f"nearly {name}, which is held out")
    for task, name in list(near.items())[:TOLD]:
        print(f"{task} is nearly {name}, which is held out: it is forgotten, and not learnt from")
    if len(near) > TOLD:
        print(f"and so are {len(near) - TOLD} more training tasks (the table forgotten_tasks has them all)")
