"""The gateway's ends of an agent's pipes."""

from __future__ import annotations

import pytest
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from zope.interface.verify import verifyObject

from gateway.agents.pipes import (
    STDERR_LINES_PER_WINDOW,
    InputFull,
    Intake,
    Outlet,
    StderrLog,
)
from gateway.testing import FakeClock
from tests.agents.fakes import FakePipe, FakeProcess


@pytest.fixture
def process() -> FakeProcess:
    return FakeProcess(1, None, ["--"], {}, "/")


def test_what_is_not_read_waits(process: FakeProcess) -> None:
    """While the process reads slowly, what it is given is kept in order, and counted."""
    pipe = process.pipes[0]
    outlet = Outlet(pipe)
    assert verifyObject(IPushProducer, outlet)
    pipe.full = True

    for word in (b"one ", b"two ", b"three "):
        outlet.write(word)
    assert (process.written, outlet.queued) == (b"one ", 10)

    outlet.resumeProducing()
    assert (process.written, outlet.queued) == (b"one two ", 6)
    pipe.drain()
    assert (process.written, outlet.queued) == (b"one two three ", 0)


def test_what_waits_is_bounded(process: FakeProcess) -> None:
    """Beyond the bound the writer is told, and nothing more is kept."""
    pipe = process.pipes[0]
    outlet = Outlet(pipe, max_bytes=10)
    pipe.full = True
    outlet.write(b"x" * 1000)

    outlet.write(b"y" * 10)
    with pytest.raises(InputFull):
        outlet.write(b"z")

    assert outlet.queued == 10


def test_closing_drops_what_waits(process: FakeProcess) -> None:
    """After the close nothing is written, kept or produced, and the pipe is free to be closed."""
    pipe = process.pipes[0]
    outlet = Outlet(pipe)
    pipe.full = True
    outlet.write(b"one")
    outlet.write(b"two")

    outlet.close()
    outlet.close()
    outlet.write(b"three")

    assert (process.written, outlet.queued, pipe.producer) == (b"one", 0, None)


def test_a_pipe_that_is_gone_forgets(process: FakeProcess) -> None:
    """When its reader is gone, nothing waits any more."""
    outlet = Outlet(process.pipes[0])
    outlet.pauseProducing()
    outlet.write(b"one")

    outlet.stopProducing()
    outlet.write(b"two")

    assert (process.written, outlet.queued) == (b"", 0)


class Slow:
    """An intake whose data take some time to handle."""

    def __init__(self, process: FakeProcess, seconds: float) -> None:
        self.clock = FakeClock()
        self.pipe: FakePipe = process.pipes[1]
        self.seconds = seconds
        self.handled = 0
        self.intake = Intake(self.pipe, self.clock, self.handle)

    def handle(self, data: bytes) -> None:
        self.handled += len(data)
        self.clock.rightNow += self.seconds


def test_output_that_takes_time_is_left_alone_for_a_while(process: FakeProcess) -> None:
    """After 2 ms of work the pipe is not read for three times as long: a quarter of the time at most."""
    slow = Slow(process, 0.0015)
    slow.intake.take(b"one")
    assert slow.pipe.reading

    slow.intake.take(b"two")
    assert not slow.pipe.reading
    slow.clock.advance(0.0089)
    assert not slow.pipe.reading
    slow.clock.advance(0.0002)
    assert slow.pipe.reading
    assert slow.clock.getDelayedCalls() == []


def test_quick_output_is_always_read(process: FakeProcess) -> None:
    """Who takes no time is never left alone."""
    slow = Slow(process, 0.0)
    for _ in range(1000):
        slow.intake.take(b"x" * 8192)

    assert slow.pipe.reading
    assert slow.clock.getDelayedCalls() == []


def test_a_closed_pipe_is_not_read_again(process: FakeProcess) -> None:
    """Neither a rest that goes on nor what comes late ends in reading a pipe that is gone."""
    slow = Slow(process, 1.0)
    slow.intake.take(b"one")

    slow.intake.close()
    slow.intake.close()
    slow.intake.take(b"two")

    assert slow.handled == 6
    assert not slow.pipe.reading
    assert slow.clock.getDelayedCalls() == []


def test_standard_error_is_logged_line_by_line(log_lines: list[str]) -> None:
    """Lines are logged whole wherever the bytes were cut; control characters do not reach a terminal."""
    log = StderrLog(Logger(), FakeClock())

    for byte in "one\r\n\ntwo\x1b[31m\nthree ä".encode():
        log.feed(bytes([byte]))
    assert log_lines == ["one", "two\ufffd[31m"]

    log.flush()
    assert log_lines[2:] == ["three ä"]


def test_a_long_line_is_cut(log_lines: list[str]) -> None:
    """A line of megabytes costs a thousand characters of log, and no more memory while it grows."""
    log = StderrLog(Logger(), FakeClock())

    for _ in range(100):
        log.feed(b"x" * 65_536)
    log.feed(b"\nnext\n")

    assert log_lines == ["x" * 1000 + "…", "next"]


def test_a_flood_is_left_out(log_lines: list[str]) -> None:
    """Beyond 200 lines in 10 s the rest is counted, and the count is logged."""
    clock = FakeClock()
    log = StderrLog(Logger(), clock)

    log.feed(b"x\n" * (STDERR_LINES_PER_WINDOW + 7))
    assert len(log_lines) == STDERR_LINES_PER_WINDOW
    clock.advance(10)
    log.feed(b"y\n")

    assert log_lines[STDERR_LINES_PER_WINDOW:] == ["7 more lines left out", "y"]


def test_a_flood_after_a_beginning(log_lines: list[str]) -> None:
    """A flood that ends in the middle of a line leaves no part of it to the next window's lines."""
    clock = FakeClock()
    log = StderrLog(Logger(), clock)

    log.feed(b"begin")
    log.feed(b"ning\n" + b"x\n" * 300 + b"en")
    log.feed(b"d\n")
    clock.advance(10)
    log.feed(b"y\n")

    assert log_lines[0] == "beginning"
    assert log_lines[STDERR_LINES_PER_WINDOW:] == ["102 more lines left out", "y"]


def test_keys_that_a_child_prints_are_not_logged(log_lines: list[str]) -> None:
    """Of what a child was given in secret nothing stands in the log, lines of a longer secret neither."""
    log = StderrLog(Logger(), FakeClock())
    log.hide(
        ["key-of-a-provider", "first line of it\nsecond line of it", "short", "key-of-a-provider-2"]
    )
    log.feed(b"bad key-of-a-provider-2, key-of-a-provider; short\nit: second line of it\n")
    assert log_lines == ["bad [redacted], [redacted]; short", "it: [redacted]"]
