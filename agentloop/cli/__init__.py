"""The command line: one module for each kind of thing that people do. Nothing below imports it."""

from __future__ import annotations

import sys

_LOOP = {"typer", "rich", "prefect", "duckdb", "pyarrow", "httpx", "aiohttp", "orjson", "packaging", "datasets"}
"""Packages of the extra `loop`."""


def main() -> None:
    """The whole life of `agentloop`. Where only the engine is installed, one line says how to get the rest."""
    try:
        from agentloop.cli.app import main as run
    except ModuleNotFoundError as error:
        if error.name in _LOOP:
            sys.exit(
                f"error: {error.name} is not installed, which the command line needs: pip install 'agentloop[loop]'"
            )
        raise
    run()
