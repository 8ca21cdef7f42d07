"""How the tests are dealt out to two processes: a folder's tests stay together, for they share servers and campaigns."""

import signal
from pathlib import Path

import pytest

# Whoever runs the tests in the background of a script has it ignored, and every process started here would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.xdist_group(item.path.relative_to(HERE).parts[0]))
