"""The client's core after the handshake, fed with scripted frames: no socket, no clock, no Twisted."""

from __future__ import annotations

import json

import pytest

from gateway.client.actions import (
    Accepted,
    Answered,
    Close,
    Event,
    Failed,
    Gap,
    Ignored,
    Lost,
    Received,
)
from gateway.client.errors import (
    RequestFailed,
    RequestNotSent,
    RequestTimeout,
    UnexpectedAnswer,
)
from gateway.client.options import (
    MAX_FRAME_BYTES,
    ClientOptions,
)
from tests.client.frames import (
    HELLO,
    answer,
    event,
    opened,
    refusal,
    request,
    sent,
)

# Requests.


def test_answers_find_their_requests():
    """Responses may come in any order; each goes to the request with its id."""
    core = opened()
    first, second = request(core), request(core)

    assert core.frame_received(answer(second, {"n": 2}), 0.0) == [Answered(second, {"n": 2})]
    assert core.frame_received(answer(first, {"n": 1}), 0.0) == [Answered(first, {"n": 1})]


def test_params_are_sent_as_given():
    """Params go out as they are, and are left out without any."""
    core = opened()

    _, with_params = core.request("x", {"b": 1, "a": [None]}, 0.0)
    _, without = core.request("x", None, 0.0)

    assert sent(with_params)["params"] == {"b": 1, "a": [None]}
    assert "params" not in sent(without)


def test_an_error_answer_fails_its_request():
    """An error answer becomes RequestFailed with all that the gateway said."""
    core = opened()
    request_id = request(core, "chat.send")
    frame = json.loads(
        refusal(
            request_id,
            "UNAVAILABLE",
            "busy",
            details={"a": 1},
            retryable=True,
            retryAfterMs=20,
        )
    )
    frame["payload"] = {"status": "error"}

    (action,) = core.frame_received(json.dumps(frame), 0.0)

    assert isinstance(action, Failed)
    error = action.error
    assert isinstance(error, RequestFailed)
    assert (error.method, error.code, error.message) == ("chat.send", "UNAVAILABLE", "busy")
    assert (error.details, error.retryable, error.retry_after_ms) == ({"a": 1}, True, 20)
    assert error.payload == {"status": "error"}


@pytest.mark.parametrize("error", [None, "no", {}, {"code": 7, "message": ""}])
def test_a_poor_error_answer_fails_its_request_too(error):
    """An error without code or message is still an error."""
    core = opened()
    request_id = request(core)
    frame = {"type": "res", "id": request_id, "ok": False, "error": error}

    (action,) = core.frame_received(json.dumps(frame), 0.0)

    assert isinstance(action, Failed)
    assert isinstance(action.error, RequestFailed)
    assert action.error.code == "UNAVAILABLE"


def test_the_first_answer_counts_unless_the_final_one_is_wanted():
    """Without expect_final the first of two answers is the answer, and the second is dropped."""
    core = opened()
    request_id = request(core, "agent")
    accepted = {"runId": "r", "status": "accepted"}

    first = core.frame_received(answer(request_id, accepted), 0.0)
    second = core.frame_received(answer(request_id, {"runId": "r", "status": "ok"}), 0.0)

    assert first == [Answered(request_id, accepted)]
    assert second == []


@pytest.mark.parametrize("ok", [True, False])
def test_the_final_answer_of_two(ok):
    """With expect_final the accepting answer is reported as such and the second one settles it."""
    core = opened()
    request_id = request(core, "agent", expect_final=True)
    accepted = {"runId": "r", "status": "accepted"}
    final = answer(request_id, {"status": "ok"}) if ok else refusal(request_id, "UNAVAILABLE")

    first = core.frame_received(answer(request_id, accepted), 0.0)
    (second,) = core.frame_received(final, 0.0)

    assert first == [Accepted(request_id, accepted)]
    assert isinstance(second, Answered if ok else Failed)


def test_a_request_times_out_once():
    """A request without an answer fails with RequestTimeout, and a late answer is dropped."""
    core = opened()
    request_id = request(core, now=5.0, timeout=2.0)

    assert core.deadline == 7.0
    (action,) = core.time_passed(7.0)

    assert isinstance(action, Failed)
    assert isinstance(action.error, RequestTimeout)
    assert core.frame_received(answer(request_id), 8.0) == []
    assert core.time_passed(9.0) == []


def test_timeouts_have_defaults():
    """Requests have the options' timeout, those that expect a final answer none."""
    hello = {**HELLO, "policy": {"tickIntervalMs": 10_000_000}}
    options = ClientOptions(request_timeout=30.0)
    plain, final = opened(hello, options), opened(hello, options)
    request(plain)
    request(final, expect_final=True)

    assert plain.deadline == 30.0
    assert final.deadline == 20_000.0


def test_a_forgotten_request_is_gone():
    """A forgotten request neither times out nor takes an answer, and its deadline goes with it."""
    core = opened()
    request_id = request(core, timeout=1.0)

    core.forget(request_id)

    assert core.time_passed(2.0) == []
    assert core.deadline == 60.0
    assert core.frame_received(answer(request_id), 2.0) == []


def test_a_request_that_the_gateway_would_not_take_is_not_sent():
    """A request over the gateway's limit fails here, and the connection stays."""
    core = opened({**HELLO, "policy": {"maxPayload": 1000}})

    with pytest.raises(RequestNotSent, match="1000"):
        core.request("chat.send", {"message": "x" * 1000}, 0.0)

    assert core.error is None
    assert request(core)


def test_params_without_a_json_form_are_not_sent():
    """Params that JSON can not carry fail here, and the connection stays."""
    core = opened()

    with pytest.raises(RequestNotSent):
        core.request("x", {"a": object()}, 0.0)

    assert request(core)


def test_requests_in_flight_are_bounded():
    """Over the maximum of waiting requests, another one is refused until one is answered."""
    core = opened(options=ClientOptions(max_requests=2))
    first = request(core)
    request(core)

    with pytest.raises(RequestNotSent):
        core.request("health", None, 0.0)
    core.frame_received(answer(first), 0.0)

    assert request(core)


# Events.


def test_events_are_handed_on():
    """An event is handed on with its payload, number and state version."""
    core = opened()
    frame = {
        "type": "event",
        "event": "presence",
        "payload": {"presence": []},
        "seq": 1,
        "stateVersion": {"presence": 3, "health": 1},
        "recipientProfileId": "p",
    }

    actions = core.frame_received(json.dumps(frame), 0.0)

    expected = Event("presence", {"presence": []}, 1, {"presence": 3, "health": 1})
    assert actions == [Received(expected)]


def test_a_hole_in_the_numbers_is_told():
    """A number that jumps is told as a gap, before the event that follows."""
    core = opened()
    core.frame_received(event("tick", seq=1), 0.0)

    actions = core.frame_received(event("tick", seq=5), 0.0)

    assert actions == [Received(Gap(3)), Received(Event("tick", None, 5))]


@pytest.mark.parametrize(
    "numbers", [[7, 8, 9], [1, None, 2], [1, 2, 2, 3], [5, 3, 6], [0, 1], [None, None]]
)
def test_what_is_no_hole(numbers):
    """The first number may be any; events without one, repeats and lower numbers are no gap."""
    core = opened()

    actions = [a for n in numbers for a in core.frame_received(event("tick", seq=n), 0.0)]

    assert not [action for action in actions if action == Received(Gap(1))]
    assert len(actions) == len(numbers)


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "{",
        "null",
        "[]",
        "7",
        '"event"',
        "{}",
        '{"type":"req","id":"1","method":"x"}',
        '{"type":"event"}',
        '{"type":"event","event":7}',
        '{"type":"event","event":"tick","seq":-1}',
        '{"type":"event","event":"tick","seq":true}',
        '{"type":"event","event":"tick","seq":1.5}',
        '{"type":"res","ok":true}',
        '{"type":"res","id":1,"ok":true}',
        b"\xff\xfe",
        "[" * 100_000,
        '{"type":"event","event":"\\ud800"}',
        "\ud800",
    ],
)
def test_nonsense_is_reported_and_harmless(frame):
    """A message that is no frame is reported as ignored, and the connection goes on."""
    core = opened()

    actions = core.frame_received(frame, 0.0)

    assert [type(action) for action in actions] == [Ignored]
    assert request(core)


@pytest.mark.parametrize("value", ["1e400", "1" * 5000])
def test_an_answer_that_can_not_be_read(value):
    """A number that is too large here fails the request that it answers, at once, and no other."""
    core = opened()
    first, second = request(core), request(core)
    frame = f'{{"type":"res","id":"{first}","ok":true,"payload":{value}}}'

    (failed,) = core.frame_received(frame, 0.0)

    assert isinstance(failed, Failed)
    assert failed.request_id == first
    assert isinstance(failed.error, UnexpectedAnswer)
    assert [type(action) for action in core.frame_received(frame, 0.0)] == [Ignored]
    assert core.frame_received(answer(second, 1), 0.0) == [Answered(second, 1)]


def test_an_oversized_message_ends_the_connection():
    """A message over the limit closes with 1009."""
    core = opened()
    request_id = request(core)

    actions = core.frame_received(b" " * (MAX_FRAME_BYTES + 1), 0.0)

    assert [type(action) for action in actions] == [Failed, Close, Lost]
    assert isinstance(actions[0], Failed)
    assert actions[0].request_id == request_id
    assert actions[1] == Close(1009, "frame too large")
