"""What the methods that start runs share: commands, policies, and what a request becomes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from gateway.app.context import Context
from gateway.app.turn import Turn
from gateway.core.access import ADMIN
from gateway.core.incoming import fingerprint
from gateway.core.run import RunOutcome
from gateway.core.sessionkey import agent_of
from gateway.core.stopwords import parse_command
from gateway.core.transcript import user_content
from gateway.errors import InvalidRequest, MissingScope, Unavailable
from gateway.model import Attachment, Message, RunRequest

TOOL_EVENTS = "tool-events"

GREETING = "A new session was started. Greet the user briefly."
"""What the agent is told where ``/new`` or ``/reset`` came without a message."""


def commanded(
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
        await services.runs.vacate(key, "reset")
        await services.sessions.reset(key, reason=command.name, keep_id=keep_id)

    return command.rest or GREETING, restart


def turn_of(
    context: Context,
    request: RunRequest,
    origin: str,
    prepare: Callable[[], Awaitable[None]] | None,
) -> Turn:
    """Return what is asked of the runs; ``origin`` is the family of the method."""
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
            meta=_meta(request),
        ),
        fingerprint=_fingerprint(request.session_key, text, files),
        origin=origin,
        actor=caller.principal.actor,
        conn_id=caller.conn_id,
        wants_tools=TOOL_EVENTS in caller.caps,
        prepare=prepare,
    )


def _meta(request: RunRequest) -> dict[str, Any]:
    if request.provenance is None:
        return {}
    return {"provenance": msgspec.to_builtins(request.provenance)}


def _fingerprint(key: str, text: str, files: tuple[Attachment, ...]) -> str:
    return fingerprint(key, text, [(f.mime_type, f.file_name, f.data) for f in files])


def timeout_of(context: Context, timeout: int | None, per_second: int) -> float | None:
    """Return the time a request gives its run, in seconds; 0 asks for as long as there is."""
    if timeout is None:
        return None
    longest = context.services.limits.run_timeout_max_s
    return min(timeout, longest * per_second) / per_second or longest


async def check_send_policy(context: Context, key: str, *, existing: bool = False) -> None:
    """Raise InvalidRequest if a session takes no messages.

    :param existing: whether it has to be there, if it is no main session.
    """
    session = await context.services.sessions.get(key)
    if existing and session is None:
        keys = context.services.agents.keys
        if key != keys.main_session(agent_of(key, keys)):
            raise InvalidRequest(f"session not found: {key}")
    if session is not None and session.settings.get("sendPolicy") == "deny":
        raise InvalidRequest("send blocked by session policy")


def failure_of(outcome: RunOutcome) -> Unavailable:
    """Return how a run that failed is told to who asked for it."""
    summary = outcome.error or "failed"
    # The code of an end that the gateway made: interrupted, expired.
    details = {"reason": outcome.stop_reason} if outcome.stop_reason is not None else None
    error = Unavailable(summary, details=details)
    error.payload = {"runId": outcome.run_id, "status": "error", "summary": summary}
    return error
