"""A second run on a data root waits for the first, in the terminal and in Prefect's log; Ctrl-C ends the waiting."""

import os
import signal

from home import SMALL

from agentloop.campaign.lock import owned


def test_a_run_waits_for_the_one_at_work_and_can_be_interrupted(home):
    with owned(home.root, campaign="other", wait=False):
        run = home.start("run", "--profile", "demo", *SMALL)
        said = []
        for line in run.stdout:
            said.append(line)
            if "waiting for" in line:
                break
        assert f"Flow run 'self-improve' - waiting for campaign other (process {os.getpid()}" in said[-1], said
        os.killpg(run.pid, signal.SIGINT)
        output, _ = run.communicate(timeout=60)
    assert run.returncode == 130, output
    assert output.splitlines()[-1] == "interrupted; the same command continues"
    assert home.flow_runs()[-1]["state"]["type"] == "CRASHED"
    assert not list((home.root / "services" / "runs").glob("*.json"))
