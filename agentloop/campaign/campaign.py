"""A campaign: the settings, names and tasks that all its steps share, and the lock that makes it the one at work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from agentloop import card, environments, errors, housekeeping, scratch
from agentloop.at_hand import AtHand
from agentloop.campaign import fitting, heldout, own_agent, served, suites
from agentloop.campaign.heldout import Take
from agentloop.campaign.lock import owned
from agentloop.campaign.suites import Suite
from agentloop.curation import recipes
from agentloop.environments import Environment
from agentloop.evaluation.looks import Look
from agentloop.files import sweep
from agentloop.model_directory import files, tensors
from agentloop.model_directory.fingerprint import base_fingerprint
from agentloop.model_directory.tokenizer import text_tokenizer
from agentloop.naming import content_id
from agentloop.recording import recorder
from agentloop.records import NF4, NONE, Policy, Quantization, Sampling, Task
from agentloop.report import sinks
from agentloop.rollout.prompt import PromptFormat
from agentloop.serving import server_group
from agentloop.settings import Serving, Settings
from agentloop.store import campaigns, champions, contests, gpu_phases, journal, process_times, runs
from agentloop.store.database import Database
from agentloop.store.kept import kept
from agentloop.store.ledger import INTERRUPTED, Ledger
from agentloop.store.process_times import Process
from agentloop.store.runs import FlowRun
from agentloop.worlds.pool import Worlds

_OPEN: AtHand[Campaign] = AtHand()


@dataclass
class Phase:
    """A phase of work, with what is noted of it beside its times."""

    peak_bytes: int | None = None
    """Most memory of the card that its process has had; None where there is no card."""


@dataclass(frozen=True)
class Campaign:
    settings: Settings
    environment: Environment
    model: Path
    base: str
    """Fingerprint of the base model."""
    given: Quantization | None = None
    """How the base is held in training, where it is another way than the campaign's own is to be looked at."""

    @classmethod
    def open(cls, settings: Settings) -> Campaign:
        """Check what the settings name. Raises SettingError or ModelError before anything is written."""
        model = settings.model_directory()
        files.check(model)
        card.check()
        server_group.check(settings.serving)
        fitting.check(settings)
        recipes.for_training(settings)
        environment = environments.get(settings.environment)
        suites.planned_looks(settings)
        suites.check_tools(settings)
        own_agent.check(settings)
        sinks.require(settings.report.sinks)
        settings.export()
        tensors.check(model)
        return cls(settings, environment, model, base_fingerprint(model, settings.paths.cache))

    @classmethod
    def of(cls, settings: Settings) -> Campaign:
        """The campaign of these settings that this process has open; where it has none, it is opened and kept.

        Raises as `open` does.
        """
        key = settings.model_dump_json()
        return _OPEN.get(key) or _OPEN.keep(key, cls.open(settings))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be what `of` finds in this process while the block runs; the campaign's worlds end with it."""
        with _OPEN.holding(self.settings.model_dump_json(), self), self.worlds, self.agents:
            yield

    @property
    def name(self) -> str:
        return self.settings.campaign

    @cached_property
    def tokenizer(self) -> Any:
        return text_tokenizer(self.model)

    @cached_property
    def prompt(self) -> PromptFormat:
        return PromptFormat(self.tokenizer, self.settings.agent.describe_tools)

    @cached_property
    def quantization(self) -> Quantization:
        """Return how the base is held in training. Where the settings leave it open, the step `quantize` settles it first."""
        if self.given:
            return self.given
        with self.database() as database:
            recorded = self.settled(database)
        if recorded is not None:
            return recorded
        kind = fitting.kind(self.settings)
        if kind == "dynamic":
            raise LookupError(
                "training.quantization: what stays in 16 bit is not planned yet (campaign.quantize.settle)"
            )
        return NF4 if kind == "nf4" else NONE

    def settled(self, database: Database) -> Quantization | None:
        """Return how the base is held in training, as far as it is settled; None where the step `quantize` is still to come."""
        recorded = Ledger(database).done(self.key("quantize", 0, self.quantize_inputs))
        if recorded is not None:
            return Quantization.of(recorded)
        chosen: str | None = self.settings.training.quantization
        if chosen == "auto":
            chosen = campaigns.quantization(database, self.settings)
        return {"none": NONE, "nf4": NF4}.get(chosen or "")

    @property
    def quantize_inputs(self) -> list[Any]:
        """Everything, beside the campaign, that determines what the step `quantize` settles."""
        training = self.settings.training
        return [self.base, training.quantization, training.quantization_tolerance]

    def on(self, held: Quantization) -> Campaign:
        """The same campaign, with its base held and served like this."""
        serving = self.settings.serving.model_copy(update={"base": "dequantised"})
        other = replace(self, settings=self.settings.model_copy(update={"serving": serving}), given=held)
        # a tokenizer takes a second to load or more, and the worlds end with this campaign's work
        other.__dict__.update(
            {name: getattr(self, name) for name in ("tokenizer", "prompt", "prompt_name", "worlds", "agents", "place")}
        )
        return other

    def served_by(self, serving: Serving) -> Campaign:
        """The same campaign with other settings for vLLM."""
        return replace(self, settings=self.settings.model_copy(update={"serving": serving}))

    @property
    def serves_dequantised(self) -> bool:
        return self.settings.serving.base == "dequantised" and self.quantization.in_4bit

    def policy(self, adapter: str | None) -> Policy:
        base = self.quantization.named(self.base) if self.serves_dequantised else self.base
        return Policy(base=base, adapter=adapter, prompt=self.prompt_name)

    @cached_property
    def prompt_name(self) -> str:
        """The prompt format of the campaign's policies, with the agent of one's own that writes the prompts, if there is one.

        It stays while the campaign is open: where a file of the agent's changes, the next run has other policies.
        """
        return own_agent.prompt_name(self.prompt, self.settings)

    def sampling(self, temperature: float) -> Sampling:
        agent = self.settings.agent
        return Sampling(
            temperature=temperature,
            max_turns=agent.max_turns,
            max_turn_tokens=agent.max_turn_tokens,
            max_tokens=agent.max_tokens,
        )

    @cached_property
    def worlds(self) -> Worlds:
        """Processes for the tools of this campaign's episodes, started with the first episode, ended with `held`."""
        return Worlds(self.settings, [self.settings.environment, *self.settings.gate.guards])

    @cached_property
    def agents(self) -> Worlds:
        """Processes for the agent of one's own, where there is one: started with the first episode, ended with `held`."""
        return recorder.processes(self.settings)

    def training_tasks(self, iteration: int) -> list[Task]:
        """Fresh ones in each iteration."""
        count = self.settings.collect.tasks
        return self.environment.tasks("train", count, self.settings.seed, skip=(iteration - 1) * count)

    @cached_property
    def looks(self) -> tuple[Look, ...]:
        """Return the looks that the gate may take at a challenger's results."""
        return suites.planned_looks(self.settings)

    @property
    def block(self) -> int:
        """Return the number of the sealed block of held-out tasks that the newest challenger met on."""
        with self.database() as database:
            known = contests.all_of(database, self.name)
        return known[-1].entry.block if known else 1

    def heldout(self, look: Look | None = None, block: int | None = None) -> Suite:
        """The same tasks for both: champion and challenger are compared task by task."""
        block = block or self.block
        with self.database() as database:
            return suites.heldout(self.settings, look or self.looks[0], block, take=self.take(database))

    def unseen(self) -> Suite:
        """Held-out tasks that no verdict was based on. Raises SettingError where the environment has none left."""
        with self.database() as database:
            return suites.unseen(self.settings, self.looks[-1], take=self.take(database))

    def guards(self, look: Look, block: int | None = None) -> list[Suite]:
        """The suites of other environments, at which a challenger must not be worse."""
        block = block or self.block
        with self.database() as database:
            return suites.guards(self.settings, look, block, take=self.take(database))

    def take(self, database: Database) -> Take:
        """Return the order in which the campaign takes held-out tasks."""
        return heldout.noted(database, self.name, self.settings.seed)

    def database(self) -> AbstractContextManager[Database]:
        """The one database, opened for writing. Hold it briefly. While a run is at work it stays open for a moment after it."""
        path = self.settings.paths.database
        return kept(path).using() if self.place else Database.open(path)

    def champion(self) -> str | None:
        """Adapter id; None while it is the base model."""
        with self.database() as database:
            return champions.champion(database, self.name)

    def begin(self, iteration: int) -> str | None:
        """The champion that the iteration began with, also when it is run again; after a rollback, what was gone back to."""
        with self.database() as database:
            rollbacks = champions.rollbacks(database, self.name, iteration)
        champion = self.step("begin", iteration, [rollbacks] * (rollbacks > 0), lambda: {"champion": self.champion()})[
            "champion"
        ]
        with self.database() as database:
            campaigns.begin_iteration(database, self.name, iteration, champion=champion)
        return champion

    def finish(self, iteration: int) -> None:
        with self.database() as database:
            campaigns.finish_iteration(database, self.name, iteration)

    @contextmanager
    def phase(self, name: str, iteration: int) -> Iterator[Phase]:
        """Note from when to when the accelerator was used, and for what; also where that ends with an error."""
        self._arrive(iteration)
        started, clock, phase = datetime.now(UTC), time.monotonic(), Phase()

        def save(*, failed: bool) -> None:
            # the clock may be set meanwhile: the length is measured by one that cannot be
            finished = started + timedelta(seconds=time.monotonic() - clock)
            with self.database() as database:
                gpu_phases.save(
                    database,
                    campaign=self.name,
                    iteration=iteration,
                    phase=name,
                    started=started,
                    finished=finished,
                    peak_bytes=phase.peak_bytes,
                    failed=failed,
                )

        try:
            yield phase
        except BaseException:
            with suppress(errors.AgentloopError):  # what went wrong in the phase is what is told
                save(failed=True)
            raise
        save(failed=False)

    @cached_property
    def place(self) -> list[int]:
        """Return the iteration that the run is at, as the only item; nothing where no run is at work."""
        return []

    def _arrive(self, iteration: int) -> None:
        if self.place:
            self.place[0] = iteration

    def note(
        self, process: Process, action: str, seconds: float, *, ago: float = 0.0, reason: str | None = None
    ) -> None:
        """Write down what vLLM or the trainer took for an action, as `process_times.save` does, while a run is at work.

        It is for people: the run goes on where it cannot be written.
        """
        if not self.place:
            return
        about: dict[str, Any] = {"campaign": self.name, "iteration": self.place[0], "process": process}
        try:
            with self.database() as database:
                process_times.save(database, action=action, seconds=seconds, ago=ago, reason=reason, **about)
        except errors.AgentloopError as error:
            print(f"what {process} took is not written down: {error}")

    @contextmanager
    def at_work(self, flow_run: FlowRun | None = None) -> Iterator[None]:
        """Own the data root while the campaign runs; where another run does, wait for its end first.

        Steps that a killed run had begun are noted as interrupted, and what it left half-written is removed: nobody works
        on them, since the data root was free.
        `flow_run`: this run as Prefect knows it, for those who wait and for the report.
        """
        with owned(self.settings.paths.data, campaign=self.name, flow_run=flow_run.id if flow_run else None):
            served.wait_for_the_card(self.settings.paths.data, print)
            kind = fitting.kind(self.settings)
            with self.database() as database:
                campaigns.register(database, self.settings, quantization=kind)
                Ledger(database).interrupt()
            with self._run(flow_run):
                sweep(self.settings.paths.data, skip=self.settings.paths.cache)
                journal.sweep(self.settings.paths.shards)
                scratch.sweep()
                with self.held(), housekeeping.remedied(self.settings):
                    yield

    @contextmanager
    def _run(self, flow_run: FlowRun | None) -> Iterator[None]:
        """Note when the run begins and how it ends."""
        with self.database() as database:
            runs.note_killed(database)
            number = runs.begin(database, self.name, flow_run)
        self.place.append(0)
        fault = None
        try:
            yield
        except BaseException as error:  # an interrupt or a cancellation ends the run as well
            fault = _one_line(error)
            raise
        finally:
            self.place.clear()
            try:
                with self.database() as database:
                    runs.end(database, number, error=fault)
            except errors.AgentloopError as error:  # the next run notes it as killed
                print(f"the end of the run is not written down: {error}")

    def key(self, name: str, iteration: int, inputs: Any) -> str:
        """The name under which the ledger knows a step."""
        return content_id("step", [self.name, name, iteration, inputs])

    def step(self, name: str, iteration: int, inputs: Any, work: Callable[[], Any]) -> Any:
        """The recorded result of this step, or what `work()` returns now. Both are JSON values.

        `inputs` is everything, beside the campaign, that determines the result.
        """
        self._arrive(iteration)
        key = self.key(name, iteration, inputs)
        about: dict[str, Any] = {"campaign": self.name, "iteration": iteration, "name": name}
        with self.database() as database:
            ledger = Ledger(database)
            result = ledger.done(key)
            if result is not None:
                return result
            ledger.start(key, **about)
        try:
            result = work()
        except BaseException as error:  # an interrupt or a cancellation ends the step as well
            with self.database() as database:
                Ledger(database).fail(key, **about, error=_one_line(error))
            raise
        with self.database() as database:
            Ledger(database).record(key, **about, result=result)
        return result


def _one_line(error: BaseException) -> str:
    """One line for the ledger; what is no fault of the user's is named by its kind as well."""
    if line := errors.told(error):
        return line
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
