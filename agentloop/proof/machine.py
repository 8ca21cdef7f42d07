"""The machine, the software and the model that a proof is of. Nothing here names a host, a user or a path."""

from __future__ import annotations

import importlib.metadata
import math
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from agentloop import __version__, card, limits
from agentloop.campaign.campaign import Campaign
from agentloop.model_directory.configuration import read_architecture
from agentloop.model_directory.files import weight_bytes
from agentloop.model_directory.tensors import headers
from agentloop.serving import installation
from agentloop.settings import Settings

_PACKAGES = ("torch", "triton", "transformers")
_SECTIONS = ("agent", "serving", "collect", "selection", "training", "evaluate", "gate")
_ONLY_HERE = {"serving": ("python", "port"), "selection": ("benchmarks",)}
"""Settings that say where something is on this machine and change no figure."""


def describe(campaign: Campaign) -> dict[str, Any]:
    """`{machine, software, model, settings}`, JSON values: what all figures of a proof depend on."""
    return {
        "machine": _machine(),
        "software": _software(campaign.settings),
        "model": _model(campaign),
        "settings": settings_that_matter(campaign.settings, campaign.environment.name),
    }


def _machine() -> dict[str, Any]:
    from agentloop.engine.memory import nvml

    return {
        "cards": [asdict(each) for each in card.cards()] if card.present() else [],
        "driver": nvml.driver_version(),
        "cpu": _cpu(),
        "cores": limits.processors(),
        "memory_gib": round((limits.memory().limit or psutil.virtual_memory().total) / card.GIB, 1),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def _software(settings: Settings) -> dict[str, str]:
    vllm = installation.find(settings.serving.python or Path(sys.executable))
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    vllm_version = f"{vllm.version} for the CPU" if vllm.on_cpu else vllm.version
    return {"agentloop": __version__, "python": platform.python_version(), **versions, "vllm": vllm_version}


def _model(campaign: Campaign) -> dict[str, Any]:
    shape, (_, weights) = read_architecture(campaign.model), headers(campaign.model)
    types = sorted({header.type for header in weights.values()})
    return {
        "name": campaign.model.name,
        "fingerprint": campaign.base,
        "family": shape.family,
        "layers": shape.layers,
        "hidden": shape.hidden,
        "vocabulary": shape.vocab,
        "parameters": sum(math.prod(header.size) for header in weights.values()),
        "bytes": weight_bytes(campaign.model),
        "stored_in": ", ".join(types),
    }


def settings_that_matter(settings: Settings, environment: str) -> dict[str, Any]:
    """The sections that change a figure; of what could be a path only its last component."""
    sections = settings.model_dump(mode="json", include=set(_SECTIONS))
    for section, names in _ONLY_HERE.items():
        for name in names:
            del sections[section][name]
    return {"environment": environment, "seed": settings.seed, **_without_paths(sections)}


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {_without_paths(name): _without_paths(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_paths(each) for each in value]
    return value.rpartition("/")[2] if isinstance(value, str) else value
