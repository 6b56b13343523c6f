"""``usage.*`` and ``sessions.usage*``: what runs used, for people who watch what they spend."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from gateway.app.context import Context
from gateway.app.days import MAX_DAYS, Days, day_of, days_between, zone_of
from gateway.app.usage import MAX_SESSIONS, UsageReports, Wanted
from gateway.core.access import READ
from gateway.core.params import SINCE_4, NonEmpty, Params, Positive, given
from gateway.errors import InvalidRequest
from gateway.model import Session
from gateway.rpc.common import session_key
from gateway.rpc.table import MethodTable

methods = MethodTable()

DEFAULT_DAYS = 30
DEFAULT_SESSIONS = 50
DEFAULT_LOGS = 200
RANGES = {"7d": 7, "30d": 30, "90d": 90, "1y": 365}

Day = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d{2}-\d{2}$")]
Offset = Annotated[str, msgspec.Meta(pattern=r"^UTC[+-]\d{1,2}(?::[0-5]\d)?$")]


class RangeParams(Params, frozen=True):
    """A range of days, by default the last thirty, and what a day is."""

    start_date: Day | UnsetType = UNSET
    end_date: Day | UnsetType = UNSET
    mode: Literal["utc", "gateway", "specific"] | UnsetType = UNSET
    utc_offset: Offset | UnsetType = UNSET
    time_zone: Annotated[NonEmpty | UnsetType, SINCE_4] = UNSET
    range: Annotated[Literal["7d", "30d", "90d", "1y", "all"] | UnsetType, SINCE_4] = UNSET
    agent_id: Annotated[NonEmpty | UnsetType, SINCE_4] = UNSET
    agent_scope: Annotated[Literal["all"] | UnsetType, SINCE_4] = UNSET

    def violation(self, protocol: int) -> str | None:
        """Return what is wrong between the fields, or None."""
        if self.agent_id is not UNSET and self.agent_scope is not UNSET:
            return "at root: agentId and agentScope exclude each other"
        if self.range is not UNSET and (self.start_date is not UNSET or self.end_date is not UNSET):
            return "at root: range and startDate or endDate exclude each other"
        return None


class UsageCostParams(RangeParams, frozen=True):
    """A range of days, or how many there are up to today."""

    days: Annotated[int, msgspec.Meta(ge=1, le=MAX_DAYS)] | UnsetType = UNSET


class SessionsUsageParams(RangeParams, frozen=True):
    """A range of days, which sessions, and how many of them."""

    key: NonEmpty | UnsetType = UNSET
    limit: Positive | UnsetType = UNSET
    include_context_weight: bool | UnsetType = UNSET
    group_by: Annotated[Literal["instance", "family"] | UnsetType, SINCE_4] = UNSET
    creator_key: Annotated[NonEmpty | UnsetType, SINCE_4] = UNSET
    include_historical: Annotated[bool | UnsetType, SINCE_4] = UNSET


class SessionsUsageTimeseriesParams(Params, frozen=True):
    """Which session."""

    key: NonEmpty
    agent_id: NonEmpty | UnsetType = UNSET


class SessionsUsageLogsParams(SessionsUsageTimeseriesParams, frozen=True):
    """Which session, and how many of its messages."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] | UnsetType = UNSET


@methods.method("usage.status", scope=READ)
def usage_status(context: Context) -> dict[str, Any]:
    """Return what providers say of their quotas: nothing, as no agent is told any."""
    answer: dict[str, Any] = {"updatedAt": context.services.clock.now_ms(), "providers": []}
    return answer | ({"refreshing": False} if context.caller.protocol >= 4 else {})


@methods.method("usage.cost", scope=READ)
async def usage_cost(context: Context, params: UsageCostParams) -> dict[str, Any]:
    """Return tokens and costs of a range of days, and of each day."""
    reports = UsageReports(context.services.store)
    wanted = await _wanted(context, reports, params, given(params.days, DEFAULT_DAYS))
    return _answer(context, await reports.cost(wanted))


@methods.method("sessions.usage", scope=READ, advertised=False)
async def sessions_usage(context: Context, params: SessionsUsageParams) -> dict[str, Any]:
    """Return tokens and costs of a range of days: in all, by model, by agent, by day, by session."""
    if params.creator_key is not UNSET:
        raise InvalidRequest("who created a session is not kept: leave creatorKey out")
    reports = UsageReports(context.services.store)
    wanted = await _wanted(context, reports, params, DEFAULT_DAYS, given(params.key, None))
    report = await reports.sessions(
        wanted,
        limit=min(given(params.limit, DEFAULT_SESSIONS), MAX_SESSIONS),
        family=given(params.group_by, "instance") == "family",
    )
    if given(params.include_context_weight, False):
        for row in report["sessions"]:
            row["contextWeight"] = None
    if context.caller.protocol >= 4:
        report["creatorOptions"] = []
    return _answer(context, report)


@methods.method("sessions.usage.timeseries", scope=READ, advertised=False)
async def sessions_usage_timeseries(
    context: Context, params: SessionsUsageTimeseriesParams
) -> dict[str, Any]:
    """Return what the newest runs of a session used, one point a run, oldest first."""
    session = await _session(context, params)
    points = await UsageReports(context.services.store).timeseries(session)
    return {"sessionId": session.session_id, "points": points}


@methods.method("sessions.usage.logs", scope=READ, advertised=False)
async def sessions_usage_logs(context: Context, params: SessionsUsageLogsParams) -> dict[str, Any]:
    """Return the newest messages of a session with what they used, oldest first."""
    session = await _session(context, params)
    reports = UsageReports(context.services.store)
    return {"logs": await reports.logs(session, given(params.limit, DEFAULT_LOGS))}


async def _session(context: Context, params: SessionsUsageTimeseriesParams) -> Session:
    key = session_key(context, params.key, params.agent_id)
    return await context.services.sessions.require(key)


async def _wanted(
    context: Context,
    reports: UsageReports,
    params: RangeParams,
    default_days: int,
    key: str | None = None,
) -> Wanted:
    return Wanted(
        days=await _days(context, reports, params, default_days),
        agent_id=given(params.agent_id, None),
        session_key=None if key is None else session_key(context, key, params.agent_id),
    )


async def _days(
    context: Context, reports: UsageReports, params: RangeParams, default_days: int
) -> Days:
    """Return the days that are asked for. Raises InvalidRequest."""
    offset, name = given(params.utc_offset, None), given(params.time_zone, None)
    zone = zone_of(given(params.mode, "utc"), name, offset)
    last = zone.today(context.services.clock.now_ms())
    if params.end_date is not UNSET:
        last = day_of(given(params.end_date, ""))
    if params.start_date is not UNSET:
        return days_between(day_of(given(params.start_date, "")), last, zone)
    if params.range == "all":
        first_ms = await reports.first_ms()
        first = last if first_ms is None else zone.today(first_ms)
        return days_between(max(min(first, last), _back(last, MAX_DAYS)), last, zone)
    return days_between(_back(last, RANGES.get(given(params.range, ""), default_days)), last, zone)


def _back(last: date, days: int) -> date:
    """Return the first of so many days."""
    return last - timedelta(days=days - 1)


def _answer(context: Context, report: dict[str, Any]) -> dict[str, Any]:
    """Return a report with what stands around each; nothing is cached, so it is always fresh."""
    now_ms = context.services.clock.now_ms()
    answer = {"updatedAt": now_ms, **report}
    if context.caller.protocol >= 4:
        nothing = dict.fromkeys(("cachedFiles", "pendingFiles", "staleFiles"), 0)
        answer["cacheStatus"] = {"status": "fresh", **nothing, "refreshedAt": now_ms}
    return answer
