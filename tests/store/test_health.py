"""gateway.store.health: what is wrong, what is refused, when it is tried again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from gateway.errors import StoreError
from gateway.store.health import CHECK_S, PROBE_S, Health, Side
from gateway.store.trouble import Kind, Trouble
from gateway.testing import FakeClock

FULL = Trouble(Kind.FULL, "the disk is full")
LOCKED = Trouble(Kind.LOCKED, "another program has locked the database")
DAMAGED = Trouble(Kind.DAMAGED, "the database is damaged")
OTHER = Trouble(Kind.OTHER, "no such table")


class Rig:
    """A health on a clock that stands still, with a probe that does what it is told."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.probed: list[tuple[Side, Trouble]] = []
        self.answer: Deferred[None] | None = None
        self.health = Health(self.clock, self.probe)
        self.lines: list[str] = []

    def probe(self, side: Side, trouble: Trouble) -> Deferred[None]:
        """Note that it was tried; without an answer it fails as before."""
        self.probed.append((side, trouble))
        if self.answer is not None:
            return self.answer
        self.health.note(side, trouble)
        return fail(StoreError(trouble.text))

    @property
    def timers(self) -> list[float]:
        """In how many seconds something is tried."""
        return [call.getTime() - self.clock.seconds() for call in self.clock.getDelayedCalls()]

    @implementer(ILogObserver)
    def observe(self, event: LogEvent) -> None:
        """Keep the lines of the log."""
        self.lines.append(str(event["log_format"]).format(**event))


@pytest.fixture
def rig() -> Iterator[Rig]:
    """Return a health that works, and what it is made with."""
    rig = Rig()
    globalLogPublisher.addObserver(rig.observe)
    yield rig
    globalLogPublisher.removeObserver(rig.observe)


def test_what_works_is_left_alone(rig: Rig) -> None:
    """While transactions succeed nothing is refused, tried or said."""
    rig.health.note(Side.WRITER, None)
    rig.health.note(Side.READER, None)

    assert (rig.health.trouble, rig.health.refusal) == (None, None)
    assert (rig.timers, rig.lines) == ([], [])


def test_failing_store_is_tried_until_it_works(rig: Rig) -> None:
    """A failure is said once, refuses writes, and is tried every few seconds until one works."""
    for _ in range(3):
        rig.health.note(Side.WRITER, FULL)
    assert (rig.health.trouble, rig.health.refusal) == (FULL, "the disk is full")
    assert rig.timers == [PROBE_S]

    rig.clock.pump([PROBE_S, PROBE_S])
    assert rig.probed == [(Side.WRITER, FULL)] * 2
    assert rig.timers == [PROBE_S]
    rig.health.note(Side.WRITER, None)

    assert (rig.health.trouble, rig.health.refusal) == (None, None)
    assert rig.timers == []
    assert rig.lines == ["store failing reason=the disk is full", "store works again"]


def test_probe_that_works(rig: Rig) -> None:
    """A probe whose transaction succeeded is the last one."""
    rig.health.note(Side.WRITER, LOCKED)
    rig.answer = Deferred()
    rig.clock.advance(PROBE_S)
    assert rig.timers == []

    rig.health.note(Side.WRITER, None)
    rig.answer.callback(None)

    assert rig.health.trouble is None
    assert rig.timers == []


def test_one_probe_at_a_time(rig: Rig) -> None:
    """While a probe is under way nothing else is tried, whatever fails meanwhile."""
    rig.health.note(Side.WRITER, LOCKED)
    rig.answer = Deferred()
    rig.clock.advance(PROBE_S)

    rig.health.note(Side.WRITER, LOCKED)
    rig.clock.advance(10 * PROBE_S)
    assert len(rig.probed) == 1
    rig.answer.errback(StoreError("still"))

    assert rig.timers == [PROBE_S]


def test_another_trouble_is_said_too(rig: Rig) -> None:
    """When what is wrong changes, it is said anew."""
    rig.health.note(Side.WRITER, FULL)
    rig.health.note(Side.WRITER, LOCKED)

    assert rig.health.trouble == LOCKED
    assert rig.lines == [
        "store failing reason=the disk is full",
        "store failing reason=another program has locked the database",
    ]


def test_trouble_of_one_operation_refuses_nothing(rig: Rig) -> None:
    """What may be the fault of one operation is told and tried, and other writes go on."""
    rig.health.note(Side.WRITER, OTHER)

    assert (rig.health.trouble, rig.health.refusal) == (OTHER, None)
    assert rig.timers == [PROBE_S]


def test_reads_that_fail(rig: Rig) -> None:
    """When reading fails, writes go on; the reader is tried, and its success ends it."""
    rig.health.note(Side.READER, FULL)
    rig.health.note(Side.WRITER, None)
    assert (rig.health.trouble, rig.health.refusal) == (FULL, None)
    rig.clock.advance(PROBE_S)
    assert rig.probed == [(Side.READER, FULL)]

    rig.health.note(Side.READER, None)

    assert rig.health.trouble is None


def test_both_sides_fail(rig: Rig) -> None:
    """With both sides failing, one after the other is tried until both work."""
    rig.health.note(Side.READER, LOCKED)
    rig.health.note(Side.WRITER, FULL)
    assert rig.health.refusal == "the disk is full"

    rig.health.note(Side.READER, None)
    assert rig.health.trouble == FULL
    rig.clock.advance(PROBE_S)

    assert rig.probed == [(Side.WRITER, FULL)]


MOVED = Trouble(Kind.MOVED, "the database was removed or replaced")


@pytest.mark.parametrize("grave", [DAMAGED, MOVED])
@pytest.mark.parametrize("side", Side)
def test_damage_stays_until_all_was_checked(rig: Rig, side: Side, grave: Trouble) -> None:
    """What is wrong with the files refuses writes; no success ends it but that of a check."""
    rig.health.note(side, grave)
    for each in Side:
        rig.health.note(each, None)
    rig.health.note(side, FULL)
    assert rig.health.trouble == grave
    assert rig.health.refusal == grave.advice
    assert rig.timers == [CHECK_S]
    rig.clock.advance(CHECK_S)
    assert rig.probed == [(side, grave)]
    assert rig.timers == [CHECK_S]

    rig.answer = succeed(None)
    rig.clock.advance(CHECK_S)

    assert rig.timers == []
    assert rig.lines == [f"store failing reason={grave.advice}", "store works again"]


def test_damage_comes_first(rig: Rig) -> None:
    """With damage and something else it is the damage that is told and checked."""
    rig.health.note(Side.WRITER, FULL)
    rig.health.note(Side.READER, DAMAGED)
    assert rig.health.trouble == DAMAGED

    rig.clock.advance(PROBE_S)

    assert rig.probed == [(Side.READER, DAMAGED)]
    assert rig.timers == [CHECK_S]


def test_stop_ends_the_trying(rig: Rig) -> None:
    """After stop() nothing is scheduled, not by what fails later either."""
    rig.health.note(Side.WRITER, FULL)
    rig.health.stop()
    rig.health.note(Side.WRITER, LOCKED)

    assert rig.timers == []
    rig.health.stop()
