"""Which steps are tried again, and after what: where a process died or hung, and another one may do better."""

import asyncio

import pytest
from prefect.states import Failed

from agentloop.errors import CanaryError, ServerError, SettingError, StartError, TrainerError
from agentloop_flows import steps


@pytest.mark.parametrize("step", [steps.run_episodes, steps.train, steps.canary])
def test_steps_that_need_another_process(step):
    assert step.retries == 2 and step.retry_condition_fn is steps._infrastructure_failed


@pytest.mark.parametrize(
    ("error", "again"),
    [(ServerError, True), (TrainerError, True), (StartError, False), (CanaryError, False), (SettingError, False)],
)
def test_what_another_process_may_mend(error, again):
    state = Failed(data=error("so it ended"))
    assert steps._infrastructure_failed(None, None, state) is again

    async def asked() -> bool:
        return steps._infrastructure_failed(None, None, state)

    assert asyncio.run(asked()) is again, "also in a task that is a coroutine"
