"""An OpenEnv server: count on from a number that the seed decides, a quarter of the reward for each right one."""

import os
import random
import time
from datetime import date

from openenv.core.env_server import Action, Environment, Observation, State, create_app
from openenv.core.env_server.types import EnvironmentMetadata
from pydantic import Field

LENGTH = 4


class Number(Action):
    """Say a number."""

    number: int = Field(ge=0, description="the next one")
    on: date | None = None


class Heard(Observation):
    message: str


class Counting(Environment):
    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self):
        super().__init__()
        self._next = self._left = 0

    def get_metadata(self) -> EnvironmentMetadata:
        return EnvironmentMetadata(name="Counting", description="Count on, number by number.", version="1.2")

    def reset(self, seed=None, episode_id=None, by=100, **more) -> Heard:
        self._next, self._left = random.Random(seed).randrange(20, by), LENGTH
        return Heard(message=f"Count from {self._next} on, {LENGTH} numbers.")

    def step(self, action: Number, timeout_s=None, **more) -> Heard:
        if action.number == 666:
            os._exit(3)
        if action.number == 667:
            time.sleep(3600)
        if action.number == 668:
            raise OSError("the disk of the game is full")
        if action.number != self._next:
            return Heard(message=f"Wrong, it was {self._next}.", reward=0.0, done=True)
        self._next, self._left = self._next + 1, self._left - 1
        return Heard(message="Go on." if self._left else "Done.", reward=1 / LENGTH, done=not self._left)

    @property
    def state(self) -> State:
        return State(step_count=LENGTH - self._left)


app = create_app(Counting, Number, Heard, env_name="counting", max_concurrent_envs=64)
narrow = create_app(Counting, Number, Heard, env_name="counting", max_concurrent_envs=1)
