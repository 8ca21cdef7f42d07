"""What a running vLLM serves, by name."""

from __future__ import annotations

import httpx

from agentloop.errors import ServerError
from agentloop.serving.client import Endpoint

_SECONDS = 10.0


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
