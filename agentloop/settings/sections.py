"""The sections of the settings, one class each, with what every setting means."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    ValidationInfo,
    field_validator,
    model_validator,
)

from agentloop.settings.values import (
    Count,
    Days,
    Fraction,
    Tasks,
    UserPath,
    auto_or_positive,
    eight_or_32,
    known_recipe,
    servable_rank,
)
from agentloop.sizes import GIB


class Strict(BaseModel):
    """A model in which true and false are no numbers."""

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError("must not be true or false")
        return value


class Section(Strict):
    """A part of the settings, which cannot be changed: unknown names are refused, defaults are checked too."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class Paths(Section):
    """The fixed roots. Relative paths are relative to the project's root."""

    models: UserPath = Path("models")
    """Base models, one directory each."""
    data: UserPath = Path("data")
    """Everything a run writes: shards, database, adapters, checkpoints, logs, reports."""
    cache: UserPath = Path("data/cache")
    """Things that can be made again, and so may be deleted at any time: packed NF4 weights and the caches of Hugging Face,
    Triton, Inductor and vLLM."""

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
    def judgements(self) -> Path:
        """Replies of models that were asked for scores, one file each."""
        return self.data / "judgements"

    @property
    def services(self) -> Path:
        """State of the Prefect server and worker that `agentloop up` started."""
        return self.data / "services"


class Agent(Section):
    """The agent: how a task is put to the model, and when an episode ends."""

    describe_tools: bool = True
    """Put the tools' descriptions into the prompt. The tiny model was taught its tools and needs none."""
    max_turns: Count = 6
    """Turns that the model gets in one episode. An episode that needs more ends without an answer."""
    max_turn_tokens: Count = 256
    """Tokens that one turn of the model may have. A turn that is cut off ends the episode without an answer."""
    max_tokens: Count = 2048
    """Tokens of a whole episode, prompt and tool results included; at most `serving.max_model_len`. Of an agent of your own:
    tokens of each of its conversations."""
    command: Annotated[str, Field(min_length=1)] | None = None
    """An agent of your own, started once for each episode: a command line, or `FILE.py:function` (relative to the project's
    root). It asks the policy through the endpoint in `OPENAI_BASE_URL`; what it prints is its answer. See docs/own-agent.md."""


class Serving(Section):
    """The vLLM child process."""

    python: UserPath | None = None
    """Interpreter that has vLLM installed; by default this one."""
    servers: Count = 1
    """vLLM servers, which share the episodes: each has a GPU of its own, in the order of `CUDA_VISIBLE_DEVICES`; without GPUs
    they share the processor. All serve the same and make room for the trainer together; one that ends is replaced while the
    others go on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port on 127.0.0.1 that vLLM listens on, and those after it with several `servers`; 0 picks free ones."""
    base: Literal["dequantised", "original"] = "dequantised"
    """Which weights to serve where training quantises the base: `dequantised`, the ones that training sees, so that served
    equals trained, or the `original` ones."""
    policy: Literal["restart", "sleep"] = "restart"
    """What vLLM does while the trainer has the card: `restart` ends it and starts it again; `sleep` is quicker, but keeps
    some 2 GiB of the card and the weights in host memory. On the CPU vLLM simply waits, and `sleep` is refused."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Dtype that vLLM computes in; `auto` is that of the model's files."""
    max_model_len: Count = 4096
    """Tokens of the longest episode that vLLM accepts (`--max-model-len`)."""
    max_num_seqs: Count = 64
    """Requests that vLLM computes at the same time (`--max-num-seqs`)."""
    gpu_memory_utilization: Fraction = 0.9
    """Share of the card's memory that vLLM may take, KV cache included (`--gpu-memory-utilization`). Not used on the CPU."""
    start_seconds: PositiveFloat = 600
    """Seconds that vLLM may take to start; then the run ends with its log's last lines."""
    request_seconds: PositiveFloat = 120
    """Seconds that one request may take before it counts as failed."""
    extra_arguments: tuple[str, ...] = ()
    """More arguments for vLLM's server, passed to it as they are."""


class Collect(Section):
    """Rollouts that become training data."""

    tasks: Tasks = 256
    """Fresh training tasks in each iteration."""
    samples: Count = 8
    """Episodes for each task."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature of the rollouts."""
    temperatures: tuple[PositiveFloat, ...] = ()
    """Temperatures of a task's samples, in turn: sample 0 has the first, and after the last comes the first again. They vary
    what is tried at one task. Not set: all have `temperature`. Evaluations have their own (`evaluate.temperature`)."""
    give_up_after: Count | None = None
    """Samples of a task after which it is given up if none of them was solved: its other samples are not played, and count as
    not sampled. Not set: every task gets all its `samples`. Evaluations always do."""
    concurrency: Count = 64
    """Episodes in flight at the same time."""
    shard_episodes: Count = 512
    """Episodes in one Parquet shard, which is also one Prefect task. As many are played at once as it takes to keep
    `concurrency` episodes in flight."""
    episode_seconds: PositiveFloat = 120
    """Seconds that an episode may take; a longer one is an infrastructure failure and is tried again."""
    tool_seconds: PositiveFloat = 30
    """Seconds that a tool may take over one call; then it is killed with all it started, and the episode is tried again."""
    tool_memory: PositiveFloat = 2.0
    """Memory in GiB that the tools of one episode may take together."""
    attempts: Count = 3
    """Tries at an episode. One that failed in all of them is recorded with its errors, and is not scored."""
    max_failed: Annotated[float, Field(ge=0)] = 0.05
    """Failed episodes of one shard that are tolerated; with more of them the run stops. A share below 1, a number from 1
    on."""


class Selection(Section):
    """The choice of trajectories that are trained on. The recipes are the files in agentloop/curation/selection/."""

    recipe: Annotated[str, AfterValidator(known_recipe)] = "rejection"
    """`rejection`, `replay`, `fresh`, `random`, or the path of a .sql file, relative to the project's root. An objective that
    learns from failures takes `groups` or `pairs` by itself where this is left at its default."""
    reward: Annotated[str, Field(min_length=1)] = "success"
    """The score that the recipes go by: `success`, or another that the environment's `score` gives. What has at least 0.5 of it
    counts as solved for them; the gate goes by `success` in any case."""
    per_task: Count = 2
    """Distinct successes of one task that may be chosen."""
    min_success_rate: Fraction = 0.0
    """Lowest success rate of a task that is trained on."""
    max_success_rate: Fraction = 0.99
    """Highest success rate of a task that is trained on: a task that is always solved teaches nothing."""
    max_tokens: Count = 2048
    """Length in tokens of the longest trajectory that may be chosen."""
    max_overlap: Fraction = 0.7
    """Share of runs of five words, in the question and in the actions, that two rows may have in common; beyond it the
    later row is left out as a near duplicate."""
    accumulate: bool = True
    """Choose from all iterations of the campaign; false: from the newest only."""
    replay: Annotated[float, Field(ge=0)] = 1.0
    """With the recipes `replay` and `fresh`: rows of earlier iterations for each row of the newest, at most."""
    half_life: PositiveFloat = 4
    """With the recipe `fresh`: iterations after which a row is half as likely to be replayed."""
    rows: Tasks = 4000
    """With the recipe `fresh`: rows in all, at most."""
    benchmarks: UserPath | None = None
    """A text file of benchmark prompts, one a line. The run ends with an error where a chosen task is nearly one of them."""


class Sft(Section):
    """Training on successes. See docs/objectives.md."""

    push_down: Annotated[float, Field(ge=0)] = 0.0
    """How much the first token counts with which a failure leaves every success of its task: it is made less probable. 0:
    failures are not looked at."""
    push_above: Fraction = 0.02
    """Probability above which such a token is made less probable."""


class Grpo(Section):
    """Group relative policy optimisation. See docs/objectives.md."""

    clip_low: Fraction = 0.9
    """A token of an episode that is worse than its group counts no more once its probability has fallen by this share; with 1
    it always counts."""
    clip_high: Annotated[float, Field(ge=0)] = 9.0
    """A token of an episode that is better than its group counts no more once its probability has risen by this multiple."""
    truncate: Annotated[float, Field(ge=1)] = 10.0
    """Largest ratio of two probabilities of a token that counts."""
    anchor: Literal["sampled", "start"] = "sampled"
    """Policy that a token's probability is compared with: `sampled`, the one that wrote it, as stored; `start`, the one that
    training starts from, as the trainer computes it."""
    baseline: Literal["mean_std", "mean"] = "mean_std"
    """What is taken from a reward: the `mean` of its group; `mean_std` also divides by the group's standard deviation."""
    normalization: Literal["token", "sequence", "constant"] = "token"
    """What a step is divided by: its tokens; each sequence's own tokens and the number of sequences; or a constant length."""
    credit: Literal["episode", "turns"] = "episode"
    """What a token is rewarded by: its `episode` as a whole, or the rewards that the world gave to its turn and later ones."""
    kl: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the KL divergence from the base."""


class Dpo(Section):
    """Direct preference optimisation. See docs/objectives.md."""

    beta: PositiveFloat = 0.3
    """How strongly a pair holds to the reference: with more of it, less is learnt from a pair that is told apart."""
    nll: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the winner's cross-entropy."""
    reference: Literal["sampled", "base"] = "sampled"
    """Policy that episodes are compared with: the one that sampled them, as stored, or the base."""


class Kto(Section):
    """Kahneman-Tversky optimisation, for successes and failures without pairs. See docs/objectives.md."""

    beta: PositiveFloat = 0.1
    """How strongly an episode holds to the reference."""
    desirable: PositiveFloat = 1.0
    """Weight of successes."""
    undesirable: PositiveFloat = 1.0
    """Weight of failures."""
    reference: Literal["sampled", "base"] = "sampled"
    """Policy that episodes are compared with: the one that sampled them, as stored, or the base."""


class Bounds(Section):
    """Bounds of a training run. A step beyond one ends the run with one line, before its adapter is served or measured."""

    max_nll: PositiveFloat | None = None
    """Cross-entropy of the successes in a step, in nats a token. Not set: no bound."""
    min_entropy: Annotated[float, Field(ge=0)] | None = None
    """Entropy of the model's distribution, in nats, in the mean over a step's tokens. Not set: no bound."""
    max_kl: PositiveFloat | None = None
    """KL divergence from the policy that sampled, in nats a token, as estimated from a step's tokens. Not set: no bound."""
    max_clipped: Fraction | None = None
    """Share of a step's tokens that `grpo` clips or truncates. Not set: no bound."""


class Training(Section):
    """LoRA on a frozen base, which is in 16 bit or quantised to NF4 (QLoRA)."""

    objective: Literal["sft", "grpo", "dpo", "kto"] = "sft"
    """What is made of the episodes: `sft` trains on successes, `grpo` compares the samples of a task, `dpo` learns from pairs
    of a success and a failure, `kto` from both without pairs. See docs/objectives.md."""
    sft: Sft = Sft()
    grpo: Grpo = Grpo()
    dpo: Dpo = Dpo()
    kto: Kto = Kto()
    bounds: Bounds = Bounds()
    rank: Annotated[int, AfterValidator(servable_rank)] = 16
    """Rank of the adapter: 8, 16, 32, 64, 128 or 256, the ranks that vLLM serves."""
    alpha: PositiveFloat = 32
    """LoRA's alpha: the adapter's product counts alpha / rank."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    """Linear layers that get an adapter."""
    quantization: Literal["auto", "none", "dynamic", "nf4"] = "auto"
    """How the base is held in training: `none` (16 bit), `nf4`, or `dynamic` (NF4 but for the modules that suffer most from
    it). `auto` takes the most precise of them that fits into the memory that is free when the campaign begins, on the CPU
    16 bit. See docs/quantisation.md."""
    quantization_tolerance: PositiveFloat = 0.005
    """KL divergence of an episode from the same base in 16 bit, in nats, that counts as negligible: success cannot differ by
    more than the root of its half (5 points at 0.005). `dynamic` leaves as few bytes in 16 bit as keep below it."""
    max_quantization_loss: Fraction = 0.05
    """Loss of success by quantisation, as a share, above which the base is not trained on. The loss counts as larger where
    the lower end of its confidence interval is."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Dtype of the forward and backward pass; the adapter itself stays in float32. `auto`: bfloat16 on CUDA (float16 before
    compute capability 8), float32 on the CPU."""
    devices: Count = 1
    """GPUs of this machine (processes, where it has none) that share each batch, under torchrun."""
    learning_rate: PositiveFloat = 2e-4
    """Highest learning rate: reached after the warm-up, followed by a cosine to zero."""
    warmup_fraction: Fraction = 0.05
    """Share of the steps over which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's decoupled weight decay."""
    max_grad_norm: PositiveFloat = 1.0
    """Norm to which the gradient is clipped."""
    optimizer_bits: Annotated[Literal[8, 32], BeforeValidator(eight_or_32)] = 32
    """Bits of each of AdamW's two moments: 32, or 8 with a scale for every 256 values, which takes 6 bytes less for each
    weight of the adapter."""
    epochs: Count = 3
    """Passes over the selected rows."""
    batch_tokens: Count = 8192
    """Tokens of one packed batch, which is one optimizer step."""
    memory_budget: Annotated[Literal["auto"] | float, BeforeValidator(auto_or_positive)] = "auto"
    """Memory of the GPU in GiB that the trainer may hold at its peak, as nvidia-smi shows it; `auto`: what is free. With
    less, more is computed again or waits in host memory; the batch, and so the adapter, stays the same. `agentloop doctor
    --train` says what is needed. A step that still runs out of memory is repeated with a leaner plan."""
    checkpoint_steps: Count = 20
    """Optimizer steps between checkpoints. A run that was killed continues from the newest one, exactly."""
    stall_seconds: PositiveFloat = 900
    """Seconds without any sign of life (no optimizer step, no line in the log) after which the trainer is ended, and tried
    again from the newest checkpoint."""
    continue_adapter: bool = False
    """Continue from the champion's adapter; false: train from the base on all selected rows."""

    @property
    def rows(self) -> Literal["successes", "groups", "pairs"]:
        """Return what the objective's datasets are made of."""
        if self.objective == "dpo":
            return "pairs"
        return "successes" if self.objective == "sft" and not self.sft.push_down else "groups"

    def on_successes(self) -> Training:
        """Return the same settings with the objective that learns from successes alone."""
        return self.model_copy(update={"objective": "sft", "sft": Sft(), "bounds": Bounds()})

    @model_validator(mode="after")
    def _bounds_can_be_measured(self) -> Self:
        bounds = self.bounds
        if bounds.max_kl is not None and self.rows == "successes":
            raise ValueError(
                "bounds.max_kl needs an objective that learns from failures, for which log probabilities are kept"
            )
        if bounds.max_clipped is not None and self.objective != "grpo":
            raise ValueError(f"bounds.max_clipped is for the objective grpo: {self.objective} clips nothing")
        return self


class Evaluate(Section):
    """Held-out measurement of a policy."""

    tasks: Tasks = 200
    """Held-out tasks, the same ones for every policy."""
    samples: Count = 4
    """Episodes for each task."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature of the measurement."""


class Guard(Section):
    """Held-out tasks of another environment, at which the challenger must not be worse. Written as
    `gate.guards.database.margin=0.05`."""

    tasks: Tasks = 200
    """Held-out tasks of that environment."""
    samples: Count = 4
    """Episodes for each task."""
    margin: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Loss of success, as a share, that is not held against the challenger."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Probability that the guard ever, in the whole life of a campaign, passes a challenger that is worse by the margin."""


class Gate(Section):
    """When the challenger replaces the champion. See docs/gate.md."""

    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """Probability that a campaign ever, however many challengers and looks it has, promotes one that is not better than its
    champion."""
    min_gain: Fraction = 0.0
    """Gain in success, as a share, that the challenger must exceed with confidence."""
    max_tasks: Tasks | None = None
    """Held-out tasks, at most: where the verdict asks for more data they are doubled up to this number. Not set: they never
    are."""
    guards: dict[str, Guard] = {}
    """Other environments at which the challenger must not be worse, by name. They are measured only for a challenger that
    would be promoted."""
    resamples: Count = 10_000
    """Resamples of the paired bootstrap that gives the confidence intervals."""
    block_challengers: Count = 8
    """Challengers that meet on the same held-out tasks. The next one meets on the next tasks of the environment."""
    itself_every: Annotated[int, Field(ge=0)] = 25
    """Challengers after which the champion meets itself with another seed, which shows how often the gate is wrong; 0: never.
    It never promotes anything."""
    control: bool = True
    """Also train and evaluate, at the end, a control: an adapter on as many randomly chosen trajectories."""


class Night(Section):
    """The time that a run has."""

    hours: PositiveFloat | None = None
    """Hours after which a run is to end. Each iteration's tasks, and with the recipe `fresh` its rows, are cut to fit, by what
    the campaign's iterations took before. Not set: nothing is cut."""


Event = Literal["done", "failed", "promoted", "stalled", "disk_low"]


class Notify(Section):
    """Being told: which events, and on which ways. See docs/notices.md."""

    on: tuple[Event, ...] = ("done", "failed", "promoted", "stalled", "disk_low")
    """Events that are told: `done`, `failed` and `promoted` when a run ends, `stalled` after `nights` without a promotion,
    `disk_low`."""
    nights: Count = 7
    """Runs to the end without a promotion that count as stalled."""
    disk_gib: Annotated[float, Field(ge=0)] = 10.0
    """Free GiB at `paths.data` below which the disk counts as low; 0: never."""
    command: tuple[str, ...] = ()
    """A program and its arguments, started without a shell: the notice is in its environment (`NOTICE_TITLE`, `NOTICE_TEXT`,
    …) and, as JSON, on its standard input."""
    webhook_variable: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = "NOTIFY_WEBHOOK"
    """Name of the environment variable that holds addresses, with spaces between them. An `https://` address gets JSON, any
    other is one of Apprise's (`mailto://`, `tgram://`, `ntfys://`, …)."""
    webhook_file: UserPath | None = None
    """A file with such addresses, one a line, that nobody else can read; a relative path is relative to the project's root."""
    block: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*/[^/]+$")] | None = None
    """A notification block of Prefect's, as `slack-webhook/mine`: `agentloop up` makes automations that use it."""
    seconds: Annotated[float, Field(gt=0, le=600)] = 20
    """Seconds that one way may take over a notice."""


class Retention(Section):
    """The policy of `agentloop prune`, and how much of the disk stays free. See docs/housekeeping.md."""

    adapter_days: Days = 14
    """Days that the weights of an adapter stay which is no champion's ancestor, and never was champion."""
    adapter_iterations: Count = 3
    """Newest iterations of each campaign whose adapters stay, however old they are."""
    journal_days: Days = 14
    """Days that the journal of a half-collected shard stays, which spares a killed collection its finished episodes."""
    log_days: Days = 30
    """Days that logs and TensorBoard's files stay."""
    log_gib: PositiveFloat = 1.0
    """GiB that logs and TensorBoard's files may take together; beyond that the oldest go."""
    cache_days: Days = 30
    """Days after their last use that compiled code stays, and what was derived from a base that no model directory has."""
    flow_run_days: Annotated[float, Field(ge=1)] = 90
    """Days that the Prefect server which agentloop started keeps flow runs, with their logs and artifacts, and results."""
    reserve_gib: Annotated[float, Field(ge=0)] = 1.0
    """GiB of the disk that stay free: what would take more of it is refused before it begins."""

    @property
    def reserve(self) -> int:
        """Return `reserve_gib` in bytes."""
        return int(self.reserve_gib * GIB)


class Report(Section):
    """The report of a campaign, and what else is told of it."""

    seconds: Annotated[float, Field(ge=0)] = 20
    """Pause between two pages while a run is at work; longer where a page takes long to write. 0: the run writes one page, at
    its end."""
    sinks: tuple[Literal["tensorboard", "mlflow"], ...] = ("tensorboard",)
    """Where metrics go as well: `tensorboard` (paths.data/tensorboard), `mlflow` (paths.data/mlflow.db, with settings and
    report; needs the extra of that name)."""


class Teach(Section):
    """The way from demonstrations to a base model that the loop can improve. See docs/teaching.md."""

    tasks: Tasks = 32
    """Tasks that the environment's experts, or a teacher, are to solve."""
    samples: Count = 1
    """Episodes of a teacher for each task."""
    per_task: Count = 1
    """Distinct demonstrations of one task that are taught, at most."""
    rank: Annotated[int, AfterValidator(servable_rank)] = 32
    """Rank of the LoRA adapter that is trained and then merged: 8, 16, 32, 64, 128 or 256."""
    alpha: PositiveFloat = 64
    """LoRA's alpha: the adapter's product counts alpha / rank."""
    learning_rate: PositiveFloat = 3e-4
    """Highest learning rate, as in `training.learning_rate`."""
    epochs: Count = 12
    """Passes over the demonstrations."""
    batch_tokens: Count = 2048
    """Tokens of one packed batch, which is one optimizer step."""
    teacher_model: str | None = None
    """Name of the model at the teacher's endpoint. Not set: the only one that it serves."""
    calls: Literal["text", "native", "bare"] = "text"
    """How a teacher calls tools. `text`: as the student does, the call's format described in the prompt; `native`: by the
    endpoint's `tools`; `bare`: as the student does, without a word about it, for a teacher that was taught the format."""
    temperature: Annotated[float, Field(ge=0)] = 0.7
    """Sampling temperature of a teacher."""
    max_turn_tokens: Count = 1024
    """Tokens, as the teacher counts them, of one of its turns."""
    concurrency: Count = 16
    """Requests in flight at a teacher."""
    request_seconds: PositiveFloat = 120
    """Seconds that a teacher may take over one turn before it is asked again."""
    key_variable: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key of a teacher's endpoint; the key itself is stored nowhere."""
    shard_episodes: Count = 32
    """Demonstrations in one Parquet shard."""

    def key(self) -> str | None:
        """Return the key of a teacher's endpoint, or None where its variable is not set."""
        return os.environ.get(self.key_variable) or None
