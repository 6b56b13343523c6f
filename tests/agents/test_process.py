"""One child process, its pipes and its end."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.error import ProcessDone
from twisted.python.failure import Failure

from gateway.agents.process import (
    ChildProcess,
    Command,
    Exit,
    Limits,
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
        self.deaths: list[Exit] = []
        self.exits: list[Exit] = []
        self.during_output: Callable[[], None] = lambda: None
        self.child = self.make(self.reactor)

    def make(self, reactor: FakeReactor) -> ChildProcess:
        return ChildProcess(
            "main",
            reactor=reactor,
            clock=self.clock,
            mark="mark",
            on_output=self.take,
            on_death=self.deaths.append,
            on_exit=self.exits.append,
            limits=Limits(memory_bytes=1 << 30, nice=5),
        )

    def take(self, data: bytes) -> None:
        self.output.append(data)
        self.during_output()

    def spawn(self) -> FakeProcess:
        self.child.spawn(Command(("agent", "acp"), {"PATH": "/bin"}, "/work"))
        return self.reactor.processes[0]


@pytest.fixture
def setup() -> Setup:
    return Setup()


def test_the_child_runs_under_the_launcher(setup: Setup) -> None:
    """The command runs in its directory, with the environment that was given and a mark, in its limits."""
    process = setup.spawn()

    assert process.argv == ["agent", "acp"]
    assert process.env == {"PATH": "/bin", "GATEWAY_PROCESS": "mark"}
    assert process.path == "/work"
    assert process.options[1:3] == ["-I", "-S"]
    assert process.options[6:] == ["--status", "3", "--memory", "1073741824", "--nice", "5"]


def test_bytes_go_both_ways(setup: Setup, log_lines: list[str]) -> None:
    """What is written reaches its input, what it prints the callback, what it warns of the log."""
    process = setup.spawn()

    setup.child.write(b"hello")
    process.protocol.childDataReceived(1, b"world")
    process.protocol.childDataReceived(2, b"a warning\n")

    assert process.written == b"hello"
    assert setup.output == [b"world"]
    assert log_lines == ["a warning"]


def test_the_agents_process_id_is_the_launchers_to_tell(setup: Setup) -> None:
    """Until the launcher has told it, only the launcher's own is known; its lines may come in pieces."""
    process = setup.spawn()
    assert (setup.child.pid, setup.child.launcher_pid) == (None, process.pid)

    for piece in (b"pi", b"d 47", b"11\nwhat is this\npid x"):
        process.protocol.childDataReceived(3, piece)

    assert setup.child.pid == 4711


def test_the_end_is_told_once_its_output_is_read(setup: Setup) -> None:
    """The launcher has ended what was left; on_exit waits for the pipes."""
    process = setup.spawn()

    process.exit(code=3)
    assert setup.exits == []

    process.protocol.childDataReceived(1, b"last words")
    process.end()
    assert setup.output == [b"last words"]
    assert (setup.deaths, setup.exits) == ([], [Exit(3, None)])
    assert setup.reactor.sweeps == []
    assert setup.clock.getDelayedCalls() == []


def test_an_end_that_takes_long_is_told_before(setup: Setup) -> None:
    """While what it has started is still being killed, its death is known after half a second."""
    process = setup.spawn()

    process.tell("signal 11")
    assert setup.deaths == []
    setup.clock.advance(0.5)
    assert setup.deaths == [Exit(None, 11)]

    process.lose_launcher(0)
    process.end()
    assert setup.exits == [Exit(None, 11)]
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
    """A child that ends by itself within a second gets no signal."""
    process = setup.spawn()

    setup.child.stop()
    assert process.input_closed
    setup.clock.advance(0.9)
    process.end(code=0)

    assert process.signals == []
    assert setup.exits == [Exit(0, None)]
    assert setup.clock.getDelayedCalls() == []


def test_stop_grows_harder(setup: Setup) -> None:
    """A deaf child gets SIGTERM after 1 s; 2 s later its launcher kills all, 3 s later it is killed."""
    process = setup.spawn()

    setup.child.stop()
    setup.clock.advance(1)
    assert process.signals == ["SIGTERM"]
    setup.clock.advance(1.9)
    assert process.signals == ["SIGTERM"]
    setup.clock.advance(0.1)
    assert process.signals == ["SIGTERM", "SIGUSR1"]
    setup.clock.advance(3)
    assert process.signals == ["SIGTERM", "SIGUSR1", "SIGKILL"]
    assert setup.exits == []

    process.lose_launcher(signal=9)
    setup.reactor.sweeps[0].lose_launcher(0)
    setup.reactor.sweeps[0].end()
    process.end()
    assert setup.exits == [Exit(None, 9)]
    assert setup.clock.getDelayedCalls() == []


def test_a_kill_is_not_softened_by_a_stop(setup: Setup) -> None:
    """Who is being killed gets no second chance, and no second signal."""
    process = setup.spawn()

    setup.child.kill()
    setup.child.kill()
    setup.child.stop()
    process.lose(0)

    assert process.signals == ["SIGUSR1"]
    assert len(setup.clock.getDelayedCalls()) == 1


def test_a_child_that_ends_in_order_may_close_its_output(setup: Setup) -> None:
    """Who was told to stop, and closes its pipes before it has ended, keeps its time."""
    process = setup.spawn()

    setup.child.stop()
    process.lose(1)
    process.lose(2)
    setup.clock.advance(2.9)

    assert process.signals == ["SIGTERM"]


def test_a_kill_that_comes_too_late_is_none(setup: Setup) -> None:
    """The launcher may end between two looks at it; nothing is signalled that was not started."""
    setup.child.kill()
    process = setup.spawn()
    process.exited = True

    setup.child.kill()

    assert process.signals == []


def test_what_a_killed_launcher_left_is_looked_for(setup: Setup) -> None:
    """A launcher that ends without a word may have left something: the end waits for the search."""
    process = setup.spawn()
    process.lose_launcher(signal=9)
    (sweep,) = setup.reactor.sweeps
    assert sweep.options[-2:] == ["--sweep", "GATEWAY_PROCESS=mark"]
    assert sweep.env == {}

    process.end()
    assert setup.exits == []
    sweep.lose_launcher(0)
    sweep.end()

    assert setup.exits == [Exit(None, 9)]
    assert setup.clock.getDelayedCalls() == []


def test_what_a_launcher_could_not_end_is_looked_for(setup: Setup, log_lines: list[str]) -> None:
    """A launcher that has given up says how many are left; the agent's end stays what it was."""
    process = setup.spawn()
    process.tell("exit 3")
    process.tell("left 2")
    process.lose_launcher(1)
    (sweep,) = setup.reactor.sweeps
    sweep.protocol.childDataReceived(2, b"what it says")
    sweep.lose_launcher(1)
    sweep.end()
    process.end()

    assert setup.exits == [Exit(3, None)]
    assert log_lines == [
        "2 of its processes do not end",
        "the launcher ended before its work: exit status 1",
        "what it says",
        "some of its processes may be left",
    ]


def test_a_search_that_hangs_is_given_up(setup: Setup) -> None:
    """After three seconds the search is killed; where it has just ended, that is no harm."""
    process = setup.spawn()
    process.lose_launcher(signal=9)
    process.end()
    (sweep,) = setup.reactor.sweeps

    setup.clock.advance(3)
    assert sweep.signals == ["KILL"]
    sweep.lose_launcher(signal=9)
    sweep.end()
    assert setup.exits == [Exit(None, 9)]


def test_a_search_that_ends_when_it_is_given_up(setup: Setup) -> None:
    """The search may end between two looks at it."""
    setup.spawn().lose_launcher(signal=9)
    setup.reactor.sweeps[0].exited = True

    setup.clock.advance(3)

    assert setup.reactor.sweeps[0].signals == []


def test_no_process_to_search_with(setup: Setup, log_lines: list[str]) -> None:
    """Where no process can be had, the end is told without the search, and the log says so."""
    process = setup.spawn()
    setup.reactor.refuse = OSError(11, "Resource temporarily unavailable")

    process.lose_launcher(signal=9)
    process.end()

    assert setup.exits == [Exit(None, 9)]
    assert "can not be looked for: Resource temporarily unavailable" in log_lines[-1]


def test_the_agents_end_is_read_before_the_launchers_is_judged(setup: Setup) -> None:
    """The launcher's exit may be seen before its last words are read."""
    process = setup.spawn()
    process.exited = True
    process.reason = Failure(ProcessDone(0))
    process.protocol.processExited(process.reason)

    process.tell("exit 3")
    process.end()

    assert setup.exits == [Exit(3, None)]
    assert setup.reactor.sweeps == []


@pytest.mark.parametrize("descriptor", [0, 1])
def test_a_child_that_closes_a_pipe_has_a_second(setup: Setup, descriptor: int) -> None:
    """A child that closes its input or its output is of no use; it has a second to end, then it is killed."""
    process = setup.spawn()

    process.lose(descriptor)
    setup.child.write(b"hello")

    assert process.written == b""
    setup.clock.advance(1)
    assert process.signals == ["SIGUSR1"]
    process.tell("signal 9")
    process.end()
    assert str(setup.exits[0]) == ("it had closed its input or its output: signal 9 (SIGKILL)")


def test_a_launcher_that_is_stopped_does_not_hide_a_death(setup: Setup) -> None:
    """Where nobody tells of the agent's end its pipes do, and who waits is told without the launcher."""
    process = setup.spawn()
    process.lose(1)

    setup.clock.advance(1)
    setup.clock.advance(0.5)

    (death,) = setup.deaths
    assert death.signal == 9
    setup.clock.advance(2.5)
    assert process.signals == ["SIGUSR1", "SIGKILL"]
    process.lose_launcher(signal=9)
    process.end()
    setup.reactor.sweeps[0].end(code=0)
    assert len(setup.exits) == 1
    assert len(setup.deaths) == 1
    assert setup.clock.getDelayedCalls() == []


def test_its_pipes_are_not_read_once_they_are_let_go(setup: Setup) -> None:
    """A rest of a pipe that is closed does not end in reading it again."""
    process = setup.spawn()
    reader = process.pipes[1]
    setup.during_output = lambda: setup.clock.advance(0.01)
    process.protocol.childDataReceived(1, b"x")
    assert not reader.reading

    process.end(code=0)

    assert setup.clock.getDelayedCalls() == []


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
