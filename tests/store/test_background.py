"""gateway.store.background: one long piece of work on its own thread."""

from __future__ import annotations

from threading import Event, current_thread

import pytest
from twisted.internet.defer import CancelledError

from gateway.store.background import Background, Unwanted
from gateway.testing import result_of

from .harness import PATIENCE_S, Pump


def test_result_is_delivered(pump: Pump) -> None:
    """The work is done on a thread of that name, its result fires in the reactor's thread."""
    fired_on: list[str] = []
    background = Background(
        "test-work", lambda unwanted: current_thread().name, pump.call_from_thread
    )
    ran_on: list[str] = []

    def fired(name: str) -> None:
        ran_on.append(name)
        fired_on.append(current_thread().name)

    background.deferred.addCallback(fired)

    background.start()

    pump.wait(background.ended)
    assert ran_on == ["test-work"]
    assert fired_on == [current_thread().name]


def test_failure_is_delivered(pump: Pump) -> None:
    """What the work raises fails the Deferred; that it ended is told all the same."""

    def work(unwanted: Unwanted) -> None:
        raise LookupError("x")

    background = Background("test-work", work, pump.call_from_thread)
    background.start()

    with pytest.raises(LookupError):
        pump.wait(background.deferred)
    assert pump.wait(background.ended) is None


def test_cancelled_work_is_told(pump: Pump) -> None:
    """Cancelling fires at once and tells the work, whose end is known when its thread is gone."""
    begun, told = Event(), Event()

    def work(unwanted: Unwanted) -> None:
        begun.set()
        while not unwanted():
            assert told.wait(PATIENCE_S)
        raise LookupError("given up")

    background = Background("test-work", work, pump.call_from_thread)
    background.start()
    assert begun.wait(PATIENCE_S)

    background.deferred.cancel()
    told.set()

    with pytest.raises(CancelledError):
        result_of(background.deferred)
    assert not background.ended.called
    assert pump.wait(background.ended) is None
