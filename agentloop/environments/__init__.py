"""Where tasks come from and what verifies them; one file per environment."""

from agentloop.environments.arithmetic import Arithmetic
from agentloop.environments.database import Database
from agentloop.environments.environment import Environment
from agentloop.errors import SettingError

_ENVIRONMENTS: dict[str, type[Environment]] = {environment.name: environment for environment in (Arithmetic, Database)}


def get(name: str) -> Environment:
    """The environment of that name. Raises SettingError naming the known ones."""
    if name not in _ENVIRONMENTS:
        raise SettingError(f"environment: there is no {name!r}; there are: {', '.join(sorted(_ENVIRONMENTS))}")
    return _ENVIRONMENTS[name]()
