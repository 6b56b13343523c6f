"""What waits on one connection: examples. The model test is in test_outbox_model.py."""

from __future__ import annotations

import json
from typing import Any

from gateway.core import outbox as module
from gateway.core.events import Delivery, Event, TextDelta
from gateway.core.outbox import ENTRY_OVERHEAD, MAX_EMPTY, Outbox, Verdict

ROOMY = 1_000_000


def made(max_bytes: int = ROOMY, max_age: float = 60.0) -> Outbox:
    """Return an outbox of version 4."""
    return Outbox(4, max_bytes=max_bytes, max_age=max_age)


def must(name: str = "shutdown", group: str | None = None, **payload: Any) -> Event:
    """Return an event that must arrive."""
    return Event(name, payload, delivery=Delivery.MUST, group=group)


def droppable(size: int = 0, group: str | None = None) -> Event:
    """Return an event that may be shed."""
    return Event("session.tool", "x" * size, group=group)


def delta(text: str, offset: int, *, name: str = "chat", run: str = "r") -> TextDelta:
    """Return a delta of a run's text."""
    return TextDelta(
        name,
        lambda _protocol, piece: {"delta": piece.delta, "text": piece.text},
        key=(name, run),
        group=run,
        run_seq=offset,
        ts_ms=0,
        text=text,
        offset=offset,
    )


def cost(event: Event) -> int:
    """Return how many bytes an event counts in an outbox."""
    return event.size(4) + ENTRY_OVERHEAD


def drained(box: Outbox) -> list[Any]:
    """Take everything; return of each frame its number and its payload."""
    taken = []
    while (data := box.take()) is not None:
        frame = json.loads(data)
        taken.append((frame.get("seq"), frame.get("payload")))
    return taken


def test_frames_leave_in_order_and_are_numbered_as_they_leave() -> None:
    """Broadcast frames take 1, 2, 3 ...; a frame to this connection only has no number."""
    box = made()
    assert not box
    assert box.take() is None
    assert box.next_seq() == 1
    for put in (must(n=1), must(n=2)):
        assert box.put(put, 0.0) is Verdict.QUEUED
    assert box.put_direct(b'{"payload":"direct"}', 0.0) is Verdict.QUEUED
    box.put(must(n=3), 0.0)
    assert box

    assert drained(box) == [(2, {"n": 1}), (3, {"n": 2}), (None, "direct"), (4, {"n": 3})]
    assert (box.queued, bool(box), box.next_seq()) == (0, False, 5)


def test_copies_are_merged_and_sealed_among_themselves() -> None:
    """Events to this connection only merge as broadcasts do, take no number, and meet no broadcast."""
    box = made()
    box.put(delta("a", 0), 0.0)
    box.put(delta("x", 0), 0.0, numbered=False)
    assert box.put(delta("xy", 1), 0.0, numbered=False) is Verdict.MERGED
    box.put(must(group="r", n=1), 0.0, numbered=False)
    assert box.put(delta("ab", 1), 0.0) is Verdict.MERGED
    assert box.put(delta("xyz", 2), 0.0, numbered=False) is Verdict.QUEUED

    taken = drained(box)

    assert [number for number, _ in taken] == [1, None, None, None]
    assert [payload.get("text") for _, payload in taken] == ["ab", "xy", None, "xyz"]
    assert box.next_seq() == 2


def test_a_copy_is_never_shed() -> None:
    """What has no number would leave no hole: where there is no room for it, the connection is over."""
    box = made()
    event = Event("session.tool", {"text": "x" * 2000})
    while (verdict := box.put(event, 0.0, numbered=False)) is Verdict.QUEUED:
        pass

    assert verdict is Verdict.OVERFLOW
    assert box.shed(10_000) == 0
    assert box.dropped == 0


def test_a_newer_delta_is_merged_into_the_one_that_waits() -> None:
    """What was merged away never had a number, and the increments are joined."""
    box = made()
    verdicts = [box.put(delta(text, at), 0.0) for text, at in (("a", 0), ("ab", 1), ("abc", 2))]

    assert verdicts == [Verdict.QUEUED, Verdict.MERGED, Verdict.MERGED]
    assert drained(box) == [(1, {"delta": "abc", "text": "abc"})]
    assert box.put(delta("abcd", 3), 0.0) is Verdict.QUEUED
    assert drained(box) == [(2, {"delta": "d", "text": "abcd"})]


def test_a_tick_stands_for_the_tick_before_it() -> None:
    """Of the events without a text the newest stays, in the place of the first."""
    box = made()
    box.put(Event("tick", 1), 0.0)
    box.put(must(), 0.0)
    assert box.put(Event("tick", 2), 0.0) is Verdict.MERGED
    assert drained(box) == [(1, 2), (2, {})]


def test_nothing_overtakes_another_event_of_its_run() -> None:
    """An event of a run seals its waiting deltas; those of other runs and streams go on merging."""
    box = made()
    box.put(delta("a", 0), 0.0)
    box.put(delta("x", 0, name="agent"), 0.0)
    box.put(delta("o", 0, run="other"), 0.0)
    box.put(must(group="r", tool=1), 0.0)

    assert box.put(delta("ab", 1), 0.0) is Verdict.QUEUED
    assert box.put(delta("xy", 1, name="agent"), 0.0) is Verdict.QUEUED
    assert box.put(delta("op", 1, run="other"), 0.0) is Verdict.MERGED
    assert [payload.get("delta") for _, payload in drained(box)] == ["a", "x", "op", None, "b", "y"]


def test_a_shed_event_seals_nothing() -> None:
    """Where a tool event found no room, the run's text still needs none."""
    first = delta("a", 0)
    box = made(cost(first) + 150)
    box.put(first, 0.0)

    assert box.put(droppable(500, group="r"), 0.0) is Verdict.SHED
    assert box.put(delta("ab", 1), 0.0) is Verdict.MERGED
    box.next_seq()
    assert drained(box) == [(2, {"delta": "ab", "text": "ab"})]
    assert box.next_seq() == 4


def test_the_oldest_droppable_frames_are_shed_first() -> None:
    """A full outbox sheds what may be lost, and the hole lies where the loss was."""
    first, second = droppable(100), droppable(100)
    box = made(cost(must(n=0)) * 2 + cost(first) * 2)
    box.put(must(n=0), 0.0)
    box.put(first, 0.0)
    box.put(must(n=1), 0.0)
    box.put(second, 0.0)

    assert box.put(droppable(100), 0.0) is Verdict.QUEUED
    assert box.dropped == 1
    assert [seq for seq, _ in drained(box)] == [1, 3, 4, 5]


def test_a_frame_that_never_fits_costs_no_other() -> None:
    """Nothing is shed for a frame that would not fit even then."""
    small = droppable(10)
    box = made(cost(small) + 100)
    box.put(small, 0.0)

    assert box.put(droppable(5_000), 0.0) is Verdict.SHED
    assert box.put(must(big="x" * 5_000), 0.0) is Verdict.OVERFLOW
    assert box.put_direct(b"x" * 5_000, 0.0) is Verdict.OVERFLOW
    assert box.put(delta("x" * 5_000, 0), 0.0) is Verdict.OVERFLOW
    assert drained(box) == [(1, "x" * 10)]
    assert (box.dropped, box.next_seq()) == (1, 3)


def test_a_delta_that_outgrows_the_outbox_overflows() -> None:
    """A merge that finds no room keeps what waits as it is."""
    first = delta("a", 0)
    box = made(cost(first) + 20)
    box.put(first, 0.0)

    assert box.put(delta("a" * 500, 1), 0.0) is Verdict.OVERFLOW
    assert box.queued == cost(first)
    assert drained(box) == [(1, {"delta": "a", "text": "a"})]


def test_a_merge_may_shed_and_a_shorter_text_gives_room_back() -> None:
    """Droppable frames make room for a growing text; a rewritten short one frees what it took."""
    first = delta("a", 0)
    box = made(cost(first) + cost(droppable(50)) + 60)
    box.put(droppable(50), 0.0)
    box.put(first, 0.0)

    assert box.put(delta("a" * 60, 1), 0.0) is Verdict.MERGED
    assert box.dropped == 1
    grown = box.queued
    assert box.put(delta("b", 0), 0.0) is Verdict.MERGED
    assert box.queued < grown
    assert [seq for seq, _ in drained(box)] == [2]


def test_a_hole_at_the_head_takes_its_number_at_once() -> None:
    """When the first frame is shed, or all are, the next one shows the hole."""
    box = made(cost(droppable(100)) + cost(must()))
    box.put(droppable(100), 0.0)
    assert box.put(must(big="x" * 90), 0.0) is Verdict.QUEUED
    assert box.seq == 1
    assert [seq for seq, _ in drained(box)] == [2]

    alone = made(cost(droppable(100)))
    alone.put(droppable(100), 0.0)
    assert alone.put(droppable(90), 0.0) is Verdict.QUEUED
    assert [seq for seq, _ in drained(alone)] == [2]
    assert alone.put(droppable(1_000), 0.0) is Verdict.SHED
    assert (alone.seq, bool(alone)) == (3, False)


def test_holes_at_the_end_are_one_entry() -> None:
    """However many new frames are shed, one empty entry remembers them, until the next frame does."""
    box = made(cost(must()) * 2)
    box.put(must(), 0.0)
    for _ in range(1_000):
        assert box.put(droppable(1_000), 0.0) is Verdict.SHED
    assert length(box) == 2

    box.put(must(), 0.0)
    assert length(box) == 2
    for _ in range(3):
        box.put(droppable(1_000), 0.0)
    assert [seq for seq, _ in drained(box)] == [1, 1_002]
    assert box.seq == 1_005


def length(box: Outbox) -> int:
    """Return how many entries lie in the queue, empty ones included."""
    return len(box._entries or ())


def test_empty_entries_do_not_pile_up() -> None:
    """Holes between frames are folded into the frames behind them once they are the half."""
    count = 200
    between = must()
    box = made(count * cost(between) + 2 * cost(droppable(100)))
    for _ in range(count):
        box.put(between, 0.0)
        assert box.put(droppable(100), 0.0) is Verdict.QUEUED
    alive = box.dropped

    assert alive == count - 2
    assert length(box) <= 2 * (count + 2) + MAX_EMPTY
    assert len([seq for seq, _ in drained(box)]) == count + 2
    assert box.seq == 2 * count


def test_folding_keeps_every_number() -> None:
    """After folding, each frame still has the number that its place gives it."""
    events = [droppable(100) for _ in range(40)]
    box = made(sum(cost(event) for event in events) + 2 * cost(must()))
    box.put(must(n=0), 0.0)
    for event in events:
        box.put(event, 0.0)

    # As large as 30 of the 40: the empty entries become more than the half.
    assert box.put_direct(b" " * (30 * cost(events[0])) + b"{}", 0.0) is Verdict.QUEUED

    assert box.dropped > 25
    assert length(box) <= 2 * (42 - box.dropped) + MAX_EMPTY
    box.put(must(n=1), 0.0)
    kept = 40 - box.dropped
    numbers = [seq for seq, _ in drained(box)]
    assert numbers == [1, *range(42 - kept, 42), None, 42]


def test_folding_keeps_the_holes_at_the_end() -> None:
    """Holes that nothing follows yet stay behind everything that waits."""
    box = made(cost(must()) + 40 * cost(droppable(100)))
    box.put(must(), 0.0)
    for _ in range(40):
        box.put(droppable(100), 0.0)
    tick = Event("tick", 1)
    box.max_bytes = cost(must()) + cost(tick)

    assert box.put(tick, 0.0) is Verdict.QUEUED
    assert box.put(droppable(100), 0.0) is Verdict.SHED
    assert box.dropped == 41
    assert length(box) <= 4 + MAX_EMPTY
    assert [seq for seq, _ in drained(box)] == [1, 42]
    assert box.seq == 43


def test_age_is_that_of_the_oldest_frame() -> None:
    """A frame that waits longer than the cap makes the connection a slow one; a shed one does not."""
    box = made(max_age=10.0, max_bytes=cost(droppable(100)) + cost(must()))
    assert not box.expired(1e9)
    box.put(droppable(100), 0.0)
    box.put(must(), 6.0)
    assert box.expired(10.5)
    assert not box.expired(10.0)

    assert box.put(must(big="x" * 80), 8.0) is Verdict.QUEUED

    assert not box.expired(15.0)
    assert box.expired(16.5)
    box.take()
    assert not box.expired(18.0)


def test_a_merged_delta_is_as_old_as_the_first() -> None:
    """Merging does not make what waits younger."""
    box = made(max_age=10.0)
    box.put(delta("a", 0), 0.0)
    box.put(delta("ab", 1), 9.0)
    assert box.expired(11.0)


def test_clear_discards_everything() -> None:
    """A connection that is closed keeps nothing, and tells how much it discarded."""
    box = made()
    for _ in range(3):
        box.put(droppable(10), 0.0)
        box.put(delta("a", 0), 0.0)
    queued = box.queued

    assert box.clear() == queued > 0
    assert (box.queued, bool(box), box.take(), box.clear()) == (0, False, None, 0)
    assert box.put(delta("ab", 1), 0.0) is Verdict.QUEUED
    assert drained(box) == [(1, {"delta": "b", "text": "ab"})]


def test_a_queue_that_never_drains_forgets_the_runs_that_passed() -> None:
    """What may be merged is remembered only for what still waits."""
    box = made()
    box.put(must(), 0.0)
    for run in range(100):
        box.put(delta("a", 0, run=str(run)), 0.0)
        box.put(delta("a", 0, run=str(run), name="agent"), 0.0)
        box.put(must(), 0.0)
        for _ in range(3):
            box.take()

    assert box
    assert not box._latest


def test_an_idle_connection_holds_no_queue() -> None:
    """Once everything was taken nothing is left behind."""
    box = made(cost(droppable(10)) * 3)
    for _ in range(5):
        box.put(droppable(10), 0.0)
        box.put(delta("a", 0), 0.0)
    drained(box)
    left = {name: getattr(box, name) for name in module.Outbox.__slots__}
    assert {name for name, value in left.items() if value is None} == {
        "_entries",
        "_latest",
        "_sheddable",
    }
    assert (left["_empty"], left["_sheddable_bytes"], left["queued"]) == (0, 0, 0)


def test_a_version_counts_its_own_form() -> None:
    """What waits is counted by what it takes in this connection's version."""
    event = Event("shutdown", {"long": "x" * 1_000}, v3={})
    three, four = Outbox(3, max_bytes=ROOMY, max_age=1), made()
    three.put(event, 0.0)
    four.put(event, 0.0)
    assert four.queued - three.queued > 900
    assert drained(three) == [(1, {})]
