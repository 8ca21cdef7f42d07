"""All settings together, and what they fix for the process: folders, and variables that libraries read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from agentloop import caches, roots
from agentloop.errors import SettingError
from agentloop.settings import variables
from agentloop.settings.sections import (
    Agent,
    Collect,
    Evaluate,
    Gate,
    Night,
    Notify,
    Paths,
    Report,
    Retention,
    Selection,
    Serving,
    Strict,
    Teach,
    Training,
)
from agentloop.settings.values import Count, name_or_path
from agentloop.settings.variables import ENV_PREFIX


class Settings(BaseSettings, Strict):
    """All settings of a campaign, as `load` gives them."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        validate_default=True,
        allow_inf_nan=False,
    )

    campaign: str = Field("main", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    """Name of a series of iterations, whose results share a report: lower-case letters, digits and hyphens."""
    model: Annotated[str, AfterValidator(name_or_path)] = "tiny"
    """Base model: a directory under `paths.models`, or the path of one."""
    environment: Annotated[str, AfterValidator(name_or_path)] = "arithmetic"
    """Where tasks come from: `arithmetic`, `database`, `reasoning-gym:GENERATOR`, `textworld:CHALLENGE`, `bfcl:CATEGORY`, the
    path of a .py file, or that of questions (.jsonl, .csv, .parquet, … or a dataset's directory) that need no tools; a relative
    path is relative to the project's root."""
    iterations: Count = 3
    """Rounds of collecting, training and measuring."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of tasks, sampling, initial adapter weights and the order of rows."""
    prefect_port: Annotated[int, Field(ge=1, le=65535)] = 4200
    """Port on 127.0.0.1 of the local Prefect server and its UI."""
    paths: Paths = Paths()
    agent: Agent = Agent()
    serving: Serving = Serving()
    collect: Collect = Collect()
    selection: Selection = Selection()
    training: Training = Training()
    evaluate: Evaluate = Evaluate()
    gate: Gate = Gate()
    night: Night = Night()
    teach: Teach = Teach()
    notify: Notify = Notify()
    retention: Retention = Retention()
    report: Report = Report()

    def model_directory(self) -> Path:
        """Return the path of the base model's directory. Raises SettingError where there is none with a config.json."""
        named = self.paths.models / self.model
        try:
            path = named if named.is_dir() else Path(self.model)
            there = (path / "config.json").is_file()
        except (OSError, ValueError) as error:  # too long a name, a null byte
            raise SettingError(f"model: {self.model[:80]!r} is not the path of a directory ({error})") from None
        if not there and path.suffix == ".gguf":
            raise SettingError(
                f"model: {self.model!r} is a GGUF file; make it a model directory: agentloop import {path}"
            )
        if not there:
            raise SettingError(
                f"model: {self.model!r} is not a model directory with a config.json (looked for {named} and {path})"
            )
        return path.resolve()

    def export(self) -> None:
        """Create the roots, closed to other users, and fix every path that libraries read from the environment.

        Raises SettingError, in one line that names setting and path, where a root cannot be written to.
        """
        self.fix_environment()
        for setting, root in (("paths.data", self.paths.data), ("paths.cache", self.paths.cache)):
            roots.make_private(root, setting)
        paths = self.paths
        for folder in (paths.shards, paths.adapters, paths.checkpoints, paths.logs, paths.reports, paths.services):
            roots.make_writable(folder, "paths.data")

    def fix_environment(self) -> None:
        """Fix every path that libraries read from the environment, and create nothing.

        Raises SettingError, in one line that names setting and path, where a root is there and is no folder.
        """
        roots.check(self.paths.data, "paths.data")
        roots.check(self.paths.cache, "paths.cache")
        os.environ.update(self.child_environment())

    def child_environment(self) -> dict[str, str]:
        """Return the variables that fix caches and switch telemetry and hub access off, for this process and its children.

        Where the user has set one of a library's variables, the user's value stays and is left out here.
        """
        return variables.of_children(self.paths.data, self.paths.cache, self.compiled)

    def trainer_environment(self) -> dict[str, str]:
        """Return `child_environment` with an allocator whose segments grow, so that little lies idle between tensors. A
        user's own PYTORCH_CUDA_ALLOC_CONF stands."""
        return self.child_environment() | variables.of_trainers()

    @property
    def compiled(self) -> Path:
        """Folder for compiled code: `paths.cache`, or a private folder of this user where that one will not do."""
        return caches.compile_root(self.paths.cache, os.environ)
