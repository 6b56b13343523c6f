"""What operators do with the process: stop it."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType

from gateway.app.context import Context
from gateway.app.operations import STOPPING, StopOrder
from gateway.core.access import ADMIN
from gateway.core.params import Params, given
from gateway.errors import Unavailable
from gateway.rpc.table import MethodTable

methods = MethodTable()

MAX_GRACE_MS = 86_400_000

Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=MAX_GRACE_MS)]


class DrainParams(Params, frozen=True):
    """How long runs may still go, what clients are told, and when the gateway will be back."""

    grace_ms: Milliseconds | UnsetType = UNSET
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | UnsetType = UNSET
    restart_expected_ms: Milliseconds | UnsetType = UNSET


@methods.method("gateway.drain", scope=ADMIN)
def gateway_drain(context: Context, params: DrainParams) -> dict[str, Any]:
    """Stop the gateway once its runs have ended, or the grace is over; a second call leaves no more grace.

    Answered at once: ``{draining: true, graceMs, runs, waitingRuns, connections, pid}``. Raises
    Unavailable where the process is not the gateway's to stop.
    """
    services = context.services
    operations, runs = services.operations, services.runs
    if operations.shut_down is None:
        raise Unavailable("this gateway is not stopped by its clients")
    grace_ms = given(params.grace_ms, round(services.limits.drain_grace_s * 1000))
    order = operations.shut_down(
        StopOrder(
            grace_ms / 1000,
            given(params.reason, STOPPING),
            given(params.restart_expected_ms, None),
        )
    )
    going = len(runs.unfinished)
    return {
        "draining": True,
        "graceMs": round(order.grace_s * 1000),
        "runs": going,
        "waitingRuns": len(runs) - going,
        "connections": len(services.hub),
        "pid": operations.pid,
    }
