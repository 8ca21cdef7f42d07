"""vLLM's door, for its option `--middleware`: everything but /health needs the key, WebSockets too.

vLLM's own check guards only some of its paths: /invocations, /tokenize, /metrics, /sleep and more are answered to anyone.
Where the key is in no variable any more (see standby.hide_key) only vLLM's own modules know it.
"""

from __future__ import annotations

from agentloop_vllm.door import App, Door


class ServingDoor(Door):
    def __init__(self, app: App) -> None:
        from vllm import envs

        if not envs.VLLM_API_KEY:
            raise RuntimeError(
                "agentloop_vllm.serving_door: this process does not know the key, so nobody could come in"
            )
        super().__init__(app, f"Bearer {envs.VLLM_API_KEY}")
