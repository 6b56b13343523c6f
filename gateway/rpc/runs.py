"""``runs.read``, ``runs.follow``, ``runs.unfollow`` and ``connection.resume``: logs read by position."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType

from gateway.app.context import Context
from gateway.app.follow import MAX_FOLLOWED
from gateway.app.hub import MAX_WATCHED_SESSIONS
from gateway.app.logshapes import Wish
from gateway.core.access import READ
from gateway.core.params import NonEmpty, Params, given
from gateway.model import Position
from gateway.rpc.common import check_run_id, session_key
from gateway.rpc.table import MethodTable

methods = MethodTable()

DEFAULT_LIMIT = 500

Limit = Annotated[int, msgspec.Meta(ge=1, le=1000)]


class LogPosition(Params, frozen=True):
    """A place in the log of a run."""

    epoch: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    seq: Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class RunsReadParams(Params, frozen=True):
    """Which log, from which position on (its beginning without one), and how many events at most."""

    run_id: NonEmpty
    after: LogPosition | UnsetType = UNSET
    limit: Limit | UnsetType = UNSET


class RunsFollowParams(RunsReadParams, frozen=True):
    """As ``runs.read``."""


class RunsUnfollowParams(Params, frozen=True):
    """Which run."""

    run_id: NonEmpty


class ConnectionResumeParams(Params, frozen=True):
    """What the last connection followed, and the sessions it watched."""

    runs: Annotated[list[RunsFollowParams], msgspec.Meta(max_length=MAX_FOLLOWED)] = []
    sessions: Annotated[list[NonEmpty], msgspec.Meta(max_length=MAX_WATCHED_SESSIONS)] = []


@methods.method("runs.read", scope=READ, waits=True)
async def runs_read(context: Context, params: RunsReadParams) -> dict[str, Any]:
    """Return the events of a run's log from a position on."""
    return await context.services.follows.read(_wish(params))


@methods.method("runs.follow", scope=READ, waits=True)
async def runs_follow(context: Context, params: RunsFollowParams) -> dict[str, Any]:
    """Return what runs.read does, then send what comes after it as run.event until the run ends."""
    (answer,) = await context.services.follows.follow(context.caller.conn_id, [_wish(params)])
    return answer


@methods.method("runs.unfollow", scope=READ)
def runs_unfollow(context: Context, params: RunsUnfollowParams) -> dict[str, Any]:
    """Send no more events of a run's log; says whether there were any to come."""
    followed = context.services.follows.unfollow(context.caller.conn_id, params.run_id)
    return {"ok": True, "followed": followed}


@methods.method("connection.resume", scope=READ, waits=True)
async def connection_resume(context: Context, params: ConnectionResumeParams) -> dict[str, Any]:
    """Take up what the last connection listened to: follow runs from positions on, watch sessions."""
    services, conn_id = context.services, context.caller.conn_id
    wishes = [_wish(run) for run in params.runs]
    keys = [session_key(context, key) for key in params.sessions]
    for key in keys:
        services.hub.watch(conn_id, key)
    return {"runs": await services.follows.follow(conn_id, wishes), "sessions": keys}


def _wish(params: RunsReadParams) -> Wish:
    after = given(params.after, None)
    position = None if after is None else Position(epoch=after.epoch, seq=after.seq)
    return Wish(check_run_id(params.run_id), position, given(params.limit, DEFAULT_LIMIT))
