"""One of the two services in the foreground: `python -m agentloop_flows.service server|worker [OPTION …] [WORD …]`.

It is what a systemd unit and a container start. It resolves the settings as `agentloop up` does, waits for what it needs,
writes itself down so that `agentloop down`, `status` and `doctor` know it, and becomes Prefect's server or worker. With
`--check` it only says, by its exit code, whether that one is at work.
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
    parser.add_argument("--deploy", action="store_true", help="The worker: deploy prefect.yaml before it starts.")
    parser.add_argument("--check", action="store_true", help="Instead: exit code 0 where it is at work, else 1.")
    parser.add_argument("words", nargs="*", metavar="SECTION.NAME=VALUE", help="Settings.")
    given = parser.parse_args()
    try:
        settings = configuration.load(given.words)
        if given.check:
            sys.exit(0 if services.is_running(settings, given.name) and services.answers(settings) else 1)
        become(settings, given.name, listen=given.listen, deploy=given.deploy)
    except (AgentloopError, OSError) as error:
        sys.exit(f"error: {told(error) or error}")


def become(settings: Settings, name: str, *, listen: str = "127.0.0.1", deploy: bool = False) -> None:
    """Replace this process by the service. Raises ServerError where it runs already, or the worker's server does not come."""
    os.umask(0o077)
    settings.fix_environment()
    settings.export()
    if services.is_running(settings, name):
        raise ServerError(f"the Prefect {name} of {settings.paths.data} is running already")
    if name == "worker":
        _wait_for_server(settings)
        for line in [*services.prepare(settings), *(services.deploy(settings) if deploy else [])]:
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
