"""Fuzzed model outputs through parser, tools, shard writer, ingest and scoring: nothing crashes, hangs or is lost.

    python tests/worlds/fuzz_outputs.py --outputs 100000 --seed 0

A policy that says what no model should say plays real episodes in real worlds: broken fences, calls with every kind of
literal, SQL and arithmetic that is cut, doubled and shuffled, text that cannot be encoded, tools that fail, flood and die.
Every planned episode must end as a trajectory or as a failed episode with its errors, and be read back unchanged.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer

from agentloop import environments
from agentloop import settings as configuration
from agentloop.curation import scoring
from agentloop.records import Sampling
from agentloop.rollout.collection import plan, run_shard
from agentloop.rollout.prompt import PromptFormat
from agentloop.settings import Settings
from agentloop.store.database import Database
from agentloop.store.ingest import ingest
from agentloop.store.shards import read_shard, write_shard
from agentloop.worlds.pool import Worlds

FAILING = str(Path(__file__).with_name("tasks_that_fail.py"))
ENVIRONMENTS = ("arithmetic", "database", FAILING)
SHARD_EPISODES = 128
SAMPLING = Sampling(max_turns=4, max_turn_tokens=20_000, max_tokens=40_000)

ATOMS = (
    "0", "-1", "1e999", "1e-999", "0x" + "f" * 3700, "9" * 4200, "True", "None", "''", "'a'", '"\\ud83d"', '"\\ud83d\\ude00"',
    '"\\udc00\\ud83d"', '"\\x00"', '"\\N{SNOWMAN}"', "'" + "x" * 3000 + "'", "b'a'", "{1}", "{1: 2}", "{'a': [1, {'b': None}]}",
    "f'{1}'", "lambda: 1", "[i for i in 'ab']", "*[1]", "**{'a': 1}", "(1,)", "1j", "...", "x", "'a' 'b'", "-" * 500 + "1",
    "[" * 90 + "]" * 90, "(" * 300 + "1" + ")" * 300, "not 1", "1 if 1 else 2", "'ünïcödé 中文 🙂'", "'<end_of_turn>'", "'```'",
)  # fmt: skip
EXPRESSIONS = (
    "1+2", "2**1000", "2**-1000", "9**9**9", "1/3", "1/0", "10**308*10", "(1+2)*3", "1_000", "0x10", "1e3", "1e400", "5//2",
    "-7%3", "((((1))))", "1+" * 60 + "1", "2^3", "1;2", "__import__('os')", "1 and 2", "١+٢", "1\n+2", "0**0", "1.5**2.5",
)  # fmt: skip
QUERIES = (
    "SELECT * FROM people", "SELECT count(*) FROM orders WHERE day BETWEEN 1 AND 9", "SELECT name FROM people TABLESAMPLE 10%",
    "SELECT * FROM people USING SAMPLE 3", "SELECT '\\ud83d'", "SELECT sum(quantity) FROM orders GROUP BY ALL ORDER BY 1",
    "WITH a AS (SELECT 1), b AS (SELECT * FROM a, a x), c AS (SELECT * FROM b, b x) SELECT * FROM c, c x", "SELECT 1; SELECT 2",
    "SELECT repeat('x', 100000)", "SELECT * FROM 'file.csv'", "DROP TABLE people", "SELECT * FROM people p, orders o, people q",
    "PIVOT people ON city USING sum(age)", "SELECT max(name) OVER () FROM people", "SELECT age / 0 FROM people",
    "SELECT CAST('a' AS INTEGER)", "SELECT [1,2]", "SELECT {'a': 1}", "SELECT age::VARCHAR FROM people LIMIT -1",
)  # fmt: skip
PIECES = (
    "```tool_code\n", "\n```", "```", "Answer: ", "\n", "<end_of_turn>", "<bos>", "\x00", "\ufeff", "\u2028", "\u202e", "🙂",
    "calculate(", "query(", ")", '"', "'", "\\", "error: ", " ", "{", "}", "%s", "Answer:", "ANSWER: ", "é", "\r\n", "\ud7ff",
)  # fmt: skip


class Babble:
    """Turns that a model might say, drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)

    def turn(self) -> str:
        kind = self._draw.choices(("call", "pieces", "answer", "mutant"), (5, 2, 1, 3))[0]
        if kind == "pieces":
            return "".join(self._draw.choices(PIECES, k=self._draw.randrange(12)))
        if kind == "answer":
            return f"Answer: {self._text()}"
        text = f"```tool_code\n{self._call()}\n```"
        return text if kind == "call" else self._mutated(text)

    def _call(self) -> str:
        draw = self._draw
        tool = draw.choice(("calculate", "query", "failing", "any"))
        if tool == "calculate":
            return f"calculate({self._mutated(draw.choice(EXPRESSIONS))!r})"
        if tool == "query":
            return f"query({self._mutated(draw.choice(QUERIES))!r})"
        if tool == "failing":
            hangs = 1e-3
            calls = (
                "fail('key')",
                "fail('exit')",
                "die(0)",
                "die(-9)",
                "flood(50000)",
                "say('a')",
                "count()",
                "hang()",
            )
            return draw.choices(calls, (1, 1, 1, 1, 3, 3, 3, hangs))[0]
        arguments = [self._argument() for _ in range(draw.randrange(4))]
        name = draw.choice(
            ("calculate", "query", "add", "loosely", "of_cities", "no_such_tool", "è", "class", "f.g", "f()")
        )
        return f"{name}({', '.join(arguments)})"

    def _argument(self) -> str:
        name = self._draw.choice(("", "", "self=", "sql=", "expression=", "a=", "value=", "cities=", "1="))
        return name + self._draw.choice(ATOMS)

    def _mutated(self, text: str) -> str:
        for _ in range(self._draw.choice((0, 0, 1, 2, 5))):
            place, length = self._draw.randrange(len(text) + 1), self._draw.randrange(1, 8)
            piece = text[place : place + length]
            change = self._draw.choice(("delete", "double", "insert", "swap"))
            if change == "delete":
                text = text[:place] + text[place + length :]
            elif change == "double":
                text = text[:place] + piece + text[place:]
            elif change == "insert":
                text = text[:place] + self._draw.choice(PIECES) + text[place:]
            else:
                text = text[:place] + piece[::-1] + text[place + length :]
        return text

    def _text(self) -> str:
        return "".join(
            chr(self._draw.choice((32, 65, 0, 10, 0x4E2D, 0x1F642, 0xFFFD, 0xE000, 0x10FFFF))) for _ in range(20)
        )


@dataclass(frozen=True)
class Said:
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str = "stop"


class BabblingPolicy:
    """Says something else in every turn; the same turn of an episode is the same in every attempt."""

    def __init__(self, tokenizer, stop: int) -> None:
        self._tokenizer, self._stop = tokenizer, stop
        self.outputs = 0

    async def __call__(self, prompt_ids, *, max_tokens, seed, session) -> Said:
        self.outputs += 1
        ids = self._tokenizer.encode(Babble(seed).turn(), add_special_tokens=False, split_special_tokens=True)[
            : max_tokens - 1
        ]
        return Said([*ids, self._stop], [-1.0] * (len(ids) + 1))

    async def ready(self) -> None:
        pass

    async def lost(self) -> None:
        return None


def fuzz(root: Path, outputs: int, seed: int) -> Counter[str]:
    """Play until so many outputs were said; returns how the episodes ended. Raises where something is lost or changed."""
    settings = configuration.load(
        [f"paths.data={root}", "collect.tool_seconds=3", "collect.tool_memory=0.5", "collect.attempts=2", "collect.max_failed=1e9"],
        profile="demo",
    )  # fmt: skip
    settings.export()
    tokenizer = AutoTokenizer.from_pretrained(settings.model_directory())
    prompt = PromptFormat(tokenizer, describe_tools=True)
    policy = BabblingPolicy(tokenizer, prompt.stop_token_ids[0])
    planned: set[str] = set()
    with Worlds(settings, ENVIRONMENTS) as worlds:
        round_ = 0
        while policy.outputs < outputs:
            name = ENVIRONMENTS[round_ % len(ENVIRONMENTS)]
            planned |= _play(settings, worlds, policy, prompt, name, seed=seed + round_)
            round_ += 1
    with Database.open(settings.paths.database) as database:
        report = ingest(database, sorted(settings.paths.shards.glob("*.parquet")))
        scoring.score(database, lambda each: environments.get(each).verify)
        stored = {name for (name,) in database.execute("SELECT id FROM trajectories")}
        failed = {name for (name,) in database.execute("SELECT trajectory FROM failed_episodes")}
        scored = {name for (name,) in database.execute("SELECT trajectory FROM scores WHERE scorer = 'success'")}
        without_cause = failed - {
            name for (name,) in database.execute("SELECT DISTINCT trajectory FROM v_failures WHERE lost")
        }
        ended = Counter(dict(database.execute("SELECT status, count(*) FROM trajectories GROUP BY status")))
    assert not report.damaged
    assert stored | failed == planned and not stored & failed
    assert scored == stored
    assert not without_cause
    return ended + Counter({"failed": len(failed), "outputs": policy.outputs})


def _play(
    settings: Settings, worlds: Worlds, policy: BabblingPolicy, prompt: PromptFormat, name: str, *, seed: int
) -> set[str]:
    tasks = environments.get(name).tasks("train", 32, 0)
    [shard] = plan(tasks, 4, policy="babble", sampling=SAMPLING, seed=seed, shard_episodes=SHARD_EPISODES)
    trajectories = asyncio.run(
        run_shard(shard, policy=policy, prompt=prompt, open_world=worlds.open, limits=settings.collect)
    )
    path = shard.path(settings.paths.shards)
    write_shard(path, trajectories, purpose="collect", campaign="fuzz", iteration=1)
    assert [each.id for each in trajectories] == list(shard.trajectories)
    for before, after in zip(trajectories, read_shard(path), strict=True):
        assert (before.id, before.turns, before.token_ids, before.answer) == (
            after.id,
            after.turns,
            after.token_ids,
            after.answer,
        )
    return set(shard.trajectories)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as directory:
        print(dict(fuzz(Path(directory), given.outputs, given.seed)), f"{time.monotonic() - started:.0f} s")
