"""What an agent is asked, and what it answers."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from gateway.model.base import Struct


class Attachment(Struct, frozen=True, kw_only=True):
    """A file sent along with a message, decoded and checked."""

    mime_type: str
    data: bytes
    file_name: str | None = None
    kind: str = "file"


class QueueMode(StrEnum):
    """What becomes of a message that comes while a run of its session goes on."""

    FOLLOWUP = "followup"
    """It is a turn of its own, when its time comes."""
    COLLECT = "collect"
    """It is answered in one turn with the others of this mode that wait beside it."""
    STEER = "steer"
    """It is given to the run that goes on, if that takes it; else it is a turn of its own."""
    INTERRUPT = "interrupt"
    """The run that goes on is aborted, and this is the next."""


class ReplyAddress(Struct, frozen=True, kw_only=True):
    """Where the answer to a message belongs: fixed when its run is created, and never looked up later."""

    channel: str | None = None
    to: str | None = None
    account_id: str | None = None
    thread_id: str | None = None


class InputProvenance(Struct, frozen=True, kw_only=True):
    """Where the text of a message comes from, if not from the user whose session it is."""

    kind: str
    """external_user, inter_session or internal_system."""
    source_session_key: str | None = None
    source_channel: str | None = None
    source_tool: str | None = None
    source_role: str | None = None
    source_prompt_prefix: str | None = None
    origin_session_id: str | None = None
    run_id: str | None = None
    job_id: str | None = None


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
    model: str | None = None
    """The model that the session asks for instead of the agent's own, as ``PROVIDER/ID``."""
    agent_session: str | None = None
    """What the backend last bound to this session (see :meth:`gateway.interfaces.IRunSink.bind`)."""
    queue_mode: QueueMode = QueueMode.FOLLOWUP
    collected: tuple[str, ...] = ()
    """The other runs whose messages are answered by this one; their texts are in ``text``."""
    reply: ReplyAddress | None = None
    provenance: InputProvenance | None = None
    """Set where the text is not simply the user's; ``text`` then says so to the agent."""
    receipt: str | None = None
    """What a bridge says of the message to the agent, before the text; it is not in the transcript."""


class ApprovalRequest(Struct, frozen=True, kw_only=True):
    """What an agent asks an operator for before it does it."""

    command: str
    """What it wants to do, in one line: the command line where it is one."""
    tool_call_id: str | None = None
    argv: tuple[str, ...] = ()
    cwd: str | None = None
    always: bool = True
    """Whether ``allow-always`` can be answered; otherwise only allow-once and deny."""
    certain: bool = False
    """Whether ``command`` is a command line, or ``argv`` are words, and nothing else is run: only then the
    policy of exec approvals can allow it unasked."""
    timeout_s: float | None = None
    """How long an answer may take, in seconds; without it as long as the gateway waits for one."""


class Decision(StrEnum):
    """What an operator answers to an :class:`ApprovalRequest`."""

    ALLOW_ONCE = "allow-once"
    ALLOW_ALWAYS = "allow-always"
    DENY = "deny"


class Compaction(Struct, frozen=True, kw_only=True):
    """How the older turns of a conversation were put into a summary."""

    summary: str
    kept_messages: int
    """The newest messages of the transcript, before the run's own, that the agent still has as they are."""
    tokens_before: int | None = None
    tokens_after: int | None = None


class ModelUsage(Struct, frozen=True, kw_only=True):
    """What one model used of a run."""

    provider: str
    model: str
    input_tokens: int = 0
    """Tokens read, those from the provider's cache included."""
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: float | None = None
    """None where the price of the model is not known."""


class Usage(Struct, frozen=True, kw_only=True):
    """Tokens that a run used, over all its models."""

    input_tokens: int = 0
    output_tokens: int = 0
    context_tokens: int | None = None
    """Tokens in the agent's context at the end of the run, where it says so."""
    by_model: tuple[ModelUsage, ...] = ()
    """The same by model, where the agent says so."""


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
    """Tokens that fit into it, where that is known."""
    reasoning: bool | None = None
    """Whether it can think before it answers, where that is known."""
    input: tuple[str, ...] = ()
    """What it takes: of ``text``, ``image``, ``audio``, ``video``, ``document``; empty if not known."""
    thinking_levels: tuple[str, ...] = ()
    """The levels of thinking it knows, the lowest first."""
    thinking_default: str | None = None
    available: bool | None = None
    """Whether its provider has it now; None if nobody has asked."""


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
