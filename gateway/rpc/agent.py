"""``agent`` and ``agent.wait``: runs as programs start them and wait for them."""

from __future__ import annotations

from typing import Any

from gateway.app.agents import Agent
from gateway.app.context import Context
from gateway.core.access import WRITE
from gateway.core.incoming import attachments, clean_text
from gateway.core.params import given
from gateway.core.projection import usage_payload
from gateway.core.run import Run, RunOutcome
from gateway.errors import InvalidRequest, Unavailable
from gateway.model import RunRequest, RunState
from gateway.rpc.addresses import agent_address, delivery_context, input_provenance
from gateway.rpc.asking import check_send_policy, commanded, failure_of, timeout_of, turn_of
from gateway.rpc.common import (
    agent_for,
    check_model,
    check_run_id,
    session_key,
)
from gateway.rpc.table import MethodTable, TwoPhase
from gateway.rpc.turn_params import AgentParams, AgentWaitParams

methods = MethodTable()

DEFAULT_WAIT_S = 30.0
MAX_WAIT_S = 24 * 3600.0
MAX_SESSION_ID_CHARS = 128


@methods.method("agent", scope=WRITE, waits=True)
async def agent(context: Context, params: AgentParams) -> TwoPhase | dict[str, Any]:
    """Start a run; answered when it is accepted, and again when it has ended."""
    services = context.services
    reply = agent_address(params)
    key, target, session_id = await _agent_target(context, params)
    model = _model(context, params, target)
    text = clean_text(params.message)
    if not text.strip():
        raise InvalidRequest("invalid agent params: message must not be blank")
    files = attachments(given(params.attachments, []), services.limits.attachment_bytes)
    run_id = check_run_id(params.idempotency_key)
    with services.runs.coming.expected(run_id, key):
        await check_send_policy(context, key)
        text, prepare = commanded(context, key, text)
        request = RunRequest(
            run_id=run_id,
            session_key=key,
            session_id=session_id,
            agent_id=target.agent_id,
            text=text,
            attachments=files,
            thinking=given(params.thinking, None),
            model=model,
            extra_system_prompt=given(params.extra_system_prompt, None),
            timeout_s=timeout_of(context, given(params.timeout, None), 1),
            reply=reply,
            provenance=input_provenance(params.input_provenance),
        )
        started = await services.runs.start(turn_of(context, request, "agent", prepare))
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


def _model(context: Context, params: AgentParams, target: Agent) -> str | None:
    """Return the model that the turn is asked of, as ``provider/id``; None for that of the session.

    Raises InvalidRequest for one of a provider that no agent has.
    """
    model = given(params.model, "").strip()
    if not model:
        return None
    if "/" not in model:
        model = f"{given(params.provider, '').strip() or target.model.provider}/{model}"
    check_model(context, model)
    return model


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
        raise failure_of(outcome)
    reply = None
    if run is not None:
        text, reply = run.text, delivery_context(run.request.reply)
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
    if reply is not None:
        meta["deliveryContext"] = reply
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
        run = context.services.runs.get(run_id)
        if run is None or run.state is not RunState.ACCEPTED or context.caller.protocol < 4:
            return {"runId": run_id, "status": "timeout"}
        queued = {"timeoutPhase": "queue", "providerStarted": False}
        return {"runId": run_id, "status": "pending"} | queued
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
