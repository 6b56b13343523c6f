"""One run read by position: replays and live events joined, each counted once. No I/O.

Requirements
    Whatever is cut, repeated or overtaken on the way, what the reader is told adds up to the log of
    the run, and ends once. A hole is never read over.

Design
    The log numbers its events 1, 2, 3 ... in an epoch. Until the log is asked for, the run is read
    from ``chat`` events: each carries the whole text and the last number that it covers, so they
    move the position too. From then on only the log counts: events that come while it is being read
    wait in ``_ahead`` and are joined to the answer by their numbers. An answer that begins in another
    epoch, or after what was evicted, brings a snapshot, which stands for everything up to its position.

Rejected
    Joining ``chat`` events and the log: both tell the same, and one source needs no rule for which of
    two that disagree is right.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, Final, NamedTuple

from gateway.client.chat import ChatReader, Outcome, RunEvent, message_text
from gateway.client.handshake import is_count, mapping
from gateway.model import Position

MAX_AHEAD: Final = 10_000
"""Live events kept while the log is being read; what is beyond is read again from the log."""

OUTCOMES: Final = {"done": Outcome.FINAL, "failed": Outcome.ERROR, "aborted": Outcome.ABORTED}
"""How a run ended, by the state in a snapshot."""


class Need(Enum):
    """What a tail needs to go on."""

    NOTHING = auto()
    LOG = auto()
    """The log, from the position on: events are missing."""
    OUTCOME = auto()
    """How the run ended: it has, and the event that said so is no longer kept."""
    OTHER_MEANS = auto()
    """Another source: the gateway's answer makes no sense."""
    UNKNOWN_RUN = auto()
    """Nothing helps: the gateway does not know the run."""
    BROKEN_LOG = auto()
    """Nothing helps: the log has a hole that reading it again does not fill."""


class Step(NamedTuple):
    """What to tell, and what to do next."""

    events: list[RunEvent]
    need: Need = Need.NOTHING


class _Source(Enum):
    CHAT = auto()
    READING = auto()
    LOG = auto()


class RunTail:
    """The state of reading one run."""

    def __init__(self, position: Position | None = None) -> None:
        self.reader = ChatReader()
        self.epoch = position.epoch if position is not None else None
        self.seq = position.seq if position is not None else 0
        self._source = _Source.CHAT
        self._adrift = False
        """Whether the text has moved without the position: the log has to be read from its start."""
        self._ahead: dict[tuple[str, int], Mapping[str, Any]] = {}
        self._hole: tuple[str | None, int] | None = None
        self.outcome: Outcome | None = None
        """How the run ended, where the log says so in a snapshot only."""

    @property
    def position(self) -> Position | None:
        """How far the log was read; ``None`` while the epoch is not known."""
        if self.epoch is None or self._adrift:
            return None
        return Position(epoch=self.epoch, seq=self.seq)

    @property
    def after(self) -> dict[str, Any]:
        """The position as params: ``{after: {epoch, seq}}``, or nothing to read from the start."""
        position = self.position
        return {} if position is None else {"after": {"epoch": position.epoch, "seq": position.seq}}

    @property
    def from_log(self) -> bool:
        """Whether the log is, or is going to be, what is read."""
        return self._source is not _Source.CHAT

    # What is going to be read.

    def read_log(self, *, anew: bool = True) -> None:
        """Note that the log was asked for; ``anew`` on a connection where it was not before."""
        self._source = _Source.READING
        if anew:
            self._ahead.clear()
            self._hole = None

    def read_chat(self) -> None:
        """Go back to ``chat`` events: the log is not to be had."""
        self._source = _Source.CHAT
        self._ahead.clear()

    # What comes.

    def chat(self, payload: Mapping[str, Any]) -> list[RunEvent]:
        """Take in a ``chat`` event."""
        if self.from_log:
            return []
        before, seq = self.reader.text, payload.get("seq")
        told = self.reader.event(payload)
        if is_count(seq) and message_text(payload.get("message")) is not None:
            self.seq, self._adrift = max(self.seq, seq), False
        elif self.reader.text != before:
            self._adrift = True
        return told

    def log_event(self, payload: Mapping[str, Any]) -> Step:
        """Take in a ``run.event``."""
        epoch, seq = payload.get("epoch"), payload.get("seq")
        if not self.from_log or not isinstance(epoch, str) or not is_count(seq):
            return Step([])
        self._keep(epoch, seq, payload)
        return Step([]) if self._source is _Source.READING else self._join([])

    def log_answer(self, answer: Any) -> Step:
        """Take in an answer of ``runs.follow``, or one of those in ``connection.resume``'s."""
        fields = answer if isinstance(answer, Mapping) else {}
        status, epoch = fields.get("status"), fields.get("epoch")
        if status == "unknown":
            return Step([], Need.UNKNOWN_RUN)
        if not isinstance(epoch, str):
            return Step([], Need.OTHER_MEANS)
        if status == "gap":
            return self._gap(fields, epoch)
        if self.position is None:
            self.epoch, self.seq, self._adrift = epoch, 0, False
            self.reader.start_over()
        elif self.epoch != epoch:
            return Step([], Need.OTHER_MEANS)
        events = fields.get("events")
        for event in events if isinstance(events, list) else []:
            number = event.get("seq") if isinstance(event, Mapping) else None
            if is_count(number):
                self._keep(epoch, number, event)
        return self._answered([])

    def end(self, described: Mapping[str, Any]) -> list[RunEvent]:
        """End the run as the log says it ended; ``described`` may tell the error and the reason."""
        assert self.outcome is not None
        return self.reader.end(self.outcome, described)

    def _gap(self, answer: Mapping[str, Any], epoch: str) -> Step:
        snapshot, seq = mapping(answer, "snapshot"), mapping(answer, "next").get("seq")
        text = snapshot.get("text")
        if not isinstance(text, str) or not is_count(seq):
            return Step([], Need.OTHER_MEANS)
        self.epoch, self.seq, self._adrift = epoch, seq, False
        told = self.reader.replace(text)
        self.outcome = OUTCOMES.get(str(snapshot.get("state")))
        return self._answered(told)

    def _keep(self, epoch: str, seq: int, event: Mapping[str, Any]) -> None:
        """Keep an event for :meth:`_join`; over the limit the oldest goes, so that a hole is seen."""
        if len(self._ahead) >= MAX_AHEAD:
            del self._ahead[next(iter(self._ahead))]
        self._ahead[epoch, seq] = event

    def _answered(self, told: list[RunEvent]) -> Step:
        self._source = _Source.LOG
        self._ahead = {key: event for key, event in self._ahead.items() if key[0] == self.epoch}
        step = self._join(told)
        if self.outcome is None or self.reader.ended:
            return step
        return Step(step.events, Need.OUTCOME)  # again, where the last connection ended too early

    def _join(self, told: list[RunEvent]) -> Step:
        """Take what follows without a hole from what came ahead of it."""
        while event := self._ahead.pop((str(self.epoch), self.seq + 1), None):
            told += self._apply(self.seq + 1, event)
        epoch, seq = self.epoch, self.seq
        self._ahead = {k: v for k, v in self._ahead.items() if k[0] != epoch or k[1] > seq}
        if not self._ahead or self.reader.ended:
            return Step(told)
        if self._hole == (epoch, seq):
            return Step(told, Need.BROKEN_LOG)
        self._hole = epoch, seq
        return Step(told, Need.LOG)

    def _apply(self, seq: int, event: Mapping[str, Any]) -> list[RunEvent]:
        self.seq = seq
        data = mapping(event, "data")
        match event.get("stream"):
            case "assistant":
                return self._text(data)
            case "lifecycle":
                outcome = _outcome(data)
                return [] if outcome is None else self.reader.end(outcome, data)
        return []

    def _text(self, data: Mapping[str, Any]) -> list[RunEvent]:
        text, delta = data.get("text"), data.get("delta")
        if isinstance(text, str):
            return self.reader.replace(text)
        if not isinstance(delta, str):
            return []
        if data.get("replace") is True:
            return self.reader.replace(delta)
        return self.reader.append(delta)


def _outcome(data: Mapping[str, Any]) -> Outcome | None:
    """Return how a run ended by its lifecycle event, ``None`` if that is another phase."""
    match data.get("phase"):
        case "error":
            return Outcome.ERROR
        case "end":
            aborted = data.get("aborted") is True or data.get("status") == "cancelled"
            return Outcome.ABORTED if aborted else Outcome.FINAL
    return None
