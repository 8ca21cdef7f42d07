"""How this process, and every process that it starts, finds one Prefect server: the user's own, or else the project's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from agentloop.settings import Settings
from agentloop.settings.variables import PREFECT_VARIABLE
from agentloop_flows import key, users_server
from agentloop_flows.users_server import UsersServer

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

LOOPBACK = ("127.0.0.1", "localhost")
REPORT, REPORTS = "/report", "/reports"
"""On the project's own server: the page that shows a report, and the reports, which need the key."""


def users(settings: Settings) -> UsersServer | None:
    """The server that the user has already; None where this project's own is used."""
    return users_server.find(f"{own_address(settings)}/api")


def own_address(settings: Settings) -> str:
    """Return the address of the project's own server."""
    return f"http://127.0.0.1:{settings.prefect_port}"


def address(settings: Settings) -> str:
    """Return the address of the Prefect UI."""
    theirs = users(settings)
    return theirs.page if theirs else own_address(settings)


def run_page(settings: Settings, flow_run: object) -> str:
    """Return the address of a flow run's page in the UI, by its id."""
    return f"{address(settings)}/runs/flow-run/{flow_run}"


def report_page(settings: Settings, report: Path) -> str | None:
    """Return the address of a report's page; None where the server is not the project's own."""
    return None if users(settings) else f"{own_address(settings)}{REPORT}#{report.name}"


def entrance(settings: Settings) -> str:
    """The link that opens the UI: that of the project's own server hands the key to the browser."""
    theirs = users(settings)
    return theirs.page if theirs else f"{own_address(settings)}/enter#{key.load(settings)}"


def environment(settings: Settings) -> dict[str, str]:
    """The whole environment of a process that is to find this server and no other.

    Of the user's own server everything that the user has set for Prefect stays; else nothing of it, whatever it is.
    """
    theirs = users(settings)
    url = theirs.url if theirs else f"{own_address(settings)}/api"
    return {
        **{name: value for name, value in os.environ.items() if theirs or not _foreign(name)},
        **settings.child_environment(),
        **(theirs.variables if theirs else _own(settings)),
        users_server.URL: url,
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "agentloop",
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        "PREFECT_LOCAL_STORAGE_PATH": str(settings.paths.data / "prefect" / "results"),
        "PREFECT_MEMO_STORE_PATH": str(settings.paths.data / "prefect" / "memo_store.toml"),
    }


def _own(settings: Settings) -> dict[str, str]:
    return {
        **dict.fromkeys(("NO_PROXY", "no_proxy"), _without_proxy()),
        PREFECT_VARIABLE: f"{own_address(settings)}/api",
        "PREFECT_API_AUTH_STRING": key.credentials(settings),
        # Prefect's 10 are for a server that many workers ask
        "PREFECT_WORKER_QUERY_SECONDS": "3",
        # in memory, a restart of the server would lose them, and end the runs that hold a slot
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    }


def client(settings: Settings) -> SyncPrefectClient:
    """Return a client of the server, also where this process has not been connected to it."""
    from prefect.client.orchestration import SyncPrefectClient

    variables = environment(settings)
    proof, api_key = (variables.get(name) for name in ("PREFECT_API_AUTH_STRING", "PREFECT_API_KEY"))
    return SyncPrefectClient(variables[users_server.URL], auth_string=proof, api_key=api_key)


def connect(settings: Settings) -> None:
    """Point this process at the server, before Prefect is imported."""
    wanted = environment(settings)
    for name in [name for name in os.environ if name not in wanted]:
        del os.environ[name]
    os.environ.update(wanted)


def _foreign(name: str) -> bool:
    # of ALL_PROXY httpx makes a client at once, which fails for want of a package where it is SOCKS, NO_PROXY or not
    return name.startswith("PREFECT_") or name.upper() == "ALL_PROXY"


def _without_proxy() -> str:
    """The hosts that the user reaches without a proxy, and loopback."""
    named = ",".join(os.environ.get(name, "") for name in ("no_proxy", "NO_PROXY")).split(",")
    return ",".join(dict.fromkeys(host for host in (*named, *LOOPBACK) if host))
