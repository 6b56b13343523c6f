"""A session as a row of ``sessions.list`` and as the ``entry`` of patch, reset and create."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.model import ModelInfo, Session

DEFAULT_CONTEXT_TOKENS = 128_000
"""What a row says of a model that does not tell its context window."""


def session_kind(key: str) -> str:
    """Return direct, group, global or unknown."""
    if key in ("global", "unknown"):
        return key
    rest = key.split(":")[2:]
    return "group" if "group" in rest[1:2] or "channel" in rest[1:2] else "direct"


def session_row(
    session: Session,
    *,
    model: ModelInfo,
    main_key: str,
    busy: bool,
    titles: bool = False,
    last_message: bool = False,
) -> dict[str, Any]:
    """Return the row. Both versions read it; what only one knows the other ignores.

    ``model`` is what answers; the one that the session asks for stands beside it as ``modelOverride``.
    """
    row: dict[str, Any] = {
        **_shown(session.settings),
        "key": session.key,
        "kind": session_kind(session.key),
        "agentId": session.agent_id,
        "isMain": session.key == main_key,
        "chatType": "group" if session_kind(session.key) == "group" else "direct",
        "updatedAt": session.updated_at_ms,
        "createdAt": session.created_at_ms,
        "sessionId": session.session_id,
        "systemSent": session.system_sent,
        "abortedLastRun": session.aborted_last_run,
        "hasActiveRun": busy,
        "status": "running" if busy else "idle",
        "inputTokens": session.input_tokens,
        "outputTokens": session.output_tokens,
        "totalTokens": _context(session),
        "totalTokensFresh": True,
        "compactionCount": session.compactions,
        "modelProvider": model.provider,
        "model": model.id,
        "contextTokens": model.context_window or DEFAULT_CONTEXT_TOKENS,
    }
    if session.label is not None:
        row["label"] = row["displayName"] = session.label
    if session.last_channel is not None:
        row["lastChannel"] = session.last_channel
    if session.parent_key is not None:
        row["parentSessionKey"] = session.parent_key
    if titles and session.first_message_preview:
        row["derivedTitle"] = session.first_message_preview
    if last_message and session.last_message_preview:
        row["lastMessagePreview"] = session.last_message_preview
    return row


def session_entry(session: Session) -> dict[str, Any]:
    """Return the stored entry as patch, reset and create answer it."""
    entry: dict[str, Any] = {
        **_shown(session.settings),
        "sessionId": session.session_id,
        "updatedAt": session.updated_at_ms,
        "createdAt": session.created_at_ms,
        "createdVia": session.created_via,
        "lifecycleRevision": session.lifecycle_revision,
        "systemSent": session.system_sent,
        "abortedLastRun": session.aborted_last_run,
        "inputTokens": session.input_tokens,
        "outputTokens": session.output_tokens,
        "totalTokens": _context(session),
        "totalTokensFresh": True,
        "compactionCount": session.compactions,
    }
    if session.label is not None:
        entry["label"] = session.label
    if session.parent_key is not None:
        entry["parentSessionKey"] = session.parent_key
    return entry


def _context(session: Session) -> int:
    """Return what clients show as the session's tokens: those in the agent's context, where that is known."""
    told = session.context_tokens
    return session.total_tokens if told is None else told


def _shown(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings by their names in an entry, where ``provider/model`` are two keys."""
    shown = dict(settings)
    asked = shown.pop("model", None)
    if asked is not None:
        provider, slash, name = asked.partition("/")
        shown |= {"providerOverride": provider, "modelOverride": name} if slash else {}
        shown.setdefault("modelOverride", asked)
    return shown
