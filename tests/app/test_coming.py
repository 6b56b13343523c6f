"""gateway.app.coming: requests that are still being looked at."""

from __future__ import annotations

from gateway.app.coming import Coming

KEY = "agent:main:main"


def test_what_is_known_of_a_request() -> None:
    """While a request is looked at, its session is known, and it is found by it; then nothing stays."""
    coming = Coming()
    with coming.expected("r1", KEY), coming.expected("r2", "agent:main:other"):
        assert coming.session_of("r1") == KEY
        assert coming.to(KEY) == ["r1"]
        assert coming.doomed("r1") is None

    assert (coming.session_of("r1"), coming.to(KEY), len(coming)) == (None, [], 0)


def test_an_abort_counts_once() -> None:
    """The first abort says why the run ends; it is forgotten with the request."""
    coming = Coming()
    with coming.expected("r1", KEY):
        assert coming.doom("r1", "rpc")
        assert coming.doom("r1", "stop")
        assert coming.doomed("r1") == "rpc"

    assert coming.doomed("r1") is None


def test_a_repeat_is_the_same_run() -> None:
    """A request that is repeated meanwhile is known until both are looked at."""
    coming = Coming()
    with coming.expected("r1", KEY):
        with coming.expected("r1", KEY):
            coming.doom("r1", "rpc")
        assert coming.doomed("r1") == "rpc"

    assert len(coming) == 0


def test_what_does_not_come_is_not_ended() -> None:
    """An abort of a run that nobody asks for finds nothing, and leaves nothing for who asks later."""
    coming = Coming()

    assert not coming.doom("r1", "rpc")
    with coming.expected("r1", KEY):
        assert coming.doomed("r1") is None
