"""An OpenEnv server with tools of its own: a key lies in one of the drawers."""

import random

from fastmcp import FastMCP
from openenv.core.env_server import Observation, State, create_app
from openenv.core.env_server.mcp_environment import MCPEnvironment
from openenv.core.env_server.mcp_types import CallToolAction, CallToolObservation

DRAWERS = 5


class Drawers(MCPEnvironment):
    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self):
        tools = FastMCP("drawers")

        @tools.tool
        def look(drawer: int) -> str:
            """Open a drawer and look into it."""
            if not 1 <= drawer <= DRAWERS:
                raise ValueError(f"there are {DRAWERS} drawers")
            self._found = drawer == self._place
            return "a key" if self._found else "nothing"

        super().__init__(tools)
        self._place, self._found = 0, False

    def reset(self, seed=None, episode_id=None, **more) -> Observation:
        self._place, self._found = random.Random(seed).randint(1, DRAWERS), False
        return Room(text="Find the key.", drawers=[1, DRAWERS])

    def step(self, action, timeout_s=None, **more) -> Observation:
        return self._judged(super().step(action, timeout_s=timeout_s, **more))

    async def step_async(self, action, timeout_s=None, **more) -> Observation:
        return self._judged(await super().step_async(action, timeout_s=timeout_s, **more))

    def _judged(self, seen: Observation) -> Observation:
        if isinstance(seen, CallToolObservation):
            seen.reward, seen.done = float(self._found), self._found
        return seen

    def _step_impl(self, action, timeout_s=None, **more) -> Observation:
        raise NotImplementedError

    @property
    def state(self) -> State:
        return State()


class Room(Observation):
    text: str
    drawers: list[int]


app = create_app(Drawers, CallToolAction, CallToolObservation, env_name="drawers")
