"""What every test has: warnings are errors, a logged failure fails its test."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from twisted.logger import LogEvent, globalLogPublisher

# What a change has to pass is the same in every run and on a busy machine; ``--hypothesis-profile=explore``
# looks for what no run has seen yet.
settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    suppress_health_check=(HealthCheck.too_slow,),
)
settings.register_profile(
    "explore", settings.get_profile("repeatable"), derandomize=False, max_examples=1_000
)
settings.load_profile("repeatable")


def pytest_configure() -> None:
    """Have the processes of tests hear Ctrl-C and keep their bytecode, whatever started this one.

    A job in the background ignores SIGINT, and so would they; without bytecode each ``gatewayctl`` compiles
    a hundred modules before its first word.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Spare the collector what lives until the end: thousands of tests, and every module they import.

    Collections would go through it again and again, those that tests ask for most of all.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture
def expected_failures() -> list[type[BaseException]]:
    """Exception types whose logging a test expects: append to it, and assert on what was logged."""
    return []


@pytest.fixture(autouse=True)
def logged_failures(expected_failures: list[type[BaseException]]) -> Iterator[list[LogEvent]]:
    """Collect every failure that is logged; fail the test for those it did not announce."""
    events: list[LogEvent] = []

    def observe(event: LogEvent) -> None:
        if event.get("log_failure") is not None:
            events.append(event)

    observer: Any = observe
    globalLogPublisher.addObserver(observer)
    yield events
    globalLogPublisher.removeObserver(observer)
    unexpected = [
        event["log_failure"]
        for event in events
        if not event["log_failure"].check(*expected_failures)
    ]
    assert not unexpected, "\n".join(failure.getTraceback() for failure in unexpected)
