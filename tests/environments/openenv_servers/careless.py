"""An OpenEnv server that takes no notice of its seed."""

import itertools

from openenv.core.env_server import Action, Environment, Observation, State, create_app

numbers = itertools.count()


class Careless(Environment):
    SUPPORTS_CONCURRENT_SESSIONS = True

    def reset(self, seed=None, episode_id=None, **more) -> Observation:
        return Told(words=f"round {next(numbers)}")

    def step(self, action: Action, timeout_s=None, **more) -> Observation:
        return Told(words="")

    @property
    def state(self) -> State:
        return State()


class Told(Observation):
    words: str


class Shout(Action):
    word: str


app = create_app(Careless, Shout, Told, env_name="careless")
