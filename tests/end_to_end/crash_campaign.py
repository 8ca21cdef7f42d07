"""SIGKILL of every process of a campaign at every step: it always ends in the state of the undisturbed one.

    python tests/end_to_end/crash_campaign.py DIRECTORY [--from cli prefect] [--targets flow worker server vllm trainer everything]
        [--steps begin collect …] [--moments start inside] [--seed 0] [--iterations 1] [--table FILE]

A campaign of the tiny model is killed once in each of the steps, one after the other, always the same target. From the CLI
the same command continues; in Prefect `agentloop up` and `prefect flow-run retry` do. Prints a row of a Markdown table for
each kill, and exits with 1 where a campaign did not end as the undisturbed one, which stays in DIRECTORY for the next time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import uuid4

import psutil
from home import SMALL, Home, free_port

from agentloop import settings as configuration
from agentloop.store.database import Database
from agentloop_flows import connection

HERE = Path(__file__).parent
STEPS = ("judge", "begin", "collect", "ingest", "select", "train", "canary", "evaluate", "measure", "decide", "report")
TARGETS = ("flow", "worker", "server", "vllm", "trainer", "everything")
SERVES = ("collect", "canary", "evaluate")
"""Steps in which vLLM has work to do."""
PROGRAMS = {"vllm": "agentloop_vllm.standby", "trainer": "agentloop.training.worker"}
OF_PREFECT = ("runner_storage", f".agentloop-tmp-{os.getuid()}")
"""In the temporary folder: of the worker, which outlasts a campaign."""
RUNNING_SECONDS = 120
"""By then no run may be left Running that nobody works on."""
CAMPAIGN_SECONDS = 1200
LOOK_SECONDS = 1.0
STATE = (
    "SELECT id FROM trajectories ORDER BY id",
    "SELECT id FROM datasets ORDER BY id",
    "SELECT dataset, trajectory FROM dataset_rows ORDER BY ALL",
    "SELECT id FROM adapters ORDER BY id",
    "SELECT id FROM evaluations ORDER BY id",
    "SELECT adapter, decision FROM verdicts ORDER BY ALL",
    "SELECT iteration, name, status FROM steps WHERE campaign = 'demo' AND iteration > 0 ORDER BY ALL",
)


@dataclass(frozen=True)
class Kill:
    """One SIGKILL: what, and so many seconds after the step has begun."""

    target: str
    step: str
    inside: bool = False
    delay: float = 0.0

    @property
    def moment(self) -> str:
        return f"{self.delay:.1f} s inside" if self.inside else "start"


@dataclass
class Outcome:
    """What became of a campaign that was killed."""

    origin: str
    kills: list[tuple[Kill, str]] = field(default_factory=list)
    """Each with what happened then."""
    faults: list[str] = field(default_factory=list)

    def rows(self) -> Iterator[str]:
        verdict = "; ".join(self.faults) or "as undisturbed"
        for kill, then in self.kills:
            yield f"| {self.origin} | {kill.target} | {kill.step} | {kill.moment} | {then} | {verdict} |"


HEADER = "| from | killed | step | moment | then | end |\n|---|---|---|---|---|---|"


@dataclass(frozen=True)
class NotedHome(Home):
    """A home whose runs write down when a step begins, and put their temporary files where they are seen."""

    iterations: int = 1
    temporary: Path = field(default_factory=lambda: Path(tempfile.gettempdir(), f"crash-{uuid4().hex[:8]}"))
    """Short, for sockets have to fit into it."""

    @property
    def notes(self) -> Path:
        return self.root / "noted-steps"

    @property
    def environment(self) -> dict[str, str]:
        inherited = super().environment
        self.temporary.mkdir(exist_ok=True)
        return inherited | {
            "PYTHONPATH": ":".join(filter(None, (str(HERE / "noted_steps"), inherited.get("PYTHONPATH")))),
            "NOTED_STEPS": str(self.notes),
            "TMPDIR": str(self.temporary),
        }

    @property
    def words(self) -> tuple[str, ...]:
        return (*SMALL, f"iterations={self.iterations}")

    def noted(self) -> list[tuple[str, float]]:
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        return [(name, float(when)) for name, when in (line.split() for line in lines)]

    def prefect_command(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *words],
            env=connection.environment(self.settings(f"prefect_port={self.port}")) | self.environment,
            cwd=self.project,
            text=True,
            capture_output=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def state(self) -> list[object]:
        """What has to be equal: rows, and the adapters' bytes."""
        with Database.open(self.root / "agentloop.duckdb", read_only=True) as database:
            rows = [database.execute(query) for query in STATE]
        weights = sorted((self.root / "adapters").glob("*/adapter_model.safetensors"))
        return [*rows, [(file.parent.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in weights]]


class Processes:
    """Those of one home, found by the environment that they were started with."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._mark = f"AGENTLOOP_PATHS__DATA={home.root}".encode()
        self._known: set[psutil.Process] = set()

    def all(self) -> list[psutil.Process]:
        """Every process that lives, those that were seen before under a name that they have changed since included."""
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                if self._mark in (directory / "environ").read_bytes().split(b"\0"):
                    process = psutil.Process(int(directory.name))
                    self._known.update((process, *process.children(recursive=True)))
            except (OSError, psutil.Error):
                continue
        return [process for process in self._known if lives(process)]

    def of(self, target: str) -> list[psutil.Process]:
        if target == "everything":
            return self.all()
        if target in ("worker", "server"):
            recorded = self._recorded(self.home.root / "services" / f"{target}.json")
            return recorded + (
                [each for one in recorded for each in one.children(recursive=True)] * (target == "server")
            )
        if target == "flow":
            recorded = [
                process
                for file in (self.home.root / "services" / "runs").glob("*.json")
                for process in self._recorded(file)
            ]
            return recorded
        found = []
        for process in self.all():
            try:
                command = process.cmdline()
            except psutil.Error:
                continue
            if PROGRAMS[target] in command and "agentloop.child" not in command:
                found.append(process)
        return found

    def _recorded(self, file: Path) -> list[psutil.Process]:
        try:
            process = psutil.Process(json.loads(file.read_text())["pid"])
            return [process] if lives(process) else []
        except (OSError, ValueError, psutil.Error):
            return []


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


class Campaign:
    """One campaign that is killed according to a plan, and continued until it is complete."""

    def __init__(self, home: NotedHome, origin: str, plan: Sequence[Kill]) -> None:
        self.home, self.plan = home, list(plan)
        self.outcome = Outcome(origin)
        self.processes = Processes(home)
        self.output = open(home.root / "output", "ab")
        self.deadline = time.monotonic() + CAMPAIGN_SECONDS
        self.seen = 0
        """Steps that were noted before the last kill."""

    def run(self) -> Outcome:
        try:
            (self._from_cli if self.outcome.origin == "cli" else self._from_prefect)()
            self.outcome.faults += [f"no occasion: {kill.target} in {kill.step}" for kill in self.plan]
        except TimeoutError as error:
            self.outcome.faults.append(str(error))
        finally:
            self.home.run("down")
            self._look_for_what_is_left()
        return self.outcome

    def _from_cli(self) -> None:
        command = [sys.executable, "-m", "agentloop", "run", "--profile", "demo", *self.home.words]
        while True:
            run = subprocess.Popen(
                command,
                env=self.home.environment,
                cwd=self.home.project,
                stdin=subprocess.DEVNULL,
                stdout=self.output,
                stderr=self.output,
                start_new_session=True,
            )
            self._kill_until(lambda run=run: run.poll() is not None)
            self._then(f"rc {run.returncode}")
            if run.returncode == 0:
                break
        self.home.run("up")  # where the server was killed last
        self._expect_no_run_without_process()

    def _from_prefect(self) -> None:
        self.home.run("up")
        overrides = configuration.parse_overrides(self.home.words)
        overrides["paths"] = {"data": str(self.home.root), "cache": self.home.environment["AGENTLOOP_PATHS__CACHE"]}
        parameters = json.dumps({"profile": "demo", "overrides": overrides})
        self.home.prefect_command("deployment", "run", "self-improve/demo", "--params", parameters)
        while True:
            killed = self._kill_until(self._prefect_ended)
            if killed:
                self.home.run("up")
                self._expect_no_run_without_process()
            (state,) = {run["state"]["name"] for run in self._runs()}
            if killed or state in FINAL:
                self._then(state)
            if state == "Completed":
                self._wait(lambda: not self.processes.of("flow"), "the process of a completed run ends")
                return
            if state in FINAL:
                (run,) = self._runs()
                self.home.prefect_command("flow-run", "retry", run["id"])
                self._wait(lambda: self._runs()[0]["state"]["name"] not in FINAL, "the retry begins")

    def _runs(self) -> list[dict]:
        return self.home.flow_runs()

    def _prefect_ended(self) -> bool:
        try:
            return all(run["state"]["name"] in FINAL for run in self._runs())
        except Exception:  # the server was killed
            return True

    def _kill_until(self, ended) -> bool:
        """Carry out the plan until the run has ended, or a process that does not come back by itself was killed."""
        looked = 0.0
        while True:
            if time.monotonic() - looked > LOOK_SECONDS:
                looked = time.monotonic()
                if ended():
                    return False
                if looked > self.deadline:
                    raise TimeoutError(f"not complete after {CAMPAIGN_SECONDS} s")
            if self.plan and any(name == self.plan[0].step for name, _ in self.home.noted()[self.seen :]):
                kill = self.plan.pop(0)
                time.sleep(kill.delay)
                self._kill(kill)
                if self.outcome.origin == "prefect" and kill.target not in PROGRAMS:
                    return True
                if kill.target == "server" and self.plan:  # else it stays away until the end
                    self.home.run("up")
            time.sleep(0.01)

    def _kill(self, kill: Kill) -> None:
        self.processes.all()
        victims = self.processes.of(kill.target)
        end = time.monotonic() + 60
        while not victims and time.monotonic() < end and kill.target in PROGRAMS and not kill.inside:
            time.sleep(0.05)  # it is being started
            victims = self.processes.of(kill.target)
        for process in victims:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.Error:
                continue
        self.seen = len(self.home.noted())
        self.outcome.kills.append((kill, "" if victims else "was not there"))

    def _then(self, what: str) -> None:
        """Note what became of the run after the kills that have no outcome yet."""
        self.outcome.kills = [(kill, then or what) for kill, then in self.outcome.kills]

    def _wait(self, condition, what: str) -> None:
        end = time.monotonic() + RUNNING_SECONDS
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"not within {RUNNING_SECONDS} s: {what}")
            time.sleep(0.5)

    def _expect_no_run_without_process(self) -> None:
        """Every run has ended, waits for its turn, or has a process that works on it."""

        def settled() -> bool:
            working = [run for run in self._runs() if run["state"]["type"] in ("RUNNING", "PENDING", "CANCELLING")]
            return not working or bool(self.processes.of("flow"))

        self._wait(settled, "a run is left Running without a process")

    def _look_for_what_is_left(self) -> None:
        _, alive = psutil.wait_procs(self.processes.all(), timeout=20)
        if orphans := [process for process in alive if lives(process)]:
            self.outcome.faults.append(f"left running: {[process.name() for process in orphans]}")
        for process in alive:
            process.kill()
        root = self.home.root
        left = [file for file in root.rglob("*") if file.is_socket() or file.name.endswith((".tmp", ".wal"))]
        left += (root / "services").rglob("*.json")
        left += (root / "checkpoints").glob("*.safetensors")
        left += [file for file in self.home.temporary.iterdir() if file.name not in OF_PREFECT]
        if left:
            self.outcome.faults.append(f"left: {sorted(map(str, left))}")
        shutil.rmtree(self.home.temporary, ignore_errors=True)


FINAL = ("Completed", "Failed", "Crashed", "Cancelled")


def undisturbed(root: Path, iterations: int) -> tuple[NotedHome, dict[str, float]]:
    """A campaign that nobody disturbs, or has not disturbed earlier, and how long each step took when it came first."""
    home = NotedHome(root, free_port(), iterations=iterations)
    if not (root / "reports" / "demo.html").exists():
        home.run("run", "--profile", "demo", *home.words)
        home.run("down")
        shutil.rmtree(home.temporary)
    noted = home.noted()
    lengths = {"report": 1.0}  # nothing comes after it
    for (name, begun), (_, ended) in zip(noted, noted[1:]):
        lengths.setdefault(name, ended - begun)
    return home, lengths


def prepare(home: NotedHome, *, like: NotedHome) -> NotedHome:
    """Begin with the other's caches: what is compiled is not what is tried here."""
    home.root.mkdir(parents=True, exist_ok=True)
    shutil.copytree(like.root / "cache", home.root / "cache")
    return home


def differences(reference: NotedHome, home: NotedHome) -> list[str]:
    """What of the end state is not as in the undisturbed campaign."""
    pairs = zip((*STATE, "weights"), reference.state(), home.state())
    return [f"differs: {name}" for name, one, other in pairs if one != other]


def plan(
    target: str, steps: Sequence[str], moments: Sequence[str], lengths: dict[str, float], draw: random.Random
) -> Iterator[list[Kill]]:
    """A campaign's kills for each of the moments."""
    possible = {"vllm": SERVES, "trainer": ("train",)}.get(target, STEPS)
    for moment in moments:
        kills = [Kill(target, step, moment == "inside") for step in STEPS if step in steps and step in possible]
        if kills:
            yield [
                replace(kill, delay=draw.uniform(0, 0.8 * lengths[kill.step])) if kill.inside else kill
                for kill in kills
            ]


def crash(
    directory: Path,
    *,
    origins: Sequence[str],
    targets: Sequence[str],
    steps: Sequence[str] = STEPS,
    moments: Sequence[str] = ("start", "inside"),
    seed: int = 0,
    iterations: int = 1,
    report=lambda row: None,
) -> list[Outcome]:
    """Run a campaign undisturbed, then kill one for each origin, target and moment."""
    draw = random.Random(seed)
    reference, lengths = undisturbed(directory / "undisturbed", iterations)
    outcomes = []
    for origin in origins:
        for target in targets:
            if (origin, target) == ("cli", "worker"):
                continue  # there is none
            for kills in plan(target, steps, moments, lengths, draw):
                root = Path(tempfile.mkdtemp(prefix=f"{origin}-{target}-", dir=directory))
                home = NotedHome(root, free_port(), iterations=iterations)
                outcome = Campaign(prepare(home, like=reference), origin, kills).run()
                outcome.faults += differences(reference, home)
                for row in outcome.rows():
                    report(row)
                outcomes.append(outcome)
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--from", dest="origins", nargs="+", choices=("cli", "prefect"), default=("cli", "prefect"))
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS)
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--moments", nargs="+", choices=("start", "inside"), default=("start", "inside"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=1)
    parser.add_argument("--table", type=Path, help="Also written here.")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended then, too
    rows = [HEADER]
    print(HEADER, flush=True)

    def report(row: str) -> None:
        rows.append(row)
        print(row, flush=True)
        if asked.table:
            asked.table.write_text("\n".join(rows) + "\n")

    outcomes = crash(
        asked.directory.resolve(),
        origins=asked.origins,
        targets=asked.targets,
        steps=asked.steps,
        moments=asked.moments,
        seed=asked.seed,
        iterations=asked.iterations,
        report=report,
    )
    return any(outcome.faults for outcome in outcomes)


if __name__ == "__main__":
    sys.exit(main())
