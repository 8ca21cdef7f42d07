"""One undisturbed campaign for all tests of this folder."""

import pytest
from home import Home, free_port


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A campaign that ran undisturbed to its end; its Prefect server stays up for the session."""
    home = Home(tmp_path_factory.mktemp("home"), free_port())
    home.improve()
    yield home
    home.run("down")
