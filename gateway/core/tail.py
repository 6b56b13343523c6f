"""The end of a live run's log, in memory: what a client that comes back soon lacks.

Bounded in events and in bytes of their data; the last event stays whatever its size, so that there is
always one to go on from. A tail has no hole: an event that does not follow the one before begins it anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Final

from gateway.model import RunEvent

MAX_EVENTS: Final = 512
MAX_BYTES: Final = 256 * 1024
"""Bytes of data."""


class Tail:
    """The last events of one run that were shown, and the answer's text up to there."""

    __slots__ = ("_bytes", "_events", "last_seq", "text")

    def __init__(self) -> None:
        self.last_seq = 0
        """The number of the last event."""
        self.text: str | None = ""
        """None where the log began before this tail did, until an event has the whole answer."""
        self._events: deque[RunEvent] | None = None  # a run that waits for its turn needs none
        self._bytes = 0

    def push(self, event: RunEvent, text: str | None) -> None:
        """Take in the next event; ``text`` is the whole answer, where the event changed it."""
        events = self._events
        if events is None or event.seq != self.last_seq + 1:
            events = self._events = deque()
            self._bytes = 0
        self.last_seq = event.seq
        if text is not None:
            self.text = text
        events.append(event)
        self._bytes += len(event.data)
        while len(events) > MAX_EVENTS or (self._bytes > MAX_BYTES and len(events) > 1):
            self._bytes -= len(events.popleft().data)

    def begin_after(self, seq: int) -> None:
        """Begin behind an event that was shown by an earlier process."""
        self.last_seq, self.text = seq, None

    def after(self, seq: int, limit: int) -> Sequence[RunEvent]:
        """Return the events right behind a number; none if the tail does not reach back to there."""
        events = self._events
        if not events or not events[0].seq - 1 <= seq < self.last_seq:
            return ()
        start = seq + 1 - events[0].seq
        return tuple(islice(events, start, start + limit))
