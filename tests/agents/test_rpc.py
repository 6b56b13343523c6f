"""One side of a JSON-RPC conversation."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.logger import LogEvent, Logger

from gateway.agents.jsonrpc import (
    MAX_LINE_BYTES,
    METHOD_NOT_FOUND,
    RpcError,
    encode_error,
    encode_notification,
    encode_request,
    encode_result,
)
from gateway.agents.rpc import (
    GARBAGE_LOGGED,
    MAX_GARBAGE,
    MAX_PENDING,
    MAX_SERVED,
    Conversation,
    TooMuchGarbage,
)
from gateway.errors import BackendError
from gateway.testing import FakeClock, result_of


class Other:
    """The other side: what it was sent, and what it is answered."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.sent: list[Any] = []
        self.told: list[tuple[str, Any]] = []
        self.work: list[Deferred[Any]] = []
        self.stopped: list[Deferred[Any]] = []
        self.conversation = Conversation(
            write=lambda line: self.sent.append(json.loads(line)),
            on_request=self.asked,
            on_notification=self.notified,
            clock=self.clock,
            log=Logger(),
        )

    def notified(self, method: str, params: Any) -> None:
        if method == "broken":
            raise ValueError("secret")
        self.told.append((method, params))

    def asked(self, method: str, params: Any) -> Any:
        if method == "no":
            raise RpcError(METHOD_NOT_FOUND, "no such method")
        if method == "later":
            self.work.append(Deferred(self.stopped.append))
            return self.work[-1]
        if method == "broken":
            raise ValueError("secret")
        return {"echo": params}


@pytest.fixture
def other() -> Other:
    return Other()


def test_answers_find_their_requests(other: Other) -> None:
    """Two requests are answered in the other order."""
    first = other.conversation.request("a", {})
    second = other.conversation.request("b", {})

    other.conversation.received(encode_result(2, "two") + encode_error(1, RpcError(7, "one")))

    assert result_of(second) == "two"
    with pytest.raises(RpcError, match="one") as caught:
        result_of(first)
    assert caught.value.code == 7
    assert other.conversation.pending == 0


def test_a_request_of_the_other_side_is_answered(other: Other) -> None:
    """What the handler returns is the result, what it raises the error."""
    other.conversation.received(encode_request("x", "yes", 1) + encode_request(9, "no", 1))

    assert other.sent == [
        {"jsonrpc": "2.0", "id": "x", "result": {"echo": 1}},
        {"jsonrpc": "2.0", "id": 9, "error": {"code": -32601, "message": "no such method"}},
    ]


def test_notifications_go_both_ways(other: Other) -> None:
    """Nobody answers a notification."""
    other.conversation.notify("hello", [1])
    other.conversation.received(encode_notification("hi", [2]))

    assert other.sent == [{"jsonrpc": "2.0", "method": "hello", "params": [1]}]
    assert other.told == [("hi", [2])]


def test_an_answer_nobody_waits_for_changes_nothing(other: Other) -> None:
    """Unknown ids, repeated answers and answers to cancelled requests are left out."""
    answer = other.conversation.request("a", {})
    answer.addErrback(lambda failure: None)
    answer.cancel()

    other.conversation.received(encode_result(1, "late") + encode_result("x", 1))

    assert other.conversation.pending == 0
    assert result_of(answer) is None


def test_a_request_times_out(other: Other) -> None:
    """Without an answer the Deferred fails after the time, and nothing waits any more."""
    answer = other.conversation.request("a", {}, 30)

    other.clock.advance(30)

    with pytest.raises(DeferredTimeout):
        result_of(answer)
    assert other.conversation.pending == 0


def test_an_answer_disarms_the_timeout(other: Other) -> None:
    """An answer leaves no call on the clock."""
    answer = other.conversation.request("a", {}, 30)

    other.conversation.received(encode_result(1, 5))

    assert result_of(answer) == 5
    assert other.clock.getDelayedCalls() == []


def test_close_fails_all_that_waits_and_all_that_comes(other: Other) -> None:
    """After close every request fails with its error, and what is received is left out."""
    waiting = other.conversation.request("a", {}, 30)

    other.conversation.close(BackendError("gone"))
    other.conversation.close(BackendError("again"))
    other.conversation.notify("hello", {})
    other.conversation.received(encode_notification("hi", {}))

    for answer in (waiting, other.conversation.request("b", {})):
        with pytest.raises(BackendError, match="gone"):
            result_of(answer)
    assert len(other.sent) == 1
    assert other.told == []
    assert other.clock.getDelayedCalls() == []


def test_requests_are_bounded(other: Other) -> None:
    """The request over the bound is refused, not sent."""
    for _ in range(MAX_PENDING):
        other.conversation.request("a", {})

    with pytest.raises(BackendError, match="too many"):
        result_of(other.conversation.request("a", {}))
    assert len(other.sent) == MAX_PENDING


@pytest.mark.parametrize("params", ["x" * MAX_LINE_BYTES, "\ud800", object()])
def test_what_can_not_be_sent_is_refused(other: Other, params: Any) -> None:
    """A request that is too large, or no JSON, fails and is not sent."""
    with pytest.raises(BackendError):
        result_of(other.conversation.request("a", params))
    assert other.sent == []
    assert other.conversation.pending == 0


def test_garbage_is_tolerated_up_to_a_bound(other: Other) -> None:
    """The line after as many as the bound raises, and all of them are counted."""
    other.conversation.received(b"garbage\n" * MAX_GARBAGE)

    with pytest.raises(TooMuchGarbage):
        other.conversation.received(b"garbage\n")
    assert other.conversation.garbage == MAX_GARBAGE + 1


def test_messages_make_garbage_good(other: Other) -> None:
    """A program that prints a line now and then between its messages is left alone."""
    for _ in range(5 * MAX_GARBAGE):
        other.conversation.received(b"a warning\n" + encode_notification("hi", {}))

    assert other.conversation.garbage == 5 * MAX_GARBAGE


def test_what_takes_time_is_answered_later(other: Other) -> None:
    """Requests of the other side are in work at the same time, and answered as each is done."""
    other.conversation.received(encode_request(1, "later", 1) + encode_request("b", "later", 2))
    assert other.sent == []
    assert other.conversation.served == 2

    other.work[1].callback("second")
    other.work[0].errback(RpcError(7, "first"))

    assert other.sent == [
        {"jsonrpc": "2.0", "id": "b", "result": "second"},
        {"jsonrpc": "2.0", "id": 1, "error": {"code": 7, "message": "first"}},
    ]
    assert other.conversation.served == 0


def test_what_is_in_work_is_bounded(other: Other) -> None:
    """The request over the bound is refused at once, and so is a second one under an id in work."""
    for number in range(MAX_SERVED):
        other.conversation.received(encode_request(number, "later", 1))

    other.conversation.received(encode_request(3, "later", 1))
    other.conversation.received(encode_request("more", "later", 1))

    assert [(each["id"], each["error"]["code"]) for each in other.sent] == [
        (3, -32600),
        ("more", -32603),
    ]
    assert len(other.work) == MAX_SERVED


def test_close_cancels_what_is_in_work(other: Other) -> None:
    """After close nothing is in work, and nothing more is written."""
    other.conversation.received(encode_request(1, "later", 1))
    other.conversation.close(BackendError("gone"))

    assert other.stopped == other.work
    assert (other.sent, other.conversation.served) == ([], 0)


@pytest.mark.parametrize("value", [object(), "\ud800"])
def test_what_goes_wrong_here_is_told_without_details(
    other: Other,
    value: Any,
    logged_failures: list[LogEvent],
    expected_failures: list[type[BaseException]],
) -> None:
    """An exception of a handler, or an answer that is no JSON, is an error without its text."""
    expected_failures += [ValueError, TypeError]
    other.conversation.received(encode_notification("broken", 1))
    other.conversation.received(encode_request(1, "broken", 1) + encode_request(2, "later", 1))
    other.work[0].callback(value)

    for answer in other.sent:
        assert answer["error"] == {"code": -32603, "message": "the gateway could not do it"}
    assert len(other.sent) == 2
    assert len(logged_failures) == 3


def test_of_much_garbage_the_beginning_is_logged(other: Other, log_lines: list[str]) -> None:
    """Who mixes messages with noise does not fill the log with it."""
    for _ in range(GARBAGE_LOGGED + 10):
        other.conversation.received(b"noise\n" + encode_notification("x", None))

    assert len(log_lines) == GARBAGE_LOGGED
    assert other.conversation.garbage == GARBAGE_LOGGED + 10
