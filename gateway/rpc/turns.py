"""``chat.send``, ``chat.abort``, ``agent`` and ``agent.wait``: runs as clients start and end them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from gateway.app.context import Context
from gateway.app.runs import Started, Turn
from gateway.core.access import ADMIN, WRITE
from gateway.core.params import SINCE_4, UNTIL_3, Natural, NonEmpty, Params, given, v3_max_length
from gateway.core.projection import usage_payload
from gateway.core.run import RunOutcome
from gateway.core.stopwords import is_stop_command, parse_command
from gateway.core.transcript import user_content
from gateway.errors import InvalidRequest, MissingScope, Unavailable
from gateway.model import Attachment, Message, RunRequest, RunState
from gateway.rpc.common import agent_for, attachments, clean_text, fingerprint, session_key
from gateway.rpc.table import MethodTable, TwoPhase

methods = MethodTable()

DEFAULT_WAIT_S = 30.0
MAX_WAIT_S = 24 * 3600.0
TOOL_EVENTS = "tool-events"

Ignored = Annotated[Any | UnsetType, SINCE_4]
"""A field of version 4 that is accepted and has no effect here."""


class ChatSendParams(Params, frozen=True):
    """A message to a session."""

    session_key: Annotated[NonEmpty, msgspec.Meta(max_length=512)]
    message: str
    idempotency_key: NonEmpty
    thinking: str | UnsetType = UNSET
    deliver: bool | UnsetType = UNSET
    attachments: list[Any] | UnsetType = UNSET
    timeout_ms: Natural | UnsetType = UNSET
    agent_id: Annotated[NonEmpty | UnsetType, SINCE_4] = UNSET
    session_id: Annotated[NonEmpty | UnsetType, SINCE_4] = UNSET
    queue_mode: Annotated[
        Literal["steer", "followup", "collect", "interrupt"] | UnsetType, SINCE_4
    ] = UNSET
    suppress_command_interpretation: Annotated[bool | UnsetType, SINCE_4] = UNSET
    expected_leaf_entry_id: Annotated[NonEmpty | UnsetType | None, SINCE_4] = UNSET
    expected_permission_mode: Ignored = UNSET
    expected_session_routing_contract: Annotated[NonEmpty | UnsetType, SINCE_4] = UNSET
    expected_tool_overrides: Ignored = UNSET
    fast_auto_on_seconds: Ignored = UNSET
    fast_mode: Ignored = UNSET
    intent: Ignored = UNSET
    mentions: Annotated[list[Any] | UnsetType, SINCE_4] = UNSET
    originating_account_id: Annotated[str | UnsetType, SINCE_4] = UNSET
    originating_channel: Annotated[str | UnsetType, SINCE_4] = UNSET
    originating_thread_id: Annotated[str | UnsetType, SINCE_4] = UNSET
    originating_to: Annotated[str | UnsetType, SINCE_4] = UNSET
    reply_to_id: Annotated[NonEmpty | UnsetType, SINCE_4] = UNSET
    system_input_provenance: Ignored = UNSET
    system_provenance_receipt: Annotated[str | UnsetType, SINCE_4] = UNSET
    tool_bindings: Annotated[dict[str, Any] | UnsetType, SINCE_4] = UNSET
    work_context: Annotated[dict[str, Any] | UnsetType, SINCE_4] = UNSET


class ChatAbortParams(Params, frozen=True):
    """Which run, or which session's runs, to end."""

    session_key: NonEmpty
    run_id: NonEmpty | UnsetType = UNSET
    agent_id: Annotated[NonEmpty | UnsetType, SINCE_4] = UNSET
    preserve_side_runs: Annotated[bool | UnsetType, SINCE_4] = UNSET


class Provenance(Params, frozen=True):
    """Where an input came from."""

    kind: Literal["external_user", "inter_session", "internal_system"]
    source_channel: str | UnsetType = UNSET
    source_session_key: str | UnsetType = UNSET
    source_tool: str | UnsetType = UNSET
    job_id: Annotated[str | UnsetType, SINCE_4] = UNSET
    origin_session_id: Annotated[str | UnsetType, SINCE_4] = UNSET
    run_id: Annotated[str | UnsetType, SINCE_4] = UNSET
    source_prompt_prefix: Annotated[str | UnsetType, SINCE_4] = UNSET
    source_role: Annotated[Literal["subagent"] | UnsetType, SINCE_4] = UNSET


class AgentParams(Params, frozen=True):
    """One turn of an agent; the delivery fields are kept for channels."""

    message: NonEmpty
    idempotency_key: NonEmpty
    agent_id: NonEmpty | UnsetType = UNSET
    session_key: str | UnsetType = UNSET
    session_id: str | UnsetType = UNSET
    to: str | UnsetType = UNSET
    reply_to: str | UnsetType = UNSET
    channel: str | UnsetType = UNSET
    reply_channel: str | UnsetType = UNSET
    account_id: str | UnsetType = UNSET
    reply_account_id: str | UnsetType = UNSET
    thread_id: str | UnsetType = UNSET
    group_id: str | UnsetType = UNSET
    group_channel: str | UnsetType = UNSET
    group_space: str | UnsetType = UNSET
    thinking: str | UnsetType = UNSET
    deliver: bool | UnsetType = UNSET
    best_effort_deliver: bool | UnsetType = UNSET
    attachments: list[Any] | UnsetType = UNSET
    timeout: Natural | UnsetType = UNSET
    lane: str | UnsetType = UNSET
    extra_system_prompt: str | UnsetType = UNSET
    input_provenance: Provenance | UnsetType = UNSET
    label: (
        Annotated[str, msgspec.Meta(min_length=1, max_length=512), v3_max_length(64)] | UnsetType
    ) = UNSET
    spawned_by: Annotated[str | UnsetType, UNTIL_3] = UNSET
    acp_turn_source: Ignored = UNSET
    bootstrap_context_mode: Ignored = UNSET
    bootstrap_context_run_kind: Ignored = UNSET
    cleanup_bundle_mcp_on_run_end: Ignored = UNSET
    cwd: Annotated[NonEmpty | UnsetType, SINCE_4] = UNSET
    disable_message_tool: Ignored = UNSET
    exec_approval_followup_expected_session_id: Ignored = UNSET
    expected_existing_session_id: Annotated[NonEmpty | UnsetType, SINCE_4] = UNSET
    force_code_mode_tools: Ignored = UNSET
    force_restart_safe_tools: Ignored = UNSET
    internal_events: Ignored = UNSET
    internal_execution_identity_recovery_attempt: Ignored = UNSET
    internal_execution_identity_retry: Ignored = UNSET
    internal_runtime_handoff_id: Ignored = UNSET
    model: Annotated[str | UnsetType, SINCE_4] = UNSET
    model_run: Ignored = UNSET
    prompt_mode: Ignored = UNSET
    provider: Annotated[str | UnsetType, SINCE_4] = UNSET
    session_effects: Ignored = UNSET
    source_reply_delivery_mode: Ignored = UNSET
    suppress_prompt_persistence: Annotated[bool | UnsetType, SINCE_4] = UNSET
    swarm_collector: Ignored = UNSET
    swarm_output_schema: Ignored = UNSET
    voice_wake_trigger: Annotated[str | UnsetType, SINCE_4] = UNSET


class AgentWaitParams(Params, frozen=True):
    """Which run to wait for, and how long (default 30 s)."""

    run_id: NonEmpty
    timeout_ms: Natural | UnsetType = UNSET


@methods.method("chat.send", scope=WRITE)
async def chat_send(context: Context, params: ChatSendParams) -> dict[str, Any]:
    """Send a message to a session and start a run; the answer streams as events."""
    key = session_key(context, params.session_key, params.agent_id)
    agent = agent_for(context, key)
    text = clean_text(params.message)
    if not given(params.suppress_command_interpretation, False):
        if is_stop_command(text):
            return _aborted(context.services.runs.abort_session(key, "stop"))
        text = await _restart(context, key, text, params.message)
    files = attachments(given(params.attachments, []), context.services.limits.attachment_bytes)
    if not text.strip() and not files:
        raise InvalidRequest("message or attachment required")
    await _check_send_policy(context, key)
    timeout = given(params.timeout_ms, None)
    started = await context.services.runs.start(
        _turn(
            context,
            params.idempotency_key,
            key,
            agent.agent_id,
            text,
            files,
            origin="chat",
            thinking=given(params.thinking, None),
            timeout_s=None if timeout is None else timeout / 1000,
        )
    )
    return _chat_answer(context, started)


async def _restart(context: Context, key: str, text: str, original: str) -> str:
    """Do what ``/new`` and ``/reset`` at the start of a message ask; return what is left to say."""
    command = parse_command(text)
    if command is None or command.name == "stop":
        return text
    if ADMIN not in context.caller.scopes:
        raise MissingScope(ADMIN, (ADMIN,))
    services = context.services
    services.runs.abort_session(key, "reset")
    await services.sessions.reset(key, reason=command.name, keep_id=context.caller.protocol >= 4)
    return command.rest or "A new session was started. Greet the user briefly."


def _chat_answer(context: Context, started: Started) -> dict[str, Any]:
    """Return what ``chat.send`` answers: started, in_flight, or how the same request ended before."""
    if started.fresh:
        answer: dict[str, Any] = {"runId": started.run_id, "status": "started"}
        if started.message_seq is not None and context.caller.protocol >= 4:
            answer["messageSeq"] = started.message_seq
        return answer
    outcome = started.outcome
    if outcome is None:
        return {"runId": started.run_id, "status": "in_flight"}
    if outcome.state is RunState.FAILED:
        raise _failed(outcome)
    if outcome.state is RunState.ABORTED and context.caller.protocol >= 4:
        return {
            "runId": started.run_id,
            "status": "timeout",
            "summary": "aborted",
            "stopReason": outcome.stop_reason or "aborted",
            "endedAt": outcome.ended_at_ms,
        }
    return {"runId": started.run_id, "status": "ok"}


@methods.method("chat.abort", scope=WRITE)
def chat_abort(context: Context, params: ChatAbortParams) -> dict[str, Any]:
    """End one run of a session, or all of them."""
    runs = context.services.runs
    key = session_key(context, params.session_key, params.agent_id)
    if params.run_id is UNSET:
        return _aborted(runs.abort_session(key, "rpc"))
    run_id = str(params.run_id)
    run = runs.get(run_id)
    if run is None:
        return _aborted([])
    if run.session_key != key:
        raise InvalidRequest("runId does not match sessionKey")
    return _aborted([run_id] if runs.abort(run_id, "rpc") else [])


@methods.method("agent", scope=WRITE, waits=True)
async def agent(context: Context, params: AgentParams) -> TwoPhase | dict[str, Any]:
    """Start a run; answered when it is accepted, and again when it has ended."""
    services = context.services
    key, text = _agent_target(context, params)
    command = parse_command(text)
    if command is not None and command.name != "stop":
        text = await _restart(context, key, text, params.message)
    files = attachments(given(params.attachments, []), services.limits.attachment_bytes)
    await _check_send_policy(context, key)
    timeout = given(params.timeout, None)
    agent_id = agent_for(context, key).agent_id
    started = await services.runs.start(
        _turn(
            context,
            params.idempotency_key,
            key,
            agent_id,
            text,
            files,
            origin="agent",
            thinking=given(params.thinking, None),
            timeout_s=None if timeout is None else float(timeout),
            extra_system_prompt=given(params.extra_system_prompt, None),
        )
    )
    if started.outcome is not None:
        return await _final(context, started.outcome)
    accepted: dict[str, Any] = {
        "runId": started.run_id,
        "status": "accepted",
        "acceptedAt": started.accepted_at_ms,
    }
    if context.caller.protocol >= 4:
        accepted |= {"sessionKey": key, "agentId": agent_id}
    return TwoPhase(accepted, _ended(context, started.run_id))


def _agent_target(context: Context, params: AgentParams) -> tuple[str, str]:
    """Return the session's canonical key and the text. Raises InvalidRequest."""
    services = context.services
    for name in ("channel", "reply_channel"):
        channel = given(getattr(params, name), "")
        if channel and channel.strip().lower() not in ("webchat", "last"):
            raise InvalidRequest(f"invalid agent params: unknown channel: {channel[:64]}")
    agent_id = given(params.agent_id, None)
    if agent_id is not None and services.agents.get(agent_id.strip().lower()) is None:
        raise InvalidRequest(f'invalid agent params: unknown agent id "{agent_id[:64]}"')
    default = services.agents.keys.main_session(agent_id.strip().lower() if agent_id else None)
    key = session_key(context, given(params.session_key, "").strip() or default)
    owner = agent_for(context, key).agent_id
    if agent_id is not None and owner != agent_id.strip().lower():
        raise InvalidRequest(
            f'invalid agent params: agent "{agent_id[:64]}" does not match session key agent "{owner}"'
        )
    text = clean_text(params.message)
    if not text.strip():
        raise InvalidRequest("invalid agent params: message must not be blank")
    return key, text


async def _ended(context: Context, run_id: str) -> dict[str, Any]:
    outcome = await context.services.runs.wait(run_id, MAX_WAIT_S)
    if outcome is None:
        raise Unavailable("the run did not end in time", retryable=True)
    return await _final(context, outcome)


async def _final(context: Context, outcome: RunOutcome) -> dict[str, Any]:
    """Return the second response of ``agent``. Raises Unavailable where the run failed."""
    if outcome.state is RunState.FAILED:
        raise _failed(outcome)
    text = await context.services.sessions.answer_text(outcome.session_id, outcome.run_id)
    meta: dict[str, Any] = {
        "durationMs": outcome.ended_at_ms - (outcome.started_at_ms or outcome.ended_at_ms),
        "aborted": outcome.state is RunState.ABORTED,
        "agentMeta": {"sessionId": outcome.session_id},
    }
    if outcome.provider is not None:
        meta["agentMeta"] |= {"provider": outcome.provider, "model": outcome.model}
    if outcome.usage is not None:
        usage = outcome.usage
        meta["agentMeta"]["usage"] = usage_payload(usage.input_tokens, usage.output_tokens)
    payloads = [{"text": text, "mediaUrl": None}] if text else []
    return {
        "runId": outcome.run_id,
        "status": "ok",
        "summary": "aborted" if outcome.state is RunState.ABORTED else "completed",
        "result": {"payloads": payloads, "meta": meta},
    }


@methods.method("agent.wait", scope=WRITE, waits=True)
async def agent_wait(context: Context, params: AgentWaitParams) -> dict[str, Any]:
    """Wait until a run has ended, at most ``timeoutMs``."""
    timeout_ms = given(params.timeout_ms, None)
    timeout_s = DEFAULT_WAIT_S if timeout_ms is None else min(timeout_ms / 1000, MAX_WAIT_S)
    outcome = await context.services.runs.wait(params.run_id, timeout_s)
    if outcome is None:
        return {"runId": params.run_id, "status": "timeout"}
    statuses = {RunState.DONE: "ok", RunState.FAILED: "error", RunState.ABORTED: "timeout"}
    answer: dict[str, Any] = {
        "runId": params.run_id,
        "status": statuses[outcome.state],
        "endedAt": outcome.ended_at_ms,
    }
    if outcome.started_at_ms is not None:
        answer["startedAt"] = outcome.started_at_ms
    if outcome.error is not None:
        answer["error"] = outcome.error
    if outcome.stop_reason is not None and context.caller.protocol >= 4:
        answer["stopReason"] = outcome.stop_reason
    return answer


def _turn(
    context: Context,
    run_id: str,
    key: str,
    agent_id: str,
    text: str,
    files: tuple[Attachment, ...],
    *,
    origin: str,
    thinking: str | None,
    timeout_s: float | None,
    extra_system_prompt: str | None = None,
) -> Turn:
    caller, services = context.caller, context.services
    limit = services.limits.run_timeout_max_s
    return Turn(
        request=RunRequest(
            run_id=run_id,
            session_key=key,
            session_id="",
            agent_id=agent_id,
            text=text,
            attachments=files,
            thinking=thinking,
            extra_system_prompt=extra_system_prompt,
            timeout_s=None if timeout_s is None else min(timeout_s, limit) or limit,
        ),
        message=Message(
            message_id=services.entropy.uuid4(),
            role="user",
            content=user_content(text, files),
            timestamp_ms=services.clock.now_ms(),
            run_id=run_id,
        ),
        fingerprint=fingerprint(key, text, [(f.mime_type, f.file_name, f.data) for f in files]),
        origin=origin,
        actor=caller.principal.actor,
        conn_id=caller.conn_id,
        wants_tools=TOOL_EVENTS in caller.caps,
    )


async def _check_send_policy(context: Context, key: str) -> None:
    session = await context.services.sessions.get(key)
    if session is not None and session.settings.get("sendPolicy") == "deny":
        raise InvalidRequest("send blocked by session policy")


def _aborted(run_ids: list[str]) -> dict[str, Any]:
    return {"ok": True, "aborted": bool(run_ids), "runIds": run_ids}


def _failed(outcome: RunOutcome) -> Unavailable:
    summary = outcome.error or "failed"
    error = Unavailable(summary)
    error.payload = {"runId": outcome.run_id, "status": "error", "summary": summary}
    return error
