"""Policies served: vLLM is started when the first episode needs it, and holds the adapters that were asked for."""

from __future__ import annotations

import threading
from typing import Any

from agentloop.campaign.campaign import Campaign
from agentloop.serving.client import CompletionClient, Endpoint
from agentloop.serving.server import ModelServer


class PolicyServer:
    """The policies of a campaign behind one vLLM. Nothing is started where everything is already on disk."""

    def __init__(self, campaign: Campaign) -> None:
        self._campaign = campaign
        self._server: ModelServer | None = None
        self._loaded: set[str] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> PolicyServer:
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop()

    def serve(self, adapter: str | None) -> str:
        """Make the policy available and return the name by which requests call it. Starts a server that died again."""
        with self._lock:
            if self._server is not None and not self._server.alive():
                self._stop()
            if self._server is None:
                self._server = ModelServer(self._campaign.settings, self._campaign.model, max_lora_rank=self._campaign.settings.training.rank)
                self._server.start()
            if adapter is not None and adapter not in self._loaded:
                self._server.load_adapter(adapter, self._campaign.settings.paths.adapters / adapter)
                self._loaded.add(adapter)
            return adapter or self._server.model_name

    def client(self) -> CompletionClient:
        """A client for one event loop; `async with`."""
        return CompletionClient([Endpoint(self._server.url, self._server.api_key)], self._campaign.settings.serving)

    def _stop(self) -> None:
        if self._server is not None:
            self._server.stop()
        self._server = None
        self._loaded.clear()
