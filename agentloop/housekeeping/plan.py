"""What would go now, kind by kind, with the rule that says so; and what lies in the data root and is nobody's to remove."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from agentloop import scratch, sizes
from agentloop.errors import AgentloopError, SettingError
from agentloop.files import is_abandoned
from agentloop.housekeeping import facts, place, rules
from agentloop.housekeeping.facts import Facts
from agentloop.housekeeping.place import Entry
from agentloop.housekeeping.rules import ShardChoice
from agentloop.model_directory.fingerprint import base_fingerprint
from agentloop.settings import Settings
from agentloop.store import journal
from agentloop.store.shards import is_whole

_ID = r"[0-9a-f]{16}"
_ADAPTER = re.compile(rf"adapter_{_ID}")
_OF_TRAINING = re.compile(rf"(adapter_{_ID})(\.safetensors|\.json|\.metrics\.jsonl)")
_REQUEST = re.compile(rf"(?!adapter_)[a-z-]+_{_ID}\.json")
_ROWS = re.compile(rf"(data_{_ID})\.safetensors")
_SHARD = re.compile(rf"(shard_{_ID})\.parquet(\.\d+)?(\.damaged)?")
_JOURNAL = re.compile(rf"(shard_{_ID})\.journal(\.\d+)?(\.damaged)?")
_LOG = re.compile(
    rf"(vllm-\d{{8}}-\d{{6}}-\d+|train-adapter_{_ID}|[a-z-]+_{_ID}|worlds|prefect-(server|worker))\.(log|json)"
)
_SNAPSHOT = re.compile(r"\.agentloop-[\d-]+\.snapshot")
_REPRODUCED = re.compile(r"reproduce-[a-z0-9_]{8}")
_DERIVED = re.compile(rf"base_{_ID}-.+")
_REPORT = re.compile(r".+\.html")

_ROOT_NAMES = frozenset(
    {
        "adapters",
        "agentloop.duckdb",
        "agentloop.duckdb.lock",
        "agentloop.duckdb.turn",
        "agentloop.duckdb.wal",
        ".no-shards.parquet",
        "checkpoints",
        "datasets",
        "judgements",
        "logs",
        "prefect",
        "proofs",
        "reports",
        "run.lock",
        "services",
        "shards",
        "tensorboard",
        # the project's own
        "README.md",
        ".gitignore",
        ".gitkeep",
        # where neither HOME nor a passwd entry says another place, libraries write here
        ".cache",
        ".config",
    }
)
"""What agentloop makes in the data root, beside what has a pattern."""
_RESULT_FOLDER = ("prefect", "results")
_OWN_TEMPORARY = ("prefect", "tmp")
"""Where the flows that Prefect's worker runs have their temporary folders."""
_REQUEST_DAYS = 1.0
"""A child reads its request at once; a day covers whatever it waits for."""
_SNAPSHOT_DAYS = 1 / 24
"""Whoever was told of a copy has opened it long since. What is open survives."""
_LIVE_LOG = 16 << 20
"""Bytes of the log of something that runs, from which on all but its end is cut off."""


LOG_END = 1 << 20
"""Bytes that stay of such a log."""


@dataclass(frozen=True)
class Kind:
    """Things of one kind, of which some go."""

    name: str
    rule: str
    """Which of them go, in words."""
    going: tuple[Entry, ...] = ()
    cut: tuple[Entry, ...] = ()
    """Logs that are being written, of which all but the end goes."""
    kept: int = 0
    """Bytes that are estimated to stay of what goes: rows of shards that datasets hold."""

    @property
    def bytes(self) -> int:
        return sum(each.bytes for each in self.going) + sum(each.bytes - LOG_END for each in self.cut) - self.kept

    @property
    def files(self) -> int:
        return sum(each.files for each in self.going)


@dataclass(frozen=True)
class Plan:
    kinds: tuple[Kind, ...]
    left: tuple[tuple[Path, str], ...]
    """What is left alone though it lies where only agentloop writes, each with the reason."""

    @property
    def bytes(self) -> int:
        return sum(kind.bytes for kind in self.kinds)

    @property
    def files(self) -> int:
        return sum(kind.files for kind in self.kinds)


def make(settings: Settings, known: Facts, *, shards: ShardChoice | None = None) -> Plan:
    """Decide what goes. `shards`: those that somebody asks for."""
    now = time.time()
    used = place.in_use()
    look = _Look(settings, known, now, datetime.fromtimestamp(now, UTC).replace(tzinfo=None), used)
    parts: Sequence[Callable[[], Kind]] = (
        look.temporary,
        look.snapshots,
        look.training,
        look.journals,
        look.logs,
        look.caches,
        look.prefect,
        look.adapters,
        lambda: look.shards(shards),
    )
    return Plan(tuple(part() for part in parts), tuple(look.left_alone()))


@dataclass(frozen=True)
class _Look:
    settings: Settings
    known: Facts
    now: float
    date: datetime
    used: frozenset[tuple[int, int]]

    @property
    def data(self) -> Path:
        return self.settings.paths.data

    def _free(self, entries: Iterable[Entry]) -> tuple[Entry, ...]:
        """Those that are this user's, no links, and that no process has open."""
        return tuple(each for each in entries if each.ours and self.used.isdisjoint(each.identity))

    def temporary(self) -> Kind:
        """Half-written files, sockets and folders of processes that are gone."""
        within = (
            (),
            *(
                (name,)
                for name in (
                    "adapters",
                    "checkpoints",
                    "datasets",
                    "judgements",
                    "logs",
                    "reports",
                    "services",
                    "shards",
                )
            ),
        )
        hidden = [each for folder in within for each in place.entries(self.data, *folder) if is_abandoned(each.name)]
        again = [
            each
            for each in place.entries(self.data)
            if _REPRODUCED.fullmatch(each.name) and rules.aged(each.modified, _REQUEST_DAYS, self.now)
        ]
        folders = list(scratch.abandoned(self.data.joinpath(*_OWN_TEMPORARY)))
        dead = [
            each
            for parent in {path.parent for path in folders}
            for each in place.entries(parent)
            if each.path in folders
        ]
        rule = "half-written files, and sockets and temporary folders of processes that have ended"
        return Kind("temporary", rule, self._free([*hidden, *again, *dead]))

    def snapshots(self) -> Kind:
        old = [
            each
            for each in place.entries(self.data)
            if _SNAPSHOT.match(each.name) and rules.aged(each.modified, _SNAPSHOT_DAYS, self.now)
        ]
        return Kind("snapshots", "copies of the database for readers; the next reader makes another", self._free(old))

    def training(self) -> Kind:
        """Checkpoints, journals, requests and rows of trainings that are finished: the database has all but the rows' tokens,
        and these are in the shards."""
        going = []
        for each in place.entries(self.data, "checkpoints"):
            if own := _OF_TRAINING.fullmatch(each.name):
                if own[1] in self.known.finished:
                    going.append(each)
            elif _REQUEST.fullmatch(each.name) and rules.aged(each.modified, _REQUEST_DAYS, self.now):
                going.append(each)
        for each in place.entries(self.data, "datasets"):
            if (own := _ROWS.fullmatch(each.name)) and own[1] in self.known.settled:
                going.append(each)
        rule = "checkpoints, journals and token rows of finished trainings, and requests of processes that have ended"
        return Kind("training", rule, self._free(going))

    def journals(self) -> Kind:
        """Of shards that are written, or that nobody goes on with. What one of them would have spared is played again."""
        days, going = self.settings.retention.journal_days, []
        for each in place.entries(self.data, "shards"):
            if not (own := _JOURNAL.fullmatch(each.name)):
                continue
            about = journal.description(each.path) if each.ours and not each.folder else None
            written = is_whole(each.path.with_name(f"{own[1]}.parquet"))
            finished = about is not None and (about.campaign, about.iteration) in self.known.iterations
            if written or finished or rules.aged(each.modified, days, self.now):
                going.append(each)
        rule = (
            "journals of shards that are written, of finished iterations, and those that nothing was added to for "
            f"{days:g} days (retention.journal_days)"
        )
        return Kind("journals", rule, self._free(going))

    def logs(self) -> Kind:
        retention = self.settings.retention
        logs = [each for each in place.entries(self.data, "logs") if _LOG.fullmatch(each.name)]
        boards = [each for each in place.entries(self.data, "tensorboard") if _ADAPTER.fullmatch(each.name)]
        everything = sorted([*logs, *boards], key=lambda each: each.modified, reverse=True)
        going, total = [], 0
        for each in everything:
            running = not self.used.isdisjoint(each.identity)
            total += 0 if running else each.bytes
            old = rules.aged(each.modified, retention.log_days, self.now)
            if not running and (old or total > retention.log_gib * sizes.GIB):
                going.append(each)
        # vLLM's and the trainer's are read by whoever started them, from where they began
        live = [
            each
            for each in logs
            if each.name.startswith("prefect-") and each.ours and each.bytes > _LIVE_LOG and each not in going
        ]
        rule = (
            f"logs and TensorBoard's files older than {retention.log_days:g} days (retention.log_days), and the oldest beyond "
            f"{retention.log_gib:g} GiB (retention.log_gib)"
        )
        return Kind("logs", rule, self._free(going), tuple(live))

    def caches(self) -> Kind:
        """In `paths.cache` alone: where the user has put a library's cache elsewhere, it is the user's."""
        days = self.settings.retention.cache_days
        derived = [
            each
            for folder in ("nf4", "dequantised")
            for each in place.entries(self.settings.paths.cache, folder)
            if _DERIVED.fullmatch(each.name) and rules.aged(each.used, days, self.now)
        ]
        if derived:
            present = _bases(self.settings)
            derived = [each for each in derived if each.name.partition("-")[0] not in present]
        compiled = [
            each
            for folder in (("inductor",), ("triton",), ("vllm", "torch_compile_cache"))
            for each in place.entries(self.settings.compiled, *folder)
            if rules.aged(each.used, days, self.now)
        ]
        games = [
            each
            for each in place.entries(self.settings.paths.cache, "made", "textworld")
            if rules.aged(each.used, days, self.now)
        ]
        rule = (
            f"compiled code, games, and weights derived from a base that no model directory has, unused for {days:g} days "
            "(retention.cache_days)"
        )
        return Kind("caches", rule, self._free([*derived, *compiled, *games]))

    def prefect(self) -> Kind:
        days = self.settings.retention.flow_run_days
        old = [each for each in place.entries(self.data, *_RESULT_FOLDER) if rules.aged(each.modified, days, self.now)]
        rule = f"results of flow runs older than {days:g} days (retention.flow_run_days); the server removes the runs"
        return Kind("prefect", rule, self._free(old))

    def adapters(self) -> Kind:
        retention, going = self.settings.retention, []
        for each in place.entries(self.data, "adapters"):
            own = self.known.adapters.get(each.name)
            if own and own.path == each.path.absolute() and rules.adapter(own, retention, self.date) is None:
                going.append(each)
        rule = (
            f"adapters that no champion is or descends from, older than {retention.adapter_days:g} days "
            f"(retention.adapter_days) and not of the newest {retention.adapter_iterations} iterations "
            "(retention.adapter_iterations)"
        )
        return Kind("adapters", rule, self._free(going))

    def shards(self, choice: ShardChoice | None) -> Kind:
        going, kept = [], 0
        for each in place.entries(self.data, "shards"):
            own = _SHARD.fullmatch(each.name)
            facts = self.known.shards.get(own[1]) if own else None
            there = facts and facts.path == each.path.absolute()
            whole = facts and facts.chosen == facts.trajectories  # nothing would be left out
            if facts and there and not whole and rules.shard(facts, choice, self.date) is None:
                going.append(each)
                kept += each.bytes * facts.chosen // max(facts.trajectories, 1)
        rule = "tokens of shards that are asked for (--shards), but for rows that datasets, evaluations and demonstrations hold"
        return Kind("shards", rule, self._free(going), kept=kept)

    def left_alone(self) -> Iterable[tuple[Path, str]]:
        """Files of somebody else, and what is like ours and unknown to the database."""
        cache = self.settings.paths.cache.absolute()
        patterns: dict[tuple[str, ...], tuple[re.Pattern[str], ...]] = {
            (): (_SNAPSHOT, _REPRODUCED),
            ("adapters",): (_ADAPTER,),
            ("checkpoints",): (_OF_TRAINING, _REQUEST),
            ("datasets",): (_ROWS,),
            ("logs",): (_LOG,),
            ("reports",): (_REPORT,),
            ("shards",): (_SHARD, _JOURNAL),
            ("tensorboard",): (_ADAPTER,),
        }
        for within, known in patterns.items():
            for each in place.entries(self.data, *within):
                if each.path.absolute() == cache or is_abandoned(each.name):
                    continue
                ours = any(pattern.match(each.name) for pattern in known) or (not within and each.name in _ROOT_NAMES)
                if each.path.is_symlink():
                    yield each.path, "a link, which is not followed"
                elif not ours:
                    yield each.path, "not agentloop's"
                elif not each.ours:
                    yield each.path, "another user's, or holds what is"
                elif within == ("adapters",) and each.name not in self.known.adapters:
                    yield each.path, "unknown to the database"


def look(settings: Settings, *, shards: ShardChoice | None = None) -> Plan:
    """Return what would go now, also while a run is writing. Raises StoreError, SettingError for an unknown campaign."""
    known = facts.look(settings.paths.database)
    if shards and shards.campaign is not None and shards.campaign not in known.campaigns:
        there = ", ".join(sorted(known.campaigns)) or "none"
        raise SettingError(f"--campaign: no campaign named {shards.campaign!r} (there are: {there})")
    return make(settings, known, shards=shards)


def remedy(settings: Settings) -> str:
    """Return what a person is told whose disk is full: the command, and what it would free."""
    try:
        free = look(settings).bytes
    except (AgentloopError, OSError):
        return "`agentloop prune` shows what can go"
    return f"`agentloop prune --yes` frees {sizes.said(free)}" if free else "`agentloop prune` finds nothing to remove"


def _bases(settings: Settings) -> set[str]:
    """Fingerprints of all model directories that there are."""
    found = set()
    directories = [settings.paths.models / settings.model, Path(settings.model)]
    if settings.paths.models.is_dir():
        directories += sorted(settings.paths.models.iterdir())
    for directory in directories:
        if (directory / "config.json").is_file():
            try:
                found.add(base_fingerprint(directory, settings.paths.cache))
            except (AgentloopError, OSError):
                continue
    return found
