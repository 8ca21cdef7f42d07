"""How this process, and every process that it starts, finds the project's Prefect server and no other."""

from __future__ import annotations

import os

from agentloop.settings import Settings
from agentloop_flows import key

LOOPBACK = ("127.0.0.1", "localhost")


def address(settings: Settings) -> str:
    """Return the address of the Prefect UI."""
    return f"http://127.0.0.1:{settings.prefect_port}"


def run_page(settings: Settings, flow_run: object) -> str:
    """Return the address of a flow run's page in the UI, by its id."""
    return f"{address(settings)}/runs/flow-run/{flow_run}"


def entrance(settings: Settings) -> str:
    """The link that opens the UI: it hands the key to the browser."""
    return f"{address(settings)}/enter#{key.load(settings)}"


def environment(settings: Settings) -> dict[str, str]:
    """The whole environment of a process that is to find this server and no other, whatever the user has set for Prefect."""
    return {
        **{name: value for name, value in os.environ.items() if not _foreign(name)},
        **settings.child_environment(),
        **dict.fromkeys(("NO_PROXY", "no_proxy"), _without_proxy()),
        "PREFECT_API_URL": f"{address(settings)}/api",
        "PREFECT_API_AUTH_STRING": key.credentials(settings),
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "agentloop",
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        # in memory, a restart of the server would lose them, and end the runs that hold a slot
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_LOCAL_STORAGE_PATH": str(settings.paths.data / "prefect" / "results"),
        "PREFECT_MEMO_STORE_PATH": str(settings.paths.data / "prefect" / "memo_store.toml"),
    }


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
