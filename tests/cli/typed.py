"""What tests of the command line need beside it: campaigns to ask about, and what a refusal looks like."""

from agentloop import settings as configuration
from agentloop.store import campaigns
from agentloop.store.database import Database


def begin(database: Database, *names: str) -> None:
    """Register campaigns with default settings, in this order."""
    for name in names:
        campaigns.register(database, configuration.load({"campaign": name}))


def mistake(result: tuple[int, str, str]) -> str:
    """The one line that a command ends with which was refused."""
    code, output, errors = result
    assert code == 2 and output == "" and errors.startswith("error: ") and errors.count("\n") == 1, result
    return errors.removeprefix("error: ").rstrip("\n")
