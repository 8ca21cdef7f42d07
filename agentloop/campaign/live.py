"""The report of a run that is at work: `python -m agentloop.campaign.live SETTINGS.json` writes it again and again.

A page cannot read the database, so somebody has to write it. That is a process of its own, of the lowest priority, which
reads copies of the database: it takes next to nothing from the run but idle time, and whatever becomes of it, the run goes
on. It pauses `SHARE` times as long as the last page computed, and at least `report.seconds`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from agentloop.campaign import lock, report
from agentloop.child import ChildProcess
from agentloop.errors import AgentloopError, told
from agentloop.files import atomic
from agentloop.settings import Settings

SHARE = 10
"""So many times the processor time of a page is the pause before the next."""


@contextmanager
def reported(settings: Settings) -> Iterator[None]:
    """Keep the campaign's report up to date while the block runs, and write it once more at its end, however it ends.

    Used around `Campaign.at_work`, so that the last page tells how the run ended. It never ends the run: what goes wrong
    with the report is printed.
    """
    with ExitStack() as stack:
        if settings.report.seconds:
            try:
                stack.enter_context(_writer(settings))
            except (AgentloopError, OSError) as error:
                print(f"no report while the run is at work: {told(error) or error}")
        try:
            yield
        finally:
            stack.close()
            _last(settings)


def _last(settings: Settings) -> None:
    try:
        if report.can_be_written(settings):
            report.write(settings)
    except Exception as error:  # of a run that failed, its own error is the one to tell
        print(f"the report is not written: {told(error) or error}")


def _writer(settings: Settings) -> ChildProcess:
    """The process that writes, until the block is left."""
    file = settings.paths.services / f"report-{settings.campaign}-{os.getpid()}.json"
    with atomic(file) as temporary:
        temporary.write_text(settings.model_dump_json(), encoding="utf-8")
    environment = settings.child_environment() | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    log = settings.paths.logs / "report.log"
    return ChildProcess([sys.executable, "-m", "agentloop.campaign.live", str(file)], environment=environment, log=log)


def _keep_writing(settings: Settings) -> None:
    writer: report.Writer | None = None
    seen: object = None
    while True:
        began = time.process_time()
        if (state := _state(settings)) != seen or time.time() - _age(settings) > 2 * settings.report.seconds:
            try:
                if writer is None:
                    writer, began = report.Writer(settings), time.process_time()
                writer.write(refresh=settings.report.seconds)
                report.tell(settings)
                seen = state
            except Exception as error:  # the next page may succeed, and nobody else is concerned
                print(f"{settings.campaign}: {told(error) or repr(error)}", flush=True)
        took = time.process_time() - began
        time.sleep(max(settings.report.seconds, SHARE * took))


def _age(settings: Settings) -> float:
    try:
        return report.path(settings).stat().st_mtime
    except OSError:
        return 0.0


def _state(settings: Settings) -> tuple[tuple[str, int, int], ...]:
    """Return names, times and sizes: they change where the database, a shard or a training's journal does."""
    paths = settings.paths
    found = []
    for file in (paths.database, Path(f"{paths.database}.wal"), paths.shards, *paths.checkpoints.glob("*.jsonl")):
        try:
            stat = file.stat()
            found.append((str(file), stat.st_mtime_ns, stat.st_size))
        except OSError:
            continue
    return tuple(found)


def main(file: str) -> None:
    """Write until the process is ended, once the run has registered its campaign."""
    os.nice(19)
    settings = Settings.model_validate_json(Path(file).read_text(encoding="utf-8"))
    Path(file).unlink()
    settings.fix_environment()
    while not _begun(settings):
        time.sleep(1.0)
    _keep_writing(settings)


def _begun(settings: Settings) -> bool:
    """Return whether the run has the data root: it may wait for another run, and has nothing to report meanwhile."""
    owner = lock.owner(settings.paths.data)
    return owner is not None and owner.campaign == settings.campaign and settings.paths.database.is_file()


if __name__ == "__main__":
    main(sys.argv[1])
