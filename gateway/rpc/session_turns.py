"""``sessions.send``, ``sessions.steer`` and ``sessions.abort``: runs of sessions that exist."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET

from gateway.app.context import Context
from gateway.core.access import WRITE
from gateway.core.params import given
from gateway.errors import InvalidRequest
from gateway.model import QueueMode
from gateway.rpc.common import check_run_id, session_key
from gateway.rpc.table import MethodTable
from gateway.rpc.turn_params import SessionsAbortParams, SessionsSendParams
from gateway.rpc.turns import send

methods = MethodTable()


@methods.method("sessions.send", scope=WRITE)
async def sessions_send(context: Context, params: SessionsSendParams) -> dict[str, Any]:
    """Send a message to a session that exists; a main session is made when it is needed."""
    return await _send(context, params, QueueMode.FOLLOWUP)


@methods.method("sessions.steer", scope=WRITE, advertised=False)
async def sessions_steer(context: Context, params: SessionsSendParams) -> dict[str, Any]:
    """Abort the run that goes in a session, and run this message next."""
    return await _send(context, params, QueueMode.INTERRUPT)


@methods.method("sessions.abort", scope=WRITE)
def sessions_abort(context: Context, params: SessionsAbortParams) -> dict[str, Any]:
    """End a run by its id, or the one that goes in a session; with clearQueued those that wait as well."""
    runs = context.services.runs
    if params.run_id is UNSET and params.key is UNSET:
        raise InvalidRequest("key or runId required")
    key = None
    if params.key is not UNSET:
        key = session_key(context, str(params.key), params.agent_id)
    if params.run_id is not UNSET:
        run_id = check_run_id(str(params.run_id))
        owner = runs.session_of(run_id)
        if None not in (owner, key) and owner != key:
            raise InvalidRequest("runId does not match key")
        if owner is None or not runs.abort(run_id, "rpc"):
            return _answer(None)
        if given(params.clear_queued, False):
            runs.stop_session(owner, "rpc")
        return _answer(run_id)
    assert key is not None
    first = next(iter((*runs.lanes.runs(key), *runs.coming.to(key))), None)
    if given(params.clear_queued, False):
        return _answer(first if runs.stop_session(key, "rpc") else None)
    ended = first is not None and (runs.holds.stop(key) or runs.abort(first, "rpc"))
    return _answer(first if ended else None)


async def _send(context: Context, params: SessionsSendParams, mode: QueueMode) -> dict[str, Any]:
    key = session_key(context, params.key, params.agent_id)
    run_id = given(params.idempotency_key, None) or context.services.entropy.uuid4()
    return await send(context, key, params, run_id=run_id, existing=True, queue_mode=mode)


def _answer(run_id: str | None) -> dict[str, Any]:
    status = "no-active-run" if run_id is None else "aborted"
    return {"ok": True, "abortedRunId": run_id, "status": status}
