"""``chat.send`` and ``chat.abort``: runs as people's clients start and end them."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET

from gateway.app.context import Context
from gateway.app.turn import Started
from gateway.core.access import WRITE
from gateway.core.incoming import attachments, clean_text
from gateway.core.params import given
from gateway.core.stopwords import is_stop_command
from gateway.errors import InvalidRequest
from gateway.model import QueueMode, RunRequest, RunState
from gateway.rpc.addresses import chat_address, system_provenance
from gateway.rpc.asking import check_send_policy, commanded, failure_of, timeout_of, turn_of
from gateway.rpc.common import agent_for, check_run_id, session_key
from gateway.rpc.table import MethodTable
from gateway.rpc.turn_params import ChatAbortParams, ChatSendParams, SessionsSendParams

methods = MethodTable()


@methods.method("chat.send", scope=WRITE)
async def chat_send(context: Context, params: ChatSendParams) -> dict[str, Any]:
    """Send a message to a session and start a run; the answer streams as events."""
    key = session_key(context, params.session_key, params.agent_id)
    reply = chat_address(params)
    provenance, receipt = system_provenance(context, params)
    return await send(
        context,
        key,
        params,
        run_id=params.idempotency_key,
        commands=not given(params.suppress_command_interpretation, False),
        queue_mode=QueueMode(given(params.queue_mode, QueueMode.FOLLOWUP)),
        reply=reply,
        provenance=provenance,
        receipt=receipt,
    )


async def send(
    context: Context,
    key: str,
    params: ChatSendParams | SessionsSendParams,
    *,
    run_id: str,
    commands: bool = True,
    existing: bool = False,
    **how: Any,
) -> dict[str, Any]:
    """Start a run with a message of a chat, or do what its text commands; return the answer.

    :param existing: whether the session has to be there.
    :param how: further fields of the request.
    """
    agent = agent_for(context, key)
    text = clean_text(params.message)
    runs = context.services.runs
    if commands and is_stop_command(text):
        return _aborted(runs.stop_session(key, "stop"))
    files = attachments(given(params.attachments, []), context.services.limits.attachment_bytes)
    if not text.strip() and not files:
        raise InvalidRequest("message or attachment required")
    check_run_id(run_id)
    with runs.coming.expected(run_id, key):
        await check_send_policy(context, key, existing=existing)
        prepare = None
        if commands:
            text, prepare = commanded(context, key, text)
        request = RunRequest(
            run_id=run_id,
            session_key=key,
            session_id="",
            agent_id=agent.agent_id,
            text=text,
            attachments=files,
            thinking=given(params.thinking, None),
            timeout_s=timeout_of(context, given(params.timeout_ms, None), 1000),
            **how,
        )
        started = await runs.start(turn_of(context, request, "chat", prepare))
    return _chat_answer(context, started)


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
        raise failure_of(outcome)
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


def _aborted(run_ids: list[str]) -> dict[str, Any]:
    return {"ok": True, "aborted": bool(run_ids), "runIds": run_ids}
