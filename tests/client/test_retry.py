"""Whether and when a client comes back."""

from __future__ import annotations

from random import Random

import pytest

from gateway.client.errors import (
    ClientError,
    ConnectFailed,
    ConnectionLost,
    ConnectRefused,
    GaveUp,
    InvalidUrl,
    RequestNotSent,
)
from gateway.client.retry import MAX_HINT_S, Backoff, Reconnect, needs_a_person, random_fraction

LOST = ConnectionLost(1006, "gone")
WHOLE = Reconnect(fraction=lambda: 1.0)


def refused(detail=None, code="INVALID_REQUEST", **more):
    details = more.pop("details", {})
    if detail is not None:
        details = {"code": detail, **details}
    return ConnectRefused(code, "no", details=details, **more)


def waits(backoff, count, error=LOST, now=0.0):
    return [backoff.next_wait(error, now) for _ in range(count)]


def test_the_ceiling_doubles_up_to_the_cap():
    """Waits are drawn from 0 to a ceiling of 1, 2, 4 ... and at most 30 seconds."""
    assert waits(Backoff(WHOLE), 8) == [1, 2, 4, 8, 16, 30, 30, 30]
    assert waits(Backoff(Reconnect(fraction=lambda: 0.0)), 3) == [0, 0, 0]
    assert waits(Backoff(Reconnect(fraction=lambda: 0.5)), 3) == [0.5, 1, 2]


def test_the_default_jitter_is_random():
    """Without another source, fractions are random and below one."""
    drawn = [random_fraction() for _ in range(100)]

    assert all(0 <= fraction < 1 for fraction in drawn)
    assert len(set(drawn)) > 90
    assert Reconnect().fraction is random_fraction


def test_the_exponent_is_bounded():
    """After any number of attempts the wait is still a number within the cap."""
    backoff = Backoff(WHOLE)

    assert waits(backoff, 3000)[-1] == 30
    assert backoff.attempts == 3000


@pytest.mark.parametrize(("lasted", "wait"), [(59.9, 4), (60.0, 1)])
def test_only_health_starts_the_count_anew(lasted, wait):
    """A connection that was made is no success; one that lasted 60 s is."""
    backoff = Backoff(WHOLE)
    waits(backoff, 2)

    backoff.opened(100.0)

    assert backoff.next_wait(LOST, 100.0 + lasted) == wait


def test_health_counts_once():
    """The age of an earlier connection does not make later failures successes."""
    backoff = Backoff(WHOLE)
    backoff.opened(0.0)

    assert waits(backoff, 3, now=100.0) == [1, 2, 4]


@pytest.mark.parametrize(
    ("error", "wait"),
    [
        (ConnectionLost(1012, "service restart", retry_after_ms=1500), 2.5),
        (refused(code="UNAVAILABLE", retryable=True, retry_after_ms=500), 1.5),
        (ConnectionLost(1012, "x", retry_after_ms=29_500), 30.0),
        (ConnectionLost(1012, "x", retry_after_ms=120_000), 120.0),
        (ConnectionLost(1012, "x", retry_after_ms=10**12), MAX_HINT_S),
    ],
)
def test_a_hint_is_waited_for_and_spread(error, wait):
    """A gateway's hint is waited for, the jitter comes on top, and no hint keeps a client for good."""
    assert Backoff(WHOLE).next_wait(error, 0.0) == wait


def test_attempts_can_be_bounded():
    """After the given number of attempts in a row the client gives up and says why."""
    backoff = Backoff(Reconnect(max_attempts=2, fraction=lambda: 1.0))

    first, second, third = waits(backoff, 3)

    assert (first, second) == (1, 2)
    assert isinstance(third, GaveUp)
    assert third.attempts == 2
    assert third.last is LOST
    assert str(third) == "gave up after 2 attempts: connection lost: gone (1006)"


def test_without_a_policy_the_first_end_is_final():
    """A client that is not to come back ends with the error itself."""
    assert Backoff(None).next_wait(LOST, 0.0) is LOST


@pytest.mark.parametrize(
    "detail",
    [
        "AUTH_TOKEN_MISSING",
        "AUTH_TOKEN_MISMATCH",
        "AUTH_PASSWORD_MISSING",
        "AUTH_PASSWORD_MISMATCH",
        "AUTH_BOOTSTRAP_TOKEN_INVALID",
        "AUTH_RATE_LIMITED",
        "AUTH_DEVICE_TOKEN_MISMATCH",
        "AUTH_SCOPE_MISMATCH",
        "AUTH_IDENTITY_HEADER_REQUIRED",
        "AUTH_VERIFIED_USER_REQUIRED",
        "CONTROL_UI_BUILD_MISMATCH",
        "PAIRING_REQUIRED",
        "DEVICE_IDENTITY_REQUIRED",
        "CONTROL_UI_DEVICE_IDENTITY_REQUIRED",
        "PROTOCOL_MISMATCH",
        "CLIENT_VERSION_MISMATCH",
    ],
)
@pytest.mark.parametrize("code", ["INVALID_REQUEST", "UNAVAILABLE", "NOT_PAIRED"])
def test_refusals_that_need_a_person(detail, code):
    """What only a person can mend is not tried again, whatever else the refusal says."""
    assert needs_a_person(refused(detail, code, retryable=True, retry_after_ms=10))
    assert Backoff(WHOLE).next_wait(error := refused(detail, code), 0.0) is error


@pytest.mark.parametrize(
    "error",
    [
        refused(),
        refused("MISSING_SCOPE", "FORBIDDEN"),
        refused("DEVICE_AUTH_SIGNATURE_INVALID", details={"reason": "device-signature"}),
        refused(code="NOT_PAIRED"),
        refused(code="UNAVAILABLE", retryable=False),
        ConnectRefused(None, "protocol mismatch", close_code=1002),
        RequestNotSent("connect: the params have no JSON form"),
        InvalidUrl("x"),
        ClientError("x"),
    ],
)
def test_other_ends_that_need_a_person(error):
    """A refusal that blames the request, and what could not even be sent, is final."""
    assert needs_a_person(error)


@pytest.mark.parametrize(
    "error",
    [
        LOST,
        ConnectionLost(1012, "service restart"),
        ConnectionLost(1008, "slow consumer"),
        ConnectionLost(4000, "tick timeout"),
        ConnectionLost(4001, "device removed"),
        ConnectFailed("ws://h", "connection refused"),
        refused(code="UNAVAILABLE"),
        refused(code="INVALID_REQUEST", retryable=True),
        refused(code="INVALID_REQUEST", close_code=1013, retryable=True),
        refused("PAIRING_REQUIRED", "NOT_PAIRED", details={"pauseReconnect": False}),
        refused(
            "PAIRING_REQUIRED", "NOT_PAIRED", details={"recommendedNextStep": "wait_then_retry"}
        ),
        refused("DEVICE_AUTH_SIGNATURE_EXPIRED", details={"reason": "device-signature-stale"}),
        refused("DEVICE_AUTH_INVALID", details={"reason": "device-signature-stale"}),
        ConnectRefused(None, "gateway starting", close_code=1013, retryable=True),
        ConnectRefused(None, "handshake timeout", close_code=1000),
        ConnectRefused("UNAVAILABLE", "details are no object", details=[1]),
    ],
)
def test_ends_that_pass(error):
    """Whatever may be different the next time is tried again."""
    assert not needs_a_person(error)


def outage(policy, seconds):
    """Return the moments of the attempts while a gateway is away for so long, and of the first after."""
    backoff, now = Backoff(policy), 0.0
    attempts: list[float] = []
    while True:
        wait = backoff.next_wait(ConnectFailed("ws://h", "connection refused"), now)
        assert isinstance(wait, float)
        now += wait
        if now >= seconds:
            return attempts, now
        attempts.append(now)


@pytest.mark.parametrize(
    ("cap_s", "low", "high"), [(30.0, 5_400, 6_100), (300.0, 500, 700), (720.0, 200, 300)]
)
def test_an_outage_of_a_day(cap_s, low, high):
    """An outage of 24 h costs a bounded number of attempts, and is over a cap after its end at most."""
    day = 24 * 3600.0
    counts = []
    for seed in range(10):
        policy = Reconnect(cap_s=cap_s, fraction=Random(seed).random)
        attempts, back = outage(policy, day)
        counts.append(len(attempts))
        assert back - day <= cap_s

    assert low <= min(counts)
    assert max(counts) <= high
