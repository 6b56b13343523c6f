"""How the client's core ends: silence, drops, closes; and that every request settles once."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client.actions import (
    Answered,
    Close,
    Failed,
    Lost,
)
from gateway.client.core import ClientCore
from gateway.client.errors import (
    ConnectionLost,
)
from gateway.client.options import (
    ClientOptions,
)
from tests.client.frames import (
    HELLO,
    answer,
    event,
    lost,
    opened,
    refusal,
    request,
)


def test_silence_closes_with_tick_timeout():
    """Nothing at all for twice the tick interval closes with 4000 and fails what waits."""
    core = opened()
    request_id = request(core, timeout=math.inf)
    core.frame_received(event("tick", seq=1), 10.0)

    assert core.deadline == 70.0
    assert core.time_passed(69.9) == []
    actions = core.time_passed(70.0)

    assert [type(action) for action in actions] == [Failed, Close, Lost]
    assert isinstance(actions[0], Failed)
    assert actions[0].request_id == request_id
    assert actions[1] == Close(4000, "tick timeout")
    error = lost(actions)
    assert isinstance(error, ConnectionLost)
    assert error.code == 4000


def test_any_message_breaks_the_silence():
    """Answers and even nonsense show that the gateway lives, not only ticks."""
    core = opened()
    request_id = request(core)

    core.frame_received(answer(request_id), 20.0)
    after_answer = core.deadline
    core.frame_received("nonsense", 30.0)

    assert after_answer == 80.0
    assert core.deadline == 90.0


def test_a_tiny_tick_interval_does_not_kill_the_connection():
    """A tick interval below a second is taken as one second."""
    core = opened({**HELLO, "policy": {"tickIntervalMs": 1}})

    assert core.deadline == 2.0


def test_a_restart_says_when_to_come_back():
    """A close 1012 after a shutdown event carries the time that the event announced."""
    core = opened()
    payload = {"reason": "service restart", "restartExpectedMs": 1500}
    core.frame_received(event("shutdown", payload, 1), 0.0)

    error = lost(core.connection_lost(1012, "service restart"))

    assert isinstance(error, ConnectionLost)
    assert (error.code, error.reason) == (1012, "service restart")
    assert error.retry_after_ms == 1500


@pytest.mark.parametrize(("code", "seen"), [(None, 1006), (1006, 1006), (1008, 1008), (1012, 1012)])
def test_a_drop_fails_every_request_once(code, seen):
    """Every waiting request fails exactly once when the connection drops, and then nothing more comes."""
    core = opened()
    ids = [request(core), request(core, expect_final=True), request(core)]
    core.frame_received(answer(ids[1], {"status": "accepted"}), 0.0)

    actions = core.connection_lost(code, "gone")

    failed = [action for action in actions if isinstance(action, Failed)]
    assert [action.request_id for action in failed] == ids
    error = lost(actions)
    assert all(action.error is error for action in failed)
    assert isinstance(error, ConnectionLost)
    assert error.code == seen
    assert core.connection_lost(1006, "again") == []
    assert core.frame_received(answer(ids[0]), 0.0) == []
    assert core.time_passed(1e9) == []
    assert core.close() == []
    assert core.give_up(error) == []
    assert core.deadline is None


def test_the_first_cause_of_an_end_stays():
    """After a tick timeout the later loss of the socket changes nothing."""
    core = opened()
    first = lost(core.time_passed(60.0))

    core.connection_lost(1006, "aborted")

    assert core.error is first


def test_a_request_after_the_end_raises_why_it_ended():
    """A request on an ended connection raises the error of its end."""
    core = opened()
    error = lost(core.connection_lost(1012, "service restart"))

    with pytest.raises(ConnectionLost) as raised:
        core.request("health", None, 0.0)

    assert raised.value is error


def test_closing_fails_what_waits():
    """Closing from this side sends the close and fails waiting requests."""
    core = opened()
    request_id = request(core)

    actions = core.close(1000, "bye")

    assert [type(action) for action in actions] == [Failed, Close, Lost]
    assert isinstance(actions[0], Failed)
    assert actions[0].request_id == request_id
    assert actions[1] == Close(1000, "bye")


def test_giving_up_ends_in_the_error_given():
    """A driver that can not connect ends the core with its own error."""
    core = ClientCore(ClientOptions(), 0.0)
    error = ConnectionLost(1006, "no route")

    assert core.give_up(error) == [Lost(error)]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("request"), st.booleans()),
        st.tuples(st.just("answer"), st.integers(0, 9)),
        st.tuples(st.just("accept"), st.integers(0, 9)),
        st.tuples(st.just("refuse"), st.integers(0, 9)),
        st.tuples(st.just("event"), st.integers(0, 30)),
        st.tuples(st.just("wait"), st.floats(0, 40)),
        st.tuples(st.just("forget"), st.integers(0, 9)),
        st.tuples(st.just("noise"), st.sampled_from(["{", "[]", '{"type":"res"}'])),
    ),
    max_size=40,
)


@given(STEPS, st.sampled_from(["drop", "close", "silence"]))
def test_every_request_settles_exactly_once(steps, end):
    """Whatever the order of answers, refusals, timeouts and noise, each request settles exactly once."""
    core, now = opened(), 0.0
    ids: list[str] = []
    forgotten: set[str] = set()
    settled: list[str] = []

    def take(actions):
        settled.extend(a.request_id for a in actions if isinstance(a, Answered | Failed))

    for kind, value in steps:
        if core.error is not None:
            break
        target = ids[value % len(ids)] if ids and isinstance(value, int) else "none"
        if kind == "request":
            ids.append(request(core, now=now, expect_final=value))
        elif kind == "answer":
            take(core.frame_received(answer(target, {"status": "ok"}), now))
        elif kind == "accept":
            take(core.frame_received(answer(target, {"status": "accepted"}), now))
        elif kind == "refuse":
            take(core.frame_received(refusal(target), now))
        elif kind == "event":
            take(core.frame_received(event("tick", seq=value), now))
        elif kind == "noise":
            take(core.frame_received(value, now))
        elif kind == "forget":
            core.forget(target)
            forgotten.add(target)
        else:
            now += value
            take(core.time_passed(now))
    ending = {
        "drop": lambda: core.connection_lost(1006, ""),
        "close": core.close,
        "silence": lambda: core.time_passed(now + 1000),
    }
    take(ending[end]())

    assert len(settled) == len(set(settled))
    assert set(ids) - forgotten <= set(settled) <= set(ids)
    assert core.error is not None
