"""Health, status, presence, heartbeats, the log and the configuration."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType
from twisted.internet.defer import Deferred

from gateway.app.context import Context
from gateway.app.presence import PresenceEntry
from gateway.core.access import ADMIN, READ
from gateway.core.params import Natural, NoParams, Params, given
from gateway.core.sessionrow import DEFAULT_CONTEXT_TOKENS
from gateway.core.transcript import preview
from gateway.errors import InvalidRequest
from gateway.model import SessionPage, SessionQuery
from gateway.rpc.table import MethodTable

methods = MethodTable()

DEFAULT_LINES = 500
DEFAULT_BYTES = 250_000
RECENT = 10
MAX_EVENT_CHARS = 4_000
MAX_FACT_CHARS = 256
MAX_FACTS = 64
NODE_PREFIX = "Node:"


class SetHeartbeatsParams(Params, frozen=True):
    """Whether heartbeats run."""

    enabled: bool


class LogsTailParams(Params, frozen=True):
    """From which byte on, and how much."""

    cursor: Natural | UnsetType = UNSET
    limit: Annotated[int, msgspec.Meta(ge=1, le=5000)] | UnsetType = UNSET
    max_bytes: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | UnsetType = UNSET


class SystemEventParams(Params, frozen=True, forbid_unknown_fields=False):
    """What somebody reports of himself; other keys are ignored."""

    text: str | UnsetType = UNSET
    device_id: str | UnsetType = UNSET
    instance_id: str | UnsetType = UNSET
    host: str | UnsetType = UNSET
    ip: str | UnsetType = UNSET
    mode: str | UnsetType = UNSET
    version: str | UnsetType = UNSET
    platform: str | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    last_input_seconds: Annotated[int, msgspec.Meta(ge=0, le=2**53)] | UnsetType = UNSET
    roles: list[str] | UnsetType = UNSET
    scopes: list[str] | UnsetType = UNSET
    tags: list[str] | UnsetType = UNSET


@methods.method("connect", scope=None, role=None, advertised=False)
def connect(context: Context) -> None:
    """Open the connection; only valid as the first request."""
    raise InvalidRequest("connect is only valid as the first request")


@methods.method("health", scope=None, role=None)
def health(context: Context) -> msgspec.Raw:
    """Return the health snapshot; it is made anew every minute."""
    return context.services.health.seen_by(context.caller)


@methods.method("status", scope=READ)
async def status(context: Context) -> dict[str, Any]:
    """Return a summary for people: agents, sessions, the process."""
    services = context.services
    agents = list(services.agents)
    model = services.agents.default.model
    whole: SessionPage = await services.store.find_sessions(SessionQuery(limit=RECENT))
    answer: dict[str, Any] = {
        "heartbeat": {
            "defaultAgentId": services.agents.default_id,
            "agents": [
                {"agentId": a.agent_id, "enabled": False, "every": "0m", "everyMs": None}
                for a in agents
            ],
        },
        "channelSummary": [],
        "queuedSystemEvents": [],
        "sessions": {
            "paths": ["store"],
            "count": whole.total,
            "defaults": {
                "model": model.id,
                "contextTokens": model.context_window or DEFAULT_CONTEXT_TOKENS,
            },
            "recent": [services.sessions.row(session) for session in whole.sessions],
            "byAgent": [await _sessions_of(context, agent.agent_id) for agent in agents],
        },
    }
    if context.caller.protocol >= 4:
        answer |= {
            "runtimeVersion": services.operations.version,
            "tasks": {"total": len(services.runs), "active": len(services.runs)},
            "connections": len(services.hub),
        }
        if ADMIN in context.caller.scopes:
            answer["pid"] = services.operations.pid
    return answer


async def _sessions_of(context: Context, agent_id: str) -> dict[str, Any]:
    services = context.services
    page: SessionPage = await services.store.find_sessions(
        SessionQuery(limit=RECENT, agent_id=agent_id)
    )
    rows = [services.sessions.row(session) for session in page.sessions]
    return {"agentId": agent_id, "path": "store", "count": page.total, "recent": rows}


@methods.method("system-presence", scope=READ)
def system_presence(context: Context) -> list[PresenceEntry]:
    """List who is here."""
    return context.services.presence.list(context.caller.protocol)


@methods.method("system-event", scope=ADMIN)
async def system_event(context: Context, params: SystemEventParams) -> dict[str, Any]:
    """Report something of a client or device: the presence list shows it, the main agent is told."""
    text = given(params.text, "").strip()
    if not text:
        raise InvalidRequest("text required")
    presence = context.services.presence
    facts = {
        name: _bounded(value)
        for name in SystemEventParams.__struct_fields__
        if name != "text" and (value := getattr(params, name)) is not UNSET
    }
    entry = PresenceEntry(
        ts=context.services.clock.now_ms(), text=preview(text, MAX_EVENT_CHARS), **facts
    )
    key = entry.device_id or entry.instance_id or entry.host or entry.ip or text[:64]
    news = presence.report(entry, key)
    presence.publish(at_once=True)
    # What devices say of themselves comes every few minutes, and mostly says nothing new.
    if news or not text.startswith(NODE_PREFIX):
        services = context.services
        await services.reports.system_events.note(
            services.agents.keys.main_session(), entry.text or "", "system-event"
        )
    return {"ok": True}


def _bounded(value: Any) -> Any:
    """Return a reported fact as everybody may be shown it: no empty text, nothing long."""
    if isinstance(value, str):
        return value[:MAX_FACT_CHARS] or None
    if isinstance(value, list):
        return tuple(item[:MAX_FACT_CHARS] for item in value[:MAX_FACTS]) or None
    return value


@methods.method("last-heartbeat", scope=READ)
def last_heartbeat(context: Context) -> dict[str, Any] | None:
    """Return the last heartbeat event, or null."""
    return context.services.operations.last_heartbeat


@methods.method("set-heartbeats", scope=ADMIN)
def set_heartbeats(context: Context, params: SetHeartbeatsParams) -> dict[str, Any]:
    """Switch heartbeats on or off."""
    context.services.operations.heartbeats_enabled = params.enabled
    return {"ok": True, "enabled": params.enabled}


@methods.method("logs.tail", scope=READ)
def logs_tail(context: Context, params: LogsTailParams) -> Deferred[dict[str, Any]]:
    """Return the newest lines of the log, or those after a cursor."""
    return context.services.operations.tail_logs(
        given(params.cursor, None),
        given(params.limit, DEFAULT_LINES),
        given(params.max_bytes, DEFAULT_BYTES),
    )


@methods.method("config.get", scope=READ)
def config_get(context: Context, params: NoParams) -> dict[str, Any]:
    """Return the configuration as it was read, without its secrets."""
    view = context.services.operations.config
    return {
        "path": view.path,
        "exists": view.exists,
        "raw": view.raw,
        "parsed": view.parsed,
        "resolved": view.parsed,
        "valid": True,
        "config": view.parsed,
        "hash": view.hash,
        "issues": [],
        "warnings": [{"path": "", "message": text} for text in view.warnings],
        "legacyIssues": [],
    }
