"""Every setting and every fixed path. Nothing else reads the environment.

Values come from `agentloop.toml`, then the environment (`AGENTLOOP_TRAINING__RANK=32`), then the command line
(`training.rank=32`); the later wins. Unknown names are errors. `Settings.export()` must run before torch, triton,
transformers or vllm is imported: these read their cache paths from the environment once, at import.
"""

from __future__ import annotations

import math
import os
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, InitSettingsSource, SettingsConfigDict, SettingsError

from agentloop import caches, limits, project, roots
from agentloop.errors import SettingError
from agentloop.reading import read_text

PROFILES = Path(__file__).resolve().parent / "profiles"
ENV_PREFIX = "AGENTLOOP_"
CONFIG_VARIABLE = f"{ENV_PREFIX}CONFIG"
"""Names the TOML file to read; by default the project's `agentloop.toml`, if it is there."""

EXPORTED_VARIABLE = f"{ENV_PREFIX}EXPORTED"
"""Names those of the libraries' variables that this project has set; a value that any other of them has is the user's."""
OWN_VARIABLES = (CONFIG_VARIABLE, EXPORTED_VARIABLE, project.VARIABLE)
_GENERAL = {"TRITON_CACHE_DIR": "TRITON_HOME"}
"""Variables of libraries, each with a more general one that decides for it where the user has set that."""
_HARMFUL_TO_PYTHON = ("PYTHONWARNINGS", "PYTHONIOENCODING", "PYTHONINSPECT", "PYTHONOPTIMIZE")
"""Variables that are meant for a program at the keyboard, and make a background process fail, wait or skip its checks."""

RECIPES = ("rejection", "replay", "random")
"""Built-in selections for training. `pairs` is for preference trainers: see `agentloop select`."""

_ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""Variables that torch's allocator reads; the second is the newer name."""

_RENAMED = {
    "training.load_in_4bit": 'is called training.quantization now: "nf4" where it was true, "none" where it was false'
}
"""Settings of earlier versions, with what became of them."""

Fraction = Annotated[float, Field(ge=0, le=1)]


def _servable_rank(rank: int) -> int:
    # vLLM accepts only these as --max-lora-rank
    if rank not in (8, 16, 32, 64, 128, 256):
        raise ValueError("must be 8, 16, 32, 64, 128 or 256")
    return rank


def _optimizer_bits(bits: object) -> int:
    # the environment gives text, which a Literal does not turn into a number
    if str(bits) not in ("8", "32"):
        raise ValueError("must be 32 or 8")
    return int(str(bits))


def _memory_budget(budget: object) -> object:
    # before the union is tried: its own errors are two, and name its members instead of the setting
    try:
        if budget == "auto" or 0 < float(budget) < math.inf:
            return budget
    except (TypeError, ValueError):
        pass
    raise ValueError("must be auto or a number above 0")


def home_expanded(path: str) -> str:
    """`~/x` and `~name/x` as a shell gives them; everything else, `$NAME` too, as it is."""
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        name = expanded[1:].partition("/")[0]
        raise ValueError(f"there is no user named {name}" if name else "~: this user has no home folder")
    return expanded


def _path(path: object) -> object:
    if isinstance(path, os.PathLike):
        path = os.fspath(path)
    if not isinstance(path, str):
        return path
    if not path:
        raise ValueError("must not be empty")
    return _name_or_path(path)


def _name_or_path(text: str) -> str:
    if any(character < " " or character == "\x7f" for character in text):
        raise ValueError("must not contain control characters")
    return home_expanded(text)


def _known_recipe(recipe: str) -> str:
    if recipe in RECIPES:
        return recipe
    recipe = _name_or_path(recipe)
    try:
        there = recipe.endswith(".sql") and (project.root() / recipe).is_file()
    except (OSError, ValueError):  # too long a name, a null byte
        there = False
    if not there:
        raise ValueError(f"must be {', '.join(RECIPES)} or the path of a .sql file")
    return recipe


UserPath = Annotated[Path, BeforeValidator(_path)]
"""A path as a person writes it: `~` is the home folder."""

Count = Annotated[int, Field(ge=1, lt=2**31)]
Tasks = Annotated[int, Field(ge=1, le=1_000_000)]
"""They are made, and held in memory, before the first of them is tried."""


class _Strict(BaseModel):
    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError("must not be true or false")
        return value


class Section(_Strict):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class Paths(Section):
    """The fixed roots. Relative paths are relative to the project's root."""

    models: UserPath = Path("models")
    """Base models, one directory each."""
    data: UserPath = Path("data")
    """Everything a run writes: shards, database, adapters, checkpoints, logs, reports."""
    cache: UserPath = Path("data/cache")
    """What can be made again, and so may be deleted at any time: packed NF4 weights and the caches of HF, Triton, Inductor
    and vLLM."""

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
    max_turns: Count = 6
    max_turn_tokens: Count = 256
    max_tokens: Count = 2048


class Serving(Section):
    """The vLLM child process."""

    python: UserPath | None = None
    """Interpreter that has vLLM installed; by default this one."""
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """0 picks a free one."""
    base: Literal["dequantised", "original"] = "dequantised"
    """Serve the base that training sees where it is quantised, so that served equals trained, or the original weights."""
    policy: Literal["restart", "sleep"] = "restart"
    """While the trainer has the card: vLLM ends and starts again, or it sleeps (quicker; keeps some 2 GiB of the card and
    the weights in host memory). On the CPU an idle vLLM is in nobody's way and stays."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_model_len: Count = 4096
    max_num_seqs: Count = 64
    gpu_memory_utilization: Fraction = 0.9
    start_seconds: PositiveFloat = 600
    """Give up when the server is not healthy by then."""
    request_seconds: PositiveFloat = 120
    extra_arguments: tuple[str, ...] = ()
    """Passed to vLLM as they are."""


class Collect(Section):
    """Rollouts that become training data."""

    tasks: Tasks = 256
    """Fresh training tasks in each iteration."""
    samples: Count = 8
    """Episodes for each task."""
    temperature: PositiveFloat = 1.0
    concurrency: Count = 64
    """Episodes in flight."""
    shard_episodes: Count = 512
    """Episodes in one Parquet shard, which is also one Prefect task."""
    episode_seconds: PositiveFloat = 120
    """An episode that takes longer is an infrastructure failure and is tried again."""
    tool_seconds: PositiveFloat = 30
    """A tool that takes longer is killed with all it started; the episode is tried again."""
    tool_memory: PositiveFloat = 2.0
    """GiB that an episode's tools may take together."""
    attempts: Count = 3
    """Tries at an episode, after which it counts as failed: recorded with its errors, not scored."""
    max_failed: Annotated[float, Field(ge=0)] = 0.05
    """Episodes of a shard that may fail before the run stops: below 1 a share, from 1 on a number."""


class Selection(Section):
    """Which trajectories are trained on. See agentloop/store/selection/*.sql."""

    recipe: Annotated[str, AfterValidator(_known_recipe)] = "rejection"
    """One of RECIPES, or the path of a .sql file; a relative one is relative to the project's root."""
    per_task: Count = 2
    """At most so many distinct successes of one task."""
    min_success_rate: Fraction = 0.0
    """Tasks solved less often than this are left out."""
    max_success_rate: Fraction = 0.99
    """Tasks solved more often than this teach nothing and are left out."""
    max_tokens: Count = 2048
    """Longer trajectories are left out."""
    max_overlap: Fraction = 0.7
    """Of two rows whose questions and whose actions share more of their runs of five words, the later is left out."""
    accumulate: bool = True
    """Choose from all iterations of the campaign instead of the newest only."""
    replay: Annotated[float, Field(ge=0)] = 1.0
    """Of the recipe `replay`: at most so many rows of earlier iterations for each row of the newest."""
    benchmarks: UserPath | None = None
    """A text file of benchmark prompts, one a line: to choose a task that is nearly one of them is an error."""


class Training(Section):
    """QLoRA, or LoRA on the base in 16 bit."""

    rank: Annotated[int, AfterValidator(_servable_rank)] = 16
    alpha: PositiveFloat = 32
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    quantization: Literal["auto", "none", "dynamic", "nf4"] = "auto"
    """Of the base that is trained on: none (16 bit), nf4, or dynamic (NF4 but for the modules that suffer most from it); auto:
    the most precise of them that fits the memory there is when the campaign begins, 16 bit on the CPU. See
    docs/quantisation.md."""
    quantization_tolerance: PositiveFloat = 0.01
    """KL divergence from the base in 16 bit, in nats per token of the model's: what is less is negligible, and dynamic leaves
    as few bytes in 16 bit as keep below it."""
    max_quantization_loss: Fraction = 0.05
    """A base that surely loses more than this of its success by quantisation is not trained on."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the computation; auto: bfloat16 on CUDA (float16 before compute capability 8), float32 on the CPU."""
    devices: Count = 1
    """GPUs of this machine (processes, where it has none) that share each batch, under torchrun."""
    learning_rate: PositiveFloat = 2e-4
    warmup_fraction: Fraction = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: PositiveFloat = 1.0
    optimizer_bits: Annotated[Literal[8, 32], BeforeValidator(_optimizer_bits)] = 32
    """Of each of AdamW's two moments: 32, or 8 with a scale for every 256 (6 bytes less for each weight of the adapter)."""
    epochs: Count = 3
    batch_tokens: Count = 8192
    """Tokens of one packed batch: one optimizer step."""
    memory_budget: Annotated[Literal["auto"] | float, BeforeValidator(_memory_budget)] = "auto"
    """GiB of the GPU that the trainer may hold at its peak, as nvidia-smi shows them; auto: what is free. With less, more is
    computed again or waits in host memory; the batch, and so the adapter, stays the same. `agentloop doctor --train` says what
    is needed. Where a step still runs out of memory, training goes on with a leaner plan."""
    checkpoint_steps: Count = 20
    """A killed run continues from the newest checkpoint, exactly."""
    stall_seconds: PositiveFloat = 900
    """A trainer that gives no sign of life for so long (no optimizer step, no line in its log) is ended, and tried again
    from the newest checkpoint."""
    continue_adapter: bool = False
    """Continue from the champion's adapter instead of retraining from the base on all selected data."""


class Evaluate(Section):
    """Held-out measurement of a policy."""

    tasks: Tasks = 200
    samples: Count = 4
    temperature: PositiveFloat = 1.0


class Guard(Section):
    """Held-out tasks of another environment, at which the challenger must not be worse."""

    tasks: Tasks = 200
    samples: Count = 4
    margin: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """A loss of less than this is not held against the challenger."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Chance of passing a challenger that is worse by the margin."""


class Gate(Section):
    """When the challenger replaces the champion. See docs/gate.md."""

    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """Significance level of the exact McNemar test, all looks at the results together."""
    min_gain: Fraction = 0.0
    """The gain must surely exceed this."""
    max_tasks: Tasks | None = None
    """Where the verdict asks for more data the held-out tasks are doubled, up to so many; by default they never are."""
    guards: dict[str, Guard] = {}
    """By environment: what must not get worse. Measured only for a challenger that would be promoted."""
    resamples: Count = 10_000
    """Of the paired bootstrap."""
    control: bool = True
    """Also train and evaluate, at the end, a control on as many randomly chosen trajectories."""


class Teach(Section):
    """From demonstrations to a base model that the loop can improve. See docs/teaching.md."""

    tasks: Tasks = 32
    """That the environment's experts, or a teacher, are to solve."""
    samples: Count = 1
    """Episodes of a teacher for each task."""
    per_task: Count = 1
    """At most so many distinct demonstrations of one task are taught."""
    rank: Annotated[int, AfterValidator(_servable_rank)] = 32
    alpha: PositiveFloat = 64
    learning_rate: PositiveFloat = 3e-4
    epochs: Count = 12
    batch_tokens: Count = 2048
    teacher_model: str | None = None
    """What the teacher's endpoint calls the model; by default the only one that it serves."""
    calls: Literal["text", "native", "bare"] = "text"
    """How a teacher calls tools. text: as the student does, the call's format described in the prompt; native: by the
    endpoint's `tools`; bare: as the student does, without a word about it, for a teacher that was taught the format."""
    temperature: Annotated[float, Field(ge=0)] = 0.7
    """Of a teacher."""
    max_turn_tokens: Count = 1024
    """Tokens, as the teacher counts them, of one of its turns."""
    concurrency: Count = 16
    """Requests in flight at a teacher."""
    request_seconds: PositiveFloat = 120
    """A teacher that takes longer over one turn is asked again."""
    key_variable: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = "OPENAI_API_KEY"
    """Environment variable with the key of a teacher's endpoint; the key itself is stored nowhere."""
    shard_episodes: Count = 32
    """Demonstrations in one Parquet shard: a run that is killed loses the one at work."""

    def key(self) -> str | None:
        """The key of a teacher's endpoint, None where none is set."""
        return os.environ.get(self.key_variable) or None


class Settings(BaseSettings, _Strict):
    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        validate_default=True,
        allow_inf_nan=False,
    )

    campaign: str = Field("main", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    """Names one series of iterations; its results share a report."""
    model: Annotated[str, AfterValidator(_name_or_path)] = "tiny"
    """A directory under paths.models, or the path of one."""
    environment: Annotated[str, AfterValidator(_name_or_path)] = "arithmetic"
    iterations: Count = 3
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    prefect_port: Annotated[int, Field(ge=1, le=65535)] = 4200
    """Of the local Prefect server and its UI."""
    paths: Paths = Paths()
    agent: Agent = Agent()
    serving: Serving = Serving()
    collect: Collect = Collect()
    selection: Selection = Selection()
    training: Training = Training()
    evaluate: Evaluate = Evaluate()
    gate: Gate = Gate()
    teach: Teach = Teach()

    def model_directory(self) -> Path:
        """The base model's directory. Raises SettingError where it does not exist."""
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
        """The variables that fix caches and switch telemetry and hub access off, for this process and its children.

        Where the user has set one of a library's variables, the user's value stays and is left out here.
        """
        ours = os.environ.get(EXPORTED_VARIABLE, "").split(",")
        libraries = {
            name: value for name, value in self._library_variables().items() if name in ours or not _is_the_users(name)
        }
        return {
            **libraries,
            EXPORTED_VARIABLE: ",".join(libraries),
            **_project_for_children(),
            # processes of one machine talk over loopback, whatever address its name has
            "GLOO_SOCKET_IFNAME": "lo",
            "NCCL_SOCKET_IFNAME": "lo",
            "PREFECT_HOME": str(self.paths.data / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PYTHONUTF8": "1",
            # empty is as good as not set
            **{name: "" for name in _HARMFUL_TO_PYTHON if name in os.environ},
            # neither HOME nor an entry among the machine's users: libraries ask for it when they are imported
            **({"HOME": str(self.paths.data)} if os.path.expanduser("~") == "~" else {}),
        }

    def trainer_environment(self) -> dict[str, str]:
        """`child_environment`, and an allocator whose segments grow, so that little lies idle between tensors. A user's own
        PYTORCH_CUDA_ALLOC_CONF stands."""
        own = [name for name in _ALLOCATOR if name in os.environ]
        return self.child_environment() | ({} if own else {_ALLOCATOR[0]: "expandable_segments:True"})

    @property
    def compiled(self) -> Path:
        """Where compiled code is kept: paths.cache, or a private folder of this user's where that will not do."""
        return caches.compile_root(self.paths.cache, os.environ)

    def _library_variables(self) -> dict[str, str]:
        compiled = self.compiled
        variables = {
            "HF_HOME": str(self.paths.cache / "hf"),
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "TRITON_CACHE_DIR": str(compiled / "triton"),
            "TORCHINDUCTOR_CACHE_DIR": str(compiled / "inductor"),
            "VLLM_CACHE_ROOT": str(compiled / "vllm"),
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
        }
        if (cores := limits.processors()) < len(os.sched_getaffinity(0)):
            variables["OMP_NUM_THREADS"] = str(cores)  # libraries do not see a container's quota
        return variables


def _is_the_users(name: str) -> bool:
    """True where the user has set the variable, or the more general one that decides for it."""
    # torch itself sets this one, where it is not set when it looks
    default = os.path.join(tempfile.gettempdir(), "torchinductor_")
    values = (os.environ.get(each, "") for each in (name, _GENERAL.get(name, "")))
    return any(value and not value.startswith(default) for value in values)


def _project_for_children() -> dict[str, str]:
    """A child works in the same project, whatever its current folder is."""
    try:
        return {project.VARIABLE: str(project.root())}
    except project.NoProjectError:  # a script that uses the engine alone
        return {}


def prepare_libraries() -> None:
    """Set the libraries' variables for a script that imports the engine without any settings of its own.

    A value that is there stays, whoever has set it. Raises SettingError.
    """
    if EXPORTED_VARIABLE in os.environ:
        return  # by whoever started this process
    found = for_the_engine().child_environment()
    os.environ.update({name: found[name] for name in (*found[EXPORTED_VARIABLE].split(","), EXPORTED_VARIABLE) if name})


def load(overrides: Sequence[str] | Mapping[str, Any] = (), *, profile: str | None = None) -> Settings:
    """Settings from defaults, a profile, agentloop.toml, the environment and `section.name=value` overrides, in that order.

    `profile` names a file of agentloop/profiles. Raises SettingError, in one line that names the setting, on an unknown
    name or a value out of range.
    """
    root = project.root()
    files = [*([_profile_file(profile)] if profile else []), *_config_file(root)]
    values = overrides if isinstance(overrides, Mapping) else parse_overrides(overrides)
    return _layered(values, files, root)


def for_the_engine() -> Settings:
    """The settings for a script that uses the engine alone: the project's, or, outside of any, the defaults with caches in
    the user's cache folder. Raises SettingError.
    """
    try:
        return load()
    except project.NoProjectError:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "agentloop"
        return _layered({"paths": {"cache": str(cache)}}, [], Path.cwd())


def _layered(values: Mapping[str, Any], files: Sequence[Path], root: Path) -> Settings:
    """The values over the environment over the files, of which later ones win. Relative paths are relative to `root`."""

    class Layered(Settings):
        @classmethod
        def settings_customise_sources(cls, settings_cls, init_settings, env_settings, **_):  # the first source wins
            return (init_settings, env_settings, *(_toml(settings_cls, file) for file in reversed(files)))

    _refuse_unknown_variables()
    return _validated(Layered, values, root)


def _profile_file(name: str) -> Path:
    path = PROFILES / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in PROFILES.glob("*.toml")))
        raise SettingError(f"profile: no profile named {name!r} (there are: {known})")
    return path


def _config_file(root: Path) -> list[Path]:
    named = os.environ.get(CONFIG_VARIABLE)
    if not named:
        path = root / project.FILE
        return [path] if path.exists() else []
    try:
        path = Path(_path(named))
        there, folder = path.is_file(), path.is_dir()
    except (OSError, ValueError) as error:
        raise SettingError(f"{CONFIG_VARIABLE}: {named[:200]!r}: {error}") from None
    if not there:
        raise SettingError(f"{CONFIG_VARIABLE}: {f'{path} is a folder' if folder else f'no file at {path}'}")
    return [path]


def _toml(settings_cls: type[BaseSettings], path: Path) -> InitSettingsSource:
    text = read_text(path, SettingError)
    try:
        return InitSettingsSource(settings_cls, tomllib.loads(text))
    except (ValueError, RecursionError) as error:  # ValueError: also numbers of thousands of digits
        raise SettingError(f"{path}: {_one_line(str(error)) or 'nested too deeply'}") from None


def _refuse_unknown_variables() -> None:
    # pydantic-settings passes over unknown variables that carry the prefix; a misspelt setting must not go unseen.
    for variable in os.environ:
        name = variable.upper().removeprefix(ENV_PREFIX).lower().partition("__")[0]
        prefixed = variable.upper().startswith(ENV_PREFIX)
        if prefixed and variable not in OWN_VARIABLES and name not in Settings.model_fields:
            raise SettingError(f"{variable}: unknown setting in the environment")


def _validated(layers: type[Settings], values: Mapping[str, Any], root: Path) -> Settings:
    try:
        settings = layers(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "settings"
        unknown = first["type"] == "extra_forbidden"
        wrong = f"{_complaint(first['msg'])} (got {_shown(first['input'])})"
        fault = _RENAMED.get(name, "unknown setting") if unknown else wrong
        raise SettingError(f"{_one_line(name)}: {fault}") from None
    except SettingsError as error:
        raise SettingError(_one_line(str(error))) from None
    if settings.agent.max_tokens > settings.serving.max_model_len:
        raise SettingError(
            f"agent.max_tokens: {settings.agent.max_tokens} is more than "
            f"serving.max_model_len = {settings.serving.max_model_len}, beyond which vLLM refuses to read"
        )
    paths = Paths(**{name: root / getattr(settings.paths, name) for name in Paths.model_fields})
    _refuse_data_in_cache(paths)
    return Settings.model_construct(
        **{name: getattr(settings, name) for name in Settings.model_fields} | {"paths": paths}
    )


def _refuse_data_in_cache(paths: Paths) -> None:
    try:
        data, cache = paths.data.resolve(), paths.cache.resolve()
    except (OSError, RuntimeError):  # too long a name, a loop of links: told where the folder is used
        return
    if data.is_relative_to(cache):
        raise SettingError(
            f"paths.data: {paths.data} {'is' if data == cache else 'lies in'} paths.cache, which may be deleted at any time"
        )


def _complaint(message: str) -> str:
    """pydantic's message without its capital letter and the name of its exception."""
    message = _one_line(message.removeprefix("Value error, "))
    return message[:1].lower() + message[1:]


def _shown(value: object, most: int = 200) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"


def _one_line(text: str, most: int = 1000) -> str:
    return " ".join(text.split())[:most]


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """`["training.rank=32"]` as `{"training": {"rank": 32}}`. Raises SettingError where a word has no `=`."""
    pairs = []
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise SettingError(f"{_one_line(text)}: an override is written name=value, for example training.rank=32")
        if not all(name.strip().split(".")):
            raise SettingError(f"{_one_line(name)}: unknown setting")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise SettingError(f"{name.strip()}: {_shown(value)} is not valid UTF-8") from None
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
                raise SettingError(f"{_one_line(name)}: {section} is a single setting, not a section")
        if isinstance(inner.get(leaf), dict):
            raise SettingError(f"{name}: given as a whole, and {name}.{next(iter(inner[leaf]), '')} by itself")
        inner[leaf] = text if _takes_text(name) else _value(text)
    return values


def _takes_text(name: str) -> bool:
    """True for a setting that is a text, whatever it looks like: a campaign may be named 2026."""
    section: type[BaseModel] = Settings
    *sections, leaf = name.split(".")
    for part in sections:
        field = section.model_fields.get(part)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return False
        section = field.annotation
    field = section.model_fields.get(leaf)
    return field is not None and field.annotation in (str, Path, Path | None)


def _value(text: str) -> Any:
    """A number, a boolean, a list or a table where the text is one in TOML, else the text itself."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    # a text of several lines may be a whole file, and what looks like a date is text
    return (
        parsed["value"] if len(parsed) == 1 and isinstance(parsed["value"], int | float | list | dict | str) else text
    )
