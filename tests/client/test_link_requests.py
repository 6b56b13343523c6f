"""What becomes of requests across connections."""

from __future__ import annotations

import pytest

from gateway.client.actions import Disconnected, Event, Reconnected
from gateway.client.errors import (
    ConnectionLost,
    RequestFailed,
    RequestNotSent,
    RequestTimeout,
)
from gateway.client.link import Link
from gateway.client.options import ClientOptions
from gateway.client.retry import Reconnect
from gateway.client.testing import FakeGateway
from tests.client.bench import COMES_BACK, TARGET, Bench


def test_a_call_waits_for_the_connection():
    """A call made while the connection is away is sent when it is back."""
    bench = Bench()
    bench.gateway.cut()
    bench.settle()

    waiting = bench.call("health")
    before = dict(bench.answers)
    bench.after(1)

    assert before == {}
    assert bench.answers[waiting] == {"ok": True}


def test_a_call_does_not_wait_for_ever():
    """A call that no connection comes for in time fails, and was not sent."""
    bench = Bench()
    bench.reachable = lambda _: False
    bench.gateway.cut()
    bench.settle()

    waiting = bench.call("health", timeout=5)
    bench.after(4.9)
    before = dict(bench.answers)
    bench.after(0.1)

    assert before == {}
    assert isinstance(bench.answers[waiting], RequestNotSent)
    assert bench.gateway.calls("health") == []


def test_a_call_under_way_fails_with_its_connection():
    """A call that may have had its effect is not repeated by itself."""
    bench = Bench()
    bench.gateway.handlers["health"] = lambda c, f: c.cut()

    waiting = bench.call("health")
    bench.after(10)

    assert isinstance(bench.answers[waiting], ConnectionLost)
    assert len(bench.gateway.calls("health")) == 1


def test_a_call_that_may_be_repeated_is():
    """A call that does no harm twice is sent again until it is answered."""
    bench = Bench()
    health = bench.gateway.handlers["health"]
    tries = []

    def flaky(connection, frame):
        tries.append(frame["id"])
        connection.cut() if len(tries) < 3 else health(connection, frame)

    bench.gateway.handlers["health"] = flaky

    waiting = bench.call("health", resend=True)
    bench.after(10)

    assert bench.answers[waiting] == {"ok": True}
    assert tries == [waiting] * 3


def test_a_repeated_call_has_its_time_only_once():
    """The time of a call that is repeated runs from its start; in the end it may have happened."""
    bench = Bench()
    bench.gateway.handlers["health"] = lambda c, f: c.cut()

    waiting = bench.call("health", resend=True, timeout=5)
    bench.reachable = lambda _: False
    bench.after(5)

    assert isinstance(bench.answers[waiting], RequestTimeout)


def test_a_repeated_call_times_out_on_a_connection_too():
    """What is left of a call's time bounds the wait for the answer of its repetition."""
    bench = Bench()
    silent = []

    def cut_once(connection, frame):
        silent.append(frame)
        if len(silent) == 1:
            connection.cut()

    bench.gateway.handlers["health"] = cut_once
    waiting = bench.call("health", resend=True, timeout=5)

    bench.after(4.9)
    before = dict(bench.answers)
    bench.after(0.2)

    assert before == {}
    assert isinstance(bench.answers[waiting], RequestTimeout)
    assert len(silent) == 2


def test_a_call_that_became_too_large():
    """A call that the next gateway does not take fails without harm to the others."""
    bench = Bench()
    bench.gateway.cut()
    bench.settle()
    bench.gateway.hello = {"policy": {"maxPayload": 200}}

    large, small = bench.call("x", {"y": "z" * 200}), bench.call("health")
    bench.after(1)

    assert isinstance(bench.answers[large], RequestNotSent)
    assert bench.answers[small] == {"ok": True}


def test_the_clients_own_request_can_be_too_large():
    """A message that the gateway does not take fails its run, at once and after a reconnect."""
    gateway = FakeGateway()
    gateway.hello = {"policy": {"maxPayload": 200}}
    bench = Bench(gateway)

    bench.chat("x" * 200)
    bench.gateway.cut()
    bench.settle()
    bench.chat("x" * 200, run_id="run-2")
    bench.after(1)

    assert isinstance(bench.run_errors["run-1"], RequestNotSent)
    assert isinstance(bench.run_errors["run-2"], RequestNotSent)


def test_numbers_go_on_across_connections():
    """No request of a client has the number of another, so that a late answer meets nobody."""
    bench = Bench()
    bench.call("health")
    bench.gateway.cut()
    bench.settle()
    bench.after(1)
    bench.call("health")

    ids = [frame["id"] for frame in bench.gateway.requests]
    assert len(set(ids)) == len(ids)
    before = dict(bench.answers)
    for late in ids:
        bench.connection.answer({"id": late}, {"late": True})
    bench.settle()
    assert bench.answers == before


def test_a_call_before_there_was_a_connection_is_refused():
    """A client that never was connected takes no calls."""
    with pytest.raises(RequestNotSent):
        Link(COMES_BACK, TARGET, 0.0).request("health", None, 0.0)


def test_the_number_of_calls_is_bounded():
    """Calls that wait for a connection count like those that wait for an answer."""
    bench = Bench(options=ClientOptions(reconnect=Reconnect(), max_requests=2))
    bench.gateway.handlers["health"] = lambda c, f: None
    bench.call("health")
    bench.gateway.cut()
    bench.settle()
    bench.call("health")
    bench.call("health")

    with pytest.raises(RequestNotSent):
        bench.call("health")


def test_a_call_that_can_not_be_encoded_is_refused():
    """Params without a JSON form raise at once, and leave nothing behind."""
    bench = Bench()

    with pytest.raises(RequestNotSent):
        bench.call("health", {"x": object()})

    assert bench.call("health") in bench.answers


def test_a_forgotten_call_is_not_sent():
    """A call that is given up while it waits for a connection is never sent."""
    bench = Bench()
    bench.gateway.cut()
    bench.settle()
    waiting = bench.call("health")

    bench.link.forget(waiting)
    bench.link.forget(waiting)
    bench.after(1)

    assert bench.gateway.calls("health") == []
    assert bench.answers == {}


def test_a_forgotten_call_under_way():
    """The answer to a call that was given up is for nobody."""
    bench = Bench()
    bench.gateway.handlers["health"] = lambda c, f: None
    waiting = bench.call("health")

    bench.link.forget(waiting)
    bench.connection.answer({"id": waiting})
    bench.settle()

    assert bench.answers == {}


def test_a_refused_call():
    """A call that the gateway refuses fails with its code, and subscribes to nothing."""
    bench = Bench()

    waiting = bench.call("nope")

    assert isinstance(bench.answers[waiting], RequestFailed)


def test_an_answer_in_two_parts():
    """With expect_final the first answer is passed on, and the call has no limit of time."""
    bench = Bench()
    bench.gateway.handlers["agent"] = lambda c, f: c.answer(f, {"status": "accepted"})
    waiting = bench.call("agent", {}, expect_final=True)

    for _ in range(10):
        bench.after(20)
        bench.gateway.broadcast("tick")
        bench.settle()
    bench.connection.answer({"id": waiting}, {"status": "ok"})
    bench.settle()

    assert bench.answers == {waiting: {"status": "ok"}}


def test_events_are_passed_on():
    """Events of every connection reach the user; the count of each begins anew."""
    bench = Bench()
    bench.gateway.broadcast("tick", 1)
    bench.gateway.cut()
    bench.settle()
    bench.after(1)
    bench.gateway.broadcast("tick", 2)
    bench.settle()

    kinds = [type(notice) for notice in bench.notices]
    assert kinds == [Event, Disconnected, Reconnected, Event]
