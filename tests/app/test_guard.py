"""The guard: what it counts, whom it tells of, and when it looks at nothing."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.logger import LogEvent, LogLevel, capturedLogs

from gateway.app.guard import Guard
from gateway.core.access import Peer
from gateway.core.attempts import MAX_DELAY_S, Credential
from gateway.limits import LimitsConfig
from gateway.metrics import Metrics
from gateway.testing import FakeClock

REMOTE = Peer("192.0.2.7")
HERE = Peer("127.0.0.1")
TOKEN = (Credential.SHARED,)


def guard(**limits: int) -> Guard:
    return Guard(clock=FakeClock(), limits=LimitsConfig(**limits), metrics=Metrics())


def alerts(log: Sequence[LogEvent]) -> list[str]:
    return [event["source"] for event in log if event["log_level"] is LogLevel.error]


def test_a_locked_address_is_told_of_once() -> None:
    """The lock is one line and one count, by what kind of source it is; the address is no label."""
    at_door = guard(auth_failures_max=2)
    with capturedLogs() as log:
        for _ in range(2):
            at_door.failed(REMOTE, TOKEN)
    assert at_door.wait_s(REMOTE, TOKEN) == 300
    at_door.succeeded(REMOTE, TOKEN)
    assert at_door.wait_s(REMOTE, TOKEN) == 0
    assert alerts(log) == ["192.0.2.7"]
    text = at_door._metrics.render().decode()
    assert 'gateway_auth_failures_total{kind="shared-secret"} 2.0' in text
    assert 'gateway_auth_locks_total{source="address"} 1.0' in text


def test_guessing_on_this_machine_is_told_of() -> None:
    """Programs of this machine are not locked out, but whoever watches learns of it, pages too."""
    at_door = guard(auth_failures_max=2)
    page = Peer("127.0.0.1", origin="http://localhost:3000/\u202e")
    with capturedLogs() as log:
        assert [at_door.failed(page, TOKEN) for _ in range(2)] == [0.25, 0.5]
    assert at_door.wait_s(HERE, TOKEN) == 0
    assert at_door.wait_s(page, TOKEN) == 300
    assert alerts(log) == ["loopback", "origin http://localhost:3000/?"]
    text = at_door._metrics.render().decode()
    assert 'gateway_auth_locks_total{source="loopback"} 1.0' in text
    assert 'gateway_auth_locks_total{source="origin"} 1.0' in text


def test_too_many_late_answers_at_once() -> None:
    """Asking many times at once is no way round the delay: then everything from here waits first."""
    at_door = guard(auth_delayed_max=2)
    at_door.failed(HERE, TOKEN)
    assert at_door.pause_s(HERE, TOKEN) == 0
    assert at_door.wait_s(HERE, TOKEN, paced=True) == 0.25
    at_door.failed(HERE, TOKEN)
    assert at_door.pause_s(HERE, TOKEN) == MAX_DELAY_S
    assert at_door.wait_s(HERE, TOKEN) == 0
    assert at_door.wait_s(HERE, TOKEN, paced=True) == MAX_DELAY_S
    assert at_door.pause_s(HERE, ()) == 0, "who shows nothing guesses nothing"
    assert at_door.pause_s(REMOTE, TOKEN) == 0
