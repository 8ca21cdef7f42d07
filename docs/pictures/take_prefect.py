"""Take the pictures of Prefect's UI: `python docs/pictures/take_prefect.py [SECTION.NAME=VALUE …]`.

They are of the server that `agentloop up` has started with these settings: the form of the deployment nightly, the list of
runs, the newest run of a campaign and the newest of its iterations, which is another picture while it is at work.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parents[1] / "tests" / "report"))

from browser import Browser  # noqa: E402

from agentloop.settings import load  # noqa: E402
from agentloop_flows import connection  # noqa: E402

WIDTH, SECONDS = 1280, 6


def pages(settings: Any) -> dict[str, tuple[str, int]]:
    """Name of the picture: address and height."""
    from prefect.client.schemas.sorting import FlowRunSort

    base = connection.address(settings)
    with connection.client(settings) as client:
        nightly = client.read_deployment_by_name("self-improve/nightly")
        runs = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=50)
    whole = next(run for run in runs if run.parent_task_run_id is None)
    part = next(run for run in runs if run.parent_task_run_id is not None and "iteration" in run.name)
    return {
        "prefect-form": (f"{base}/deployments/deployment/{nightly.id}/run", 1500),
        "prefect-runs": (f"{base}/runs", 1000),
        "prefect-run": (f"{base}/runs/flow-run/{whole.id}", 1000),
        f"prefect-iteration{'-running' if part.state.is_running() else ''}": (f"{base}/runs/flow-run/{part.id}", 1000),
    }


def take(settings: Any) -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, Browser(Path(profile)) as browser:
        browser.open(connection.entrance(settings), WIDTH, 900)
        time.sleep(SECONDS)
        for name, (address, height) in pages(settings).items():
            browser.open(address, WIDTH, height)
            time.sleep(SECONDS)  # the UI asks for its data page by page, and says nowhere that it has all of them
            browser.screenshot(FOLDER / f"{name}.png")


if __name__ == "__main__":
    take(load(sys.argv[1:]))
