"""What a running vLLM serves, by name, and one more adapter for it."""

from __future__ import annotations

from pathlib import Path

import httpx

from agentloop import child_log
from agentloop.errors import AdapterError, ServerError
from agentloop.serving.client import Endpoint

_SECONDS = 10.0
_LOAD_SECONDS = 120.0


def served(endpoint: Endpoint) -> tuple[str, list[str]]:
    """The base model's name and its adapters'. Raises ServerError where no vLLM answers or it refuses the key."""
    try:
        answer = httpx.get(
            f"{endpoint.url.rstrip('/')}/v1/models",
            headers={"Authorization": f"Bearer {endpoint.api_key}"},
            timeout=_SECONDS,
            trust_env=False,
        )
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise ServerError(f"{endpoint.url}: {type(error).__name__} {error}") from None
    if not answer.is_success:
        raise ServerError(f"{endpoint.url}: {answer.status_code} {' '.join(answer.text.split())[:200]}")
    try:
        models = answer.json()["data"]
        [base, *_] = [model["id"] for model in models if model["parent"] is None]
        return base, [model["id"] for model in models if model["parent"] is not None]
    except (ValueError, KeyError, TypeError):
        raise ServerError(f"{endpoint.url}: no vLLM: it lists its models as {answer.text[:200]!r}") from None


def load(endpoint: Endpoint, name: str, directory: Path) -> None:
    """Let a vLLM that reads this machine's disk serve the adapter in `directory`, too. Raises ServerError, AdapterError."""
    try:
        answer = httpx.post(
            f"{endpoint.url.rstrip('/')}/v1/load_lora_adapter",
            json={"lora_name": name, "lora_path": str(directory.resolve())},
            headers={"Authorization": f"Bearer {endpoint.api_key}"},
            timeout=_LOAD_SECONDS,
            trust_env=False,
        )
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise ServerError(f"{endpoint.url}: {type(error).__name__} {error}") from None
    if not answer.is_success:
        raise AdapterError(f"{endpoint.url}: does not take {name}: {child_log.complaint(answer.text)[:500]}")
