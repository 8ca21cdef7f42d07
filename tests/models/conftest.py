"""The pretrained model for the tests marked `real`: Gemma 3 270M, where it has been fetched."""

from pathlib import Path

import pytest

from agentloop.fetching.gemma import NAME
from agentloop.settings import load


@pytest.fixture(scope="session")
def gemma(request) -> Path:
    """Its directory. Where it is missing the test is skipped, or fails if the tests were asked for it by `--real`."""
    directory = load().paths.models / NAME
    if not directory.is_dir():
        missing = f"{directory} is not there: agentloop fetch {NAME}"
        (pytest.fail if request.config.getoption("real") else pytest.skip)(missing)
    return directory
