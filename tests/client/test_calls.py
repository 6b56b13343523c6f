"""Requests that may outlive their connection."""

from __future__ import annotations

import math

from gateway.client.calls import REPEAT_WITHIN_S, Call
from gateway.client.errors import ConnectionLost, RequestNotSent, RequestTimeout

LOST = ConnectionLost(1006, "gone")


def call(**more):
    given = {"expect_final": False, "timeout": 30.0, "give_up_at": 40.0, "resend": True}
    return Call("health", None, **{**given, **more})


def test_a_sending_waits_as_long_as_there_is():
    """Each sending has its own time, but not more than is left of the whole."""
    assert call().sending(5.0) == 30.0
    assert call().sending(15.0) == 25.0
    assert call(timeout=math.inf, give_up_at=math.inf).sending(5.0) == math.inf


def test_the_age_counts_from_the_first_sending():
    """A message of the client's own is repeatable while the gateway surely knows its key."""
    own = call(answered=lambda payload, now: [])
    own.sending(10.0)
    own.broken_off = LOST
    own.sending(100.0)

    assert own.repeatable(10.0 + REPEAT_WITHIN_S - 1, logs=False)
    assert not own.repeatable(10.0 + REPEAT_WITHIN_S, logs=False)
    assert own.repeatable(1e9, logs=True)
    assert call().repeatable(1e9, logs=False)


def test_what_to_say_of_a_call_that_was_too_late():
    """A call that never went out did nothing; one that did may have."""
    fresh, sent = call(), call(broken_off=LOST)

    assert isinstance(fresh.overdue(), RequestNotSent)
    assert isinstance(sent.overdue(), RequestTimeout)
