"""A policy behind endpoints that somebody else looks after: a client and nothing that starts a server again."""

from collections.abc import Callable
from typing import Any


class PlainPolicy:
    def __init__(self, generate: Callable[..., Any]) -> None:
        self._generate = generate

    async def __call__(self, prompt_ids, **options):
        return await self._generate(prompt_ids, **options)

    async def ready(self) -> None:
        pass

    async def lost(self) -> None:
        return None
