"""A data root for an example, with the project and its examples beside it; ended with all that it started."""

import shutil

import pytest
from home import Home, free_port

from agentloop.settings import PROJECT_ROOT


@pytest.fixture
def home(tmp_path, request):
    """`@pytest.mark.parametrize("home", [{"VARIABLE": …}], indirect=True)` adds to its environment."""
    home = Home(tmp_path / "data", free_port(), getattr(request, "param", {}))
    shutil.copytree(PROJECT_ROOT / "examples", home.project / "examples")
    yield home
    home.run("down")
