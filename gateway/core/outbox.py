"""What waits to be sent on one connection: bounded in bytes and in age, numbered when it leaves.

Requirements. A client that does not read must cost a bounded amount of memory, must not lose a frame
of class MUST without being told (the connection is closed), and must be able to see every other loss
(a hole in the numbers). A client that reads slowly sees fewer and larger deltas and the same end.

Design. A queue of entries; the connection takes them when its transport can write. A broadcast frame
is numbered when it leaves, so what was merged away never had a number. A shed frame leaves a hole in
its place: the entry after it carries how many numbers are skipped before it, so the hole lies where
the loss was. A LATEST event is merged into the waiting one of its key, unless another event of the
same group was queued since: order within a run is worth more than one frame.

Cost. Everything is constant per frame, amortised: a full outbox must not make a broadcast slow. What
may be shed is kept in a second queue. A hole in the middle stays as an empty entry until the empty
ones are more than half; then they are folded into their followers. The first entry is never empty.

Rejected: numbering at the time of queueing (a merge would make holes where nothing was lost), dropping
the newest instead of the oldest (what is newest is what the client wants), a count of frames as the
bound (frames differ by a factor of 100,000).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final

from gateway.core.events import Delivery, Event
from gateway.core.outboxes import Outboxes

ENTRY_OVERHEAD = 200
"""Bytes counted for an entry besides its text: what Python's objects around it take."""

MAX_EMPTY = 16
"""So many empty entries may always lie in the queue; beyond, no more than half of all."""

_NONE: Final[Mapping[Delivery, int]] = MappingProxyType({})


_Group = tuple[bool, str | None]
"""What an order is kept within: numbered events and copies of them never meet."""


class Verdict(Enum):
    """What became of a frame that was to be queued."""

    QUEUED = "queued"
    MERGED = "merged"
    SHED = "shed"
    OVERFLOW = "overflow"


class _Entry:
    """A frame that waits, ``holes`` numbers after the one before it; without a frame: only the holes."""

    __slots__ = ("answer", "data", "event", "holes", "numbered", "queued_at", "size")

    def __init__(
        self,
        size: int,
        queued_at: float,
        *,
        event: Event | None = None,
        data: bytes | None = None,
        answer: bool = False,
        numbered: bool = True,
    ) -> None:
        self.size = size
        self.queued_at = queued_at
        self.event = event
        self.data = data
        self.answer = answer
        self.numbered = numbered
        self.holes = 0

    @property
    def empty(self) -> bool:
        return self.event is None and self.data is None

    @property
    def delivery(self) -> Delivery:
        """The class of its frame."""
        return Delivery.MUST if self.event is None else self.event.delivery


class Outbox:
    """The queue of one connection. Times are float seconds of one monotonic clock."""

    __slots__ = (
        "_empty",
        "_entries",
        "_latest",
        "_sheddable",
        "_sheddable_bytes",
        "answers",
        "discarded",
        "dropped",
        "max_age",
        "max_bytes",
        "merged",
        "protocol",
        "queued",
        "seq",
        "taken",
        "total",
        "writing",
    )

    def __init__(
        self, protocol: int, *, max_bytes: int, max_age: float, total: Outboxes | None = None
    ) -> None:
        self.protocol = protocol
        self.max_bytes = max_bytes
        self.max_age = max_age
        self.total = total or Outboxes(max_bytes)
        """What this and the other outboxes hold together."""
        self.queued = 0
        """Bytes that wait."""
        self.answers = 0
        """How many of them are answers to what this client asked."""
        self.writing = 0
        """Bytes of a long message that has left the queue, and that the transport has not taken yet."""
        self.seq = 0
        """The last number given."""
        self.dropped = 0
        """Droppable frames shed so far."""
        self.merged = 0
        """Frames so far that a newer one took the place of."""
        self.discarded: Mapping[Delivery, int] = _NONE
        """Frames that :meth:`clear` threw away, by class."""
        self.taken = Delivery.MUST
        """The class of the frame that was taken last."""
        # An idle connection holds no queue: most of them are idle.
        self._entries: deque[_Entry] | None = None
        self._sheddable: deque[_Entry] | None = None
        self._latest: dict[_Group, dict[object, _Entry]] | None = None
        self._sheddable_bytes = 0
        self._empty = 0

    def __bool__(self) -> bool:
        return bool(self._entries)

    @property
    def held(self) -> int:
        """Bytes that are kept for this client: those that wait, and the rest of a long message."""
        return self.queued + self.writing

    def next_seq(self) -> int:
        """Take the next number, for a broadcast frame that is written without waiting."""
        self.seq += 1
        return self.seq

    def put_direct(self, data: bytes, now: float, *, answer: bool = False) -> Verdict:
        """Queue a frame of class MUST that has no number: an answer, or an event to this one only."""
        entry = _Entry(len(data) + ENTRY_OVERHEAD, now, data=data, answer=answer)
        if not self._make_room(entry.size):
            return Verdict.OVERFLOW
        self._append(entry)
        if answer:
            self.answers += entry.size
        return Verdict.QUEUED

    def put(self, event: Event, now: float, *, numbered: bool = True) -> Verdict:
        """Queue an event that has a form in this connection's version: a broadcast, or a copy (no number).

        After OVERFLOW the frame is not in the queue, and the connection has to be closed. What has no
        number is never shed: nobody could see the hole.
        """
        delivery, group = event.delivery, (numbered, event.group)
        if delivery is Delivery.LATEST and self._latest is not None:
            waiting = self._latest.get(group, {}).get(event.key)
            if waiting is not None:
                return self._merge(waiting, event)
        size = event.size(self.protocol) + ENTRY_OVERHEAD
        entry = _Entry(size, now, event=event, numbered=numbered)
        if not self._make_room(size):
            if delivery is not Delivery.DROPPABLE or not numbered:
                return Verdict.OVERFLOW
            self._shed_newest(now)
            return Verdict.SHED
        self._append(entry)
        if delivery is Delivery.LATEST:
            if self._latest is None:
                self._latest = {}
            self._latest.setdefault(group, {})[event.key] = entry
            return Verdict.QUEUED
        if delivery is Delivery.DROPPABLE and numbered:
            if self._sheddable is None:
                self._sheddable = deque()
            self._sheddable.append(entry)
            self._sheddable_bytes += size
        if event.group is not None and self._latest:
            self._latest.pop(group, None)
        return Verdict.QUEUED

    def take(self) -> bytes | None:
        """Return the JSON text of the next frame to write, numbered if it was broadcast."""
        entries = self._entries
        if not entries:
            return None
        entry = entries[0]
        seq = self.seq + entry.holes
        if entry.event is None:
            assert entry.data is not None
            data = entry.data
            if entry.answer:
                self.answers -= entry.size
            self.taken = Delivery.MUST
        else:
            seq += entry.numbered
            data = entry.event.encoded(self.protocol, seq if entry.numbered else None)
            self._forget(entry, entry.event)
            self.taken = entry.event.delivery
        entries.popleft()
        self.seq = seq
        self.queued -= entry.size
        self.total.held -= entry.size
        if self._empty or not entries:
            self._skip_holes()
        return data

    def expired(self, now: float) -> bool:
        """Whether the oldest frame has waited longer than the age cap."""
        if not self._entries:
            return False
        return now - self._entries[0].queued_at > self.max_age

    def write_long(self, size: int, delivery: Delivery) -> None:
        """A message of so many bytes is written in pieces from now on."""
        self.taken = delivery
        self.writing += size
        self.total.held += size

    def wrote(self, size: int) -> None:
        """The transport took so many bytes of the long message."""
        self.writing -= size
        self.total.held -= size

    def shed(self, size: int) -> int:
        """Shed droppable frames, oldest first, until ``size`` bytes are free; return how many that are."""
        before = self.queued
        while self._sheddable and before - self.queued < size:
            self._shed(self._sheddable.popleft())
        return before - self.queued

    def clear(self) -> int:
        """Discard everything that waits, and count it by class; return how many bytes that were."""
        lost = Counter(self.discarded)
        lost.update(entry.delivery for entry in self._entries or () if not entry.empty)
        if self.writing:
            lost[self.taken] += 1
        self.discarded = lost
        held = self.held
        self.total.held -= held
        self.queued = self.answers = self.writing = 0
        self._entries = self._latest = self._sheddable = None
        self._sheddable_bytes = self._empty = 0
        return held

    def losses(self) -> dict[str, int]:
        """Return how many frames did not reach the client as they were, by class; none: left out.

        ``latest``: a newer one stands for it, or it was discarded. ``must``: discarded with a close.
        """
        lost = Counter(self.discarded)
        lost[Delivery.DROPPABLE] += self.dropped
        lost[Delivery.LATEST] += self.merged
        return {delivery.value: lost[delivery] for delivery in Delivery if lost[delivery]}

    def _grow(self, size: int) -> None:
        self.queued += size
        self.total.held += size

    def _append(self, entry: _Entry) -> None:
        if self._entries is None:
            self._entries = deque()
        elif self._empty and self._entries[-1].empty:
            entry.holes = self._entries.pop().holes
            self._empty -= 1
        self._entries.append(entry)
        self.queued += entry.size
        self.total.held += entry.size

    def _merge(self, waiting: _Entry, newer: Event) -> Verdict:
        assert waiting.event is not None
        merged = waiting.event.merged_with(newer)
        size = merged.size(self.protocol) + ENTRY_OVERHEAD
        if not self._make_room(size - waiting.size):
            return Verdict.OVERFLOW
        self._grow(size - waiting.size)
        waiting.event, waiting.size = merged, size
        self.merged += 1
        return Verdict.MERGED

    def _forget(self, entry: _Entry, event: Event) -> None:
        """An event leaves: nothing may be merged into it, and it can not be shed, any more."""
        if event.delivery is Delivery.LATEST:
            group = entry.numbered, event.group
            waiting = self._latest.get(group) if self._latest else None
            if self._latest and waiting and waiting.get(event.key) is entry:
                del waiting[event.key]
                if not waiting:
                    del self._latest[group]
        elif event.delivery is Delivery.DROPPABLE and entry.numbered:
            assert self._sheddable is not None
            self._sheddable.popleft()
            self._sheddable_bytes -= entry.size

    def _make_room(self, size: int) -> bool:
        """Shed droppable frames, oldest first, until ``size`` more bytes fit; none if they never will."""
        excess = self.queued + size - self.max_bytes
        if excess <= 0:
            return True
        if excess > self._sheddable_bytes:
            return False
        assert self._sheddable is not None
        while self.queued + size > self.max_bytes:
            self._shed(self._sheddable.popleft())
        return True

    def _shed(self, entry: _Entry) -> None:
        assert self._entries is not None
        self.dropped += 1
        self._grow(-entry.size)
        self._sheddable_bytes -= entry.size
        entry.event = None
        entry.holes += 1
        self._empty += 1
        self._skip_holes()
        if self._empty > MAX_EMPTY and 2 * self._empty > len(self._entries or ()):
            self._fold()

    def _shed_newest(self, now: float) -> None:
        """The frame that was to be queued is shed itself: a hole behind all that waits."""
        self.dropped += 1
        if not self._entries:
            self.seq += 1
            return
        if not self._entries[-1].empty:
            self._entries.append(_Entry(0, now))
            self._empty += 1
        self._entries[-1].holes += 1

    def _skip_holes(self) -> None:
        """Take the numbers of the holes that are first in the queue; free an empty queue."""
        entries = self._entries
        while entries and entries[0].empty:
            self.seq += entries.popleft().holes
            self._empty -= 1
        if not entries:
            self._entries = self._latest = self._sheddable = None

    def _fold(self) -> None:
        """Give the holes of empty entries to the frames behind them; holes at the end stay an entry."""
        assert self._entries is not None
        kept: deque[_Entry] = deque()
        for entry in self._entries:
            if kept and kept[-1].empty:
                entry.holes += kept.pop().holes
            kept.append(entry)
        self._entries = kept
        self._empty = int(kept[-1].empty)
