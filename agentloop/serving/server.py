"""vLLM as a child process: started, health-checked, given adapters, and ended with everything it started.

It listens on the loopback interface behind a random key that never appears on a command line, and it cannot outlive the
process that started it (agentloop/child.py).
"""

from __future__ import annotations

import importlib.util
import secrets
import socket
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from agentloop.child import ChildProcess
from agentloop.errors import AdapterError, ServerError, SettingError
from agentloop.settings import Settings

HOST = "127.0.0.1"
BASE_NAME = "base"
"""By this name requests call the model without an adapter."""
CPU_CACHE_GIB = 1
"""KV cache on the CPU: 64 short episodes of a tiny model fill a few megabytes."""
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "qkv_proj", "gate_up_proj")
"""Modules that vLLM may wrap, its own packed names included: it would also wrap AltUp's, which its kernels cannot serve."""


class ModelServer:
    """One vLLM serving one base model and up to `max_loras` adapters on it."""

    model_name = BASE_NAME

    def __init__(self, settings: Settings, model: Path, *, max_lora_rank: int, max_loras: int = 2) -> None:
        self.settings, self.model = settings, model
        self.max_lora_rank, self.max_loras = max_lora_rank, max_loras
        self.api_key = secrets.token_urlsafe(24)
        self.log = settings.paths.logs / f"vllm-{datetime.now():%Y%m%d-%H%M%S-%f}.log"
        self._child: ChildProcess | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._port}"

    def start(self) -> ModelServer:
        """Start and wait until it is healthy. Raises ServerError, with the log's reason, where it ends or takes too long."""
        self._port = _port(self.settings.serving.port)
        self._child = ChildProcess(self._command(), environment=self._environment(), log=self.log)
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def stop(self) -> None:
        """End vLLM and everything it started. Returns when they are gone."""
        if self._child is not None:
            self._child.stop()
            self._child = None

    def __enter__(self) -> ModelServer:
        return self.start()

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def load_adapter(self, name: str, directory: Path) -> None:
        """Serve the adapter under its name. Raises AdapterError where vLLM refuses it."""
        answer = self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(directory)})
        if answer.status_code != 200:
            raise AdapterError(f"{directory}: {_reason(answer)}")

    def unload_adapter(self, name: str) -> None:
        answer = self._post("/v1/unload_lora_adapter", {"lora_name": name})
        if answer.status_code != 200:
            raise AdapterError(f"{name}: {_reason(answer)}")

    def _post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        try:
            return httpx.post(self.url + path, json=body, headers={"Authorization": f"Bearer {self.api_key}"},
                              timeout=self.settings.serving.request_seconds, trust_env=False)
        except httpx.TransportError as error:
            raise ServerError(f"vLLM did not answer {path}: {error!r} (log: {self.log})") from error

    def _command(self) -> list[str]:
        serving = self.settings.serving
        command = [
            str(serving.python or sys.executable), "-m", "vllm.entrypoints.openai.api_server",
            "--host", HOST, "--port", str(self._port), "--model", str(self.model), "--served-model-name", BASE_NAME,
            "--dtype", serving.dtype, "--max-model-len", str(serving.max_model_len), "--max-num-seqs", str(serving.max_num_seqs),
            "--generation-config", "vllm", "--seed", str(self.settings.seed), "--enable-lora",
            "--max-loras", str(self.max_loras), "--max-lora-rank", str(self.max_lora_rank),
        ]
        if _on_cuda():
            command += ["--gpu-memory-utilization", str(serving.gpu_memory_utilization), "--lora-target-modules", *PROJECTIONS]
        else:
            # A prompt split over two steps makes vLLM rewind the request's random generator, which CPU generators cannot.
            command += ["--no-enable-chunked-prefill", "--max-num-batched-tokens", str(serving.max_model_len * 16)]
        return [*command, *serving.extra_arguments]

    def _environment(self) -> dict[str, str]:
        return self.settings.child_environment() | {
            "VLLM_API_KEY": self.api_key, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_LOGGING_LEVEL": "INFO",
            "VLLM_CPU_KVCACHE_SPACE": str(CPU_CACHE_GIB), "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }

    def _wait(self) -> None:
        deadline = time.monotonic() + self.settings.serving.start_seconds
        while time.monotonic() < deadline:
            if not self.alive():
                raise ServerError(f"vLLM did not start: {_last_error(self.log)} (log: {self.log})")
            try:
                if httpx.get(f"{self.url}/health", timeout=5, trust_env=False).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        raise ServerError(f"serving.start_seconds: vLLM was not healthy after {self.settings.serving.start_seconds:g} s (log: {self.log})")


def _port(wanted: int) -> int:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, wanted))
        except OSError:
            raise SettingError(f"serving.port: port {wanted} is in use by another program") from None
        return probe.getsockname()[1]


def _on_cuda() -> bool:
    return importlib.util.find_spec("torch") is not None and __import__("torch").cuda.is_available()


def _reason(answer: httpx.Response) -> str:
    body = answer.json()
    return str(body.get("error", body).get("message", body)).splitlines()[0]


def _last_error(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if "Error" in line]
    return (lines or ["no error in its log"])[-1].strip()
