"""The demo agent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from gateway.agents.demo import DemoBackend, DemoConfig, DemoFactory
from gateway.errors import BackendError
from gateway.interfaces import IAgentBackend, IAgentBackendFactory
from gateway.model import RunResult, Usage
from gateway.testing import FakeClock, result_of
from tests.agents.contract import AgentBackendContract
from tests.agents.fakes import RecordingSink, make_environment, run_request

WHITESPACE = st.sampled_from(list(" \t\n\r\v\f\x1c\x85\u2003\u3000"))
TEXTS = st.lists(st.one_of(st.text(), st.text(WHITESPACE))).map("".join)


def demo(clock: FakeClock, delay_ms: int = 20) -> DemoBackend:
    return DemoBackend(DemoConfig(word_delay_ms=delay_ms), clock)


class TestContract(AgentBackendContract):
    """The demo agent is an agent backend."""

    def make(self) -> IAgentBackend:
        return demo(self.clock)


@given(TEXTS.filter(lambda text: not text.strip().startswith("/")), st.sampled_from([0, 20]))
def test_the_answer_is_the_message_byte_for_byte(text: str, delay_ms: int) -> None:
    """Whatever the message, the increments joined are the message."""
    clock, sink = FakeClock(), RecordingSink()

    done = demo(clock, delay_ms).start(run_request(text), sink)
    while clock.getDelayedCalls():
        clock.advance(0.02)

    assert sink.said == text
    assert isinstance(result_of(done), RunResult)


def test_words_come_one_by_one() -> None:
    """The first word comes at once, each other one after the delay, with the space that follows it."""
    clock, sink = FakeClock(), RecordingSink()

    done = demo(clock).start(run_request(" a  b\nc "), sink)

    assert sink.parts == [" "]
    clock.advance(0.02)
    assert sink.parts == [" ", "a  "]
    clock.pump([0.02, 0.02])
    assert sink.parts == [" ", "a  ", "b\n", "c "]
    assert result_of(done).usage == Usage(input_tokens=3, output_tokens=3)


def test_a_run_has_one_pending_call() -> None:
    """However long the message, one call is pending."""
    clock = FakeClock()

    demo(clock).start(run_request("word " * 500), RecordingSink())

    assert len(clock.getDelayedCalls()) == 1


def test_no_delay_sends_all_at_once() -> None:
    """Without a delay the answer is there when start returns."""
    clock, sink = FakeClock(), RecordingSink()

    done = demo(clock, 0).start(run_request("all of it"), sink)

    assert sink.parts == ["all of it"]
    assert result_of(done).stop_reason == "stop"
    assert clock.getDelayedCalls() == []


def test_no_delay_does_not_hold_up_the_reactor() -> None:
    """Without a delay a long answer comes in pieces of 1000 words, one per turn of the reactor."""
    clock, sink = FakeClock(), RecordingSink()

    done = demo(clock, 0).start(run_request("/tokens 2500"), sink)

    assert sink.said.split()[-1] == "word999"
    clock.advance(0)
    clock.advance(0)
    assert sink.said.split()[-1] == "word2499"
    assert result_of(done).usage == Usage(input_tokens=2, output_tokens=2500)


def test_tokens_counts_words() -> None:
    """/tokens N says word0 to word<N-1>, separated by one space."""
    sink = RecordingSink()

    result_of(demo(FakeClock(), 0).start(run_request("/tokens 3"), sink))

    assert sink.said == "word0 word1 word2"


@pytest.mark.parametrize(
    "argument", ["", "0", "-1", "1.5", "x", "1000001", "９", "1 2", "9" * 5000]
)
def test_tokens_refuses_what_is_no_sane_number(argument: str) -> None:
    """/tokens wants a whole number from 1 to a million."""
    done = demo(FakeClock(), 0).start(run_request(f"/tokens {argument}"), RecordingSink())

    with pytest.raises(BackendError, match="from 1 to 1000000"):
        result_of(done)


def test_error_fails_with_its_text() -> None:
    """/error TEXT fails with TEXT and says nothing."""
    sink = RecordingSink()

    done = demo(FakeClock()).start(run_request("/error it broke\nbadly"), sink)

    with pytest.raises(BackendError) as caught:
        result_of(done)
    assert caught.value.message == "it broke\nbadly"
    assert sink.parts == []


def test_hang_ends_only_by_cancel() -> None:
    """/hang waits for ever and has nothing on the clock."""
    clock = FakeClock()
    done: Deferred[RunResult] = demo(clock).start(run_request("/hang"), RecordingSink())

    clock.advance(1e6)
    assert not done.called
    assert clock.getDelayedCalls() == []

    done.cancel()
    with pytest.raises(CancelledError):
        result_of(done)


@pytest.mark.parametrize("text", ["/hang on", "/tokensfoo 3", "/errors", "say /hang", "/tokens\t3"])
def test_what_only_looks_like_a_directive_is_echoed(text: str) -> None:
    """A directive is the whole message, its name followed by a space."""
    sink = RecordingSink()

    result_of(demo(FakeClock(), 0).start(run_request(text), sink))

    assert sink.said == text


def test_cancel_leaves_no_call() -> None:
    """Cancelling in the middle leaves the clock empty and the rest unsaid."""
    clock, sink = FakeClock(), RecordingSink()
    done = demo(clock).start(run_request("one two three"), sink)
    clock.advance(0.02)

    done.cancel()

    assert clock.getDelayedCalls() == []
    assert sink.parts == ["one ", "two "]
    with pytest.raises(CancelledError):
        result_of(done)


def test_a_sink_that_cancels_the_run_is_not_called_again() -> None:
    """A run may be cancelled by the sink it writes to."""
    clock, sink = FakeClock(), RecordingSink()
    ends: list[Any] = []
    done = demo(clock).start(run_request("one two three"), sink)
    done.addErrback(ends.append)
    sink.on_text = lambda delta: done.cancel()

    clock.advance(0.02)

    assert isinstance(ends[0], Failure)
    assert clock.getDelayedCalls() == []


def test_a_sink_that_raises_fails_the_run() -> None:
    """What the sink raises ends the run with that failure."""
    sink = RecordingSink()

    def refuse(delta: str) -> None:
        raise ValueError(delta)

    sink.on_text = refuse

    with pytest.raises(ValueError, match="one"):
        result_of(demo(FakeClock()).start(run_request("one two"), sink))


def test_the_factory_makes_demo_agents(tmp_path: Path) -> None:
    """The factory provides its interface and makes a backend from a decoded table."""
    factory = DemoFactory()
    config = msgspec.convert({"backend": "demo", "word_delay_ms": 0}, factory.config_type)

    backend = factory.make(config, make_environment(tmp_path, FakeClock()))

    assert verifyObject(IAgentBackendFactory, factory)
    assert verifyObject(IAgentBackend, backend)
    assert backend.models[0].id == "demo"
