"""One turn of a conversation, read from ``chat`` events: text as it grows, then one end. No I/O.

Every ``delta`` carries the whole text so far (protocol: chat events), and version 4 the increment as
well. The whole text is what counts here: a delta that was dropped or merged for a slow reader then
does no harm. Only a delta without it is taken as an increment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The answer goes on with ``text``."""

    text: str


@dataclass(frozen=True, slots=True)
class TextReplaced:
    """The answer was rewritten; ``text`` is all of it so far."""

    text: str


class Outcome(StrEnum):
    """How a run ended."""

    FINAL = "final"
    ABORTED = "aborted"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The end of a run. ``payload`` is that of the event or answer that told."""

    outcome: Outcome
    text: str
    stop_reason: str | None = None
    error_message: str | None = None
    error_kind: str | None = None
    payload: Any = None


RunEvent = TextDelta | TextReplaced | RunEnded

_OVER_BY_ANSWER = {
    "ok": Outcome.FINAL,
    "error": Outcome.ERROR,
    "timeout": Outcome.ABORTED,
}


def merge_text(earlier: RunEvent, later: RunEvent) -> RunEvent | None:
    """Return one event that says what two did, ``None`` if there is none."""
    if isinstance(later, TextReplaced) and not isinstance(earlier, RunEnded):
        return later
    if isinstance(later, TextDelta) and isinstance(earlier, TextDelta | TextReplaced):
        return type(earlier)(earlier.text + later.text)
    return None


class ChatReader:
    """Reads one run. After its end, everything is ignored: some gateways report an end twice.

    What it gives out always adds up to ``text``, whatever came twice, out of order or anew.
    """

    def __init__(self) -> None:
        self._text = ""
        self._told = ""
        self._catching_up = False
        self._ended = False

    @property
    def text(self) -> str:
        """The answer as far as it is known."""
        return self._text

    @property
    def ended(self) -> bool:
        """Whether the end has been told."""
        return self._ended

    def answer(self, payload: Any) -> list[RunEvent]:
        """Take in the answer to ``chat.send``.

        A command such as ``/stop`` starts no run, and one that is repeated under the same
        idempotency key may be over already: then no event follows and the answer is the end.
        """
        fields = payload if isinstance(payload, Mapping) else {}
        outcome = ended_by(fields)
        return [] if outcome is None else self.end(outcome, fields)

    def event(self, payload: Mapping[str, Any]) -> list[RunEvent]:
        """Take in the payload of a ``chat`` event of this run."""
        state = payload.get("state")
        if state == "delta":
            return self._grow(payload)
        if state in (Outcome.FINAL, Outcome.ABORTED, Outcome.ERROR):
            return [*self._grow(payload), *self.end(Outcome(state), payload)]
        return []

    def append(self, text: str) -> list[RunEvent]:
        """Go on with a piece of the answer."""
        return self.replace(self._text + text)

    def replace(self, text: str) -> list[RunEvent]:
        """Take in the whole answer so far."""
        if self._ended:
            return []
        self._text = text
        return self._tell()

    def start_over(self) -> None:
        """Begin to read the run from its first event again.

        While what comes is what was told before, nothing is told.
        """
        self._text = ""
        self._catching_up = True

    def end(self, outcome: Outcome, payload: Mapping[str, Any]) -> list[RunEvent]:
        """End the run, once; what ``payload`` says of the end goes into the event."""
        if self._ended:
            return []
        self._catching_up = False
        events = self._tell()
        self._ended = True
        error = field_text(payload, "errorMessage") or field_text(payload, "error")
        if outcome is Outcome.ERROR and error is None:
            error = field_text(payload, "summary") or "the run failed"
        end = RunEnded(
            outcome,
            self._text,
            stop_reason=field_text(payload, "stopReason"),
            error_message=error,
            error_kind=field_text(payload, "errorKind"),
            payload=payload,
        )
        return [*events, end]

    def _grow(self, payload: Mapping[str, Any]) -> list[RunEvent]:
        text = message_text(payload.get("message"))
        if text is not None:
            return self.replace(text)
        increment = payload.get("deltaText")
        if not isinstance(increment, str):
            return []
        return self.replace(increment) if payload.get("replace") is True else self.append(increment)

    def _tell(self) -> list[RunEvent]:
        told, text = self._told, self._text
        if text == told:
            self._catching_up = False
            return []
        if self._catching_up and told.startswith(text):
            return []
        self._catching_up = False
        self._told = text
        if text.startswith(told):
            return [TextDelta(text[len(told) :])]
        return [TextReplaced(text)]


def ended_by(answer: Mapping[str, Any]) -> Outcome | None:
    """Return how a run ended by the answer to ``chat.send``, ``None`` if it goes on."""
    if "runId" not in answer:
        return Outcome.FINAL
    return _OVER_BY_ANSWER.get(str(answer.get("status")))


def message_text(message: Any) -> str | None:
    """Return the visible text of a message, ``None`` if it is no message.

    ``content`` is a text or a list of blocks, of which those of type ``text`` count.
    """
    content = message.get("content") if isinstance(message, Mapping) else None
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    blocks = (block for block in content if isinstance(block, Mapping))
    texts = (block.get("text") for block in blocks if block.get("type") == "text")
    return "".join(text for text in texts if isinstance(text, str))


def field_text(payload: Mapping[str, Any], key: str) -> str | None:
    """Return the text under ``key``, ``None`` where there is none or an empty one."""
    value = payload.get(key)
    return value if isinstance(value, str) and value else None
