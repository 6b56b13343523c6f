"""How a run looks on the wire: its outputs as ``agent`` and ``chat`` events of both versions.

Version 3 has closed schemas: a ``chat`` payload carries ``runId, sessionKey, seq, state, message?,
errorMessage?, stopReason?``, an ``agent`` payload ``runId, stream, data, seq, ts`` and ``sessionKey``.
Version 4 adds ``agentId``, ``deltaText``, ``replace``, ``errorKind``, ``errorDetail``, ``usage`` to the
one and ``agentId``, ``sessionId`` to the other. The cumulative message is sent to both.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.core.events import Delivery, Event, TextDelta
from gateway.core.run import Run, RunOutcome, RunOutput, clean_detail
from gateway.core.usage import run_usage
from gateway.errors import BackendErrorKind
from gateway.model import RunState

STATES = {RunState.DONE: "final", RunState.FAILED: "error", RunState.ABORTED: "aborted"}


def text_message(text: str, timestamp_ms: int) -> dict[str, Any]:
    """Return an assistant message with one text block."""
    return {
        "role": "assistant",
        "content": [{"type": "text", "text": text}],
        "timestamp": timestamp_ms,
    }


def agent_event(output: RunOutput) -> Event:
    """Return the ``agent`` event of an output."""
    run = output.run
    if output.text is not None:
        return TextDelta(
            "agent",
            _AgentText(run),
            key=("agent", run.run_id),
            group=run.run_id,
            run_seq=output.seq,
            ts_ms=output.ts_ms,
            text=output.text,
            offset=output.offset,
            replace=output.replace,
        )
    four = _agent_payload(run, output.stream, msgspec.Raw(output.data), output.seq, output.ts_ms)
    return Event("agent", four, v3=_for_v3(four), delivery=Delivery.MUST, group=run.run_id)


def chat_event(output: RunOutput) -> Event | None:
    """Return the ``chat`` event of an output, or None where the chat shows nothing."""
    run = output.run
    if output.text is not None:
        return TextDelta(
            "chat",
            _ChatText(run),
            key=("chat", run.run_id),
            group=run.run_id,
            run_seq=output.seq,
            ts_ms=output.ts_ms,
            text=output.text,
            offset=output.offset,
            replace=output.replace,
        )
    if output.outcome is None:
        return None
    return chat_end(
        run.run_id, run.session_key, run.request.agent_id, output.seq, output.outcome, run.text
    )


def chat_end(
    run_id: str, session_key: str, agent_id: str, seq: int, outcome: RunOutcome, text: str
) -> Event:
    """Return the terminal ``chat`` event."""
    state = STATES[outcome.state]
    three: dict[str, Any] = {"runId": run_id, "sessionKey": session_key, "seq": seq, "state": state}
    if state == "error":
        three["errorMessage"] = outcome.error or "failed"
    elif text:
        three["message"] = text_message(text, outcome.ended_at_ms)
    if outcome.stop_reason is not None and (state == "aborted" or outcome.stop_reason != "stop"):
        three["stopReason"] = outcome.stop_reason
    four = three | {"agentId": agent_id}
    if state == "error":
        four["errorKind"] = (outcome.error_kind or BackendErrorKind.UNKNOWN).value
        detail = clean_detail(outcome.error_detail)
        if detail is not None:
            four["errorDetail"] = detail
    elif state == "final":
        four["stopReason"] = outcome.stop_reason or "stop"
        if outcome.usage is not None:
            four["usage"] = run_usage(outcome.usage)
    return Event("chat", four, v3=three, delivery=Delivery.MUST, group=run_id)


def usage_payload(input_tokens: int, output_tokens: int) -> dict[str, int]:
    """Return a usage object."""
    return {
        "input": input_tokens,
        "output": output_tokens,
        "totalTokens": input_tokens + output_tokens,
    }


def _agent_payload(run: Run, stream: str, data: Any, seq: int, ts_ms: int) -> dict[str, Any]:
    return {
        "runId": run.run_id,
        "stream": stream,
        "data": data,
        "sessionKey": run.session_key,
        "agentId": run.request.agent_id,
        "sessionId": run.session_id,
        "seq": seq,
        "ts": ts_ms,
    }


def tool_payload(output: RunOutput) -> dict[str, Any]:
    """Return the payload of ``session.tool``: the agent payload of version 4."""
    data = msgspec.Raw(output.data)
    return _agent_payload(output.run, output.stream, data, output.seq, output.ts_ms)


def _for_v3(payload: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in payload.items() if k not in ("agentId", "sessionId")}


class _AgentText:
    """Builds the payload of an assistant event from a (merged) delta. It keeps no reference to the run."""

    __slots__ = ("_frame",)

    def __init__(self, run: Run) -> None:
        self._frame = (run.run_id, run.session_key, run.request.agent_id, run.session_id)

    def __call__(self, protocol: int, delta: TextDelta) -> dict[str, Any]:
        run_id, session_key, agent_id, session_id = self._frame
        data: dict[str, Any] = {"text": delta.text, "delta": delta.delta}
        if delta.replace:
            data["replace"] = True
        payload: dict[str, Any] = {
            "runId": run_id,
            "stream": "assistant",
            "data": data,
            "sessionKey": session_key,
        }
        if protocol >= 4:
            payload |= {"agentId": agent_id, "sessionId": session_id}
        return payload | {"seq": delta.run_seq, "ts": delta.ts_ms}


class _ChatText:
    """Builds the payload of a chat delta from a (merged) delta."""

    __slots__ = ("_frame",)

    def __init__(self, run: Run) -> None:
        self._frame = (run.run_id, run.session_key, run.request.agent_id)

    def __call__(self, protocol: int, delta: TextDelta) -> dict[str, Any]:
        run_id, session_key, agent_id = self._frame
        payload: dict[str, Any] = {
            "runId": run_id,
            "sessionKey": session_key,
            "seq": delta.run_seq,
            "state": "delta",
            "message": text_message(delta.text, delta.ts_ms),
        }
        if protocol >= 4:
            payload |= {"agentId": agent_id, "deltaText": delta.delta}
            if delta.replace:
                payload["replace"] = True
        return payload
