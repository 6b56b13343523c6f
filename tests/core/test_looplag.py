"""gateway.core.looplag: the lag of the last minute, who is to blame, and lines that are spared."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.looplag import (
    MAX_LAGS,
    WINDOW_S,
    Frame,
    HoldCause,
    Lag,
    LagWindow,
    Silence,
    Sparing,
    blame,
    callback_of,
    is_polling,
)


def silence(**changes: Any) -> Silence:
    """Return a second in which nothing was computed and the watching thread ran."""
    given: dict[str, Any] = {
        "length_s": 1.0,
        "loop_cpu_s": 0.0,
        "process_cpu_s": 0.0,
        "collector_s": 0.0,
        "unwatched_s": 0.0,
    }
    return Silence(**(given | changes))


@pytest.mark.parametrize(
    ("what", "cause"),
    [
        (silence(), HoldCause.CALLBACK),
        (silence(loop_cpu_s=0.9, process_cpu_s=0.9), HoldCause.CALLBACK),
        # Compiled code that does not let go of the interpreter keeps the watching thread out, too.
        (silence(loop_cpu_s=0.9, process_cpu_s=0.9, unwatched_s=0.9), HoldCause.CALLBACK),
        (silence(loop_cpu_s=0.9, process_cpu_s=0.9, collector_s=0.8), HoldCause.COLLECTOR),
        (silence(process_cpu_s=0.9, unwatched_s=0.9), HoldCause.THREAD),
        # Another thread computes while a callback blocks.
        (silence(process_cpu_s=0.9), HoldCause.CALLBACK),
        (silence(loop_cpu_s=0.05, process_cpu_s=0.1, unwatched_s=0.9), HoldCause.STALLED),
        (silence(polling=True), HoldCause.STALLED),
    ],
)
def test_blame(what: Silence, cause: HoldCause) -> None:
    """A callback is blamed for what it computed or waited for, and for nothing else."""
    assert blame(what) is cause


def stack(*calls: tuple[str, str]) -> list[Frame]:
    """Return a stack, outermost first."""
    return [Frame(function, file, line) for line, (function, file) in enumerate(calls, start=1)]


def test_the_callback_is_the_first_function_of_our_own() -> None:
    """What the loop and its libraries call first is the callback; the innermost function is another."""
    calls = stack(
        ("<module>", "/env/bin/twistd"),
        ("run", "/env/twisted/scripts/twistd.py"),
        ("BaseEventLoop.run_forever", "/lib/asyncio/base_events.py"),
        ("BaseEventLoop._run_once", "/lib/asyncio/base_events.py"),
        ("Handle._run", "/lib/asyncio/events.py"),
        ("AsyncioSelectorReactor._readOrWrite", "/env/twisted/internet/asyncioreactor.py"),
        ("Port.dataReceived", "/env/gateway/net/port.py"),
        ("loads", "/lib/json/__init__.py"),
    )

    callback = callback_of(calls)

    assert str(callback) == "Port.dataReceived /env/gateway/net/port.py:7"
    assert not is_polling(calls)
    assert callback_of(calls[:6]) is None
    assert callback_of([]) is None
    assert callback_of(stack(("work", "/x.py"))) == Frame("work", "/x.py", 1)


def test_a_loop_that_waits_is_recognised() -> None:
    """A stack that ends in the selector is that of a loop that waits for events."""
    assert is_polling(stack(("run", "/x.py"), ("EpollSelector.select", "/lib/selectors.py")))
    assert not is_polling([])


def test_lag_of_nothing() -> None:
    """Without beats there is no lag."""
    window = LagWindow(0.05)

    assert window.lag(100.0) == Lag(0.0, 0.0, 0.0)
    assert len(window) == 0


def test_lag_of_the_last_minute() -> None:
    """The median, the 99th percentile and the greatest lag are those of the last minute only."""
    window = LagWindow(0.05)
    window.beat(0.0, 9.0)
    for number in range(1, 101):
        window.beat(WINDOW_S, number / 1000)

    assert window.lag(WINDOW_S) == Lag(0.05, 0.099, 0.1)
    assert len(window) == 100
    assert window.lag(2 * WINDOW_S) == Lag()


def test_the_window_is_bounded() -> None:
    """However often it beats, no more lags are kept than fit."""
    window = LagWindow(0.05)
    for number in range(MAX_LAGS + 5):
        window.beat(1.0, float(number))

    assert len(window) == MAX_LAGS
    assert window.lag(1.0).most == MAX_LAGS + 4


def test_the_state_of_the_loop() -> None:
    """The state gives lag and computing over the window, as version 4 has it in health."""
    window = LagWindow(0.05, processors=2)
    first = window.state(0.0, 1000, 1.0, 2.0)
    assert (first["intervalMs"], first["utilization"], first["delayMaxMs"]) == (0, 0.0, 0.0)

    window.beat(1.0, 0.0102)
    state = window.state(10.0, 2000, 3.0, 5.0)

    assert state == {
        "degraded": False,
        "degradedSinceMs": None,
        "reasons": [],
        "intervalMs": 10_000,
        "delayP99Ms": 10.2,
        "delayMaxMs": 10.2,
        "utilization": 0.2,
        "cpuCoreRatio": 0.3,
        "cpuBreakdown": {
            "mainThreadCoreRatio": 0.2,
            "otherThreadsCoreRatio": 0.1,
            "hostCpuCount": 2,
        },
    }


def test_the_window_of_the_state_moves_on() -> None:
    """What was computed more than a minute ago does not count."""
    window = LagWindow(0.05)
    window.state(0.0, 0, 0.0, 0.0)
    window.state(10.0, 0, 10.0, 10.0)
    state = window.state(10.0 + WINDOW_S, 0, 16.0, 16.0)

    assert (state["intervalMs"], state["utilization"]) == (60_000, 0.1)


def test_degraded_by_lag() -> None:
    """A 99th percentile over the limit degrades the loop, from then on until it is below again."""
    window = LagWindow(0.05)
    window.beat(1.0, 0.2)
    told = [window.state(now, round(now * 1000), 0.0, 0.0) for now in (1.0, 2.0, 1.0 + WINDOW_S)]

    assert [(t["degraded"], t["degradedSinceMs"], t["reasons"]) for t in told] == [
        (True, 1000, ["event_loop_delay"]),
        (True, 1000, ["event_loop_delay"]),
        (False, None, []),
    ]


def test_degraded_by_load() -> None:
    """A loop that computes all the time is degraded, even if nothing is late."""
    window = LagWindow(0.05)
    window.state(0.0, 0, 0.0, 0.0)
    state = window.state(10.0, 5, 9.6, 9.7)

    assert (state["degraded"], state["degradedSinceMs"]) == (True, 5)
    assert state["reasons"] == ["event_loop_utilization"]


def test_one_line_in_a_while() -> None:
    """Once said, it is not said again for a while; then how often it was not said is told."""
    sparing = Sparing(10.0)

    assert [sparing.ask(now) for now in (0.0, 1.0, 9.9, 10.0, 19.0, 30.0, 40.0)] == [
        0,
        None,
        None,
        2,
        None,
        1,
        0,
    ]
