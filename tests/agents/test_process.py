"""One child process, its pipes and its end."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from twisted.logger import LogEvent, Logger, globalLogPublisher

from gateway.agents.process import (
    STDERR_LINES_PER_WINDOW,
    ChildProcess,
    Command,
    Exit,
    StderrLog,
    clean_environment,
)
from gateway.testing import FakeClock
from tests.agents.fakes import FakeProcess, FakeReactor


class Setup:
    """A child under a fake reactor; ``exits`` and ``output`` have what was called back."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.reactor = FakeReactor()
        self.output: list[bytes] = []
        self.exits: list[Exit] = []
        self.child = ChildProcess(
            "main",
            reactor=self.reactor,
            clock=self.clock,
            on_output=self.output.append,
            on_exit=self.exits.append,
            kill_group=self.reactor.kill_group,
        )

    def spawn(self) -> FakeProcess:
        self.child.spawn(Command(("agent", "acp"), {"PATH": "/bin"}, "/work"))
        return self.reactor.processes[0]


@pytest.fixture
def setup() -> Setup:
    return Setup()


@pytest.fixture
def log_lines() -> Any:
    """Texts of what is logged at info and above."""
    lines: list[str] = []

    def observe(event: LogEvent) -> None:
        if event["log_level"].name != "debug":
            lines.append(event["log_format"].format(**event))

    observer: Any = observe
    globalLogPublisher.addObserver(observer)
    yield lines
    globalLogPublisher.removeObserver(observer)


def test_the_child_runs_under_the_launcher(setup: Setup) -> None:
    """The command runs in its directory, with the environment that was given and no other."""
    process = setup.spawn()

    assert process.argv == ["agent", "acp"]
    assert process.env == {"PATH": "/bin"}
    assert process.path == "/work"
    assert setup.child.pid == process.pid


def test_bytes_go_both_ways(setup: Setup, log_lines: list[str]) -> None:
    """What is written reaches its input, what it prints the callback, what it warns of the log."""
    process = setup.spawn()

    setup.child.write(b"hello")
    process.protocol.childDataReceived(1, b"world")
    process.protocol.childDataReceived(2, b"a warning\n")

    assert process.written == b"hello"
    assert setup.output == [b"world"]
    assert log_lines == ["a warning"]


def test_the_end_is_told_once_its_output_is_read(setup: Setup) -> None:
    """An exit kills the group at once; on_exit waits for the pipes."""
    process = setup.spawn()

    process.exit(code=3)
    assert setup.reactor.groups == [(process.pid, "SIGKILL")]
    assert setup.exits == []

    process.protocol.childDataReceived(1, b"last words")
    process.end()
    assert setup.output == [b"last words"]
    assert setup.exits == [Exit(3, None)]
    assert setup.clock.getDelayedCalls() == []


def test_pipes_held_by_something_else_are_closed(setup: Setup) -> None:
    """What still holds the pipes after a second does not keep the end from being told."""
    process = setup.spawn()
    process.exit(signal=9)

    setup.clock.advance(1)
    assert process.pipes_closed

    process.end()
    assert setup.exits == [Exit(None, 9)]


def test_stop_closes_the_input_first(setup: Setup) -> None:
    """A child that ends by itself within a second gets no signal but the last one for its group."""
    process = setup.spawn()

    setup.child.stop()
    assert process.input_closed
    setup.clock.advance(0.9)
    process.end(code=0)

    assert setup.reactor.groups == [(process.pid, "SIGKILL")]
    assert setup.exits == [Exit(0, None)]
    assert setup.clock.getDelayedCalls() == []


def test_stop_grows_harder(setup: Setup) -> None:
    """A deaf child gets SIGTERM after 1 s and SIGKILL after 2 s more, its whole group."""
    process = setup.spawn()

    setup.child.stop()
    setup.clock.advance(1)
    assert setup.reactor.groups == [(process.pid, "SIGTERM")]
    setup.clock.advance(1.9)
    assert len(setup.reactor.groups) == 1
    setup.clock.advance(0.1)
    assert setup.reactor.groups[1:] == [(process.pid, "SIGKILL")]
    assert setup.exits == []

    process.end(signal=9)
    assert setup.exits == [Exit(None, 9)]


def test_a_child_without_a_group_yet_is_signalled_itself(setup: Setup) -> None:
    """Before the launcher has made the group, and after the child is gone, kill does what it can."""
    process = setup.spawn()
    setup.reactor.no_group = True

    setup.child.kill()
    assert process.signals == ["KILL"]

    process.exited = True
    setup.child.kill()
    assert process.signals == ["KILL"]


def test_nothing_is_written_to_a_child_that_closed_its_input(setup: Setup) -> None:
    """A child that closes its input is deaf; it has a second to end, then it is killed."""
    process = setup.spawn()

    process.protocol.childConnectionLost(0)
    setup.child.write(b"hello")

    assert process.written == b""
    setup.clock.advance(1)
    assert setup.reactor.groups == [(process.pid, "SIGKILL")]


def test_an_exit_says_how() -> None:
    """An exit reads as the operator knows it."""
    assert str(Exit(3, None)) == "exit status 3"
    assert str(Exit(None, 9)) == "signal 9 (SIGKILL)"
    assert str(Exit(None, 99)) == "signal 99"


def test_the_environment_is_an_allow_list() -> None:
    """An agent sees where programs and its home are, and none of the gateway's secrets."""
    environ = {
        "PATH": "/bin",
        "HOME": "/h",
        "LC_ALL": "C",
        "GATEWAY_TOKEN": "x",
        "OPENAI_API_KEY": "y",
    }

    assert clean_environment(environ) == {"PATH": "/bin", "HOME": "/h", "LC_ALL": "C"}


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


def test_the_launcher_is_run_apart_from_the_workspace(setup: Setup) -> None:
    """The launcher's interpreter takes no module from the directory that the agent may write to."""
    spawned: list[Any] = []
    original = setup.reactor.spawnProcess

    class Recording(FakeReactor):
        def spawnProcess(self, *args: Any, **kwargs: Any) -> FakeProcess:
            spawned.append(args)
            return original(*args, **kwargs)

    setup.child = ChildProcess(
        "main",
        reactor=Recording(),
        clock=setup.clock,
        on_output=setup.output.append,
        on_exit=setup.exits.append,
        kill_group=setup.reactor.kill_group,
    )
    setup.spawn()

    assert spawned[0][1] == sys.executable
    assert "-I" in spawned[0][2]
