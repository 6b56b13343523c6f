"""The backend for programs that speak the Agent Client Protocol: sessions and turns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from zope.interface.verify import verifyObject

from gateway.agents.acp_session import MAX_SESSIONS, MAX_WAITING
from gateway.interfaces import (
    IAgentBackend,
    ICompactingBackend,
    ISteerableBackend,
    IWorkerBackend,
)
from gateway.model import Message, RunResult
from tests.agents.acp_setup import INITIALIZED, Setup, failure_of, make_backend
from tests.agents.contract import AgentBackendContract
from tests.agents.fakes import (
    FakeProcess,
    FakeReactor,
    RecordingSink,
)


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


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
    """The first request says the version and what the gateway serves; then it is ready."""
    setup.backend.startService()

    (initialize,) = setup.process.messages()
    assert initialize["method"] == "initialize"
    assert initialize["params"]["protocolVersion"] == 1
    assert initialize["params"]["clientCapabilities"] == {
        "fs": {"readTextFile": True, "writeTextFile": True},
        "terminal": True,
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


def test_what_it_tells_of_its_process(setup: Setup) -> None:
    """The process behind a run is told with its id and its state, and without one when there is none."""
    backend = setup.backend
    assert verifyObject(IWorkerBackend, backend)
    assert verifyObject(ISteerableBackend, backend)
    assert verifyObject(ICompactingBackend, backend)
    stopped = {"process": 1, "state": "stopped", "restarts": 0, "runs": 0}
    assert backend.describe_worker("run-1") == stopped
    process = setup.start()
    process.tell("pid 4711")
    setup.run()
    setup.open()
    assert backend.describe_worker("run-1") == {
        "process": 1,
        "state": "ready",
        "restarts": 0,
        "runs": 1,
        "sessions": 1,
        "pid": 4711,
        "launcherPid": process.pid,
        "startedAtMs": setup.clock.EPOCH_MS,
    }
    assert backend.workers() == (backend.describe_worker("run-1"),)
    process.end(code=3)
    assert backend.describe_worker("run-1")["state"] == "waiting"
    assert "pid" not in backend.describe_worker("run-1")
    backend.stopService()
