import socket
from contextlib import contextmanager

import pytest


@pytest.fixture(scope="module")
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def connected():
    """Prefect, which was imported before there was a server, finds that of the settings meanwhile."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    from agentloop_flows import connection

    @contextmanager
    def connected(settings):
        server = connection.environment(settings)
        found = {PREFECT_API_URL: server["PREFECT_API_URL"], PREFECT_API_AUTH_STRING: server["PREFECT_API_AUTH_STRING"]}
        with temporary_settings(found):
            yield

    return connected
