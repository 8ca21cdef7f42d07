"""examples/nightly: the commands of its README, against the deployment that `agentloop up` makes."""

import json
import re
import shlex
import subprocess
import sys
import tomllib

import pytest

from agentloop import settings as configuration
from agentloop.project import CHECKOUT

EXAMPLE = CHECKOUT / "examples" / "nightly"


def prefect(home, *words: str, seconds: float = 500) -> str:
    """Output of a `prefect` command in the project's folder, where nothing is set by hand: `up` has written its `.env`."""
    command = [sys.executable, "-m", "prefect", *words]
    done = subprocess.run(
        command, env=home.environment, cwd=home.project, text=True, capture_output=True, timeout=seconds
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def blocks(language: str) -> list[str]:
    text = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def schedule(home) -> dict:
    with home.prefect() as api:
        (found,) = api.get("/deployments/name/self-improve/nightly").json()["schedules"]
    return {"active": found["active"], "cron": found["schedule"]["cron"], "timezone": found["schedule"]["timezone"]}


@pytest.mark.slow
def test_the_schedule_and_a_run_by_hand(project):
    home = project()
    (by_hand,) = [shlex.split(block) for block in blocks("sh") if block.startswith("prefect ")]
    (switched_on,) = blocks("yaml")
    deployments = home.project / "prefect.yaml"
    shipped = deployments.read_text(encoding="utf-8")
    (off,) = re.findall(r"    schedules:\n(?: {6,}.*\n)+", shipped)
    assert "active: false" in off and "active: true" in switched_on
    deployments.write_text(shipped.replace(off, switched_on), encoding="utf-8")
    assert "self-improve/nightly" in home.run("up")
    assert schedule(home) == {"active": True, "cron": "0 1 * * *", "timezone": "Europe/Berlin"}

    said = prefect(home, *by_hand[1:])
    assert "finished successfully" in said
    (run,) = [run for run in home.flow_runs() if run["deployment_id"]]
    assert (run["name"], run["state"]["type"]) == ("nights-tried · iteration 1", "COMPLETED")
    assert home.rows("SELECT campaign, iteration FROM iterations") == [("nights-tried", 1)]
    assert home.rows("SELECT count(*) FROM v_verdicts") == [(1,)]
    with home.prefect() as api:
        artifacts = {artifact["key"] for artifact in api.post("/artifacts/filter", json={}).json()}
    assert {"nights-tried-1-selection", "nights-tried-1-verdict", "nights-tried-iterations"} <= artifacts
    assert (home.root / "reports" / "nights-tried.html").is_file()

    # the next night adds the next iteration
    assert "finished successfully" in prefect(home, *by_hand[1:])
    assert home.rows("SELECT iteration FROM iterations WHERE finished IS NOT NULL ORDER BY 1") == [(1,), (2,)]
    names = {run["name"] for run in home.flow_runs() if run["deployment_id"]}
    assert names == {"nights-tried · iteration 1", "nights-tried · iteration 2"}


def test_its_settings_are_settings(monkeypatch):
    """On top of the profile that the deployment names."""
    monkeypatch.setenv("AGENTLOOP_CONFIG", str(EXAMPLE / "agentloop.toml"))
    settings = configuration.load(profile="rtx3090")
    written = tomllib.loads((EXAMPLE / "agentloop.toml").read_text(encoding="utf-8"))
    assert json.loads(settings.model_dump_json(include=set(written))) == written
