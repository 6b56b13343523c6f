"""``chat.send``, ``chat.abort``, ``agent`` and ``agent.wait``: runs as clients start and end them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import UNSET

from gateway.app.agents import Agent
from gateway.app.context import Context
from gateway.app.turn import Started, Turn
from gateway.core.access import ADMIN, WRITE
from gateway.core.params import given
from gateway.core.projection import usage_payload
from gateway.core.run import Run, RunOutcome
from gateway.core.stopwords import is_stop_command, parse_command
from gateway.core.transcript import user_content
from gateway.errors import InvalidRequest, MissingScope, Unavailable
from gateway.model import Attachment, Message, RunRequest, RunState
from gateway.rpc.common import (
    agent_for,
    attachments,
    check_run_id,
    clean_text,
    fingerprint,
    session_key,
)
from gateway.rpc.table import MethodTable, TwoPhase
from gateway.rpc.turn_params import AgentParams, AgentWaitParams, ChatAbortParams, ChatSendParams

methods = MethodTable()

DEFAULT_WAIT_S = 30.0
MAX_WAIT_S = 24 * 3600.0
MAX_SESSION_ID_CHARS = 128
TOOL_EVENTS = "tool-events"

GREETING = "A new session was started. Greet the user briefly."
"""What the agent is told where ``/new`` or ``/reset`` came without a message."""


@methods.method("chat.send", scope=WRITE)
async def chat_send(context: Context, params: ChatSendParams) -> dict[str, Any]:
    """Send a message to a session and start a run; the answer streams as events."""
    key = session_key(context, params.session_key, params.agent_id)
    agent = agent_for(context, key)
    text = clean_text(params.message)
    commands = not given(params.suppress_command_interpretation, False)
    if commands and is_stop_command(text):
        return _aborted(context.services.runs.stop_session(key, "stop"))
    files = attachments(given(params.attachments, []), context.services.limits.attachment_bytes)
    if not text.strip() and not files:
        raise InvalidRequest("message or attachment required")
    run_id = check_run_id(params.idempotency_key)
    with context.services.runs.coming.expected(run_id, key):
        await _check_send_policy(context, key)
        prepare = None
        if commands:
            text, prepare = _commanded(context, key, text)
        request = RunRequest(
            run_id=run_id,
            session_key=key,
            session_id="",
            agent_id=agent.agent_id,
            text=text,
            attachments=files,
            thinking=given(params.thinking, None),
            timeout_s=_timeout(context, given(params.timeout_ms, None), 1000),
        )
        started = await context.services.runs.start(_turn(context, request, "chat", prepare))
    return _chat_answer(context, started)


def _commanded(
    context: Context, key: str, text: str
) -> tuple[str, Callable[[], Awaitable[None]] | None]:
    """Read ``/new`` and ``/reset`` at the start of a message; return what is left to say, and what to do.

    Raises MissingScope: beginning a session anew is for admins.
    """
    command = parse_command(text)
    if command is None or command.name == "stop":
        return text, None
    if ADMIN not in context.caller.scopes:
        raise MissingScope(ADMIN, (ADMIN,))
    services, keep_id = context.services, context.caller.protocol >= 4

    async def restart() -> None:
        services.runs.abort_session(key, "reset")
        await services.sessions.reset(key, reason=command.name, keep_id=keep_id)

    return command.rest or GREETING, restart


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
        return _aborted(runs.stop_session(key, "rpc"))
    run_id = str(params.run_id)
    owner = runs.session_of(run_id)
    if owner is None:
        return _aborted([])
    if owner != key:
        raise InvalidRequest("runId does not match sessionKey")
    return _aborted([run_id] if runs.abort(run_id, "rpc") else [])


@methods.method("agent", scope=WRITE, waits=True)
async def agent(context: Context, params: AgentParams) -> TwoPhase | dict[str, Any]:
    """Start a run; answered when it is accepted, and again when it has ended."""
    services = context.services
    key, target, session_id = await _agent_target(context, params)
    text = clean_text(params.message)
    if not text.strip():
        raise InvalidRequest("invalid agent params: message must not be blank")
    files = attachments(given(params.attachments, []), services.limits.attachment_bytes)
    run_id = check_run_id(params.idempotency_key)
    with services.runs.coming.expected(run_id, key):
        await _check_send_policy(context, key)
        text, prepare = _commanded(context, key, text)
        request = RunRequest(
            run_id=run_id,
            session_key=key,
            session_id=session_id,
            agent_id=target.agent_id,
            text=text,
            attachments=files,
            thinking=given(params.thinking, None),
            extra_system_prompt=given(params.extra_system_prompt, None),
            timeout_s=_timeout(context, given(params.timeout, None), 1),
        )
        started = await services.runs.start(_turn(context, request, "agent", prepare))
    if started.outcome is not None:
        return await _final(context, started.outcome)
    accepted: dict[str, Any] = {
        "runId": started.run_id,
        "status": "accepted",
        "acceptedAt": started.accepted_at_ms,
    }
    if context.caller.protocol >= 4:
        accepted |= {"sessionKey": key, "agentId": target.agent_id}
    return TwoPhase(accepted, _ended(context, started.run_id, services.runs.get(started.run_id)))


async def _agent_target(context: Context, params: AgentParams) -> tuple[str, Agent, str]:
    """Return the canonical key of the session, named by key or id, its agent, and the id if it is new.

    Raises InvalidRequest.
    """
    services = context.services
    for name in ("channel", "reply_channel"):
        channel = given(getattr(params, name), "")
        if channel and channel.strip().lower() not in ("webchat", "last"):
            raise InvalidRequest(f"invalid agent params: unknown channel: {channel[:64]}")
    named = given(params.agent_id, None)
    agent_id = None if named is None else named.strip().lower()
    if agent_id is not None and services.agents.get(agent_id) is None:
        raise InvalidRequest(f'invalid agent params: unknown agent id "{agent_id[:64]}"')
    wanted = given(params.session_key, "").strip()
    session_id = "" if wanted else given(params.session_id, "").strip()
    if len(session_id) > MAX_SESSION_ID_CHARS:
        raise InvalidRequest("invalid agent params: at /sessionId: too long")
    if session_id:
        session = await services.store.get_session_by_id(session_id)
        named_agent = agent_id or services.agents.default_id
        wanted = f"agent:{named_agent}:explicit:{session_id}" if session is None else session.key
    key = session_key(context, wanted or services.agents.keys.main_session(agent_id))
    owner = agent_for(context, key)
    if agent_id not in (None, owner.agent_id):
        raise InvalidRequest(
            f'invalid agent params: agent "{agent_id}" does not match session key agent '
            f'"{owner.agent_id}"'
        )
    return key, owner, session_id


async def _ended(context: Context, run_id: str, run: Run | None) -> dict[str, Any]:
    outcome = await context.services.runs.wait(run_id, MAX_WAIT_S)
    if outcome is None:
        raise Unavailable("the run did not end in time", retryable=True)
    return await _final(context, outcome, run)


async def _final(context: Context, outcome: RunOutcome, run: Run | None = None) -> dict[str, Any]:
    """Return the second response of ``agent``. Raises Unavailable where the run failed.

    The text is that of ``run``, else the one in the transcript.
    """
    if outcome.state is RunState.FAILED:
        raise _failed(outcome)
    if run is not None:
        text = run.text
    else:
        sessions = context.services.sessions
        text = await sessions.answer_text(outcome.session_id, outcome.run_id)
    meta: dict[str, Any] = {
        "durationMs": max(0, outcome.ended_at_ms - (outcome.started_at_ms or outcome.ended_at_ms)),
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
    run_id = check_run_id(params.run_id)
    timeout_ms = given(params.timeout_ms, None)
    timeout_s = DEFAULT_WAIT_S if timeout_ms is None else min(timeout_ms, MAX_WAIT_S * 1000) / 1000
    outcome = await context.services.runs.outcome(run_id, timeout_s)
    if outcome is None:
        return {"runId": run_id, "status": "timeout"}
    statuses = {RunState.DONE: "ok", RunState.FAILED: "error", RunState.ABORTED: "timeout"}
    answer: dict[str, Any] = {
        "runId": run_id,
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
    request: RunRequest,
    origin: str,
    prepare: Callable[[], Awaitable[None]] | None,
) -> Turn:
    caller, services = context.caller, context.services
    text, files = request.text, request.attachments
    return Turn(
        request=request,
        message=Message(
            message_id=services.entropy.uuid4(),
            role="user",
            content=user_content(text, files),
            timestamp_ms=services.clock.now_ms(),
            run_id=request.run_id,
        ),
        fingerprint=_fingerprint(request.session_key, text, files),
        origin=origin,
        actor=caller.principal.actor,
        conn_id=caller.conn_id,
        wants_tools=TOOL_EVENTS in caller.caps,
        prepare=prepare,
    )


def _fingerprint(key: str, text: str, files: tuple[Attachment, ...]) -> str:
    return fingerprint(key, text, [(f.mime_type, f.file_name, f.data) for f in files])


def _timeout(context: Context, timeout: int | None, per_second: int) -> float | None:
    """Return the time a request gives its run, in seconds; 0 asks for as long as there is."""
    if timeout is None:
        return None
    longest = context.services.limits.run_timeout_max_s
    return min(timeout, longest * per_second) / per_second or longest


async def _check_send_policy(context: Context, key: str) -> None:
    session = await context.services.sessions.get(key)
    if session is not None and session.settings.get("sendPolicy") == "deny":
        raise InvalidRequest("send blocked by session policy")


def _aborted(run_ids: list[str]) -> dict[str, Any]:
    return {"ok": True, "aborted": bool(run_ids), "runIds": run_ids}


def _failed(outcome: RunOutcome) -> Unavailable:
    summary = outcome.error or "failed"
    # The code of an end that the gateway made: interrupted, expired.
    details = {"reason": outcome.stop_reason} if outcome.stop_reason is not None else None
    error = Unavailable(summary, details=details)
    error.payload = {"runId": outcome.run_id, "status": "error", "summary": summary}
    return error
