"""``sessions.*``: list, look at, make, change, reset and delete sessions; listen to them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from gateway.app.context import Context
from gateway.core.access import ADMIN, READ, WRITE
from gateway.core.params import (
    SINCE_4,
    Natural,
    NonEmpty,
    Params,
    Positive,
    given,
    v3_max_length,
)
from gateway.core.sessionpatch import PatchFields, apply_patch, write_safe
from gateway.core.sessionrow import session_entry
from gateway.core.transcript import preview, text_of
from gateway.errors import InvalidRequest
from gateway.model import Message, Session, SessionPage, SessionQuery
from gateway.rpc.common import agent_for, session_key
from gateway.rpc.history import agent_defaults
from gateway.rpc.table import MethodTable

methods = MethodTable()

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
MAX_PREVIEWS = 64

Label = Annotated[str, msgspec.Meta(min_length=1, max_length=512), v3_max_length(64)]
Expected = Annotated[NonEmpty | UnsetType, SINCE_4]
Ignored = Annotated[Any | UnsetType, SINCE_4]
"""A filter or field of version 4 that is accepted and has no effect here."""


class SessionsListParams(Params, frozen=True):
    """Which sessions, and how much of each."""

    limit: Positive | UnsetType = UNSET
    active_minutes: Positive | UnsetType = UNSET
    include_global: bool | UnsetType = UNSET
    include_unknown: bool | UnsetType = UNSET
    include_derived_titles: bool | UnsetType = UNSET
    include_last_message: bool | UnsetType = UNSET
    label: Label | UnsetType = UNSET
    spawned_by: NonEmpty | UnsetType = UNSET
    agent_id: NonEmpty | UnsetType = UNSET
    search: str | UnsetType = UNSET
    offset: Annotated[Natural | UnsetType, SINCE_4] = UNSET
    active_only: Annotated[bool | UnsetType, SINCE_4] = UNSET
    archived: Annotated[bool | Literal["all"] | UnsetType, SINCE_4] = UNSET
    board_face: Annotated[Literal["chat", "dashboard"] | UnsetType, SINCE_4] = UNSET
    configured_agents_only: Annotated[bool | UnsetType, SINCE_4] = UNSET
    creator_id: Expected = UNSET
    exclude_cron: Annotated[bool | UnsetType, SINCE_4] = UNSET
    exclude_subagents: Annotated[bool | UnsetType, SINCE_4] = UNSET
    exclude_system: Annotated[bool | UnsetType, SINCE_4] = UNSET
    group: Annotated[str | UnsetType, SINCE_4] = UNSET
    has_board: Annotated[bool | UnsetType, SINCE_4] = UNSET
    include_activity_summary: Annotated[bool | UnsetType, SINCE_4] = UNSET
    include_people: Annotated[bool | UnsetType, SINCE_4] = UNSET
    involving_me: Annotated[bool | UnsetType, SINCE_4] = UNSET
    involving_profile_id: Expected = UNSET
    owner_first: Annotated[bool | UnsetType, SINCE_4] = UNSET
    owner_id: Expected = UNSET
    pinned: Annotated[bool | UnsetType, SINCE_4] = UNSET
    profile_relation: Ignored = UNSET
    project_id: Expected = UNSET
    require_last_interaction: Annotated[bool | UnsetType, SINCE_4] = UNSET
    sort_by: Annotated[
        Literal["updatedAt", "lastInteractionAt", "activity"] | UnsetType, SINCE_4
    ] = UNSET
    workspace_dir: Expected = UNSET


class SessionsDescribeParams(Params, frozen=True):
    """Which session."""

    key: NonEmpty
    agent_id: NonEmpty | UnsetType = UNSET
    include_derived_titles: bool | UnsetType = UNSET
    include_last_message: bool | UnsetType = UNSET


class SessionsCreateParams(Params, frozen=True):
    """A session to make; without a key it gets one of its own."""

    key: NonEmpty | UnsetType = UNSET
    label: Annotated[str, msgspec.Meta(min_length=1, max_length=512)] | UnsetType = UNSET
    agent_id: NonEmpty | UnsetType = UNSET
    parent_session_key: NonEmpty | UnsetType = UNSET
    thinking_level: NonEmpty | UnsetType = UNSET
    display_name: Annotated[str, msgspec.Meta(min_length=1, max_length=500)] | UnsetType = UNSET
    succeeds_parent: bool | UnsetType = UNSET
    emit_command_hooks: bool | UnsetType = UNSET
    idempotency_key: NonEmpty | UnsetType = UNSET
    category: Annotated[str, msgspec.Meta(min_length=1, max_length=512)] | UnsetType = UNSET
    title_source: Annotated[str, msgspec.Meta(max_length=1000)] | UnsetType = UNSET
    spawn_depth: Positive | UnsetType = UNSET
    visibility: Literal["shared", "read-only", "suggest", "draft"] | UnsetType = UNSET


class SessionsResolveParams(Params, frozen=True):
    """A session by exactly one of its names."""

    key: NonEmpty | UnsetType = UNSET
    session_id: NonEmpty | UnsetType = UNSET
    label: Label | UnsetType = UNSET
    agent_id: NonEmpty | UnsetType = UNSET
    spawned_by: NonEmpty | UnsetType = UNSET
    include_global: bool | UnsetType = UNSET
    include_unknown: bool | UnsetType = UNSET
    short_id: Expected = UNSET
    slug_hint: Expected = UNSET
    reference: Annotated[dict[str, NonEmpty] | UnsetType, SINCE_4] = UNSET
    allow_missing: Annotated[bool | UnsetType, SINCE_4] = UNSET


class SessionsPreviewParams(Params, frozen=True):
    """The last messages of some sessions, shortened."""

    keys: Annotated[list[NonEmpty], msgspec.Meta(min_length=1)]
    limit: Positive | UnsetType = UNSET
    max_chars: Annotated[int, msgspec.Meta(ge=20)] | UnsetType = UNSET


class SessionsPatchParams(PatchFields, frozen=True, kw_only=True):
    """Settings to change; null clears one."""

    key: NonEmpty


class SessionsResetParams(Params, frozen=True):
    """Which session to begin anew."""

    key: NonEmpty
    reason: Literal["new", "reset"] | UnsetType = UNSET
    agent_id: Expected = UNSET
    expected_session_id: Expected = UNSET


class SessionsDeleteParams(Params, frozen=True):
    """Which session to delete."""

    key: NonEmpty
    delete_transcript: bool | UnsetType = UNSET
    emit_lifecycle_hooks: bool | UnsetType = UNSET
    agent_id: Expected = UNSET
    archived_only: Annotated[bool | UnsetType, SINCE_4] = UNSET
    expected_lifecycle_revision: Expected = UNSET
    expected_session_id: Expected = UNSET
    expected_session_updated_at: Annotated[
        Annotated[float, msgspec.Meta(ge=0)] | UnsetType, SINCE_4
    ] = UNSET


class SessionsMessagesSubscribeParams(Params, frozen=True):
    """Which session to listen to."""

    key: NonEmpty
    agent_id: NonEmpty | UnsetType = UNSET
    include_approvals: Literal[True] | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.include_approvals not in (True, UNSET):
            raise ValueError("includeApprovals must be true")


class SessionsMessagesUnsubscribeParams(Params, frozen=True):
    """Which session to listen to no more."""

    key: NonEmpty
    agent_id: NonEmpty | UnsetType = UNSET


@methods.method("sessions.list", scope=READ)
async def sessions_list(context: Context, params: SessionsListParams) -> dict[str, Any]:
    """List sessions, the last used first."""
    services = context.services
    limit = min(given(params.limit, DEFAULT_LIMIT), MAX_LIMIT)
    offset = given(params.offset, 0)
    minutes = given(params.active_minutes, None)
    now_ms = services.clock.now_ms()
    query = SessionQuery(
        limit=limit,
        offset=offset,
        agent_id=given(params.agent_id, None),
        label=given(params.label, None),
        search=given(params.search, "").strip() or None,
        updated_since_ms=None if minutes is None else now_ms - minutes * 60_000,
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
    label = given(params.label, None)
    if label is not None:
        await _check_label(context, label, key)
        fields["label"] = label
    parent = given(params.parent_session_key, None)
    if parent is not None:
        fields["parent_key"] = session_key(context, parent)
    level = given(params.thinking_level, None)
    if level is not None:
        patch = apply_patch({}, {"thinkingLevel": level}, protocol=4)
        fields["settings"] = patch
    session = await services.sessions.create(key, **fields)
    return {
        "ok": True,
        "key": key,
        "sessionId": session.session_id,
        "entry": session_entry(session),
        "runStarted": False,
        "resolved": {"modelProvider": agent.model.provider, "model": agent.model.id},
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


def _patch_scope(protocol: int, params: SessionsPatchParams) -> str:
    return WRITE if protocol >= 4 and write_safe(params) else ADMIN


@methods.method("sessions.patch", scope=_patch_scope)
async def sessions_patch(context: Context, params: SessionsPatchParams) -> dict[str, Any]:
    """Change the settings of a session; null clears one."""
    services, protocol = context.services, context.caller.protocol
    key = session_key(context, params.key, params.agent_id)
    agent = agent_for(context, key)
    _refuse_webchat(context, "patch")
    changes = params.changes()
    apply_patch({}, changes, protocol=protocol, key=key)
    label = changes.get("label")
    if label is not None:
        await _check_label(context, label, key)

    def change(session: Session) -> Session:
        settings = apply_patch(session.settings, changes, protocol=protocol, key=key)
        kept = changes.get("label", session.label)
        return msgspec.structs.replace(session, settings=settings, label=kept)

    session = await services.sessions.patch(key, change)
    return {
        "ok": True,
        "path": "store",
        "key": key,
        "entry": session_entry(session),
        "resolved": {"modelProvider": agent.model.provider, "model": agent.model.id},
    }


@methods.method("sessions.reset", scope=ADMIN)
async def sessions_reset(context: Context, params: SessionsResetParams) -> dict[str, Any]:
    """Begin a session anew, settings kept; a run that goes is stopped first."""
    services = context.services
    key = session_key(context, params.key, params.agent_id)
    agent = agent_for(context, key)
    await _check_session_id(context, key, given(params.expected_session_id, None))
    services.runs.abort_session(key, "reset")
    four = context.caller.protocol >= 4
    reason = given(params.reason, "reset")
    session = await services.sessions.reset(key, reason=reason, keep_id=four)
    answer: dict[str, Any] = {"ok": True, "key": key, "entry": session_entry(session)}
    if four:
        answer["resolved"] = {"modelProvider": agent.model.provider, "model": agent.model.id}
    return answer


@methods.method("sessions.delete", scope=ADMIN)
async def sessions_delete(context: Context, params: SessionsDeleteParams) -> dict[str, Any]:
    """Delete a session; the main session can not be deleted."""
    services = context.services
    key = session_key(context, params.key, params.agent_id)
    _refuse_webchat(context, "delete")
    await _check_session_id(context, key, given(params.expected_session_id, None))
    services.runs.abort_session(key, "delete")
    deleted = await services.sessions.delete(
        key, delete_transcript=given(params.delete_transcript, True)
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
    """Listen to the messages of one session; it need not exist yet."""
    key = session_key(context, params.key, params.agent_id)
    context.services.hub.watch(context.caller.conn_id, key)
    return {"subscribed": True, "key": key}


@methods.method("sessions.messages.unsubscribe", scope=READ)
def sessions_messages_unsubscribe(
    context: Context, params: SessionsMessagesUnsubscribeParams
) -> dict[str, Any]:
    """Listen to the messages of one session no more."""
    key = session_key(context, params.key, params.agent_id)
    context.services.hub.unwatch(context.caller.conn_id, key)
    return {"subscribed": False, "key": key}


async def _check_label(context: Context, label: str, key: str) -> None:
    holder = await context.services.sessions.label_holder(label)
    if holder is not None and holder != key:
        raise InvalidRequest(f"label already in use: {label}")


async def _check_session_id(context: Context, key: str, expected: str | None) -> None:
    if expected is None:
        return
    session = await context.services.sessions.get(key)
    if session is None or session.session_id != expected:
        raise InvalidRequest("session changed", details={"reason": "session-changed"})


def _refuse_webchat(context: Context, what: str) -> None:
    """A chat page embedded somewhere may talk, but not manage sessions (version 3's rule)."""
    client = context.caller.client
    if client.mode == "webchat" and client.id != "openclaw-control-ui":
        raise InvalidRequest(f"webchat clients cannot {what} sessions")
