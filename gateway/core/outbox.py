"""What waits to be sent on one connection: bounded in bytes and in age, numbered when it leaves.

Requirements. A client that does not read must cost a bounded amount of memory, must not lose a frame
of class MUST without being told (the connection is closed), and must be able to see every other loss
(a hole in the numbers). A client that reads slowly sees fewer and larger deltas and the same end.

Design. A queue of entries; the connection takes them when its transport can write. A broadcast frame
is numbered when it leaves, so what was merged away never had a number. A shed frame leaves a marker
in its place that takes its number, so the hole lies where the loss was. A LATEST event is merged into
the waiting one of its key, unless another event of the same group was queued since: order within a
run is worth more than one frame.

Rejected: numbering at the time of queueing (a merge would make holes where nothing was lost), dropping
the newest instead of the oldest (what is newest is what the client wants), a count of frames as the
bound (frames differ by a factor of 100,000).
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from gateway.core.events import Delivery, Event

ENTRY_OVERHEAD = 200
"""Bytes counted for an entry besides its text: what Python's objects around it take."""


class Verdict(Enum):
    """What became of a frame that was to be queued."""

    QUEUED = "queued"
    MERGED = "merged"
    SHED = "shed"
    OVERFLOW = "overflow"


class _Entry:
    __slots__ = ("data", "event", "holes", "queued_at", "size")

    def __init__(
        self, size: int, queued_at: float, *, event: Event | None = None, data: bytes | None = None
    ) -> None:
        self.size = size
        self.queued_at = queued_at
        self.event = event
        self.data = data
        self.holes = 0


class Outbox:
    """The queue of one connection. Times are float seconds of one monotonic clock."""

    __slots__ = (
        "_entries",
        "_latest",
        "dropped",
        "max_age",
        "max_bytes",
        "protocol",
        "queued",
        "seq",
    )

    def __init__(self, protocol: int, *, max_bytes: int, max_age: float) -> None:
        self.protocol = protocol
        self.max_bytes = max_bytes
        self.max_age = max_age
        self.queued = 0
        """Bytes that wait."""
        self.seq = 0
        """The last number given."""
        self.dropped = 0
        """Droppable frames shed so far."""
        self._entries: deque[_Entry] | None = None
        self._latest: dict[object, _Entry] | None = None

    def __bool__(self) -> bool:
        return bool(self._entries)

    def next_seq(self) -> int:
        """Take the next number, for a broadcast frame that is written without waiting."""
        self.seq += 1
        return self.seq

    def put_direct(self, data: bytes, now: float) -> Verdict:
        """Queue a frame of class MUST that has no number: a response, or an event to this one only."""
        return self._append(_Entry(len(data) + ENTRY_OVERHEAD, now, data=data))

    def put(self, event: Event, now: float) -> Verdict:
        """Queue a broadcast event; it has a form in this connection's version."""
        if event.delivery is Delivery.LATEST:
            waiting = self._latest.get(event.key) if self._latest else None
            if waiting is not None:
                return self._merge(waiting, event)
        elif event.group is not None and self._latest:
            self._seal(event.group)
        return self._append(_Entry(event.size(self.protocol) + ENTRY_OVERHEAD, now, event=event))

    def take(self) -> bytes | None:
        """Return the JSON text of the next frame to write, numbered if it was broadcast."""
        while self._entries:
            entry = self._entries.popleft()
            self.queued -= entry.size
            self.seq += entry.holes
            if entry.event is None:
                if entry.data is None:
                    continue
                data = entry.data
            else:
                if self._latest and self._latest.get(entry.event.key) is entry:
                    del self._latest[entry.event.key]
                self.seq += 1
                data = entry.event.encoded(self.protocol, self.seq)
            return data
        self._entries = self._latest = None
        return None

    def expired(self, now: float) -> bool:
        """Whether the oldest frame has waited longer than the age cap."""
        return bool(self._entries) and now - self._entries[0].queued_at > self.max_age  # type: ignore[index]

    def clear(self) -> int:
        """Discard everything that waits; return how many bytes that were."""
        discarded, self.queued = self.queued, 0
        self._entries = self._latest = None
        return discarded

    def _append(self, entry: _Entry) -> Verdict:
        if self.queued + entry.size > self.max_bytes and not self._make_room(entry):
            droppable = entry.event is not None and entry.event.delivery is Delivery.DROPPABLE
            if not droppable:
                return Verdict.OVERFLOW
            self._mark_hole(entry.queued_at)
            return Verdict.SHED
        if self._entries is None:
            self._entries = deque()
        self._entries.append(entry)
        self.queued += entry.size
        if entry.event is not None and entry.event.delivery is Delivery.LATEST:
            if self._latest is None:
                self._latest = {}
            self._latest[entry.event.key] = entry
        return Verdict.QUEUED

    def _merge(self, waiting: _Entry, newer: Event) -> Verdict:
        assert waiting.event is not None
        waiting.event = waiting.event.merged_with(newer)
        size = waiting.event.size(self.protocol) + ENTRY_OVERHEAD
        self.queued += size - waiting.size
        waiting.size = size
        if self.queued > self.max_bytes and not self._make_room(None):
            return Verdict.OVERFLOW
        return Verdict.MERGED

    def _seal(self, group: str) -> None:
        assert self._latest is not None
        for key in [
            k for k, entry in self._latest.items() if entry.event and entry.event.group == group
        ]:
            del self._latest[key]

    def _make_room(self, entry: _Entry | None) -> bool:
        """Shed droppable frames, oldest first, until ``entry`` fits; return whether it does."""
        need = 0 if entry is None else entry.size
        for waiting in self._entries or ():
            if self.queued + need <= self.max_bytes:
                break
            if waiting.event is not None and waiting.event.delivery is Delivery.DROPPABLE:
                waiting.event = None
                waiting.holes += 1
                self.dropped += 1
                self.queued -= waiting.size - ENTRY_OVERHEAD
                waiting.size = ENTRY_OVERHEAD
        return self.queued + need <= self.max_bytes

    def _mark_hole(self, now: float) -> None:
        self.dropped += 1
        if not self._entries:
            self.seq += 1
            return
        last = self._entries[-1]
        if last.event is None and last.data is None:
            last.holes += 1
            return
        marker = _Entry(0, now)
        marker.holes = 1
        self._entries.append(marker)
