"""Policies served: vLLM is started when the first episode needs it, and holds the adapters that were asked for."""

from __future__ import annotations

import threading
from typing import Any

from agentloop.campaign.campaign import Campaign
from agentloop.serving.client import CompletionClient
from agentloop.serving.server import ModelServer


def on_gpu() -> bool:
    """Whether there is an accelerator that vLLM and the trainer have to share. Asks the driver, so that no context is made."""
    import torch

    return torch.cuda.device_count() > 0


class PolicyServer:
    """The policies of a campaign behind one vLLM. Nothing is started where everything is already on disk."""

    def __init__(self, campaign: Campaign) -> None:
        self._campaign = campaign
        self._server: ModelServer | None = None
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
                server = ModelServer(self._campaign.settings, self._campaign.served_model, base=self._campaign.base)
                server.start()
                self._server = server
            if adapter is not None:
                self._server.load_adapter(adapter, self._campaign.settings.paths.adapters / adapter)
            return adapter or self._server.model_name

    def make_room(self) -> None:
        """Hand the accelerator to the trainer: on a GPU vLLM ends; on the CPU an idle vLLM takes nothing from it and stays."""
        if self._server is not None and on_gpu():
            self._stop()

    def retire(self, *, keep: str | None) -> None:
        """Unload every adapter but this one."""
        if self._server is not None and self._server.alive():
            for adapter in self._server.adapters - {keep}:
                self._server.unload_adapter(adapter)

    def client(self) -> CompletionClient:
        """A client for one event loop; `async with`."""
        return CompletionClient([self._server.endpoint], self._campaign.settings.serving)

    def _stop(self) -> None:
        if self._server is not None:
            self._server.stop()
        self._server = None
