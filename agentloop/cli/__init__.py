"""The command line: one module for each kind of thing that people do. Nothing below imports it."""

from __future__ import annotations

import sys

from agentloop import extras


def main() -> None:
    """The whole life of `agentloop`, also where only the engine is installed."""
    try:
        from agentloop.cli.app import main as run
    except ModuleNotFoundError as error:
        line = extras.missing(error)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
    run()
