"""How the tests are dealt out to several processes: a folder's tests stay together, for they share servers and campaigns."""

import os
import signal
import sys
from pathlib import Path, PurePosixPath

import pytest

# Whoever runs the tests in the background of a script has it ignored, and every process started here would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption("--real", action="store_true", help="fail, instead of skip, where the pretrained model is missing")


def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class ByFolder(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return PurePosixPath(nodeid.partition("::")[0]).parts[1]

    return ByFolder(config, log)


@pytest.fixture(autouse=True)
def _as_before():
    """What a test changes of the process, its variables and the verifiers it registers, the next one does not see."""
    verifiers = sys.modules.get("agentloop.curation.verifiers")
    variables, registered = dict(os.environ), dict(verifiers._REGISTERED) if verifiers else None
    yield
    if dict(os.environ) != variables:
        os.environ.clear()
        os.environ.update(variables)
    if registered is not None:
        verifiers._REGISTERED.clear()
        verifiers._REGISTERED.update(registered)


@pytest.fixture(scope="session")
def gemma(request) -> Path:
    """Directory of the pretrained Gemma 3 270M. Where it is missing the test is skipped, or fails if the tests were asked for
    it by `--real`."""
    from agentloop.fetching.gemma import NAME
    from agentloop.settings import load

    directory = load().paths.models / NAME
    if not directory.is_dir():
        missing = f"{directory} is not there: agentloop fetch {NAME}"
        (pytest.fail if request.config.getoption("real") else pytest.skip)(missing)
    return directory
