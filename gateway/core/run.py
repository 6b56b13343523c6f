"""The one record of a run: its state, its numbers, its text so far, who waits for its end.

Requirements. A run's events are numbered 1, 2, 3 ... over all streams, without a hole, whatever is
merged or paced; there is exactly one terminal event; nothing of a run stays behind when the record is
dropped. A value that has no JSON form must not use up a number.

Design. The record makes :class:`RunOutput` values and does no I/O. Text is collected and becomes an
event when the driver flushes (pacing is the driver's business); any other event flushes the text
first, so order is kept. Data are encoded before the number is taken. ``finish`` gives its outputs
once; after it nothing gives any. There is no map beside the record.

States::

    accepted --start--> running --finish--> done | failed | aborted
    accepted ------------finish-----------> done | failed | aborted
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gateway.core.frames import EncodeFailed, decode, decode_as, encode
from gateway.core.outcome import RunOutcome, clean_detail, clean_kind, lifecycle_end, valid_text
from gateway.core.tail import Tail
from gateway.errors import BackendErrorKind, GatewayError
from gateway.model import Position, RunEvent, RunRecord, RunRequest, RunState, Usage

Waiter = Callable[["RunOutcome | GatewayError"], None]
"""Takes how a run ended, or why that can not be told here any more."""

INTERRUPTED: Final = "interrupted"
"""Stop reason of a failed run that a crash cut off."""
EXPIRED: Final = "expired"
"""Stop reason of a failed run that waited too long for its turn, and never started."""
EXPIRED_TEXT: Final = "it waited for its turn longer than it may, and was not started"

_OWN_PHASES: Final = frozenset({"start", "end", "error"})


_outcome_decoder = msgspec.json.Decoder(RunOutcome)


@dataclass(frozen=True, slots=True)
class RunOutput:
    """One event of a run's log, as the listeners get it.

    ``data`` is JSON text, as it is stored. On stream ``assistant`` the text so far, and the offset
    from which it is new, come along; ``outcome`` is set on the terminal event only.
    """

    run: Run
    seq: int
    stream: str
    data: bytes
    ts_ms: int
    text: str | None = None
    offset: int = 0
    replace: bool = False
    outcome: RunOutcome | None = None

    def record(self) -> RunEvent:
        """Return the event as the store keeps it."""
        return RunEvent(
            run_id=self.run.run_id,
            epoch=self.run.epoch,
            seq=self.seq,
            stream=self.stream,
            data=self.data,
            ts_ms=self.ts_ms,
        )


class Run:
    """One run. Every method that makes events returns them in order; the driver hands them on."""

    __slots__ = (
        "__weakref__",
        "_pieces",
        "_replaced",
        "accepted_at_ms",
        "actor",
        "conn_id",
        "ended_at_ms",
        "epoch",
        "fingerprint",
        "origin",
        "request",
        "seq",
        "session_id",
        "started_at_ms",
        "state",
        "tail",
        "text",
        "text_size",
        "tool_recipient",
        "waiters",
    )

    def __init__(
        self,
        request: RunRequest,
        *,
        epoch: str,
        origin: str,
        actor: str,
        fingerprint: str,
        accepted_at_ms: int,
        conn_id: str | None = None,
        tool_recipient: bool = False,
    ) -> None:
        self.request = request
        self.epoch = epoch
        self.origin = origin
        self.actor = actor
        self.fingerprint = fingerprint
        self.accepted_at_ms = accepted_at_ms
        self.conn_id = conn_id
        self.tool_recipient = tool_recipient
        """Whether the connection that started it wants tool events."""
        self.session_id = request.session_id
        self.state = RunState.ACCEPTED
        self.seq = 0
        self.tail = Tail()
        """The last events that were shown; ``seq`` counts those of the end before they are."""
        self.text = ""
        """The visible answer as far as it was made into events."""
        self.text_size = 0
        """Characters of the answer, those still collected included."""
        self.started_at_ms: int | None = None
        self.ended_at_ms: int | None = None
        self.waiters: list[Waiter] = []
        self._pieces: list[str] = []
        self._replaced = False

    def go_on_after(self, seq: int) -> None:
        """Go on behind the last event that an earlier process has stored."""
        self.seq = seq
        self.tail.begin_after(seq)

    @property
    def run_id(self) -> str:
        """The id: the client's idempotency key."""
        return self.request.run_id

    @property
    def session_key(self) -> str:
        """The canonical key of the session it belongs to."""
        return self.request.session_key

    @property
    def position(self) -> Position:
        """The place of the last event."""
        return Position(epoch=self.epoch, seq=self.seq)

    @property
    def has_text(self) -> bool:
        """Whether collected text waits for a flush."""
        return bool(self._pieces) or self._replaced

    def start(self, now_ms: int) -> RunOutput:
        """Go from accepted to running."""
        assert self.state is RunState.ACCEPTED
        self.state = RunState.RUNNING
        self.started_at_ms = now_ms
        return self._output("lifecycle", {"phase": "start", "startedAt": now_ms}, now_ms)

    def add_text(self, delta: str) -> None:
        """Collect a piece of the answer."""
        if delta:
            piece = valid_text(delta)
            self._pieces.append(piece)
            self.text_size += len(piece)

    def replace_text(self, text: str) -> None:
        """Throw the answer so far away and begin with this text."""
        piece = valid_text(text)
        self._replaced = True
        self._pieces = [piece]
        self.text_size = len(piece)

    def flush(self, now_ms: int) -> RunOutput | None:
        """Make an event of the collected text, if there is any and the run goes on."""
        if not self.has_text or self.state.terminal:
            return None
        offset = 0 if self._replaced else len(self.text)
        delta = "".join(self._pieces)
        self.text = delta if self._replaced else self.text + delta
        replace, self._replaced, self._pieces = self._replaced, False, []
        data = encode({"delta": delta, "replace": True} if replace else {"delta": delta})
        self.seq += 1
        return RunOutput(
            self,
            self.seq,
            "assistant",
            data,
            now_ms,
            text=self.text,
            offset=offset,
            replace=replace,
        )

    def emit(self, stream: str, data: dict[str, Any], now_ms: int) -> list[RunOutput]:
        """Make an event on another stream, after the text before it; none once the run has ended.

        Raises EncodeFailed where the data are no JSON object or the stream has no name, and ValueError
        for what only the run itself says: the answer's text, and that it started or ended.
        """
        encoded = encode(data)
        if not isinstance(stream, str) or not stream or not encoded.startswith(b"{"):
            raise EncodeFailed("an event is the name of a stream and a JSON object")
        encode(stream)
        if stream == "assistant" or (
            stream == "lifecycle" and decode(encoded).get("phase") in _OWN_PHASES
        ):
            raise ValueError(f"only the run itself emits this on stream {stream}")
        if self.state.terminal:
            return []
        outputs = [flushed] if (flushed := self.flush(now_ms)) else []
        self.seq += 1
        outputs.append(RunOutput(self, self.seq, stream, encoded, now_ms))
        return outputs

    def finish(
        self,
        state: RunState,
        now_ms: int,
        *,
        stop_reason: str | None = None,
        error: str | None = None,
        error_kind: BackendErrorKind | None = None,
        error_detail: Mapping[str, Any] | None = None,
        usage: Usage | None = None,
        provider: str | None = None,
        model: str | None = None,
        into: str | None = None,
    ) -> list[RunOutput]:
        """End the run; the last output carries the outcome. Empty if it has ended already.

        ``state`` is a terminal one. Raises EncodeFailed, and then the run has not ended, where a value
        has no JSON form or is not of its type; ``error`` and what describes it are bent instead, so
        that a failure can always be told.
        """
        if self.state.terminal:
            return []
        assert state.terminal
        outcome = RunOutcome(
            run_id=self.run_id,
            session_key=self.session_key,
            session_id=self.session_id,
            state=state,
            started_at_ms=self.started_at_ms,
            ended_at_ms=now_ms,
            stop_reason=stop_reason,
            error=None if error is None else valid_text(str(error)),
            error_kind=None if error_kind is None else clean_kind(error_kind),
            error_detail=clean_detail(error_detail),
            usage=usage,
            provider=provider,
            model=model,
            into=into,
        )
        try:
            outcome = decode_as(encode(outcome), _outcome_decoder)
        except msgspec.ValidationError as error_:
            raise EncodeFailed(str(error_)) from error_
        data = encode(lifecycle_end(outcome))
        outputs = [flushed] if (flushed := self.flush(now_ms)) else []
        self.state = state
        self.ended_at_ms = now_ms
        self.seq += 1
        outputs.append(RunOutput(self, self.seq, "lifecycle", data, now_ms, outcome=outcome))
        return outputs

    def record(self, outcome: RunOutcome | None = None) -> RunRecord:
        """Return the run as the store keeps it."""
        return RunRecord(
            run_id=self.run_id,
            epoch=self.epoch,
            session_key=self.session_key,
            session_id=self.session_id,
            agent_id=self.request.agent_id,
            origin=self.origin,
            actor=self.actor,
            fingerprint=self.fingerprint,
            state=self.state,
            accepted_at_ms=self.accepted_at_ms,
            started_at_ms=self.started_at_ms,
            ended_at_ms=self.ended_at_ms,
            stop_reason=outcome.stop_reason if outcome else None,
            error=outcome.error if outcome else None,
            last_seq=self.seq,
        )

    def _output(self, stream: str, data: dict[str, Any], now_ms: int) -> RunOutput:
        encoded = encode(data)
        self.seq += 1
        return RunOutput(self, self.seq, stream, encoded, now_ms)


__all__ = [
    "EXPIRED",
    "EXPIRED_TEXT",
    "INTERRUPTED",
    "EncodeFailed",
    "Run",
    "RunOutcome",
    "RunOutput",
    "Waiter",
    "clean_detail",
    "lifecycle_end",
    "valid_text",
]
