"""Deferreds that can be given up."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from gateway.app.deferreds import Link, shielded
from gateway.errors import BackendError, InvalidRequest
from gateway.testing import result_of
from tests.app.faults import Lines


def test_a_result_passes_the_shield() -> None:
    """Who waits gets the result, or the failure."""
    work: Deferred[int] = Deferred()
    waiting = shielded(work)
    work.callback(5)
    failing: Deferred[int] = Deferred()
    refused = shielded(failing)
    failing.errback(InvalidRequest("no"))

    assert result_of(waiting) == 5
    with pytest.raises(InvalidRequest):
        result_of(refused)


@pytest.mark.parametrize("result", [5, Failure(InvalidRequest("no"))])
def test_work_goes_on_behind_the_shield(result: Any) -> None:
    """Who stops waiting does not stop the work, and its refusal concerns nobody then."""
    work: Deferred[Any] = Deferred()
    waiting = shielded(work)
    waiting.cancel()
    with pytest.raises(CancelledError):
        result_of(waiting)

    work.callback(result)

    assert result_of(work) == (None if isinstance(result, Failure) else result)


def test_a_failure_behind_the_shield(
    expected_failures: list[type[BaseException]], logged_failures: list[Any]
) -> None:
    """A failure that nobody waits for, and that was not meant for anybody, is logged."""
    expected_failures.append(ZeroDivisionError)
    work: Deferred[int] = Deferred()
    shielded(work).addErrback(lambda failure: failure.trap(CancelledError)).cancel()

    work.errback(ZeroDivisionError())

    assert len(logged_failures) == 1


def test_a_link_passes_one_result_on() -> None:
    """A link passes the first result on, and holds nothing afterwards."""
    got: list[Any] = []
    link = Link(got.append)
    before = bool(link)
    link(1)
    link(2)

    assert got == [1]
    assert before
    assert not link


def test_a_cut_link() -> None:
    """A cut link passes nothing on; a failure that comes then is a line in the log."""
    got: list[Any] = []
    link = Link(got.append)
    link.cut()

    with Lines() as lines:
        link(1)
        link(Failure(CancelledError()))
        link(Failure(BackendError("aborted")))
        link(Failure(ValueError("late")))

    assert got == []
    assert lines.texts == ["failed after it was let go of: ValueError('late')"]
