"""The arguments and environment that vLLM is started with."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path

from packaging.version import Version

from agentloop import card, limits
from agentloop.errors import SettingError
from agentloop.serving.installation import Installation
from agentloop.settings import Settings

BASE_NAME = "base"
"""The base model's name in requests; adapters go by their ids."""
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "qkv_proj", "gate_up_proj")
"""The seven projections, and the two layers that vLLM packs five of them into.

Every wrapped layer costs time whether or not an adapter names it, and on CUDA vLLM's kernel refuses the strided altup
projections. An adapter that names other modules is refused by the plugin.
"""
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` accepts."""
PLUGIN = "agentloop_gemma3n"
"""The name of this project's entry point (pyproject.toml)."""
LOOPBACK = "127.0.0.1"
_EVERYWHERE = "0.0.0.0"
_NOT_THE_USERS = (
    # where it listens, what with, and what it says of itself
    "VLLM_PORT", "VLLM_RPC_BASE_PATH", "VLLM_USE_RUST_FRONTEND", "VLLM_KEEP_ALIVE_ON_ENGINE_DEATH",
    "VLLM_ALLOW_INSECURE_SERIALIZATION", "VLLM_CONFIGURE_LOGGING", "VLLM_TRACE_FUNCTION", "VLLM_DEBUG_LOG_API_SERVER_RESPONSE",
    # what it serves, and how it computes it
    "VLLM_USE_MODELSCOPE", "VLLM_MODEL_REDIRECT_PATH", "VLLM_TEST_FORCE_LOAD_FORMAT", "VLLM_USE_V1",
    "VLLM_CPU_CI_ENV", "VLLM_CPU_NUM_OF_RESERVED_CPU", "VLLM_CPU_KVCACHE_SPACE",
)  # fmt: skip
"""Variables of another vLLM of the user's: those that this project's depends on are not taken over."""
_NOT_THE_USERS_PREFIX = ("VLLM_LOGGING_", "VLLM_DP_")
_CPU_CACHE_BYTES = 1 << 30
_MIXED_STEP_TOKENS = 1024
_SCALE_OUT_BY_REQUEST = Version("0.30")
"""Earlier versions have these endpoints without being asked."""


@dataclass(frozen=True)
class Front:
    """The side that vLLM turns to its clients."""

    host: str = LOOPBACK
    """An IPv4 address of this machine, or a name that has one; 0.0.0.0 for all of them."""
    key: str | None = field(default=None, repr=False)
    """The key that requests have to prove; None: a random one for each start."""
    aliases: bool = False
    """Take `ModelServer.alias`."""

    @property
    def on_loopback(self) -> bool:
        """Return True where no other machine gets to it. Raises SettingError for what is no address of this machine."""
        try:
            address = socket.gethostbyname(self.host)
            with socket.socket() as probe:
                probe.bind((address, 0))
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SettingError(f"--host: {self.host!r} is no IPv4 address of this machine ({reason})") from None
        return address.startswith("127.")

    @property
    def middlewares(self) -> tuple[str, ...]:
        """Return what stands before vLLM's application, the outermost last."""
        door = "ServingDoor" if self.on_loopback else "OpenServingDoor"
        alias = ("agentloop_vllm.alias.Alias",) if self.aliases else ()
        return (*alias, f"agentloop_vllm.serving_door.{door}")

    @property
    def reached_at(self) -> str:
        """Return the address that this machine reaches it at."""
        return LOOPBACK if self.host == _EVERYWHERE else self.host


@dataclass(frozen=True)
class Place:
    """A server's place among several of one machine."""

    number: int = 0
    """From 0; also the number of its card among those that CUDA has here."""
    of: int = 1
    """So many there are. One alone has whatever cards there are."""


ALONE = Place()

LOOPBACK_ONLY = Front()
"""The front of a vLLM that only agentloop itself asks."""


def arguments(
    settings: Settings,
    installation: Installation,
    *,
    model: Path,
    port: int,
    max_lora_rank: int,
    max_loras: int,
    compiled: bool = True,
    front: Front = LOOPBACK_ONLY,
) -> list[str]:
    """Return the arguments of vLLM's server, settings.serving.extra_arguments last: there the user may overrule what is chosen
    here.

    `compiled`: False where this machine cannot compile, and vLLM runs the model as it is written. Raises SettingError for
    what this vLLM cannot do.
    """
    serving = settings.serving
    options: dict[str, object] = {
        "--model": model,
        "--served-model-name": BASE_NAME,
        "--host": front.host,
        "--port": port,
        "--dtype": serving.dtype,
        "--max-model-len": serving.max_model_len,
        "--max-num-seqs": serving.max_num_seqs,
        "--seed": settings.seed,
        # Without it the model's own generation_config.json changes how requests are sampled.
        "--generation-config": "vllm",
        "--enable-lora": True,
        "--max-loras": max_loras,
        "--max-lora-rank": min(rank for rank in LORA_RANKS if rank >= max_lora_rank),
        "--lora-target-modules": LORA_TARGETS,
        # The agent speaks text: of a multimodal checkpoint no tower takes memory.
        "--language-model-only": True,
        "--disable-uvicorn-access-log": True,
        "--disable-fastapi-docs": True,
    }
    if Version(installation.version) >= _SCALE_OUT_BY_REQUEST:
        # Among what it switches on is the endpoint that takes and gives tokens.
        options |= {"--enable-scale-out": True}
    if installation.on_cpu:
        if serving.policy == "sleep":
            raise SettingError("serving.policy: vLLM cannot sleep on the CPU, where it also need not; use restart")
        options |= {
            # With a part of a prompt scheduled and a seed in the request, vLLM's CPU sampler ends the engine
            # ("CPU Generator does not use offset"): every prompt is scheduled whole.
            "--no-enable-chunked-prefill": True,
            "--max-num-batched-tokens": max(4096, serving.max_model_len),
            # vLLM's 128 is longer than many a turn, and only whole blocks of a prefix are found again
            "--block-size": 32,
            "--kv-cache-memory-bytes": _CPU_CACHE_BYTES,
            # The engine runs the model itself instead of in a process of its own: one process less to start and to talk
            # to at every step. By this name because vLLM replaces the short one, for the sake of threads bound to cores,
            # which are not bound here.
            "--distributed-executor-backend": "vllm.v1.executor.uniproc_executor.UniProcExecutor",
        }
        if not compiled:
            options |= {"--enforce-eager": True}
    else:
        options |= {
            "--gpu-memory-utilization": serving.gpu_memory_utilization,
            "--cudagraph-capture-sizes": graph_sizes(serving.max_num_seqs),
        }
        if serving.policy == "sleep":
            options |= {"--enable-sleep-mode": True}
    doors = [word for middleware in front.middlewares for word in ("--middleware", middleware)]
    return [*_words(options), *doors, *serving.extra_arguments]


def graph_sizes(sequences: int) -> tuple[int, ...]:
    """Numbers of tokens that vLLM records CUDA graphs for: `sequences`, which is a full step that only decodes, and up to
    1,024, which is one that reads the prompts of a few more episodes as well.

    vLLM's own list goes up in eights to twice `sequences`. Each size is recorded several times over (with adapters and
    without, whole and in pieces), which costs time at every start and memory for as long as it runs; a batch is padded to
    the next. A step beyond the last runs without graphs, at a third of the speed, and with episodes that take their turns
    at different times almost every step has a prompt in it.
    """
    last, sizes = max(sequences, _MIXED_STEP_TOKENS), [1, 2, 4, 8, 16]
    while sizes[-1] < last:
        sizes += [sizes[-1] * 3 // 2, sizes[-1] * 2]
    return tuple(sorted({*(size for size in sizes if size <= last), sequences, last}))


def _words(options: dict[str, object]) -> list[str]:
    """As they are written on a command line: True is a flag, a tuple several values."""
    words = []
    for name, value in options.items():
        values = () if value is True else value if isinstance(value, tuple) else (value,)
        words += [name, *map(str, values)]
    return words


def environment(
    settings: Settings, installation: Installation, *, api_key: str, compiled: bool = True, place: Place = ALONE
) -> dict[str, str | None]:
    """Return what the child's environment has beyond this process's, None for what it lacks.

    The key is here because arguments are visible to all. Raises ServerError where `place` has no card.
    """
    variables: dict[str, str | None] = {
        **dict.fromkeys(
            name for name in os.environ if name in _NOT_THE_USERS or name.startswith(_NOT_THE_USERS_PREFIX)
        ),
        **settings.child_environment(),
        "VLLM_API_KEY": api_key,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        # what its processes listen on for each other
        "VLLM_HOST_IP": "127.0.0.1",
    }
    if "VLLM_PLUGINS" in os.environ:
        # the user's list, empty for none; without this project's plugin nothing would be served
        named = [name for name in os.environ["VLLM_PLUGINS"].split(",") if name]
        variables |= {"VLLM_PLUGINS": ",".join(dict.fromkeys([*named, PLUGIN]))}
    if settings.serving.policy == "sleep":
        # /sleep and /wake_up are among the commands for developers; vLLM asks no key for these, but its door does
        variables |= {"VLLM_SERVER_DEV_MODE": "1"}
    if installation.on_cpu:
        variables |= {
            # vLLM would pin its threads and keep one core for itself; two cores are too few for that.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(max(1, (limits.processors() - 1) // place.of)),
        }
        if not compiled:
            # beside the model, vLLM has functions of its own that are compiled when they are first called
            variables |= {"TORCH_COMPILE_DISABLE": "1"}
    else:
        # The engine is a copy of the server's process instead of one that imports everything again, where vLLM finds that
        # safe (it falls back by itself where CUDA is in use already).
        variables |= {"VLLM_WORKER_MULTIPROC_METHOD": os.environ.get("VLLM_WORKER_MULTIPROC_METHOD", "fork")}
        if place.of > 1:
            variables |= {"CUDA_VISIBLE_DEVICES": card.identifiers()[place.number]}
    return variables
