"""Every setting and every fixed path. Nothing else reads the environment.

Values come from `agentloop.toml`, then the environment (`AGENTLOOP_TRAINING__RANK=32`), then the command line
(`training.rank=32`); the later wins. Unknown names are errors. `Settings.export()` must run before torch, triton,
transformers or vllm is imported: these read their cache paths from the environment once, at import.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from agentloop.errors import SettingError

PROJECT_ROOT = Path(__file__).resolve().parents[1]
ENV_PREFIX = "AGENTLOOP_"
CONFIG_VARIABLE = f"{ENV_PREFIX}CONFIG"
"""Names the TOML file to read; by default `agentloop.toml` in the project's root, if it is there."""

Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Paths(Section):
    """The fixed roots. Relative paths are relative to the project's root."""

    models: Path = Path("models")
    """Base models, one directory each."""
    data: Path = Path("data")
    """Everything a run writes: shards, database, adapters, checkpoints, logs, reports."""
    cache: Path = Path("data/cache")
    """What can be made again: packed NF4 weights and the caches of HF, Triton, Inductor and vLLM."""

    @property
    def database(self) -> Path:
        return self.data / "agentloop.duckdb"

    @property
    def shards(self) -> Path:
        return self.data / "shards"

    @property
    def adapters(self) -> Path:
        return self.data / "adapters"

    @property
    def checkpoints(self) -> Path:
        return self.data / "checkpoints"

    @property
    def logs(self) -> Path:
        return self.data / "logs"

    @property
    def reports(self) -> Path:
        return self.data / "reports"

    @property
    def services(self) -> Path:
        """State of the Prefect server and worker that `agentloop up` started."""
        return self.data / "services"


class Agent(Section):
    """How a task is put to the model and when an episode ends."""

    describe_tools: bool = True
    """Put the tools' descriptions into the prompt. The tiny model was taught its tools and needs none."""
    max_turns: PositiveInt = 6
    max_turn_tokens: PositiveInt = 256
    max_tokens: PositiveInt = 2048


class Serving(Section):
    """The vLLM child process."""

    python: Path | None = None
    """Interpreter that has vLLM installed; by default this one."""
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """0 picks a free one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_model_len: PositiveInt = 4096
    max_num_seqs: PositiveInt = 64
    gpu_memory_utilization: Fraction = 0.9
    start_seconds: PositiveFloat = 600
    """Give up when the server is not healthy by then."""
    request_seconds: PositiveFloat = 120
    extra_arguments: tuple[str, ...] = ()
    """Passed to vLLM as they are."""


class Collect(Section):
    """Rollouts that become training data."""

    tasks: PositiveInt = 256
    """Fresh training tasks in each iteration."""
    samples: PositiveInt = 8
    """Episodes for each task."""
    temperature: PositiveFloat = 1.0
    concurrency: PositiveInt = 64
    """Episodes in flight."""
    shard_episodes: PositiveInt = 512
    """Episodes in one Parquet shard, which is also one Prefect task."""
    episode_seconds: PositiveFloat = 120
    """An episode that takes longer is an infrastructure failure and is tried again."""
    attempts: PositiveInt = 3


class Selection(Section):
    """Which trajectories are trained on. See agentloop/store/selection/*.sql."""

    recipe: Literal["rejection", "random"] = "rejection"
    per_task: PositiveInt = 2
    """At most so many distinct successes of one task."""
    max_success_rate: Fraction = 0.99
    """Tasks solved more often than this teach nothing and are left out."""
    max_tokens: PositiveInt = 2048
    """Longer trajectories are left out."""
    accumulate: bool = True
    """Choose from all iterations of the campaign instead of the newest only."""


class Training(Section):
    """QLoRA."""

    rank: Literal[8, 16, 32, 64, 128] = 16
    alpha: PositiveFloat = 32
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    load_in_4bit: bool = True
    learning_rate: PositiveFloat = 2e-4
    warmup_fraction: Fraction = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: PositiveFloat = 1.0
    epochs: PositiveInt = 3
    batch_tokens: PositiveInt = 8192
    """Tokens of one packed batch: one optimizer step."""
    checkpoint_steps: PositiveInt = 20
    """A killed run continues from the newest checkpoint, exactly."""
    continue_adapter: bool = False
    """Continue from the champion's adapter instead of retraining from the base on all selected data."""


class Evaluate(Section):
    """Held-out measurement of a policy."""

    tasks: PositiveInt = 200
    samples: PositiveInt = 4
    temperature: PositiveFloat = 1.0


class Gate(Section):
    """When the challenger replaces the champion."""

    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """Significance level of the exact McNemar test."""
    min_gain: Fraction = 0.0
    """The lower end of the difference's interval must exceed this."""
    resamples: PositiveInt = 10_000
    """Of the paired bootstrap."""
    control: bool = True
    """Also train and evaluate, at the end, a control on as many randomly chosen trajectories."""


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, validate_default=True
    )

    campaign: str = Field("main", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    """Names one series of iterations; its results share a report."""
    model: str = "tiny"
    """A directory under paths.models, or the path of one."""
    environment: str = "arithmetic"
    iterations: PositiveInt = 3
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    paths: Paths = Paths()
    agent: Agent = Agent()
    serving: Serving = Serving()
    collect: Collect = Collect()
    selection: Selection = Selection()
    training: Training = Training()
    evaluate: Evaluate = Evaluate()
    gate: Gate = Gate()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings)

    def model_directory(self) -> Path:
        """The base model's directory. Raises SettingError where it does not exist."""
        named = self.paths.models / self.model
        path = named if named.is_dir() else Path(self.model)
        if not (path / "config.json").is_file():
            raise SettingError(f"model: no model directory (with a config.json) at {named}" + (f" or {path}" if path.is_absolute() else ""))
        return path.resolve()

    def export(self) -> None:
        """Create the roots and fix every path that libraries read from the environment."""
        os.environ.update(self.child_environment())
        for path in (self.paths.data, self.paths.cache, self.paths.shards, self.paths.adapters, self.paths.checkpoints,
                     self.paths.logs, self.paths.reports, self.paths.services):
            path.mkdir(parents=True, exist_ok=True)

    def child_environment(self) -> dict[str, str]:
        """The variables that fix caches and switch telemetry and hub access off, for this process and its children."""
        cache = self.paths.cache
        return {
            "HF_HOME": str(cache / "hf"),
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "TRITON_CACHE_DIR": str(cache / "triton"),
            "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
            "VLLM_CACHE_ROOT": str(cache / "vllm"),
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "PREFECT_HOME": str(self.paths.data / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }

    def override(self, values: Mapping[str, Any]) -> Settings:
        """A copy with nested values replaced: `{"training": {"rank": 32}}`. Raises SettingError on unknown names."""
        return _validated(_merge(self.model_dump(mode="json"), values))


def load(overrides: Sequence[str] | Mapping[str, Any] = (), *, profile: str | None = None) -> Settings:
    """Settings from defaults, a built-in profile, agentloop.toml, the environment and `key.path=value` overrides, in that order.

    Raises SettingError, in one line that names the setting, on an unknown name or a value out of range.
    """
    values: dict[str, Any] = dict(PROFILES[profile]) if profile else {}
    values = _merge(values, _read_toml())
    values = _merge(values, _read_environment())
    values = _merge(values, overrides if isinstance(overrides, Mapping) else _parse(overrides))
    return _validated(values)


PROFILES: dict[str, dict[str, Any]] = {
    # The demo: the whole loop on two CPU cores, from the recipe in docs/demo.md.
    "demo": {
        "campaign": "demo",
        "model": "tiny",
        "environment": "arithmetic",
        "agent": {"describe_tools": False, "max_turns": 6, "max_turn_tokens": 48, "max_tokens": 256},
        "serving": {"dtype": "float32", "max_model_len": 256, "max_num_seqs": 64},
        "collect": {"tasks": 256, "samples": 8},
        "training": {"learning_rate": 5e-4, "epochs": 3, "batch_tokens": 1536},
        "evaluate": {"tasks": 200, "samples": 4},
    },
}
"""Named sets of defaults, each below agentloop.toml in precedence."""


def _validated(values: Mapping[str, Any]) -> Settings:
    try:
        settings = Settings.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "settings"
        message = "unknown setting" if first["type"] == "extra_forbidden" else f"{first['msg'].lower()} (got {first['input']!r})"
        raise SettingError(f"{name}: {message}") from None
    paths = {name: _absolute(getattr(settings.paths, name)) for name in Paths.model_fields}
    return settings.model_copy(update={"paths": Paths(**paths)})


def _absolute(path: Path) -> Path:
    return path if path.is_absolute() else PROJECT_ROOT / path


def _read_toml() -> dict[str, Any]:
    named = os.environ.get(CONFIG_VARIABLE)
    path = Path(named) if named else PROJECT_ROOT / "agentloop.toml"
    if not path.is_file():
        if named:
            raise SettingError(f"{CONFIG_VARIABLE}: no file at {path}")
        return {}
    try:
        return tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise SettingError(f"{path}: {error}") from None


def _read_environment() -> dict[str, Any]:
    # pydantic-settings ignores unknown variables that carry the prefix; a misspelt setting must not pass unseen.
    pairs = [(name[len(ENV_PREFIX):].lower().replace("__", "."), value) for name, value in os.environ.items()
             if name.startswith(ENV_PREFIX) and name != CONFIG_VARIABLE]
    return _nested(pairs)


def _parse(overrides: Sequence[str]) -> dict[str, Any]:
    pairs = []
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals:
            raise SettingError(f"{text}: an override is written name=value, for example training.rank=32")
        pairs.append((name.strip(), value.strip()))
    return _nested(pairs)


def _nested(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, text in pairs:
        *sections, leaf = name.split(".")
        inner = values
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise SettingError(f"{name}: {section} is a single setting, not a section")
        inner[leaf] = _value(text)
    return values


def _value(text: str) -> Any:
    """TOML where the text is a TOML value (numbers, booleans, lists), else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _merge(base: Mapping[str, Any], update: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in update.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _merge(merged[name], value) if both else value
    return merged
