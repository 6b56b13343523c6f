"""What became of a run, where the gateway keeps no log: read from ``agent.wait`` and ``chat.history``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.client.chat import Outcome, message_text
from gateway.client.handshake import is_count, mapping


def outcome_in(waited: Any) -> Outcome | None:
    """Return how a run ended by the answer to ``agent.wait``, ``None`` if it does not say that it did.

    An aborted run reports ``timeout`` as one does that goes on, but with the time of its end.
    """
    fields = waited if isinstance(waited, Mapping) else {}
    match fields.get("status"):
        case "ok":
            return Outcome.FINAL
        case "error":
            return Outcome.ERROR
        case "timeout" if is_count(fields.get("endedAt")):
            return Outcome.ABORTED
    return None


def answer_in(history: Any, run_id: str, message: str | None) -> str | None:
    """Return what a run answered by the answer to ``chat.history``, ``None`` if it is not there.

    Version 4 names the run in each message; else the answer is the last thing said between the
    message, as it was sent, and the next of a user.
    """
    listed = history.get("messages") if isinstance(history, Mapping) else None
    messages = [m for m in listed if isinstance(m, Mapping)] if isinstance(listed, list) else []
    named = [m for m in messages if mapping(m, "__openclaw").get("runId") == run_id]
    if named:
        return _last_said(named)
    asked = [n for n, m in enumerate(messages) if _asks(m, run_id, message)]
    if not asked:
        return None
    rest = messages[asked[-1] + 1 :]
    users = (n for n, m in enumerate(rest) if m.get("role") == "user")
    return _last_said(rest[: next(users, len(rest))])


def _asks(entry: Mapping[str, Any], run_id: str, message: str | None) -> bool:
    if entry.get("role") != "user":
        return False
    key = mapping(entry, "__openclaw").get("idempotencyKey")
    if isinstance(key, str):
        return key == run_id or key == f"{run_id}:user"
    text = message_text(entry)
    return message is not None and text is not None and text.strip() == message.strip()


def _last_said(messages: list[Mapping[str, Any]]) -> str | None:
    said = (message_text(m) for m in messages if m.get("role") == "assistant")
    return next((text for text in reversed(list(said)) if text), None)
