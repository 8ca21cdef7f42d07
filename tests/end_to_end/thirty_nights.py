"""Many nights in a row, driven by a schedule, with faults: nothing is lost, nothing grows without end, nothing gets slower.

    python tests/end_to_end/thirty_nights.py DIRECTORY [--nights 30] [--table FILE]

A campaign of the tiny model goes on and on by the deployment nightly, whose schedule fires every half minute, with tools that
complain, raise, hang and die all along. On some nights something is killed, or the disk is full. Old weights are pruned
every fifth night. Prints a row of a Markdown table for each night, and exits with 1 where something was lost. The same
command goes on with the nights that are there.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from home import Home, free_port

from agentloop.settings import parse_overrides

HERE = Path(__file__).parent
WORDS = (
    f"environment={HERE / 'chaos.py'}",
    "campaign=nights",
    "model=tiny",
    *("collect.tasks=24", "collect.samples=4", "collect.shard_episodes=48"),
    *("collect.tool_seconds=2", "collect.max_failed=0.3"),
    *("evaluate.tasks=24", "evaluate.samples=2", "gate.max_tasks=24", "gate.control=false", "gate.resamples=1000"),
    *("selection.recipe=fresh", "selection.rows=40", "selection.max_success_rate=1"),
    *("training.epochs=1", "training.checkpoint_steps=2", "report.seconds=0"),
)
RETENTION = ("retention.adapter_days=0", "retention.adapter_iterations=3", "retention.log_gib=0.01")
FAULTS = {5: "flow", 8: "vllm", 11: "worker", 14: "trainer", 17: "server", 20: "everything", 23: "disk"}
"""By night."""
PROGRAMS = {
    "flow": "prefect.engine",
    "vllm": "agentloop_vllm.standby",
    "worker": "prefect worker start",
    "trainer": "agentloop.training.worker",
    "server": "agentloop_flows.prefect_server",
}
PRUNED_EVERY = 5
SECONDS_BETWEEN = 30
NIGHT_SECONDS = 1200
BUSY, BUSY_TRIES = 503, 30
"""What Prefect answers while its SQLite database is locked; its own client asks again as well."""
HEADER = "| night | fault | ended | seconds | episodes | data, MB | files | server, MiB | worker, MiB | descriptors | threads |"


@dataclass
class Nights:
    home: Home

    def begin(self) -> None:
        """Bring everything up, with a schedule that fires all the time."""
        self.home.run("up")
        with self.home.prefect() as api:
            there = api.get("/deployments/name/self-improve/nightly").json()
            for each in there["schedules"]:
                api.delete(f"/deployments/{there['id']}/schedules/{each['id']}").raise_for_status()
            schedule = {"active": True, "schedule": {"interval": SECONDS_BETWEEN}}
            api.post(f"/deployments/{there['id']}/schedules", json=[schedule]).raise_for_status()
            parameters = {"profile": "demo", "iterations": 1, "more": True, "overrides": self.overrides}
            api.patch(f"/deployments/{there['id']}", json={"parameters": parameters}).raise_for_status()

    @property
    def overrides(self) -> dict[str, Any]:
        paths = {"data": str(self.home.root), "cache": str(self.home.root / "cache")}
        return {**parse_overrides(WORDS), "paths": paths}

    def finished(self) -> int:
        if not (self.home.root / "agentloop.duckdb").exists():
            return 0
        [(count,)] = self.home.rows(
            "SELECT count(*) FROM iterations WHERE campaign = 'nights' AND finished IS NOT NULL"
        )
        return count

    def processes(self, program: str) -> Iterator[psutil.Process]:
        """The processes of this data root that run the program."""
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("AGENTLOOP_PATHS__DATA") == str(self.home.root) or str(
                    self.home.root
                ) in " ".join(process.cmdline())
                if ours and program in " ".join(process.cmdline()):
                    yield process
            except (psutil.Error, OSError):
                continue

    def kill(self, target: str) -> bool:
        """Return whether there was anything to kill."""
        programs = list(PROGRAMS.values()) if target == "everything" else [PROGRAMS[target]]
        found = [process for program in programs for process in self.processes(program)]
        for process in found:
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return bool(found)

    def fill_the_disk(self) -> Callable[[], None]:
        """Leave no room for what an iteration writes; returns what gives it back. The data root is a file system of its own."""
        ballast = self.home.root / "ballast"
        free = os.statvfs(self.home.root)
        with open(ballast, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, free.f_bavail * free.f_frsize - (1 << 20)))
        return lambda: ballast.unlink()

    def night(self, number: int, fault: str | None) -> tuple[float, str]:
        """Wait until the iteration is finished: (seconds since it began, what happened)."""
        deadline, happened, undo = time.monotonic() + NIGHT_SECONDS, fault or "", None
        pending, since = fault, 0.0
        while self.finished() < number:
            if time.monotonic() > deadline:
                raise SystemExit(f"night {number}: not finished within {NIGHT_SECONDS} s ({fault or 'no fault'})")
            at_work = any(True for _ in self.processes(PROGRAMS["flow"]))
            if pending and at_work:
                since = since or time.monotonic()
                if pending == "disk":
                    undo, pending = self.fill_the_disk(), None
                elif time.monotonic() - since > 8 and self.kill(pending):
                    pending = None
                    if fault in ("server", "worker", "everything"):
                        time.sleep(5)
                        self.home.run("up")
            if undo and not at_work:  # the run has ended for want of room
                undo()
                undo = None
            time.sleep(1)
        return self.took(number), happened

    def prune(self) -> None:
        """By the flow, which waits for the night that is at work."""
        with self.home.prefect() as api:
            there = api.get("/deployments/name/prune/disk").json()
            overrides = {**self.overrides, **parse_overrides(RETENTION)}
            run = {"parameters": {"profile": "demo", "overrides": overrides}}
            for _ in range(BUSY_TRIES):
                answer = api.post(f"/deployments/{there['id']}/create_flow_run", json=run)
                if answer.status_code != BUSY:
                    break
                time.sleep(2)
            answer.raise_for_status()

    def took(self, number: int) -> float:
        [(seconds,)] = self.home.rows(
            "SELECT epoch(finished) - epoch(started) FROM iterations "
            f"WHERE campaign = 'nights' AND iteration = {number}"
        )
        return seconds

    def row(self, number: int, seconds: float, fault: str) -> str:
        files = [file for file in self.home.root.rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files if file.exists()) / 1e6
        [(episodes, different)] = self.home.rows("SELECT count(*), count(DISTINCT id) FROM trajectories")
        assert episodes == different
        services = [process for name in ("server", "worker") for process in self.processes(PROGRAMS[name])]
        memory = [f"{process.memory_info().rss / 2**20:.0f}" for process in services] + ["–", "–"]
        descriptors, threads = sum(each.num_fds() for each in services), sum(each.num_threads() for each in services)
        [(decision,)] = self.home.rows(
            f"SELECT decision FROM v_verdicts WHERE campaign = 'nights' AND iteration = {number}"
        )
        about = (number, fault or "–", decision, f"{seconds:.0f}", episodes, f"{size:.0f}", len(files))
        return f"| {' | '.join(map(str, (*about, *memory[:2], descriptors, threads)))} |"

    def lost(self) -> list[str]:
        """What is not as it should be after all nights."""
        played = self.home.rows(
            "SELECT iteration, count(*), count(DISTINCT episode) FROM ("
            "    SELECT iteration, trajectory AS episode FROM collected WHERE campaign = 'nights' AND purpose = 'collect'"
            "    UNION ALL SELECT u.iteration, f.trajectory FROM failed_episodes f JOIN shard_uses u ON u.shard = f.shard"
            "    WHERE u.campaign = 'nights' AND u.purpose = 'collect'"
            ") GROUP BY 1 ORDER BY 1"
        )
        faults = [
            f"iteration {each}: {count} episodes" for each, count, different in played if (count, different) != (96, 96)
        ]
        if running := self.home.rows("SELECT name, iteration FROM steps WHERE status = 'started'"):
            faults.append(f"steps are still running: {running}")
        return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, help="On a disk of its own, else no night fills the disk.")
    parser.add_argument("--nights", type=int, default=30)
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    root = options.directory.resolve() / "data"
    root.mkdir(parents=True, exist_ok=True)
    own_disk = os.stat(options.directory).st_dev != os.stat(options.directory.resolve().parent).st_dev
    nights = Nights(Home(root, free_port()))
    rows = [HEADER, "|" + "---|" * (HEADER.count("|") - 1)]
    print(*rows, sep="\n", flush=True)
    try:
        nights.begin()
        for number in range(nights.finished() + 1, options.nights + 1):
            fault = FAULTS.get(number)
            seconds, happened = nights.night(number, fault if fault != "disk" or own_disk else None)
            if number % PRUNED_EVERY == 0:
                nights.prune()
            rows.append(nights.row(number, seconds, happened))
            print(rows[-1], flush=True)
    finally:
        nights.home.run("down")
    if options.table:
        options.table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    faults = nights.lost()
    print(*faults, sep="\n")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
