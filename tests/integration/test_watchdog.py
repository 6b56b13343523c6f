"""gateway.watchdog on real loops and a real thread: what holds the loop is named, and nothing else is."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from gateway.client.methods import Health
from gateway.metrics import Metrics
from gateway.runtime import SystemClock
from gateway.testing import FakeClock
from gateway.watchdog import PUBLISH_S, Turns, Watchdog, WatchedSelector, _Watcher
from tests.integration.daemon import Daemon, running, until

pytestmark = pytest.mark.integration

LIMIT_S = 0.05


class LoopClock:
    """The timers of an asyncio loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.callLater: Any = loop.call_later
        self.seconds = time.monotonic

    def now_ms(self) -> int:
        return 1000


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What is logged of held loops."""
    found: list[str] = []

    def observe(event: LogEvent) -> None:
        if str(event.get("log_format", "")).startswith("loop held"):
            found.append(formatEvent(event))

    observer: Any = observe
    globalLogPublisher.addObserver(observer)
    yield found
    globalLogPublisher.removeObserver(observer)


@pytest.fixture
def watched(lines: list[str]) -> Callable[..., list[dict[str, Any]]]:
    """Run functions on a watched loop, one after the other; return what was told of the loop.

    The loop has a thread of its own, since the test runs in one already.
    """

    def run(*functions: Callable[[], object]) -> list[dict[str, Any]]:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(on_a_loop, *functions).result()

    def on_a_loop(*functions: Callable[[], object]) -> list[dict[str, Any]]:
        selector = WatchedSelector(time.monotonic)
        loop = asyncio.SelectorEventLoop(selector)
        told: list[dict[str, Any]] = []
        clock: Any = LoopClock(loop)
        dog = Watchdog(clock, Metrics(), told.append, limit_s=LIMIT_S, turns=selector.turns)
        dog.startService()

        async def calling() -> None:
            for function in functions:
                await asyncio.sleep(0.03)
                loop.call_soon(function)
                await asyncio.sleep(0.03)

        try:
            loop.run_until_complete(calling())
        finally:
            dog.stopService()
            loop.close()
        assert "watchdog" not in [thread.name for thread in threading.enumerate()]
        return told

    return run


def block() -> None:
    """Wait without the loop."""
    time.sleep(2.4 * LIMIT_S)


def compute() -> None:
    """Compute for some time."""
    ends = time.thread_time() + 2.4 * LIMIT_S
    while time.thread_time() < ends:
        pass


def facts(line: str) -> dict[str, str]:
    """Return the keys of a line; ``in`` and ``callback`` without their file."""
    return dict(word.split("=", 1) for word in line.partition("\n")[0].split() if "=" in word)


def test_a_loop_that_is_not_watched_any_more() -> None:
    """A thread that first looks when the watch has been given up waits until it is told to end."""
    watcher = _Watcher(Turns(time.monotonic), LIMIT_S, threading.get_ident())
    watcher.start()
    time.sleep(LIMIT_S / 2)
    assert watcher.is_alive()
    watcher.stop()
    assert not watcher.is_alive()


def test_a_watch_that_fails(
    expected_failures: list[type[BaseException]], logged_failures: list[LogEvent]
) -> None:
    """An error of the watchdog is logged, and the loop that it watches goes on."""

    class Broken(Metrics):
        def loop_held(self, cause: str) -> None:
            raise ZeroDivisionError

    expected_failures.append(ZeroDivisionError)
    turns = Turns(time.monotonic)
    dog = Watchdog(FakeClock(), Broken(), lambda state: None, limit_s=LIMIT_S, turns=turns)
    dog.startService()
    turns.since = time.monotonic() - 2 * LIMIT_S
    turns.end()
    dog.stopService()
    assert [event["log_failure"].type for event in logged_failures] == [ZeroDivisionError]


@pytest.mark.parametrize("function", [block, compute])
def test_what_holds_the_loop_is_named(
    watched: Any, lines: list[str], function: Callable[[], None]
) -> None:
    """A callback that blocks or computes for too long is named, with its stack."""
    watched(function)

    (line,) = lines
    said = facts(line)
    assert (said["in"], said["callback"], said["more"]) == (function.__name__,) * 2 + ("0",)
    assert int(said["ms"]) >= 2.4 * LIMIT_S * 1000 - 1
    assert (int(said["cpuMs"]) > 1.2 * LIMIT_S * 1000) == (function is compute)
    assert f"\n  {function.__name__} {__file__}:" in line


def test_what_is_short_is_not(watched: Any, lines: list[str]) -> None:
    """Callbacks that are quick, one after the other, are not blamed, though the loop is busy."""
    watched(*[lambda: time.sleep(LIMIT_S / 10)] * 5)

    assert [line for line in lines if "by=stalled" not in line] == []


def test_lines_are_spared(watched: Any, lines: list[str]) -> None:
    """A loop that is held again at once costs no second line."""
    watched(block, block, block)

    assert len(lines) == 1


def test_a_collection_is_no_fault_of_the_callback(watched: Any, lines: list[str]) -> None:
    """Where collecting garbage takes the time, the callback that it came over is not named."""

    def slow(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            time.sleep(2.4 * LIMIT_S)

    def collect() -> None:
        gc.callbacks.append(slow)
        gc.collect()
        gc.callbacks.remove(slow)

    watched(collect)

    (line,) = lines
    assert facts(line)["by"] == "collector"
    assert "collect " not in line


def test_what_is_told_of_the_loop(watched: Any) -> None:
    """A hold is the greatest lag that health tells of, and its limit is that of the 99th percentile."""
    idle = [lambda: None]
    told = watched(*idle * 3, block, *idle * int(PUBLISH_S / 0.06 + 1))

    assert told[0]["delayMaxMs"] < 1000 * LIMIT_S
    assert told[-1]["delayMaxMs"] >= 2.4 * LIMIT_S * 1000
    assert (told[-1]["degraded"], told[-1]["reasons"]) == (True, ["event_loop_delay"])


def test_nobody_is_called_before_and_after() -> None:
    """Turns that nobody watches are called for nobody, however long they take."""
    turns = Turns(time.monotonic)
    turns.since = 0.0
    turns.end()
    turns.watch(LIMIT_S, lambda since, now: pytest.fail("called"))
    turns.unwatch()
    turns.since = 0.0
    turns.end()


@pytest_twisted.ensureDeferred
async def test_another_reactor(lines: list[str]) -> None:
    """A loop whose selector tells nothing is watched by its beats."""
    metrics = Metrics()
    dog = Watchdog(SystemClock(reactor), metrics, lambda state: None, limit_s=LIMIT_S)
    dog.startService()
    try:
        await deferLater(reactor, 0.1, lambda: None)
        await deferLater(reactor, 0, block)
        await deferLater(reactor, 0.1, lambda: None)
        lag = dog.lag()
    finally:
        dog.stopService()
        dog.stopService()

    (line,) = lines
    assert facts(line)["in"] == "block"
    assert lag.most >= LIMIT_S
    assert b'gateway_loop_held_total{cause="callback"} 1.0' in metrics.render()


@pytest_twisted.ensureDeferred
async def test_a_suspended_daemon(tmp_path: Path) -> None:
    """A gateway that was suspended says so, blames nothing, and tells the lag wherever it is asked."""
    with running(tmp_path) as daemon:
        daemon.process.send_signal(signal.SIGSTOP)
        time.sleep(0.4)
        daemon.process.send_signal(signal.SIGCONT)
        until(lambda: daemon.lines("loop held"), 5.0, daemon.report)
        until(lambda: _most(daemon) >= 300, 5.0, daemon.report)
        client = await daemon.connect(reactor)
        health: Health = await client.health()
        raw = await client.call("health")
        await client.close()

    stalled = [line for line in daemon.lines("loop held") if "by=stalled" in line]
    assert any(int(facts(line)["ms"]) >= 300 for line in stalled), daemon.report()
    assert health.ok
    assert raw["eventLoop"]["delayMaxMs"] >= 300


def _most(daemon: Daemon) -> float:
    body = daemon.probe("/readyz").body
    return float(body["eventLoop"]["delayMaxMs"])
