"""An ACP backend whose processes are played by the test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec import structs
from twisted.python.failure import Failure

from gateway.agents.acp import AcpBackend
from gateway.agents.acp_requests import Access
from gateway.agents.process import Command
from gateway.agents.processconfig import ProcessConfig
from gateway.errors import BackendError
from gateway.model import ModelInfo, RunRequest
from gateway.testing import FakeClock
from tests.agents.fakes import (
    FakeProcess,
    FakeReactor,
    RecordingSink,
    make_environment,
    run_request,
)

MODELS = (ModelInfo(id="main", name="Main", provider="acp"),)
ACCESS = Access(files=True, terminal="ask", terminal_env={"PATH": "/usr/bin:/bin"})


def initialized(*ours: str, **agent: Any) -> dict[str, Any]:
    """Return an answer to ``initialize``: capabilities of ACP, and by name those of our own agents."""
    meta = {"_meta": {"gateway": dict.fromkeys(ours, True)}} if ours else {}
    return {"protocolVersion": 1, "agentCapabilities": agent | meta}


INITIALIZED = initialized("history", promptCapabilities={"image": True})


def make_backend(
    directory: Path,
    clock: FakeClock,
    reactor: FakeReactor,
    access: Access = ACCESS,
    **settings: Any,
) -> AcpBackend:
    command = Command(("agent",), {}, str(directory / "workspace" / "main"))
    environment = make_environment(directory, clock, reactor)
    config = ProcessConfig(**{"hang_timeout_s": 0, **settings})
    return AcpBackend(command, MODELS, environment, config, access)


class Setup:
    """A backend whose processes are played by the test."""

    def __init__(self, directory: Path, access: Access = ACCESS, **settings: Any) -> None:
        self.clock = FakeClock()
        self.reactor = FakeReactor()
        self.backend = make_backend(directory, self.clock, self.reactor, access, **settings)
        self.root = directory / "workspace" / "main"
        self.sink = RecordingSink()

    @property
    def process(self) -> FakeProcess:
        return self.reactor.processes[-1]

    def start(self, agent: dict[str, Any] = INITIALIZED) -> FakeProcess:
        """Start the backend; its process is initialized."""
        self.backend.startService()
        return self.initialize(agent)

    def initialize(self, agent: dict[str, Any] = INITIALIZED) -> FakeProcess:
        (initialize,) = self.process.messages()
        self.process.answer(initialize["id"], agent)
        return self.process

    def turn(self, **agent: Any) -> FakeProcess:
        """Start the backend and a run in session ``s1``."""
        process = self.start(**agent)
        self.ends = self.run()
        self.prompt_id = self.open()["id"]
        return process

    def ask(self, method: str, **params: Any) -> list[dict[str, Any]]:
        """Send a request of the agent; return what is written back at once."""
        self.process.send(id="q", method=method, params={"sessionId": "s1"} | params)
        return self.process.messages()

    def run(
        self, text: str = "hello", sink: RecordingSink | None = None, **changes: Any
    ) -> list[Any]:
        """Start a run; what it ends with is put into the list.

        As the gateway does, it gives back what was bound to the session, unless the test says what.
        """
        ends: list[Any] = []
        sink = sink or self.sink
        request = run_request(text, **changes)
        if "agent_session" not in changes:
            request = self.with_bound(request, sink)
        self.going = self.backend.start(request, sink)
        self.going.addBoth(ends.append)
        return ends

    def with_bound(self, request: RunRequest, sink: RecordingSink) -> RunRequest:
        """Return a request with what was last bound to its session."""
        mine = [each for each in sink.bound if each and f":{request.session_id}:" in each]
        return structs.replace(request, agent_session=mine[-1] if mine else None)

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


def failure_of(ends: list[Any]) -> BackendError:
    (end,) = ends
    assert isinstance(end, Failure)
    error = end.value
    assert isinstance(error, BackendError)
    return error
