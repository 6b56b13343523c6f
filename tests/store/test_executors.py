"""gateway.store.writer: who carries jobs out, inline or on a thread with group commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Event, current_thread
from typing import Any

import pytest
from sqlalchemy import Connection, Engine
from twisted.internet.defer import CancelledError

from gateway.errors import StoreError
from gateway.store.writer import (
    BatchReport,
    Care,
    InlineExecutor,
    Job,
    ThreadExecutor,
    Transactions,
)
from gateway.testing import FakeClock, result_of

from .harness import PATIENCE_S, Pump
from .jobs import add, numbers, raising


def test_inline_executor(transactions: Transactions, table_engine: Engine) -> None:
    """Inline, a job has fired when submit() returns; after stop() none is taken."""
    reports: list[BatchReport] = []
    executor = InlineExecutor(transactions, reports.append)
    executor.start()
    job = add(1)

    executor.submit(job)

    assert result_of(job.deferred) == 1
    assert [report.size for report in reports] == [1]
    assert result_of(executor.stop()) is None
    with pytest.raises(StoreError, match="closed"):
        executor.submit(add(2))
    assert numbers(table_engine) == [1]


class Workshop:
    """A thread executor whose first job holds the thread until it is told to go on."""

    def __init__(
        self, transactions: Transactions, *, max_batch: int = 100, max_pending: int = 100
    ) -> None:
        self.pump = Pump()
        self.reports: list[BatchReport] = []
        self.held = Event()
        self.go_on = Event()
        self.executor = ThreadExecutor(
            "test-writer",
            transactions,
            self.reports.append,
            self.pump.call_from_thread,
            max_batch=max_batch,
            max_pending=max_pending,
        )

    def hold(self) -> Job[str]:
        """Start the thread, and return the job that it is busy with."""

        def operation(connection: Connection) -> str:
            self.held.set()
            assert self.go_on.wait(PATIENCE_S)
            return current_thread().name

        job = Job(operation)
        self.executor.start()
        self.executor.submit(job)
        assert self.held.wait(PATIENCE_S)
        return job

    def submit(self, *jobs: Job[Any]) -> None:
        """Submit jobs."""
        for job in jobs:
            self.executor.submit(job)

    def stop(self) -> None:
        """Let the thread end."""
        self.go_on.set()
        self.pump.wait(self.executor.stop())


@pytest.fixture
def make(table_engine: Engine) -> Iterator[Callable[..., Workshop]]:
    """Return what makes workshops; they are stopped after the test."""
    made: list[Workshop] = []

    def make(**limits: int) -> Workshop:
        transactions = Transactions(table_engine, Care(), FakeClock())
        made.append(Workshop(transactions, **limits))
        return made[-1]

    yield make
    for workshop in made:
        if workshop.executor._stopped is None:
            workshop.stop()


class TestThreadExecutor:
    """Group commit on a thread."""

    def test_what_waits_is_one_transaction(
        self, make: Callable[..., Workshop], table_engine: Engine
    ) -> None:
        """Jobs that come while the thread is busy are committed together, in order."""
        workshop = make()
        first = workshop.hold()
        jobs = [add(number) for number in (3, 1, 2)]
        workshop.submit(*jobs)
        assert workshop.executor.pending == 4

        workshop.go_on.set()
        workshop.pump.step()
        assert result_of(first.deferred) == "test-writer"
        assert workshop.executor.pending == 3
        workshop.pump.step()

        assert [report.size for report in workshop.reports] == [1, 3]
        assert [result_of(job.deferred) for job in jobs] == [3, 1, 2]
        assert workshop.executor.pending == 0
        assert numbers(table_engine) == [1, 2, 3]

    def test_nothing_fires_outside_the_reactors_thread(self, make: Callable[..., Workshop]) -> None:
        """A Deferred fires only where call_from_thread makes the call."""
        workshop = make()
        job = add(1)
        threads: list[str] = []
        job.deferred.addCallback(lambda result: threads.append(current_thread().name))
        workshop.hold()
        workshop.submit(job)

        workshop.stop()

        assert threads == [current_thread().name]

    def test_batch_has_a_maximum(self, make: Callable[..., Workshop]) -> None:
        """More jobs than the maximum are taken in several transactions."""
        workshop = make(max_batch=2)
        workshop.hold()
        jobs = [add(number) for number in range(5)]
        workshop.submit(*jobs)

        workshop.stop()

        assert [report.size for report in workshop.reports] == [1, 2, 2, 1]
        assert [result_of(job.deferred) for job in jobs] == [0, 1, 2, 3, 4]

    def test_too_many_are_refused(self, make: Callable[..., Workshop]) -> None:
        """Over the maximum of pending jobs the next one is refused; then there is room again."""
        workshop = make(max_pending=2)
        workshop.hold()
        workshop.submit(add(1))

        with pytest.raises(StoreError, match="2 operations wait"):
            workshop.submit(add(2))
        workshop.go_on.set()
        workshop.pump.step()
        workshop.submit(add(3))

        assert workshop.executor.pending == 2

    def test_nothing_is_taken_after_stop(self, make: Callable[..., Workshop]) -> None:
        """After stop() a job is refused, and those before it are done."""
        workshop = make()
        workshop.hold()
        before = add(1)
        workshop.submit(before)
        stopped = workshop.executor.stop()

        with pytest.raises(StoreError, match="closed"):
            workshop.submit(add(2))
        workshop.go_on.set()

        assert workshop.pump.wait(stopped) is None
        assert result_of(before.deferred) == 1

    def test_failures_are_delivered(self, make: Callable[..., Workshop]) -> None:
        """A job that raises on the thread fails its own Deferred in the reactor's thread."""
        workshop = make()
        workshop.hold()
        good, bad = add(1), raising(LookupError("x"))
        workshop.submit(good, bad)

        workshop.stop()

        assert result_of(good.deferred) == 1
        with pytest.raises(LookupError):
            result_of(bad.deferred)

    def test_cancelled_jobs(self, make: Callable[..., Workshop], table_engine: Engine) -> None:
        """A cancelled write is done, a cancelled read is not begun, and nobody hears of a failure."""
        workshop = make()
        workshop.hold()
        begun: list[str] = []
        write, bad = add(1), raising(LookupError("dropped"))
        read = Job(lambda connection: begun.append("cancelled"), reads=True)
        other = Job(lambda connection: begun.append("other"), reads=True)
        workshop.submit(write, bad, read, other)
        cancelled: tuple[Job[Any], ...] = (write, bad, read)
        for job in cancelled:
            job.deferred.cancel()
            with pytest.raises(CancelledError):
                result_of(job.deferred)

        workshop.stop()

        assert numbers(table_engine) == [1]
        assert begun == ["other"]
