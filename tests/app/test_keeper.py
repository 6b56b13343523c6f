"""The retention policy at work."""

from __future__ import annotations

from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from gateway.app.keeper import BEAT_S, DAY_MS, INTERVAL_S, PASSES, Keeper
from gateway.config import StoreConfig
from gateway.errors import StoreError
from gateway.metrics import Metrics
from gateway.model import Retention, RetentionPass
from gateway.testing import FakeClock, result_of
from tests.app.faults import Lines
from tests.app.harness import Gate


class Store:
    """Answers to policies, as the test says."""

    def __init__(self) -> None:
        self.policies: list[Retention] = []
        self.more = False
        self.answer: Any = None

    def apply_retention(self, policy: Retention) -> Deferred[RetentionPass]:
        self.policies.append(policy)
        return self.answer or succeed(RetentionPass(runs=2, events=30, more=self.more, usage=4))


class Rig:
    def __init__(self, **config: Any) -> None:
        self.clock = FakeClock()
        self.store = Store()
        self.metrics = Metrics()
        self.keeper = Keeper(
            clock=self.clock,
            store=cast(Any, self.store),
            config=StoreConfig(**config),
            metrics=self.metrics,
        )
        self.keeper.startService()


def test_the_policy() -> None:
    """It is what the configuration says, as of now."""
    rig = Rig(retain_days=1.5, retain_runs_per_session=7, retain_bytes=9000, retain_usage_days=9)
    rig.clock.advance(10)

    assert rig.keeper.policy() == Retention(
        ended_before_ms=FakeClock.EPOCH_MS + 10_000 - DAY_MS * 3 // 2,
        runs_per_session=7,
        log_bytes=9000,
        usage_before_ms=FakeClock.EPOCH_MS + 10_000 - DAY_MS * 9,
    )
    rig.keeper.stopService()


def test_no_limits() -> None:
    """Zero keeps everything."""
    rig = Rig(retain_days=0, retain_runs_per_session=0, retain_bytes=0, retain_usage_days=0)

    assert rig.keeper.policy() == Retention()
    rig.keeper.stopService()


def test_a_beat_is_bounded() -> None:
    """A minute after the start it begins, does so much per beat, and rests when the policy is met."""
    rig = Rig()
    rig.store.more = True
    rig.clock.advance(BEAT_S)
    first = len(rig.store.policies)
    rig.clock.advance(BEAT_S)
    second = len(rig.store.policies)
    rig.store.more = False
    rig.clock.advance(BEAT_S)
    third = len(rig.store.policies)
    rig.clock.advance(BEAT_S)
    resting = len(rig.store.policies)
    rig.clock.advance(INTERVAL_S)
    again = len(rig.store.policies)
    rig.keeper.stopService()

    assert (first, second, third) == (PASSES, 2 * PASSES, 2 * PASSES + 1)
    assert (resting, again) == (third, third + 1)
    text = rig.metrics.render().decode()
    assert f'gateway_retention_removed_total{{what="runs"}} {2.0 * again}' in text
    assert f'gateway_retention_removed_total{{what="events"}} {30.0 * again}' in text
    assert f'gateway_retention_removed_total{{what="usage"}} {4.0 * again}' in text
    assert rig.clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("jump_days", "counted_days"), [(1, 0), (365, 0), (-1, -1)], ids=["a day", "a year", "back"]
)
def test_a_clock_that_jumps(jump_days: int, counted_days: int) -> None:
    """A wall clock that jumps ahead while the gateway runs makes nothing older; set back, all is younger."""
    rig = Rig(retain_days=30)
    rig.clock.advance(5)
    rig.clock.jump(jump_days * DAY_MS / 1000)
    before = rig.keeper.policy().ended_before_ms
    rig.keeper.stopService()

    assert before == FakeClock.EPOCH_MS + 5000 + (counted_days - 30) * DAY_MS


def test_a_store_that_fails() -> None:
    """A store that fails is told in a line; the next beat tries again."""
    rig = Rig()
    rig.store.answer = fail(StoreError("locked"))
    with Lines() as lines:
        rig.clock.advance(BEAT_S)
    rig.store.answer = None
    rig.clock.advance(BEAT_S)
    rig.keeper.stopService()

    assert lines.texts == ["old runs were not removed: locked"]
    assert len(rig.store.policies) == 2


def test_stopping_in_between() -> None:
    """A pass that is under way when it stops is cancelled."""
    rig = Rig()
    cancelled: list[Any] = []
    rig.store.answer = Deferred(cancelled.append)
    rig.clock.advance(BEAT_S)
    over = rig.keeper.stopService()

    assert len(cancelled) == 1
    assert over is not None
    result_of(over)
    assert rig.clock.getDelayedCalls() == []


def test_old_runs_go(gate: Gate) -> None:
    """A gateway forgets runs that ended long ago, and knows the others."""
    client = gate.client()
    (keeper,) = (beat for beat in gate.wiring.beats if isinstance(beat, Keeper))
    client.send("hello", run="old")
    gate.turn()
    gate.live("old").end()
    gate.clock.advance(29 * 86_400)
    client.send("hello", run="new")
    gate.turn()
    gate.live("new").end()
    gate.clock.advance(2 * 86_400)
    result_of(keeper.beat())

    statuses = [client.ok("runs.read", {"runId": run})["status"] for run in ("old", "new")]
    assert statuses == ["unknown", "replay"]
