"""``chat.history``, ``chat.startup`` and ``chat.inject``: transcripts as clients read and annotate them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType

from gateway.app.agents import Agent
from gateway.app.context import Context
from gateway.core.access import ADMIN, READ
from gateway.core.params import SINCE_4, Natural, NonEmpty, Params, Positive, given
from gateway.core.sessionrow import DEFAULT_CONTEXT_TOKENS
from gateway.core.transcript import MAX_TOTAL_BYTES, wire_messages
from gateway.errors import InvalidRequest
from gateway.model import Message, Session
from gateway.rpc.common import MAX_OFFSET, agent_for, session_key
from gateway.rpc.listings import command_rows
from gateway.rpc.models import model_rows
from gateway.rpc.table import MethodTable

methods = MethodTable()

DEFAULT_LIMIT = 200

Limit = Annotated[int, msgspec.Meta(ge=1, le=1000)]


class ChatHistoryParams(Params, frozen=True):
    """Which part of a transcript. The newest messages come, after leaving out ``offset``."""

    session_key: NonEmpty
    limit: Limit | UnsetType = UNSET
    agent_id: Annotated[NonEmpty | UnsetType, SINCE_4] = UNSET
    cursor: Annotated[str | UnsetType, SINCE_4] = UNSET
    input_run_ids: Annotated[
        Annotated[list[NonEmpty], msgspec.Meta(min_length=1, max_length=50)] | UnsetType, SINCE_4
    ] = UNSET
    max_bytes: Annotated[Annotated[int, msgspec.Meta(ge=1024)] | UnsetType, SINCE_4] = UNSET
    max_chars: Annotated[Annotated[int, msgspec.Meta(ge=1, le=500_000)] | UnsetType, SINCE_4] = (
        UNSET
    )
    message_id: Annotated[NonEmpty | UnsetType, SINCE_4] = UNSET
    offset: Annotated[Natural | UnsetType, SINCE_4] = UNSET
    pending_before: Annotated[Positive | UnsetType, SINCE_4] = UNSET
    session_id: Annotated[NonEmpty | UnsetType, SINCE_4] = UNSET


class ChatStartupParams(ChatHistoryParams, frozen=True):
    """As ``chat.history``; the first call of a page that shows a session."""


class ChatInjectParams(Params, frozen=True):
    """A note to append as the assistant's."""

    session_key: NonEmpty
    message: NonEmpty
    label: Annotated[str, msgspec.Meta(max_length=100)] | UnsetType = UNSET
    agent_id: Annotated[NonEmpty | UnsetType, SINCE_4] = UNSET


@methods.method("chat.history", scope=READ)
async def chat_history(context: Context, params: ChatHistoryParams) -> dict[str, Any]:
    """Return the newest messages of a session."""
    key = session_key(context, params.session_key, params.agent_id)
    return await _history(context, params, key)


@methods.method("chat.startup", scope=READ)
async def chat_startup(context: Context, params: ChatStartupParams) -> dict[str, Any]:
    """Return what a page needs to show a session: its history, its models, its commands."""
    key = session_key(context, params.session_key, params.agent_id)
    history = await _history(context, params, key)
    history["metadata"] = {
        "models": model_rows(context, context.services.agents),
        "commands": command_rows(),
        "swarmEnabled": False,
        "runtimeSelectionLocked": False,
    }
    return history


@methods.method("chat.inject", scope=ADMIN, advertised=False)
async def chat_inject(context: Context, params: ChatInjectParams) -> dict[str, Any]:
    """Append a note to a session's transcript as the assistant's, and show it."""
    key = session_key(context, params.session_key, params.agent_id)
    label = given(params.label, None)
    message_id = await context.services.sessions.inject(key, params.message, label)
    return {"ok": True, "messageId": message_id}


async def _history(context: Context, params: ChatHistoryParams, key: str) -> dict[str, Any]:
    _check_combination(params)
    services, protocol = context.services, context.caller.protocol
    session = await services.sessions.get(key)
    limit = given(params.limit, DEFAULT_LIMIT)
    offset = min(given(params.offset, 0), MAX_OFFSET)
    messages: tuple[Message, ...] = ()
    total = 0
    if session is not None:
        messages = await services.store.list_messages(
            session.session_id, limit=limit, offset=offset
        )
        if protocol >= 4:
            total = await services.store.count_messages(session.session_id)
    shown = wire_messages(
        messages,
        protocol,
        max_chars=given(params.max_chars, None),
        max_bytes=min(given(params.max_bytes, MAX_TOTAL_BYTES), MAX_TOTAL_BYTES),
    )
    settings = session.settings if session is not None else {}
    answer: dict[str, Any] = {
        "sessionKey": params.session_key,
        "messages": shown,
        "thinkingLevel": settings.get("thinkingLevel", "off"),
    }
    if session is not None:
        answer["sessionId"] = session.session_id
    if "verboseLevel" in settings:
        answer["verboseLevel"] = settings["verboseLevel"]
    if protocol >= 4:
        answer |= _extras(context, key, session, total, offset, len(shown))
    return answer


def _extras(
    context: Context, key: str, session: Session | None, total: int, offset: int, shown: int
) -> dict[str, Any]:
    """Return what version 4 adds to a history."""
    services = context.services
    agent = agent_for(context, key)
    row = services.sessions.row(session or services.sessions.new(key))
    extras: dict[str, Any] = {
        "pendingInputs": {"items": [], "total": 0},
        "hasMore": total > offset + shown,
        "totalMessages": total,
        "defaults": agent_defaults(agent),
        "sessionInfo": row,
    }
    if offset:
        extras["offset"] = offset
    if total > offset + shown:
        extras["nextOffset"] = offset + shown
    going = services.runs.going_in(key)
    if going:
        run = going[0]
        extras["inFlightRun"] = {"runId": run.run_id, "text": run.text, "seq": run.seq}
    return extras


def agent_defaults(agent: Agent) -> dict[str, Any]:
    """Return the model a session of this agent starts with."""
    return {
        "modelProvider": agent.model.provider,
        "model": agent.model.id,
        "contextTokens": agent.model.context_window or DEFAULT_CONTEXT_TOKENS,
    }


def _check_combination(params: ChatHistoryParams) -> None:
    cursor, offset, message_id = params.cursor, params.offset, params.message_id
    if offset is not UNSET and message_id is not UNSET:
        raise InvalidRequest("chat.history: use offset or messageId, not both")
    if cursor is not UNSET and (offset is not UNSET or message_id is not UNSET):
        raise InvalidRequest("chat.history: use cursor alone, without offset or messageId")
    if params.session_id is not UNSET and message_id is UNSET:
        raise InvalidRequest("chat.history: sessionId requires messageId")
