"""Connections and runs: what goes on, and why it ended."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from gateway.app.context import Context
from gateway.core.access import ADMIN, READ
from gateway.core.params import NonEmpty, Params, given
from gateway.errors import InvalidRequest
from gateway.model import RunState
from gateway.rpc.common import check_run_id, session_key
from gateway.rpc.table import MethodTable

methods = MethodTable()

DEFAULT_LIMIT = 200
MAX_LIMIT = 1000
MAX_ID_CHARS = 64

Limit = Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)]


class ConnectionsParams(Params, frozen=True):
    """How many at most, and which: ``connId`` is an id or how it begins."""

    limit: Limit | UnsetType = UNSET
    conn_id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_CHARS)] | UnsetType = UNSET


class RunsListParams(Params, frozen=True):
    """Which runs, and how many at most."""

    session_key: NonEmpty | UnsetType = UNSET
    state: Literal["accepted", "running", "done", "failed", "aborted"] | UnsetType = UNSET
    limit: Limit | UnsetType = UNSET


class RunsDescribeParams(Params, frozen=True):
    """Which run."""

    run_id: NonEmpty


@methods.method("connections.list", scope=ADMIN)
def connections_list(context: Context, params: ConnectionsParams) -> dict[str, Any]:
    """List the open connections, the newest first, those not authenticated yet included."""
    limit, prefix = given(params.limit, DEFAULT_LIMIT), given(params.conn_id, "")
    connections, total = context.services.ledger.opened(limit, prefix)
    return {"connections": connections, "total": total}


@methods.method("connections.closed", scope=ADMIN)
def connections_closed(context: Context, params: ConnectionsParams) -> dict[str, Any]:
    """List connections that ended, the newest first, and why; refused ones included."""
    limit, prefix = given(params.limit, DEFAULT_LIMIT), given(params.conn_id, "")
    texts = context.services.ledger.closed(limit, prefix)
    return {"connections": [msgspec.Raw(text) for text in texts]}


@methods.method("runs.list", scope=READ)
async def runs_list(context: Context, params: RunsListParams) -> dict[str, Any]:
    """List runs, the one accepted last first: those that go on, and those that are stored."""
    key = None if params.session_key is UNSET else session_key(context, params.session_key)
    state = None if params.state is UNSET else RunState(params.state)
    limit = given(params.limit, DEFAULT_LIMIT)
    found, missing = await context.services.inspection.find(limit, key, state)
    return {"runs": found} if missing is None else {"runs": found, "incomplete": missing}


@methods.method("runs.describe", scope=READ)
async def runs_describe(context: Context, params: RunsDescribeParams) -> dict[str, Any]:
    """Tell what is known of a run: its state, where it waits, its worker, its times, its error."""
    run_id = check_run_id(params.run_id)
    run = await context.services.inspection.describe(run_id)
    if run is None:
        text = f'no run has the id "{run_id[:MAX_ID_CHARS]}"'
        raise InvalidRequest(text, details={"reason": "unknown-run"})
    return {"run": run}
