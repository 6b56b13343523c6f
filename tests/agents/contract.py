"""What every agent backend has to do. Subclass :class:`AgentBackendContract` and say how to make one."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from gateway.interfaces import IAgentBackend
from gateway.model import ModelInfo, RunResult
from gateway.testing import FakeClock
from tests.agents.fakes import RecordingSink, run_request


class AgentBackendContract:
    """The tests; they run on ``self.clock`` and need :meth:`make`, and the others where they differ.

    A backend whose work is done elsewhere (a process, a server) plays that part in :meth:`settle`, which
    is called whenever the backend may have something to do: it is to answer what was asked.
    """

    ordinary = "hello there"
    """A message that is answered with some text."""
    endless = "/hang"
    """A message whose run does not end by itself."""

    @pytest.fixture(autouse=True)
    def _prepare(self, tmp_path: Any) -> None:
        self.clock = FakeClock()
        self.directory = tmp_path

    def make(self) -> Any:
        """Return a backend on ``self.clock`` that was not started yet."""
        pytest.fail("make() is missing")

    def settle(self) -> None:
        """Let the backend's surroundings do their part."""

    def started(self) -> Any:
        backend = self.make()
        backend.startService()
        self.settle()
        return backend

    def stopped(self, backend: Any) -> None:
        gone = backend.stopService()
        self.settle()
        if isinstance(gone, Deferred):
            assert gone.called
            gone.addErrback(lambda failure: pytest.fail(str(failure)))
        assert self.clock.getDelayedCalls() == []

    def run(self, backend: Any, text: str, sink: RecordingSink) -> list[Any]:
        """Start a run; what it ends with is put in the returned list."""
        ends: list[Any] = []
        self.going = backend.start(run_request(text), sink)
        self.going.addBoth(ends.append)
        self.settle()
        return ends

    def advance(self, ends: list[Any]) -> None:
        for _ in range(1000):
            if ends:
                return
            self.clock.advance(0.05)
            self.settle()

    def test_provides_the_interface(self) -> None:
        """A backend provides IAgentBackend and names at least one model."""
        backend = self.make()

        assert verifyObject(IAgentBackend, backend)
        assert all(isinstance(model, ModelInfo) for model in backend.models)
        assert backend.models

    def test_is_ready_only_while_it_runs(self) -> None:
        """A backend is ready once it was started, and no longer when it was stopped."""
        backend = self.make()
        assert not backend.ready()

        backend.startService()
        self.settle()
        assert backend.ready()

        self.stopped(backend)
        assert not backend.ready()

    def test_a_run_streams_and_ends_with_a_result(self) -> None:
        """A run puts text into its sink, ends with a RunResult, and leaves no call on the clock."""
        backend = self.started()
        sink = RecordingSink()

        ends = self.run(backend, self.ordinary, sink)
        self.advance(ends)

        assert isinstance(ends[0], RunResult)
        assert sink.said
        self.stopped(backend)

    def test_cancel_ends_a_run_at_once(self) -> None:
        """Cancelling ends the Deferred before any time has passed, and nothing is said after it."""
        backend = self.started()
        sink = RecordingSink()
        ends = self.run(backend, self.endless, sink)
        assert ends == []
        said = sink.said

        self.going.cancel()

        assert isinstance(ends[0], Failure)
        assert ends[0].check(CancelledError)
        self.settle()
        self.clock.advance(60)
        assert sink.said == said
        self.stopped(backend)

    def test_another_run_follows_a_cancelled_one(self) -> None:
        """After an abort the same session answers again."""
        backend = self.started()
        self.run(backend, self.endless, RecordingSink())
        self.going.cancel()
        self.settle()

        ends = self.run(backend, self.ordinary, RecordingSink())
        self.advance(ends)

        assert isinstance(ends[0], RunResult)
        self.stopped(backend)

    def test_stopping_ends_the_runs_that_go_on(self) -> None:
        """No run outlives its backend."""
        backend = self.started()
        ends = self.run(backend, self.endless, RecordingSink())

        self.stopped(backend)

        assert isinstance(ends[0], Failure)
