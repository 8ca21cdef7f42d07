"""Prefect's own vacuum, with the settings that the server gets from agentloop: old runs go, and with them all that hangs on them."""

import json
import subprocess
import sys

from agentloop import settings as configuration
from agentloop_flows import services

VACUUM = """
import asyncio, datetime, json
from prefect.server import models, schemas
from prefect.server.database import provide_database_interface
from prefect.server.services import db_vacuum
from prefect.settings.context import get_current_settings

async def main():
    db = provide_database_interface()
    await db.create_db()
    now = datetime.datetime.now(datetime.UTC)
    async with db.session_context(begin_transaction=True) as session:
        flow = await models.flows.create_flow(session, schemas.core.Flow(name="self-improve"))
        for name, days in (("young", 29), ("old", 31)):
            run = await models.flow_runs.create_flow_run(
                session,
                schemas.core.FlowRun(flow_id=flow.id, name=name, end_time=now - datetime.timedelta(days=days)),
            )
            run.state_type = schemas.states.StateType.COMPLETED
            run.end_time = now - datetime.timedelta(days=days)
            log = dict(name="x", level=20, message=name, timestamp=now, flow_run_id=run.id)
            await models.logs.create_logs(session, [schemas.core.Log(**log)])
    assert "flow_runs" in get_current_settings().server.services.db_vacuum.enabled_vacuum_types
    await db_vacuum.vacuum_old_flow_runs(db=db)
    await db_vacuum.vacuum_orphaned_logs(db=db)
    async with db.session_context() as session:
        runs = [run.name for run in await models.flow_runs.read_flow_runs(session)]
        logs = [log.message for log in await models.logs.read_logs(session, log_filter=None)]
    print(json.dumps([runs, logs]))

asyncio.run(main())
"""


def test_old_flow_runs_go(tmp_path):
    words = [f"paths.data={tmp_path}", f"paths.cache={tmp_path / 'cache'}", "retention.flow_run_days=30"]
    settings = configuration.load(words)
    settings.export()
    database = f"sqlite+aiosqlite:///{tmp_path / 'prefect.db'}"
    variables = services._server_environment(settings) | {"PREFECT_API_DATABASE_CONNECTION_URL": database}
    done = subprocess.run([sys.executable, "-c", VACUUM], env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [["young"], ["young"]]
