"""The outbox against a model: a plain list of what waits, with holes where something was lost."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.core.events import Delivery, Event, TextDelta
from gateway.core.outbox import ENTRY_OVERHEAD, MAX_EMPTY, Outbox, Verdict

MAX_BYTES = 4_000
MAX_AGE = 50.0
RUNS = ("r1", "r2")
TEXTS = tuple((numbered, run) for numbered in (True, False) for run in RUNS)
"""The text of each run as it is broadcast, and as it is copied to this connection."""


@dataclass
class Slot:
    """One place of the queue: a frame that waits, or (``size`` 0) a hole."""

    size: int
    queued_at: float
    event: Event | None = None
    payload: Any = None
    sealed: bool = False
    answer: bool = False
    numbered: bool = True

    @property
    def droppable(self) -> bool:
        """Whether it may be shed."""
        droppable = self.event is not None and self.event.delivery is Delivery.DROPPABLE
        return droppable and self.numbered


def show(_protocol: int, piece: TextDelta) -> dict[str, Any]:
    """Build the payload of a delta."""
    return {"run": piece.group, "delta": piece.delta, "text": piece.text, "replace": piece.replace}


class OutboxModel(RuleBasedStateMachine):
    """Puts, takes and overflows; every frame that is taken must be the one the model holds."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox = Outbox(4, max_bytes=MAX_BYTES, max_age=MAX_AGE)
        self.slots: list[Slot] = []
        self.seq = 0
        self.dropped = 0
        self.merged = 0
        self.lost: Counter[Delivery] = Counter()
        self.now = 0.0
        self.count = 0
        self.texts = dict.fromkeys(TEXTS, "")
        self.seen: dict[tuple[bool, str], str | None] = dict.fromkeys(TEXTS, "")
        self.numbered = True
        """Whether what is put now is broadcast, or a copy for this connection only."""

    # -- what the model does

    def waiting(self) -> int:
        """Return how many bytes wait."""
        return sum(slot.size for slot in self.slots)

    def make_room(self, size: int) -> bool:
        """Shed the oldest droppable frames, if that is enough."""
        free = MAX_BYTES - self.waiting() + sum(slot.size for slot in self.slots if slot.droppable)
        if size > free:
            return False
        for slot in self.slots:
            if self.waiting() + size > MAX_BYTES and slot.droppable:
                slot.size, slot.event = 0, None
                self.dropped += 1
        return True

    def expect(self, size: int, event: Event | None, payload: Any) -> Verdict:
        """Queue a frame in the model and return what the outbox has to say."""
        slot = Slot(size, self.now, event, payload, numbered=self.numbered)
        if self.make_room(size):
            if event is not None and event.delivery is not Delivery.LATEST:
                self.seal(event.group)
            self.slots.append(slot)
            return Verdict.QUEUED
        if not slot.droppable:
            return Verdict.OVERFLOW
        self.dropped += 1
        self.slots.append(Slot(0, self.now))
        return Verdict.SHED

    def seal(self, group: str | None) -> None:
        """Nothing may be merged any more into what waits of a group."""
        for slot in self.slots:
            same = slot.event is not None and slot.event.group == group
            if group is not None and same and slot.numbered is self.numbered:
                slot.sealed = True

    def latest(self, event: Event) -> Slot | None:
        """Return the frame that an event may be merged into."""
        for slot in self.slots:
            held = slot.event
            if held is None or held.delivery is not Delivery.LATEST or slot.sealed:
                continue
            if slot.numbered is self.numbered and (held.group, held.key) == (
                event.group,
                event.key,
            ):
                return slot
        return None

    def put(self, event: Event, payload: Any) -> None:
        """Put an event into both and compare."""
        held = self.latest(event) if event.delivery is Delivery.LATEST else None
        if held is not None:
            assert held.event is not None
            merged = held.event.merged_with(event)
            size = merged.size(4) + ENTRY_OVERHEAD
            if self.make_room(size - held.size):
                held.event, held.size, held.payload = merged, size, payload
                expected = Verdict.MERGED
                self.merged += 1
            else:
                expected = Verdict.OVERFLOW
        else:
            expected = self.expect(event.size(4) + ENTRY_OVERHEAD, event, payload)
        self.check(self.outbox.put(event, self.now, numbered=self.numbered), expected)

    def check(self, verdict: Verdict, expected: Verdict) -> None:
        """Compare verdicts; an overflow ends the connection, and a new one begins."""
        assert verdict is expected
        if verdict is Verdict.OVERFLOW:
            self.discard()
            self.slots.clear()
            self.seq = self.outbox.seq
            self.seen = dict.fromkeys(TEXTS, None)

    def discard(self) -> None:
        """Close: what waited is counted by class."""
        assert self.outbox.clear() == self.waiting()
        for slot in self.slots:
            if slot.size:
                self.lost[slot.event.delivery if slot.event else Delivery.MUST] += 1

    # -- what happens to it

    @rule(numbered=st.booleans())
    def address(self, numbered: bool) -> None:
        """From now on events are broadcast, or copies for this connection only."""
        self.numbered = numbered

    @rule(size=st.integers(0, 900), group=st.sampled_from([None, *RUNS]))
    def must(self, size: int, group: str | None) -> None:
        """An event that must arrive."""
        self.count += 1
        payload = {"n": self.count, "x": "x" * size}
        self.put(Event("session.message", payload, group=group), payload)

    @rule(size=st.integers(0, 900) | st.just(5_000), group=st.sampled_from([None, *RUNS]))
    def droppable(self, size: int, group: str | None) -> None:
        """An event that may be shed."""
        self.count += 1
        payload = {"n": self.count, "x": "x" * size}
        self.put(Event("session.tool", payload, group=group), payload)

    @rule()
    def tick(self) -> None:
        """An event whose newest form is enough."""
        self.count += 1
        self.put(Event("tick", {"n": self.count}), {"n": self.count})

    @rule(run=st.sampled_from(RUNS), more=st.text("abü", max_size=60), rewrite=st.booleans())
    def text(self, run: str, more: str, rewrite: bool) -> None:
        """A run says more, or begins anew."""
        kept = self.numbered, run
        before = "" if rewrite else self.texts[kept]
        self.texts[kept] = (before + more)[:600]
        event = TextDelta(
            "chat",
            show,
            key=("chat", run),
            group=run,
            run_seq=self.count,
            ts_ms=0,
            text=self.texts[kept],
            offset=len(before),
            replace=rewrite,
        )
        self.put(event, None)

    @rule(size=st.integers(0, 900), answer=st.booleans())
    def direct(self, size: int, answer: bool) -> None:
        """An answer, or an event to this connection only."""
        self.count += 1
        data = json.dumps({"direct": self.count, "x": "x" * size}).encode()
        expected = self.expect(len(data) + ENTRY_OVERHEAD, None, data)
        if expected is Verdict.QUEUED:
            self.slots[-1].answer = answer
        self.check(self.outbox.put_direct(data, self.now, answer=answer), expected)

    @rule(size=st.integers(1, 2_000))
    def shed(self, size: int) -> None:
        """Others need the room."""
        freed = 0
        for slot in self.slots:
            if freed < size and slot.droppable:
                freed += slot.size
                slot.size, slot.event = 0, None
                self.dropped += 1
        assert self.outbox.shed(size) == freed

    @rule(count=st.integers(1, 5))
    def take(self, count: int) -> None:
        """The transport takes some frames."""
        for _ in range(count):
            while self.slots and not self.slots[0].size:
                self.slots.pop(0)
                self.seq += 1
            data = self.outbox.take()
            if not self.slots:
                assert data is None
                return
            slot = self.slots.pop(0)
            assert data is not None
            if slot.event is None:
                assert data == slot.payload
                continue
            self.seq += slot.numbered
            frame = json.loads(data)
            assert frame.get("seq") == (self.seq if slot.numbered else None)
            if isinstance(slot.event, TextDelta):
                self.read(frame["payload"], slot.event, slot.numbered)
            else:
                assert frame["payload"] == slot.payload

    def read(self, payload: dict[str, Any], event: TextDelta, numbered: bool) -> None:
        """Follow a run's text as a client does that has only the increments."""
        run = numbered, payload["run"]
        before = self.seen[run]
        assert payload["text"] == event.text
        if payload["replace"]:
            self.seen[run] = payload["delta"]
        elif before is not None:
            self.seen[run] = before + payload["delta"]
        assert self.seen[run] in (None, payload["text"])

    @rule(seconds=st.floats(0, 30))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds

    @precondition(lambda self: not self.outbox)
    @rule()
    def write_at_once(self) -> None:
        """A frame that does not wait takes the number after all that did."""
        self.seq += len(self.slots) + 1
        self.slots.clear()
        assert self.outbox.next_seq() == self.seq

    # -- what always holds

    @invariant()
    def bounded(self) -> None:
        """Bytes are counted exactly and bounded; empty entries are few."""
        assert self.outbox.queued == self.waiting()
        assert 0 <= self.outbox.queued <= MAX_BYTES
        assert self.outbox.total.held == self.outbox.held == self.outbox.queued
        assert self.outbox.answers == sum(slot.size for slot in self.slots if slot.answer)
        assert self.outbox.dropped == self.dropped
        losses = self.lost + Counter(
            {Delivery.DROPPABLE: self.dropped, Delivery.LATEST: self.merged}
        )
        assert self.outbox.losses() == {lost.value: n for lost, n in losses.items()}
        frames = [slot for slot in self.slots if slot.size]
        entries = self.outbox._entries or ()
        assert bool(self.outbox) is bool(frames)
        assert len(entries) <= 2 * len(frames) + MAX_EMPTY
        assert sum(entry.empty for entry in entries) == self.outbox._empty

    @invariant()
    def aged(self) -> None:
        """The age is that of the oldest frame that waits."""
        ages = [self.now - slot.queued_at for slot in self.slots if slot.size]
        assert self.outbox.expired(self.now) is (bool(ages) and ages[0] > MAX_AGE)


OutboxModel.TestCase.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
TestOutboxModel = OutboxModel.TestCase
