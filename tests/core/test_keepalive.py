"""When a silent peer is pinged, and when it is given up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.keepalive import Check, Keepalive


@pytest.fixture
def alive() -> Keepalive:
    """A connection made at second 100: pinged after 25 s of silence, given up 10 s later."""
    return Keepalive(100.0, silence=25.0, timeout=10.0)


def test_a_silent_peer_is_pinged_once(alive: Keepalive) -> None:
    """After the silence there is one ping, and then the answer is awaited."""
    assert alive.check(124.9) is Check.WAIT
    assert alive.check(125.0) is Check.PING
    assert alive.check(125.0) is Check.WAIT
    assert alive.check(134.9) is Check.WAIT
    assert alive.check(135.0) is Check.DEAD


def test_whatever_comes_from_the_peer_begins_the_silence_anew(alive: Keepalive) -> None:
    """Data before the ping and a pong after it count alike."""
    alive.seen(120.0)
    assert alive.check(144.9) is Check.WAIT
    assert alive.check(145.0) is Check.PING
    alive.seen(154.0)
    assert alive.check(160.0) is Check.WAIT
    assert alive.check(179.0) is Check.PING


def test_a_peer_that_takes_bytes_is_alive(alive: Keepalive) -> None:
    """A ping behind a large frame on a slow link is not held against who still reads."""
    assert alive.check(125.0) is Check.PING
    for second in (130.0, 138.0, 146.0):
        alive.progress(second)
        assert alive.check(second + 9.9) is Check.WAIT
    assert alive.check(156.0) is Check.DEAD


def test_progress_before_the_ping_is_no_answer_to_it(alive: Keepalive) -> None:
    """Time counts from the ping, not from the bytes that drained before."""
    alive.progress(110.0)
    assert alive.check(125.0) is Check.PING
    assert alive.check(134.0) is Check.WAIT
    assert alive.check(135.0) is Check.DEAD


@given(st.lists(st.tuples(st.sampled_from(["seen", "progress", "check"]), st.floats(0, 40))))
def test_nobody_is_given_up_without_a_ping(steps: list[tuple[str, float]]) -> None:
    """However the clock jumps, DEAD follows a PING that nothing answered for the whole timeout."""
    now, pinged, progress = 0.0, None, 0.0
    alive = Keepalive(now, silence=25.0, timeout=10.0)
    for what, seconds in steps:
        now += seconds
        if what == "seen":
            alive.seen(now)
            pinged = None
        elif what == "progress":
            alive.progress(now)
            progress = now
        else:
            check = alive.check(now)
            if check is Check.PING:
                assert pinged is None
                pinged = now
            elif check is Check.DEAD:
                assert pinged is not None
                assert now - max(pinged, progress) >= 10.0
                return
