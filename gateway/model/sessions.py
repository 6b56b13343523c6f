"""Sessions and the messages of their transcripts."""

from __future__ import annotations

from gateway.model.base import Json, Struct


class Message(Struct, frozen=True, kw_only=True):
    """One message of a session's transcript. ``seq`` is given by the store: 1, 2, 3 ... per session id."""

    message_id: str
    role: str
    """user, assistant, toolResult or system."""
    content: Json
    """A list of content blocks such as ``{"type": "text", "text": ...}``."""
    timestamp_ms: int
    seq: int = 0
    run_id: str | None = None
    stop_reason: str | None = None
    meta: dict[str, Json] = {}
    """Further keys of the message on the wire: model, provider, usage, abort origin ..."""


class Session(Struct, frozen=True, kw_only=True):
    """One session: a conversation under a canonical key."""

    key: str
    session_id: str
    agent_id: str
    created_at_ms: int
    updated_at_ms: int
    version: int = 0
    """Rises by one with every write; compare-and-set works on it."""
    lifecycle_revision: str = ""
    label: str | None = None
    settings: dict[str, Json] = {}
    """thinkingLevel, verboseLevel, sendPolicy ... by their wire names."""
    system_sent: bool = False
    aborted_last_run: bool = False
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    context_tokens: int | None = None
    """Tokens in the agent's context when its last run ended, where it said so."""
    compactions: int = 0
    """How often its conversation was shortened."""
    agent_session: str | None = None
    """The backend's own name of the conversation; of the gateway alone, it never goes out."""
    parent_key: str | None = None
    last_channel: str | None = None
    created_via: str = "operator"
    last_message_preview: str | None = None
    first_message_preview: str | None = None
    """Text of the first user message, at most 120 characters: the derived title."""


class SessionQuery(Struct, frozen=True, kw_only=True):
    """Which sessions to list. Sorted by last update, newest first."""

    limit: int
    offset: int = 0
    agent_id: str | None = None
    label: str | None = None
    search: str | None = None
    """Case-insensitive part of key, label or first message."""
    updated_since_ms: int | None = None
    parent_key: str | None = None
    include_global: bool = True
    include_unknown: bool = True


class SessionPage(Struct, frozen=True, kw_only=True):
    """One page of sessions and how many match in all."""

    sessions: tuple[Session, ...]
    total: int
