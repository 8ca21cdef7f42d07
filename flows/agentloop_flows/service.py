"""One of the two services in the foreground: `python -m agentloop_flows.service server|worker [--listen ADDRESS] [WORD …]`.

It is what a systemd unit and a container start. It resolves the settings as `agentloop up` does, waits for what it needs,
writes itself down so that `agentloop down`, `status` and `doctor` know it, and becomes Prefect's server or worker.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from agentloop import interpreter
from agentloop import settings as configuration
from agentloop.errors import AgentloopError, ServerError, told
from agentloop.settings import Settings
from agentloop_flows import services

POLL_SECONDS = 0.5


def main() -> None:
    """Become the service that the command line names."""
    interpreter.insist_on_utf8()
    parser = argparse.ArgumentParser(prog="agentloop_flows.service", description="A service in the foreground.")
    parser.add_argument("name", choices=services.NAMES)
    parser.add_argument(
        "--listen", default="127.0.0.1", metavar="ADDRESS", help="Of the server; in a container 0.0.0.0."
    )
    parser.add_argument("words", nargs="*", metavar="SECTION.NAME=VALUE", help="Settings.")
    given = parser.parse_args()
    try:
        become(configuration.load(given.words), given.name, listen=given.listen)
    except (AgentloopError, OSError) as error:
        sys.exit(f"error: {told(error) or error}")


def become(settings: Settings, name: str, *, listen: str = "127.0.0.1") -> None:
    """Replace this process by the service. Raises ServerError where it runs already, or the worker's server does not come."""
    os.umask(0o077)
    settings.fix_environment()
    settings.export()
    if services.is_running(settings, name):
        raise ServerError(f"the Prefect {name} of {settings.paths.data} is running already")
    if name == "worker":
        _wait_for_server(settings)
        for line in services.prepare(settings):
            print(line, flush=True)
    module, environment = services.program(settings, name, listen=listen)
    services.write_down(settings, name, os.getpid())
    os.chdir(environment["AGENTLOOP_PROJECT"])
    os.execve(sys.executable, [sys.executable, "-m", *module], environment)


def _wait_for_server(settings: Settings) -> None:
    deadline = time.monotonic() + services.START_SECONDS
    while not services.answers(settings):
        if time.monotonic() > deadline:
            raise ServerError(f"no Prefect server of this project answers on port {settings.prefect_port}")
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main()
