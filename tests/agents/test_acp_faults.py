"""The ACP backend when runs are aborted, processes die and agents misbehave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from gateway.errors import BackendErrorKind
from gateway.model import RunResult
from tests.agents.acp_setup import ACCESS, Setup, failure_of
from tests.agents.fakes import (
    RecordingSink,
)


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def test_cancel_ends_the_run_and_tells_the_agent(setup: Setup) -> None:
    """An abort ends the run at once; the session's next prompt waits until the agent has answered."""
    process = setup.start()
    ends = setup.run()
    first = setup.open()

    setup.going.cancel()
    assert ends[0].check(CancelledError)
    (cancel,) = process.messages()
    assert cancel["method"] == "session/cancel"
    assert cancel["params"] == {"sessionId": "s1"}

    process.say("s1", "too late")
    assert setup.sink.parts == []
    setup.run("next")
    assert process.messages() == []
    process.answer(first["id"], {"stopReason": "cancelled"})
    assert setup.prompt()["params"]["prompt"] == [{"type": "text", "text": "next"}]
    assert setup.clock.getDelayedCalls() == []


def test_other_sessions_go_on_while_one_is_cancelled(setup: Setup) -> None:
    """Waiting for a cancelled prompt holds up its own session only."""
    process = setup.start()
    setup.run()
    setup.open("s1")
    setup.going.cancel()
    process.messages()

    ends = setup.run(session_key="agent:main:other")
    process.answer(setup.open("s2")["id"], {"stopReason": "end_turn"})

    assert isinstance(ends[0], RunResult)


def test_an_agent_that_does_not_answer_a_cancelled_prompt_is_killed(setup: Setup) -> None:
    """After five seconds without an answer the process is killed and started anew."""
    process = setup.start()
    setup.run()
    setup.open("s1")
    other = setup.run(session_key="agent:main:other")
    setup.open("s2")
    setup.going.cancel()
    assert len(setup.clock.getDelayedCalls()) == 1

    setup.clock.advance(5)

    assert process.signals == ["SIGUSR1"]
    assert isinstance(other[0], Failure)
    process.end(signal=9)
    setup.clock.advance(0.5)
    assert len(setup.reactor.processes) == 2


def test_a_run_that_waits_for_its_session_can_be_cancelled(setup: Setup) -> None:
    """An abort before the prompt was sent leaves the session free."""
    process = setup.start()
    ends = setup.run()
    (new,) = process.messages()

    setup.going.cancel()
    assert ends[0].check(CancelledError)
    process.answer(new["id"], {"sessionId": "late"})

    setup.run()
    assert setup.open("s2")["params"]["sessionId"] == "s2"


def test_death_fails_all_runs_at_once(setup: Setup) -> None:
    """Runs of a process that died fail with how it ended; those that wait for it wait for the next."""
    process = setup.start()
    first = setup.run()
    setup.open("s1")
    second = setup.run(session_key="agent:main:other")
    third = setup.run("behind the first")

    process.end(signal=9)

    for ends in (first, second, third):
        message = failure_of(ends).message
        assert message == "the process of agent main ended: signal 9 (SIGKILL)"
    assert not setup.backend.ready()


def test_a_process_that_dies_before_it_is_ready_points_at_the_log(setup: Setup) -> None:
    """Who waits for an agent that can not start is told where its reason stands."""
    setup.backend.startService()
    ends = setup.run()

    setup.process.end(code=3)

    told = "exit status 3, before it was ready: the log has what it said"
    assert failure_of(ends).message == f"the process of agent main ended: {told}"


def test_a_fresh_process_has_fresh_sessions(setup: Setup) -> None:
    """After a restart a session is opened again, with the history."""
    setup.start()
    setup.run()
    setup.open("s1")
    setup.process.end(code=1)
    setup.clock.advance(0.5)
    process = setup.initialize()

    ends = setup.run()
    prompt = setup.open("s2")
    process.answer(prompt["id"], {"stopReason": "end_turn"})

    assert isinstance(ends[0], RunResult)


def test_an_answer_before_the_death_counts(setup: Setup) -> None:
    """What a process wrote before it ended is read before its runs fail."""
    process = setup.start()
    ends = setup.run()
    prompt = setup.open()

    process.exit(code=0)
    process.answer(prompt["id"], {"stopReason": "end_turn"})
    process.end()

    assert isinstance(ends[0], RunResult)


def test_restarts_back_off(setup: Setup) -> None:
    """A process that dies at once is started after pauses that grow."""
    setup.backend.startService()
    starts = []
    for _ in range(4):
        setup.process.end(code=127)
        before = setup.clock.seconds()
        (call,) = setup.clock.getDelayedCalls()
        setup.clock.advance(call.getTime() - before)
        starts.append(setup.clock.seconds() - before)

    assert all(0.25 * 2**n <= pause <= 0.5 * 2**n for n, pause in enumerate(starts))
    assert len(setup.reactor.processes) == 5


def test_initialize_has_a_deadline(setup: Setup) -> None:
    """A process that does not answer initialize within 30 s is killed; who waited is told."""
    setup.backend.startService()
    ends = setup.run()

    setup.clock.advance(30)
    assert setup.process.signals == ["SIGUSR1"]
    setup.process.end(signal=9)

    assert "did not answer initialize within 30 s" in failure_of(ends).message


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"result": {"protocolVersion": 2}}, "speaks version 2"),
        ({"result": None}, "speaks version None"),
        ({"error": {"code": -32603, "message": "no key"}}, "refused to start: no key"),
    ],
)
def test_an_agent_that_can_not_be_initialized(setup: Setup, answer: Any, text: str) -> None:
    """Another protocol version, or a refusal, is a failed start."""
    setup.backend.startService()
    ends = setup.run()
    (initialize,) = setup.process.messages()

    setup.process.send(id=initialize["id"], **answer)
    setup.process.end(signal=9)

    assert text in failure_of(ends).message


def test_garbage_is_tolerated_then_the_process_is_killed(setup: Setup) -> None:
    """Lines that are no JSON cost nothing at first; a stream of them ends the process and its runs."""
    process = setup.start()
    ends = setup.run()
    prompt = setup.open()

    process.protocol.childDataReceived(1, b"debug: hello\n" * 50)
    process.say("s1", "fine")
    assert setup.sink.said == "fine"
    process.protocol.childDataReceived(1, b"debug: hello\n" * 100)

    assert process.signals == ["SIGUSR1"]
    assert "no messages" in failure_of(ends).message
    process.answer(prompt["id"], {"stopReason": "end_turn"})


def test_a_line_without_end_kills(setup: Setup) -> None:
    """More than 16 MiB without a newline end the process and its runs."""
    process = setup.start()
    ends = setup.run()
    setup.open()

    for _ in range(17):
        process.protocol.childDataReceived(1, b"x" * 1024 * 1024)

    assert process.signals == ["SIGUSR1"]
    assert "a line of more than 16777216 bytes" in failure_of(ends).message


def test_an_error_answer_is_typed(setup: Setup) -> None:
    """A refused prompt fails the run with kind and detail; the session goes on."""
    process = setup.start()
    ends = setup.run()
    prompt = setup.open()

    data = {"kind": "rate_limit", "httpStatus": 429}
    process.send(id=prompt["id"], error={"code": -32603, "message": "slow down", "data": data})

    error = failure_of(ends)
    assert (error.message, error.kind) == ("slow down", BackendErrorKind.RATE_LIMIT)
    assert error.detail == {"httpStatus": 429}
    setup.run("again")
    assert setup.prompt()["params"]["sessionId"] == "s1"


def test_a_session_that_the_agent_lost_is_opened_again(setup: Setup) -> None:
    """After "no such session" the next turn opens one."""
    process = setup.start()
    setup.run()
    prompt = setup.open()
    process.send(id=prompt["id"], error={"code": -32002, "message": "no such session"})

    setup.run("again")

    assert setup.open("s2")["params"]["sessionId"] == "s2"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"error": {"code": -32000, "message": "Authentication required"}}, "logged in first"),
        ({"result": {}}, "without an id"),
    ],
)
def test_a_session_that_can_not_be_opened(setup: Setup, answer: Any, text: str) -> None:
    """A run whose session is refused fails, and the next one tries again."""
    process = setup.start()
    ends = setup.run()
    (new,) = process.messages()

    process.send(id=new["id"], **answer)

    assert text in failure_of(ends).message
    setup.run()
    setup.open()


def test_opening_a_session_has_a_deadline(setup: Setup) -> None:
    """An agent that does not open a session within a minute fails the run by timeout."""
    setup.start()
    ends = setup.run()

    setup.clock.advance(60)

    assert failure_of(ends).kind is BackendErrorKind.TIMEOUT


@pytest.mark.parametrize("method", ["mcp/connect", "elicitation/create", "_their/extension"])
def test_what_was_not_offered_is_refused(setup: Setup, method: str) -> None:
    """A method that the gateway does not serve is refused with the code for an unknown method."""
    process = setup.start()

    process.send(id=1, method=method, params={})

    (answer,) = process.messages()
    assert answer["error"]["code"] == -32601


def test_a_sink_that_raises_fails_its_run_only(setup: Setup) -> None:
    """What a run's sink raises ends that run; the agent is told, and other runs go on."""
    process = setup.start()
    ends = setup.run()
    prompt = setup.open("s1")
    other = setup.run(sink=RecordingSink(), session_key="agent:main:other")
    prompt2 = setup.open("s2")

    def refuse(delta: str) -> None:
        raise ValueError("too long")

    setup.sink.on_text = refuse
    process.say("s1", "x")
    process.say("s1", "y")

    assert ends[0].check(ValueError)
    assert [message["method"] for message in process.messages()] == ["session/cancel"]
    process.answer(prompt["id"], {"stopReason": "cancelled"})
    process.answer(prompt2["id"], {"stopReason": "end_turn"})
    assert isinstance(other[0], RunResult)
    assert setup.clock.getDelayedCalls() == []


def test_stop_ends_turns_and_process(setup: Setup) -> None:
    """Stopping cancels the turns, closes the input, and waits for the process."""
    process = setup.start()
    ends = setup.run()
    setup.open()

    gone: Deferred[None] = setup.backend.stopService()

    assert failure_of(ends).message == "agent main is stopping"
    assert process.messages()[0]["method"] == "session/cancel"
    assert process.input_closed
    assert not gone.called
    process.end(code=0)
    assert gone.called
    assert setup.clock.getDelayedCalls() == []
    assert len(setup.reactor.processes) == 1


def test_a_silent_agent_is_killed(tmp_path: Path) -> None:
    """Silence while a run goes on ends it with a timeout; silence without one is nobody's harm."""
    setup = Setup(tmp_path, hang_timeout_s=10)
    process = setup.start()
    setup.clock.advance(100)
    ends = setup.run()
    setup.open("s1")
    setup.clock.advance(9)
    process.say("s1", "wait")
    setup.clock.advance(9)
    assert ends == []

    setup.clock.advance(1)

    error = failure_of(ends)
    assert error.kind is BackendErrorKind.TIMEOUT
    assert "no sign of life" in error.message
    assert process.signals == ["SIGUSR1"]
    process.end(signal=9)
    setup.backend.stopService()
    assert setup.clock.getDelayedCalls() == []


def test_an_agent_that_does_not_read_is_killed(setup: Setup) -> None:
    """What waits for it is bounded: the run that is too much for it fails, and all others with it."""
    process = setup.start()
    first = setup.run()
    setup.open("s1")
    process.pipes[0].full = True
    others = []
    for number in range(8):
        others.append(setup.run("x" * 9_000_000, session_key=f"agent:main:{number}"))
        process.send(id=4 + 2 * number, result={"sessionId": f"t{number}"})
    assert len(process.written) < 10_000_000

    for ends in (first, *others):
        assert failure_of(ends).message == "agent main does not read its input"
    assert process.signals == ["SIGUSR1"]


def test_runs_do_not_wait_until_all_descendants_are_dead(setup: Setup) -> None:
    """A run fails half a second after the death of its agent, whatever resists being killed with it."""
    process = setup.start()
    ends = setup.run()
    setup.open("s1")

    process.tell("signal 11")
    assert ends == []
    setup.clock.advance(0.5)

    assert failure_of(ends).message == "the process of agent main ended: signal 11 (SIGSEGV)"
    assert not setup.backend.ready()


def test_a_pool_keeps_a_death_to_its_own_runs(tmp_path: Path) -> None:
    """With two processes a run of the one goes on when the other dies."""
    setup = Setup(tmp_path, pool=2)
    first = setup.start()
    lost = setup.run()
    setup.open("s1")
    kept = setup.run(session_key="agent:main:other", run_id="run-2")
    second = setup.initialize()
    prompt = setup.open("s1")
    assert [facts["process"] for facts in setup.backend.workers()] == [1, 2]
    assert setup.backend.describe_worker("run-2")["launcherPid"] == second.pid

    first.end(signal=9)
    second.answer(prompt["id"], {"stopReason": "end_turn"})

    assert "signal 9" in failure_of(lost).message
    assert isinstance(kept[0], RunResult)
    assert setup.backend.ready()


def test_stop_waits_for_terminals(tmp_path: Path) -> None:
    """The agent is gone when the commands are that it had run."""
    setup = Setup(tmp_path, ACCESS._replace(terminal="allow"))
    process = setup.turn()
    setup.ask("terminal/create", command="sleep", args=["600"])
    terminal = setup.process
    assert terminal is not process

    gone: Deferred[None] = setup.backend.stopService()
    process.end(code=0)

    assert terminal.signals == ["SIGUSR1"]
    assert not gone.called
    terminal.end(signal=9)
    assert gone.called
    assert setup.clock.getDelayedCalls() == []


def test_a_workspace_that_was_removed_is_made_again(setup: Setup) -> None:
    """A process starts again where somebody has removed its directory."""
    process = setup.start()
    setup.root.rmdir()

    process.end(code=1)
    setup.clock.advance(1)

    assert setup.process is not process
    assert setup.root.is_dir()
