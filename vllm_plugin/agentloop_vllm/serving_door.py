"""A door for vLLM's server on loopback: `--middleware agentloop_vllm.serving_door.ServingDoor`.

Everything but GET /health needs the key, WebSockets too. vLLM's own check guards only some of its paths: /invocations,
/tokenize, /metrics, /sleep and more are answered to anyone.
"""

from __future__ import annotations

from collections.abc import Container

from agentloop_vllm.door import HOSTS, App, Door, Receive, Scope, Send

_NO_KEY = (
    "agentloop_vllm.serving_door: VLLM_API_KEY is not set, so nobody could come in (--api-key is of no use here: "
    "a middleware is not told what it is, and every user of this machine can read it)"
)


class ServingDoor(Door):
    """Lets in who sends the key of VLLM_API_KEY as a bearer token. A server without that key does not start."""

    _hosts_here: Container[bytes] | None = HOSTS

    def __init__(self, app: App) -> None:
        # vLLM is asked, not the environment: standby.py takes the key out of there.
        from vllm import envs

        self._closed = not envs.VLLM_API_KEY
        super().__init__(app, f"Bearer {envs.VLLM_API_KEY}", hosts=self._hosts_here)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._closed:
            await super().__call__(scope, receive, send)
        elif scope["type"] == "lifespan":
            # An exception would not do: uvicorn takes it for an application that has nothing to do when it starts.
            await receive()
            await send({"type": "lifespan.startup.failed", "message": _NO_KEY})
        else:
            raise RuntimeError(_NO_KEY)


class OpenServingDoor(ServingDoor):
    """The same door for a server that other machines reach, by whatever name they call it."""

    _hosts_here = None
