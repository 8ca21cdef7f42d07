"""`agentloop`: one thin command for each thing a person does.

Settings come from a profile, agentloop.toml, the environment and `section.name=value` words on the command line.
Anything a user can mend ends with one line on standard error and exit code 2.
"""

from __future__ import annotations

import sys

import typer

from agentloop import interpreter
from agentloop.commands import champions, data, looking, machine, running, serving
from agentloop.errors import AgentloopError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A tool-using Gemma 3n agent that improves on its tasks on one machine, with evidence.",
)
for command in (running.demo, running.run, running.up, running.down, running.reconcile):
    app.command()(command)
app.command("eval")(running.evaluate)
for command in (looking.status, looking.sql, looking.report, looking.lineage):
    app.command()(command)
for command in (champions.champion, champions.rollback, champions.reproduce):
    app.command()(command)
for command in (data.select, data.rescore, data.forget):
    app.command()(command)
for command in (serving.canary, machine.doctor, machine.bootstrap):
    app.command()(command)


def main() -> None:
    interpreter.insist_on_utf8()
    try:
        app()
    except AgentloopError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
