"""``sessions.*``: list, look at, make, change, reset and delete sessions; listen to them."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET

from gateway.app.agents import Agent
from gateway.app.context import Context
from gateway.app.notices import viewer_of
from gateway.core.access import ADMIN, READ, WRITE
from gateway.core.approval import SCOPE as APPROVALS
from gateway.core.params import given
from gateway.core.sessionpatch import apply_patch, write_safe
from gateway.core.sessionrow import session_entry
from gateway.core.transcript import preview, text_of
from gateway.errors import InvalidRequest
from gateway.model import Message, Session, SessionPage, SessionQuery
from gateway.rpc.common import MAX_OFFSET, agent_for, check_model, session_key
from gateway.rpc.history import agent_defaults
from gateway.rpc.session_params import (
    SessionsCreateParams,
    SessionsDeleteParams,
    SessionsDescribeParams,
    SessionsListParams,
    SessionsMessagesSubscribeParams,
    SessionsMessagesUnsubscribeParams,
    SessionsPatchParams,
    SessionsPreviewParams,
    SessionsResetParams,
    SessionsResolveParams,
)
from gateway.rpc.table import MethodTable

methods = MethodTable()

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
MAX_PREVIEWS = 64
MAX_ACTIVE_MINUTES = 100 * 366 * 24 * 60


@methods.method("sessions.list", scope=READ)
async def sessions_list(context: Context, params: SessionsListParams) -> dict[str, Any]:
    """List sessions, the last used first."""
    services = context.services
    limit = min(given(params.limit, DEFAULT_LIMIT), MAX_LIMIT)
    offset = min(given(params.offset, 0), MAX_OFFSET)
    minutes = given(params.active_minutes, None)
    now_ms = services.clock.now_ms()
    query = SessionQuery(
        limit=limit,
        offset=offset,
        agent_id=given(params.agent_id, None),
        label=given(params.label, None),
        search=given(params.search, "").strip() or None,
        updated_since_ms=(
            None if minutes is None else now_ms - min(minutes, MAX_ACTIVE_MINUTES) * 60_000
        ),
        parent_key=given(params.spawned_by, None),
        include_global=given(params.include_global, True),
        include_unknown=given(params.include_unknown, True),
    )
    page: SessionPage = await services.store.find_sessions(query)
    titles = given(params.include_derived_titles, False)
    last = given(params.include_last_message, False)
    rows = [services.sessions.row(s, titles=titles, last_message=last) for s in page.sessions]
    answer: dict[str, Any] = {
        "ts": now_ms,
        "path": "store",
        "count": len(rows),
        "defaults": agent_defaults(services.agents.default),
        "sessions": rows,
    }
    if context.caller.protocol >= 4:
        more = page.total > offset + len(rows)
        answer |= {
            "totalCount": page.total,
            "limitApplied": limit,
            "nextOffset": offset + len(rows) if more else None,
            "hasMore": more,
        }
    return answer


@methods.method("sessions.describe", scope=READ)
async def sessions_describe(context: Context, params: SessionsDescribeParams) -> dict[str, Any]:
    """Return one session as a row, or null."""
    sessions = context.services.sessions
    session = await sessions.get(session_key(context, params.key, params.agent_id))
    if session is None:
        return {"session": None}
    titles = given(params.include_derived_titles, False)
    last = given(params.include_last_message, False)
    return {"session": sessions.row(session, titles=titles, last_message=last)}


@methods.method("sessions.create", scope=WRITE)
async def sessions_create(context: Context, params: SessionsCreateParams) -> dict[str, Any]:
    """Make a session."""
    services = context.services
    agents = services.agents
    agent_id = given(params.agent_id, agents.default_id)
    fresh = f"agent:{agent_id}:dashboard:{services.entropy.uuid4()}"
    key = session_key(context, given(params.key, fresh), params.agent_id)
    agent = agent_for(context, key)
    fields: dict[str, Any] = {}
    parent = given(params.parent_session_key, None)
    if parent is not None:
        fields["parent_key"] = session_key(context, parent)
    level = given(params.thinking_level, None)
    if level is not None:
        patch = apply_patch({}, {"thinkingLevel": level}, protocol=4)
        fields["settings"] = patch
    label = given(params.label, None)
    session = await services.sessions.create(key, label=label, **fields)
    return {
        "ok": True,
        "key": key,
        "sessionId": session.session_id,
        "entry": session_entry(session),
        "runStarted": False,
        "resolved": _resolved(agent, session),
    }


@methods.method("sessions.resolve", scope=READ, advertised=False)
async def sessions_resolve(context: Context, params: SessionsResolveParams) -> dict[str, Any]:
    """Find a session's key by its key, id or label."""
    names = ("key", "session_id", "label", "short_id", "reference")
    present = [name for name in names if getattr(params, name) is not UNSET]
    four = context.caller.protocol >= 4
    listed = "key, sessionId, label, shortId, or reference" if four else "key, sessionId, or label"
    if not present:
        raise InvalidRequest(f"Either {listed} is required")
    if len(present) > 1:
        raise InvalidRequest(f"Provide either {listed} (not multiple)")
    found = await _find(context, params, present[0])
    if len(found) > 1:
        keys = ", ".join(session.key for session in found)
        raise InvalidRequest(f"Multiple sessions match: {keys}")
    if found:
        answer: dict[str, Any] = {"ok": True, "key": found[0].key}
        if four:
            answer["agentId"] = found[0].agent_id
        return answer
    if given(params.allow_missing, False):
        return {"ok": False}
    sought = getattr(params, present[0])
    sought = sought.get("key", "") if isinstance(sought, dict) else str(sought)
    with_label = " with label" if present[0] == "label" else ""
    raise InvalidRequest(f"No session found{with_label}: {sought[:128]}")


async def _find(context: Context, params: SessionsResolveParams, name: str) -> list[Session]:
    store = context.services.store
    found: Session | None
    if name == "session_id":
        found = await store.get_session_by_id(str(params.session_id))
    elif name in ("key", "reference"):
        reference = params.reference if isinstance(params.reference, dict) else {}
        key = str(params.key) if name == "key" else reference.get("key", "")
        found = await context.services.sessions.get(session_key(context, key, params.agent_id))
    else:
        label = str(params.label) if name == "label" else None
        search = None if name == "label" else str(params.short_id)
        query = SessionQuery(
            limit=5, label=label, search=search, agent_id=given(params.agent_id, None)
        )
        page: SessionPage = await store.find_sessions(query)
        return list(page.sessions)
    return [] if found is None else [found]


@methods.method("sessions.preview", scope=READ)
async def sessions_preview(context: Context, params: SessionsPreviewParams) -> dict[str, Any]:
    """Return the last messages of some sessions, shortened."""
    services = context.services
    limit = min(given(params.limit, 12), 100)
    max_chars = given(params.max_chars, 240)
    previews = []
    for key in params.keys[:MAX_PREVIEWS]:
        session = await services.sessions.get(services.agents.keys.canonical(key))
        items: list[dict[str, str]] = []
        if session is not None:
            messages: tuple[Message, ...] = await services.store.list_messages(
                session.session_id, limit=limit
            )
            items = [
                {"role": m.role, "text": preview(text_of(m.content), max_chars)} for m in messages
            ]
        status = "missing" if session is None else "ok" if items else "empty"
        previews.append({"key": key, "status": status, "items": items})
    return {"ts": services.clock.now_ms(), "previews": previews}


def _patch_scope(protocol: int, params: SessionsPatchParams | None) -> str:
    ordinary = params is None or write_safe(params)
    return WRITE if protocol >= 4 and ordinary else ADMIN


@methods.method("sessions.patch", scope=_patch_scope)
async def sessions_patch(context: Context, params: SessionsPatchParams) -> dict[str, Any]:
    """Change the settings of a session; null clears one."""
    services, protocol = context.services, context.caller.protocol
    key = session_key(context, params.key, params.agent_id)
    agent = agent_for(context, key)
    _refuse_webchat(context, "patch")
    changes = params.changes()
    apply_patch({}, changes, protocol=protocol, key=key)
    if protocol >= 4:
        check_model(context, changes.get("model"))
    expected_id = given(params.expected_session_id, None)
    expected_revision = given(params.expected_lifecycle_revision, None)

    def change(session: Session) -> Session:
        _check_unchanged(session, expected_id, expected_revision)
        settings = apply_patch(session.settings, changes, protocol=protocol, key=key)
        kept = changes.get("label", session.label)
        return msgspec.structs.replace(session, settings=settings, label=kept)

    session = await services.sessions.patch(key, change, label=changes.get("label"))
    return {
        "ok": True,
        "path": "store",
        "key": key,
        "entry": session_entry(session),
        "resolved": _resolved(agent, session),
    }


@methods.method("sessions.reset", scope=ADMIN)
async def sessions_reset(context: Context, params: SessionsResetParams) -> dict[str, Any]:
    """Begin a session anew, settings kept; a run that goes is stopped first."""
    services = context.services
    key = session_key(context, params.key, params.agent_id)
    agent = agent_for(context, key)
    expected_id = given(params.expected_session_id, None)

    def check(session: Session | None) -> None:
        _check_unchanged(session, expected_id)

    # Twice: before a run is stopped in vain, and where nobody can come between check and change.
    check(await services.sessions.get(key))
    await services.runs.vacate(key, "reset")
    four = context.caller.protocol >= 4
    reason = given(params.reason, "reset")
    session = await services.sessions.reset(key, reason=reason, keep_id=four, check=check)
    answer: dict[str, Any] = {"ok": True, "key": key, "entry": session_entry(session)}
    if four:
        answer["resolved"] = _resolved(agent, session)
    return answer


@methods.method("sessions.delete", scope=ADMIN)
async def sessions_delete(context: Context, params: SessionsDeleteParams) -> dict[str, Any]:
    """Delete a session; the main session can not be deleted."""
    services = context.services
    key = session_key(context, params.key, params.agent_id)
    _refuse_webchat(context, "delete")
    services.sessions.check_deletable(key)
    expected_id = given(params.expected_session_id, None)
    expected_revision = given(params.expected_lifecycle_revision, None)
    updated_at = given(params.expected_session_updated_at, None)

    def check(session: Session | None) -> None:
        archived = session is not None and session.settings.get("archived") is True
        if given(params.archived_only, False) and not archived:
            raise InvalidRequest("session is not archived")
        _check_unchanged(session, expected_id, expected_revision, updated_at)

    # Twice: before a run is stopped in vain, and where nobody can come between check and deletion.
    check(await services.sessions.get(key))
    if await services.runs.vacate(key, "delete"):
        updated_at = None  # the ends of the runs changed it
    deleted = await services.sessions.delete(
        key, delete_transcript=given(params.delete_transcript, True), check=check
    )
    return {"ok": True, "key": key, "deleted": deleted, "archived": []}


@methods.method("sessions.subscribe", scope=READ)
async def sessions_subscribe(context: Context, params: SessionsListParams) -> dict[str, Any]:
    """Listen to the changes of all sessions; with list params, list them too."""
    context.services.hub.follow_sessions(context.caller.conn_id)
    answer: dict[str, Any] = {"subscribed": True}
    if params != SessionsListParams():
        answer["list"] = await sessions_list(context, params)
    return answer


@methods.method("sessions.messages.subscribe", scope=READ)
def sessions_messages_subscribe(
    context: Context, params: SessionsMessagesSubscribeParams
) -> dict[str, Any]:
    """Listen to the messages of one session, and its approvals; it need not exist yet."""
    caller, services = context.caller, context.services
    key = session_key(context, params.key, params.agent_id)
    approvals = params.include_approvals is True and APPROVALS in caller.scopes
    services.hub.watch(caller.conn_id, key, approvals=approvals)
    answer: dict[str, Any] = {"subscribed": True, "key": key}
    if approvals and caller.protocol >= 4:
        answer["approvalReplay"] = services.approvals.replay(key, viewer_of(caller))
    return answer


@methods.method("sessions.messages.unsubscribe", scope=READ)
def sessions_messages_unsubscribe(
    context: Context, params: SessionsMessagesUnsubscribeParams
) -> dict[str, Any]:
    """Listen to the messages of one session no more."""
    key = session_key(context, params.key, params.agent_id)
    context.services.hub.unwatch(context.caller.conn_id, key)
    return {"subscribed": False, "key": key}


def _check_unchanged(
    session: Session | None,
    session_id: str | None = None,
    revision: str | None = None,
    updated_at: float | None = None,
) -> None:
    """Raise InvalidRequest unless the session is the one that the client knows, as far as it said."""
    held: tuple[object, ...] = (None, None, None)
    if session is not None:
        held = (session.session_id, session.lifecycle_revision, session.updated_at_ms)
    expected = (session_id, revision, updated_at)
    if any(e is not None and e != h for e, h in zip(expected, held, strict=True)):
        raise InvalidRequest("session changed", details={"reason": "session-changed"})


def _resolved(agent: Agent, session: Session) -> dict[str, str]:
    """Return the model that a run of the session is answered with."""
    model = agent.chosen(session.settings.get("model"))
    return {"modelProvider": model.provider, "model": model.id}


def _refuse_webchat(context: Context, what: str) -> None:
    """A chat page embedded somewhere may talk, but not manage sessions (version 3's rule)."""
    client = context.caller.client
    if client.mode == "webchat" and client.id != "openclaw-control-ui":
        raise InvalidRequest(f"webchat clients cannot {what} sessions")
