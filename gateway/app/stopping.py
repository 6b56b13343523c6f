"""How the runs come to their end when the gateway stops."""

from __future__ import annotations

from twisted.logger import Logger

from gateway.app.deferreds import together
from gateway.app.runs import Runs
from gateway.errors import Unavailable

RETRY_AFTER_MS = 1000

_log = Logger()


async def stop_runs(runs: Runs, patience_s: float) -> None:
    """End every run that goes, and wait so long until the ends are stored; no further one begins.

    What is still asked of operators is withdrawn. Runs that wait for their turn are left in
    the store as accepted, for the next start: nothing is sent of them, and whoever waits for one is told
    to ask again.
    """
    runs.refuse()
    for run in runs.unfinished:
        runs.abort(run.run_id, "shutdown")
    runs.questions.stop()
    await together([runs.wait(run.run_id, patience_s) for run in runs.unfinished])
    for run in runs.unfinished:
        _log.error("run {run} did not end", run=run.run_id)
    await runs.log.stop()
    await runs.ends.stop()
    runs.dismiss(
        Unavailable(
            "the gateway restarts; ask again",
            details={"reason": "gateway-restarting"},
            retryable=True,
            retry_after_ms=RETRY_AFTER_MS,
        )
    )
