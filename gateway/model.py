"""The records of the domain: frozen structs that are stored, sent or handed between layers.

Times ending in ``_ms`` are integers of milliseconds since the epoch.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

Json = Any
"""A decoded JSON value."""


class Struct(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base of every record: immutable, camelCase on the wire, defaults left out."""


class Role(StrEnum):
    """The role of a connection."""

    OPERATOR = "operator"
    NODE = "node"


class ClientInfo(Struct, frozen=True, kw_only=True):
    """What a client says of itself in ``connect`` (never a source of rights)."""

    id: str
    version: str
    platform: str
    mode: str
    display_name: str | None = None
    device_family: str | None = None
    model_identifier: str | None = None
    instance_id: str | None = None


class Principal(Struct, frozen=True, kw_only=True):
    """Who a connection acts for, and with which rights: the server's grant, never the client's claim."""

    role: Role
    scopes: tuple[str, ...]
    auth_method: str
    """none, token, password or device-token."""
    device_id: str | None = None

    @property
    def actor(self) -> str:
        """A stable name for who acts: the device, or the shared credential."""
        return self.device_id or f"shared:{self.auth_method}"


class Position(Struct, frozen=True, kw_only=True):
    """A place in the log of a run. Another epoch means another log."""

    epoch: str
    seq: int


class RunState(StrEnum):
    """The states of a run; the last three are terminal."""

    ACCEPTED = "accepted"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    ABORTED = "aborted"

    @property
    def terminal(self) -> bool:
        """Whether no further event can follow."""
        return self not in (RunState.ACCEPTED, RunState.RUNNING)


class RunRecord(Struct, frozen=True, kw_only=True):
    """A run as the store keeps it."""

    run_id: str
    epoch: str
    session_key: str
    session_id: str
    agent_id: str
    origin: str
    """What started it: chat, agent or voice."""
    actor: str
    fingerprint: str
    """Digest of the request's content, for idempotency."""
    state: RunState
    accepted_at_ms: int
    started_at_ms: int | None = None
    ended_at_ms: int | None = None
    stop_reason: str | None = None
    error: str | None = None
    last_seq: int = 0
    evicted_through: int = 0
    """Events of its log up to this ``seq`` were removed by the retention policy; the store sets it."""
    request_json: bytes | None = None
    """What :func:`encode_request` made of its request, until it has ended: enough to run it again."""


class RunEvent(Struct, frozen=True, kw_only=True):
    """One event of a run's log: ``data`` is JSON text."""

    run_id: str
    epoch: str
    seq: int
    stream: str
    data: bytes
    ts_ms: int


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


class TurnEnd(Struct, frozen=True, kw_only=True):
    """What the store writes, in one transaction, when a run ends."""

    run: RunRecord
    """In its terminal state."""
    messages: tuple[Message, ...] = ()
    events: tuple[RunEvent, ...] = ()
    input_tokens: int = 0
    output_tokens: int = 0
    system_sent: bool = True
    moved_from: str | None = None
    """An epoch whose events become part of the log under the run's epoch, before the ones here: the log of
    a process that died may have been shown further than it was stored, so it goes on as another log."""


class Device(Struct, frozen=True, kw_only=True):
    """A paired device."""

    device_id: str
    public_key: str
    """Raw Ed25519 key, base64url without padding."""
    roles: tuple[str, ...]
    scopes: tuple[str, ...]
    """Approved operator scopes."""
    created_at_ms: int
    approved_at_ms: int
    approved_via: str
    """silent or owner."""
    display_name: str | None = None
    platform: str | None = None
    device_family: str | None = None
    client_id: str | None = None
    client_mode: str | None = None
    last_seen_at_ms: int | None = None
    version: int = 0


class DeviceToken(Struct, frozen=True, kw_only=True):
    """A token of a device for one role; only its SHA-256 digest (hex) is kept."""

    digest: str
    device_id: str
    role: str
    scopes: tuple[str, ...]
    issued_at_ms: int
    last_used_at_ms: int | None = None


class Attachment(Struct, frozen=True, kw_only=True):
    """A file sent along with a message, decoded and checked."""

    mime_type: str
    data: bytes
    file_name: str | None = None
    kind: str = "file"


class RunRequest(Struct, frozen=True, kw_only=True):
    """What an agent backend is asked to do."""

    run_id: str
    session_key: str
    session_id: str
    agent_id: str
    text: str
    attachments: tuple[Attachment, ...] = ()
    thinking: str | None = None
    extra_system_prompt: str | None = None
    timeout_s: float | None = None


class Usage(Struct, frozen=True, kw_only=True):
    """Tokens that a run used."""

    input_tokens: int = 0
    output_tokens: int = 0


class RunResult(Struct, frozen=True, kw_only=True):
    """What an agent backend answers when a run went well. The visible text is what the sink was given."""

    stop_reason: str = "stop"
    usage: Usage | None = None
    provider: str | None = None
    model: str | None = None


class ModelInfo(Struct, frozen=True, kw_only=True):
    """A model that an agent answers with, as ``models.list`` shows it."""

    id: str
    name: str
    provider: str
    context_window: int | None = None


REQUEST_MAX_BYTES = 8 * 1024 * 1024
"""The largest encoded request that is kept with its run."""


def encode_request(request: RunRequest) -> bytes | None:
    """Return a request as JSON text, attachments included, or None if it is too large to be kept.

    None as well where a text has no JSON form (half of a surrogate pair): such a run is not run again.
    """
    size = sum(len(attachment.data) for attachment in request.attachments)
    if size > REQUEST_MAX_BYTES:
        return None
    try:
        encoded = msgspec.json.encode(request)
    except UnicodeEncodeError:
        return None
    return encoded if len(encoded) <= REQUEST_MAX_BYTES else None


def decode_request(data: bytes) -> RunRequest:
    """Return what :func:`encode_request` was given. Raises msgspec.DecodeError."""
    return msgspec.json.decode(data, type=RunRequest)


class RunQuery(Struct, frozen=True, kw_only=True):
    """Which runs to list: what was accepted last comes first."""

    limit: int
    session_key: str | None = None
    states: tuple[RunState, ...] = ()
    """Runs in one of these; without any, runs in every state."""


class EventSpan(NamedTuple):
    """What is stored of a run's log: the events ``first_seq`` to ``last_seq``, none if that is less.

    What is before ``first_seq`` was evicted; ``last_seq`` is also where an empty log ends.
    """

    epoch: str
    first_seq: int
    last_seq: int


class Retention(Struct, frozen=True, kw_only=True):
    """Which ended runs are kept. Runs that are open stay whatever it says; None sets no limit."""

    ended_before_ms: int | None = None
    """Runs that ended before this time are forgotten."""
    runs_per_session: int | None = None
    """Of each session so many of the runs accepted last stay, the others are forgotten."""
    log_bytes: int | None = None
    """What the logs of ended runs may take of the disk; the oldest events go, their runs stay known."""


class RetentionPass(Struct, frozen=True, kw_only=True):
    """What one pass of a retention policy removed, and whether it found all that there is."""

    runs: int
    events: int
    more: bool
