"""The backend for programs that speak the Agent Client Protocol, over processes of paper."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from gateway.agents.acp import AcpBackend, AcpConfig, AcpFactory
from gateway.agents.acp_session import MAX_SESSIONS, MAX_WAITING
from gateway.agents.process import Command
from gateway.config import decode_agent
from gateway.errors import BackendError, BackendErrorKind, ConfigError, StartError
from gateway.interfaces import IAgentBackend, IAgentBackendFactory
from gateway.model import Message, ModelInfo, RunResult
from gateway.testing import FakeClock
from tests.agents.contract import AgentBackendContract
from tests.agents.fakes import (
    FakeProcess,
    FakeReactor,
    RecordingSink,
    make_environment,
    run_request,
)

MODELS = (ModelInfo(id="main", name="Main", provider="acp"),)
INITIALIZED = {"protocolVersion": 1, "agentCapabilities": {"promptCapabilities": {"image": True}}}


def make_backend(directory: Path, clock: FakeClock, reactor: FakeReactor) -> AcpBackend:
    command = Command(("agent",), {}, str(directory / "workspace" / "main"))
    environment = make_environment(directory, clock, reactor)
    return AcpBackend(command, MODELS, environment, reactor.kill_group)


class Setup:
    """A backend whose processes are played by the test."""

    def __init__(self, directory: Path) -> None:
        self.clock = FakeClock()
        self.reactor = FakeReactor()
        self.backend = make_backend(directory, self.clock, self.reactor)
        self.sink = RecordingSink()

    @property
    def process(self) -> FakeProcess:
        return self.reactor.processes[-1]

    def start(self) -> FakeProcess:
        """Start the backend; its process is initialized."""
        self.backend.startService()
        return self.initialize()

    def initialize(self) -> FakeProcess:
        (initialize,) = self.process.messages()
        self.process.answer(initialize["id"], INITIALIZED)
        return self.process

    def run(
        self, text: str = "hello", sink: RecordingSink | None = None, **changes: Any
    ) -> list[Any]:
        """Start a run; what it ends with is put into the list."""
        ends: list[Any] = []
        self.going = self.backend.start(run_request(text, **changes), sink or self.sink)
        self.going.addBoth(ends.append)
        return ends

    def open(self, acp_id: str = "s1") -> dict[str, Any]:
        """Answer the ``session/new`` that was sent; return the prompt that follows."""
        (new,) = self.process.messages()
        assert new["method"] == "session/new"
        self.process.answer(new["id"], {"sessionId": acp_id})
        return self.prompt()

    def prompt(self) -> dict[str, Any]:
        (prompt,) = self.process.messages()
        assert prompt["method"] == "session/prompt"
        return prompt


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def failure_of(ends: list[Any]) -> BackendError:
    (end,) = ends
    assert isinstance(end, Failure)
    error = end.value
    assert isinstance(error, BackendError)
    return error


class TestContract(AgentBackendContract):
    """The ACP backend is an agent backend."""

    def make(self) -> IAgentBackend:
        self.reactor = FakeReactor()
        self.prompts: dict[str, int] = {}
        return make_backend(self.directory, self.clock, self.reactor)

    def settle(self) -> None:
        for process in self.reactor.processes:
            if process.exited:
                continue
            for message in process.messages():
                self.play(process, message)
            if process.input_closed:
                process.end(code=0)

    def play(self, process: FakeProcess, message: dict[str, Any]) -> None:
        match message:
            case {"method": "initialize", "id": id_}:
                process.answer(id_, INITIALIZED)
            case {"method": "session/new", "id": id_}:
                process.answer(id_, {"sessionId": "s1"})
                self.settle()
            case {"method": "session/prompt", "id": id_, "params": {"prompt": [{"text": "/hang"}]}}:
                self.prompts["s1"] = id_
            case {"method": "session/prompt", "id": id_}:
                process.say("s1", "an answer")
                process.answer(id_, {"stopReason": "end_turn"})
            case {"method": "session/cancel"}:
                process.answer(self.prompts.pop("s1"), {"stopReason": "cancelled"})


def test_a_process_is_initialized(setup: Setup) -> None:
    """The first request says the version and that files and terminals are not served; then it is ready."""
    setup.backend.startService()

    (initialize,) = setup.process.messages()
    assert initialize["method"] == "initialize"
    assert initialize["params"]["protocolVersion"] == 1
    assert initialize["params"]["clientCapabilities"] == {
        "fs": {"readTextFile": False, "writeTextFile": False},
        "terminal": False,
    }
    assert not setup.backend.ready()
    setup.process.answer(initialize["id"], INITIALIZED)
    assert setup.backend.ready()
    assert setup.clock.getDelayedCalls() == []


def test_a_turn(setup: Setup) -> None:
    """A turn opens a session, sends the prompt, streams what comes, and ends with the result."""
    process = setup.start()
    ends = setup.run("hello")

    prompt = setup.open()
    assert prompt["params"]["sessionId"] == "s1"
    assert prompt["params"]["prompt"] == [{"type": "text", "text": "hello"}]
    process.say("s1", "Hi ")
    process.say("s1", "there")
    assert setup.sink.parts == ["Hi ", "there"]
    process.answer(prompt["id"], {"stopReason": "end_turn"})

    assert ends == [RunResult(stop_reason="stop")]
    assert setup.clock.getDelayedCalls() == []


def test_the_second_turn_uses_the_same_session(setup: Setup) -> None:
    """A session key keeps its session in the agent."""
    process = setup.start()
    setup.run()
    process.answer(setup.open()["id"], {"stopReason": "end_turn"})

    ends = setup.run("again")
    prompt = setup.prompt()
    process.answer(prompt["id"], {"stopReason": "end_turn"})

    assert prompt["params"]["sessionId"] == "s1"
    assert isinstance(ends[0], RunResult)


def test_a_reset_session_is_another_one(setup: Setup) -> None:
    """A new session id under the same key opens another session in the agent."""
    process = setup.start()
    setup.run()
    process.answer(setup.open()["id"], {"stopReason": "end_turn"})

    setup.run(session_id="session-2")

    assert setup.open("s2")["params"]["sessionId"] == "s2"


def test_a_fresh_session_gets_the_history(setup: Setup) -> None:
    """What was said before goes along when a session is opened, in the workspace of the agent."""
    setup.start()
    said = [{"type": "text", "text": "earlier"}]
    before = Message(message_id="m", role="user", content=said, timestamp_ms=0)

    setup.run(sink=RecordingSink((before,)))

    (new,) = setup.process.messages()
    assert new["params"]["_meta"] == {"gateway": {"history": [{"role": "user", "text": "earlier"}]}}
    assert new["params"]["mcpServers"] == []
    assert Path(new["params"]["cwd"]).is_dir()


def test_runs_wait_for_the_process(setup: Setup) -> None:
    """A run that comes while the process starts is served when it is ready."""
    setup.backend.startService()
    ends = setup.run()

    process = setup.initialize()
    process.answer(setup.open()["id"], {"stopReason": "end_turn"})

    assert isinstance(ends[0], RunResult)


def test_reports_of_other_sessions_are_not_mixed(setup: Setup) -> None:
    """Two sessions run at the same time; each sink gets its own, strangers go nowhere."""
    process = setup.start()
    one, two = RecordingSink(), RecordingSink()
    setup.run(sink=one)
    setup.open("s1")
    setup.run(sink=two, session_key="agent:main:other")
    setup.open("s2")

    process.say("s2", "two")
    process.say("s1", "one")
    process.say("s3", "nobody")
    process.send(method="session/update", params={"sessionId": 5})
    process.send(method="session/unheard_of", params=[])

    assert (one.said, two.said) == ("one", "two")


def test_turns_of_a_session_follow_each_other(setup: Setup) -> None:
    """The second prompt of a session is sent when the first is answered."""
    process = setup.start()
    setup.run("first")
    first = setup.open()
    ends = setup.run("second")
    assert setup.process.messages() == []

    process.answer(first["id"], {"stopReason": "end_turn"})

    process.answer(setup.prompt()["id"], {"stopReason": "end_turn"})
    assert isinstance(ends[0], RunResult)


def test_waiting_turns_are_bounded(setup: Setup) -> None:
    """A session does not queue without end."""
    setup.start()
    setup.run()
    setup.open()
    for _ in range(MAX_WAITING):
        setup.run()

    assert "too many turns" in failure_of(setup.run()).message


def test_the_session_idle_longest_is_forgotten(setup: Setup) -> None:
    """Over the cap the least recently used session is opened afresh when it comes again."""
    process = setup.start()

    def turn(key: str, acp_id: str) -> None:
        setup.run(session_key=key)
        process.answer(setup.open(acp_id)["id"], {"stopReason": "end_turn"})

    for number in range(MAX_SESSIONS + 1):
        turn(f"k{number}", f"s{number}")

    turn("k0", "again")
    setup.run(session_key=f"k{MAX_SESSIONS}")
    assert setup.prompt()["params"]["sessionId"] == f"s{MAX_SESSIONS}"


def test_a_session_with_a_turn_is_never_forgotten(setup: Setup) -> None:
    """When all sessions have a turn going on, one more is refused and none is lost."""
    process = setup.start()
    for number in range(MAX_SESSIONS):
        setup.run(session_key=f"k{number}")
        prompt = setup.open(f"s{number}")

    assert "turns going on at once" in failure_of(setup.run(session_key="one more")).message

    process.answer(prompt["id"], {"stopReason": "end_turn"})
    setup.run(session_key="one more")
    setup.open("s-more")


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

    assert setup.reactor.groups == [(process.pid, "SIGKILL")]
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
    assert setup.reactor.groups == [(setup.process.pid, "SIGKILL")]
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

    assert setup.reactor.groups == [(process.pid, "SIGKILL")]
    assert "no messages" in failure_of(ends).message
    process.answer(prompt["id"], {"stopReason": "end_turn"})


def test_a_line_without_end_kills(setup: Setup) -> None:
    """More than 16 MiB without a newline end the process and its runs."""
    process = setup.start()
    ends = setup.run()
    setup.open()

    for _ in range(17):
        process.protocol.childDataReceived(1, b"x" * 1024 * 1024)

    assert setup.reactor.groups == [(process.pid, "SIGKILL")]
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


def test_permission_is_refused(setup: Setup) -> None:
    """A request for permission is answered: refused during a turn, cancelled outside of one."""
    process = setup.start()
    setup.run()
    setup.open()
    ask = {"sessionId": "s1", "options": [{"optionId": "no", "kind": "reject_once"}]}

    process.send(id="p1", method="session/request_permission", params=ask)
    process.send(id="p2", method="session/request_permission", params={"sessionId": "s9"})
    process.send(id="p2", method="session/request_permission", params={"sessionId": ["odd"]})
    assert [message["result"] for message in process.messages()] == [
        {"outcome": {"outcome": "selected", "optionId": "no"}},
        {"outcome": {"outcome": "cancelled"}},
        {"outcome": {"outcome": "cancelled"}},
    ]

    setup.going.addErrback(lambda failure: None).cancel()
    process.messages()
    process.send(id="p3", method="session/request_permission", params=ask)
    assert process.messages()[0]["result"] == {"outcome": {"outcome": "cancelled"}}


@pytest.mark.parametrize("method", ["fs/read_text_file", "terminal/create", "_their/extension"])
def test_files_and_terminals_are_refused(setup: Setup, method: str) -> None:
    """What was not offered is refused with the code for an unknown method."""
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


def test_a_workspace_that_can_not_be_made_stops_the_start(tmp_path: Path) -> None:
    """A file where the workspace should be is one line for the operator."""
    (tmp_path / "workspace").write_text("")
    backend = make_backend(tmp_path, FakeClock(), FakeReactor())

    with pytest.raises(StartError, match="workspace of agent main"):
        backend.startService()


def test_the_factory_makes_acp_agents(tmp_path: Path) -> None:
    """The table gives command, environment and directory; secrets are looked up."""
    (tmp_path / "key").write_text("s3cret\n")
    factory = AcpFactory()
    table = {
        "backend": "acp",
        "command": [sys.executable, "-m", "agent"],
        "env": {"MODE": "fast", "KEY": {"file": "key"}},
        "name": "My agent",
    }
    reactor = FakeReactor()

    config = decode_agent("main", table, factory.config_type, None)
    backend = factory.make(config, make_environment(tmp_path, FakeClock(), reactor))
    backend.startService()

    (process,) = reactor.processes
    assert verifyObject(IAgentBackendFactory, factory)
    assert verifyObject(IAgentBackend, backend)
    assert process.argv == [sys.executable, "-m", "agent"]
    assert process.env["MODE"] == "fast"
    assert process.env["KEY"] == "s3cret"
    assert "PATH" in process.env
    assert process.path == str(tmp_path / "workspace" / "main")
    assert backend.models == (ModelInfo(id="main", name="My agent", provider="acp"),)


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({}, "agents.main: .*command"),
        ({"command": []}, "agents.main.command"),
        ({"command": ["sh"], "pool": 2}, "pool"),
        ({"command": ["sh"], "comand": 1}, "comand"),
    ],
)
def test_a_wrong_table_is_named(table: dict[str, Any], text: str) -> None:
    """Mistakes in the table are refused with the key."""
    with pytest.raises(ConfigError, match=text):
        decode_agent("main", table, AcpConfig, None)


@pytest.mark.parametrize("program", ["no-such-program-here", "./agent", "/no/such/agent"])
def test_a_missing_program_is_named(tmp_path: Path, program: str) -> None:
    """A program that is not there is refused before anything starts."""
    config = msgspec.convert({"command": [program]}, AcpConfig)

    with pytest.raises(ConfigError, match=r"agents\.main\.command: no such program"):
        AcpFactory().make(config, make_environment(tmp_path, FakeClock()))


def test_a_program_beside_its_work_is_found(tmp_path: Path) -> None:
    """A relative program is looked up in the agent's directory."""
    (tmp_path / "agent").write_text("#!/bin/sh\n")
    (tmp_path / "agent").chmod(0o755)
    config = msgspec.convert({"command": ["./agent"], "cwd": str(tmp_path)}, AcpConfig)

    assert result_of_make(config, tmp_path).models[0].id == "main"


def result_of_make(config: AcpConfig, directory: Path) -> IAgentBackend:
    return AcpFactory().make(config, make_environment(directory, FakeClock()))


def test_a_missing_secret_is_named(tmp_path: Path) -> None:
    """A secret that is not there is refused with the key of the table."""
    config = msgspec.convert({"command": ["sh"], "env": {"K": {"file": "gone"}}}, AcpConfig)

    with pytest.raises(ConfigError, match=r"agents\.main\.env\.K"):
        result_of_make(config, tmp_path)
