"""Terminals: what an agent has the gateway run, and its output."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError

from gateway.agents.acp_terminals import (
    OUTPUT_BYTES,
    RELEASED_BYTES,
    TERMINALS_MAX,
    TerminalProcess,
    Terminals,
    exit_status,
)
from gateway.agents.jsonrpc import RpcError
from gateway.agents.process import Command, Exit
from gateway.testing import FakeClock, result_of
from tests.agents.fakes import FakeProcess, FakeReactor

COMMAND = Command(("ls",), {}, "/w")


class Bench:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.reactor = FakeReactor()
        self.terminals = Terminals(
            lambda on_output, on_exit: TerminalProcess(
                "main",
                reactor=self.reactor,
                clock=self.clock,
                on_output=on_output,
                on_exit=on_exit,
                on_death=lambda _: None,
                mark="m",
            )
        )

    def create(self, session: str = "s", limit: int | None = None) -> tuple[str, FakeProcess]:
        id_ = self.terminals.create(session, COMMAND, limit)
        return id_, self.reactor.processes[-1]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_command_and_its_output(bench: Bench) -> None:
    """A command gets no input; both its outputs are kept, and its end is told to who waits."""
    id_, process = bench.create()
    terminal = bench.terminals.get("s", id_)
    waiting = terminal.wait()
    assert process.input_closed
    process.protocol.childDataReceived(1, b"out ")
    process.protocol.childDataReceived(2, b"err")
    assert (terminal.text, terminal.exit_status) == ("out err", None)

    process.end(code=3)

    assert exit_status(result_of(waiting)) == {"exitCode": 3, "signal": None}
    assert terminal.exit_status == {"exitCode": 3, "signal": None}
    assert result_of(terminal.wait()) == Exit(3, None)
    assert bench.clock.getDelayedCalls() == []


def test_the_newest_output_is_kept(bench: Bench) -> None:
    """Over the limit the beginning goes, whole characters at a time; the gateway's cap is the most."""
    id_, process = bench.create(limit=5)
    process.protocol.childDataReceived(1, "abcäöü".encode())
    terminal = bench.terminals.get("s", id_)
    assert (terminal.text, terminal.truncated) == ("öü", True)

    id_, process = bench.create(limit=1 << 40)
    for _ in range(20):
        process.protocol.childDataReceived(1, b"x" * 100_000)
    assert len(bench.terminals.get("s", id_).text) == OUTPUT_BYTES


def test_a_released_terminal_is_killed_and_only_shown(bench: Bench) -> None:
    """A release ends the command; the agent knows it no more, its tool call still shows the output."""
    id_, process = bench.create()
    process.protocol.childDataReceived(1, b"x" * 100_000)

    bench.terminals.get("s", id_).release()

    assert process.signals == ["SIGUSR1"]
    with pytest.raises(RpcError, match="no such terminal"):
        bench.terminals.get("s", id_)
    assert len(bench.terminals.text("s", id_) or "") == RELEASED_BYTES
    assert bench.terminals.text("other", id_) is None


def test_a_wait_can_be_given_up(bench: Bench) -> None:
    """Who waits no more is not told, and who waits is told of a kill."""
    id_, process = bench.create()
    terminal = bench.terminals.get("s", id_)
    given_up, waiting = terminal.wait(), terminal.wait()
    given_up.addErrback(lambda _: None)
    given_up.cancel()

    terminal.kill()
    process.end(signal=9)

    assert exit_status(result_of(waiting)) == {"exitCode": None, "signal": "SIGKILL"}


def test_terminals_of_a_session_are_bounded(bench: Bench) -> None:
    """One more than the bound is refused until one is released; released ones do not pile up."""
    ids = [bench.create()[0] for _ in range(TERMINALS_MAX)]
    with pytest.raises(RpcError, match="release one"):
        bench.create()
    bench.create("other")

    for _ in range(5 * TERMINALS_MAX):
        bench.terminals.get("s", ids.pop()).release()
        ids.append(bench.create()[0])

    assert len(bench.terminals) <= 2 * TERMINALS_MAX + 2


def test_the_end_of_a_session_ends_its_terminals(bench: Bench) -> None:
    """All commands of a session are killed with it, and those of all sessions at the close."""
    _, one = bench.create("a")
    _, two = bench.create("b")

    bench.terminals.end("a")
    assert (one.signals, two.signals) == (["SIGUSR1"], [])
    bench.terminals.close()
    assert two.signals == ["SIGUSR1"]
    assert len(bench.terminals) == 0
    one.end(signal=9)


def test_a_command_that_can_not_be_started_is_refused(bench: Bench) -> None:
    """No process to be had is an error of the request."""
    bench.reactor.refuse = OSError(11, "Resource temporarily unavailable")

    with pytest.raises(RpcError, match="can not be started: Resource"):
        bench.create()
    assert len(bench.terminals) == 0


def test_who_is_told_may_give_up_another(bench: Bench) -> None:
    """Of those who wait for one end, the first may have the others stop waiting."""
    id_, process = bench.create()
    terminal = bench.terminals.get("s", id_)
    first, second = terminal.wait(), terminal.wait()
    first.addCallback(lambda _: second.cancel())

    process.end(code=0)

    with pytest.raises(CancelledError):
        result_of(second)


def test_all_of_them_are_waited_for(bench: Bench) -> None:
    """Terminals are gone when the last process has ended, that of a forgotten one too."""
    _, first = bench.create("s")
    _, second = bench.create("t")
    bench.terminals.close()

    gone = bench.terminals.gone()

    first.end(signal=9)
    assert not gone.called
    second.end(signal=9)
    assert gone.called
    assert bench.terminals.gone().called
