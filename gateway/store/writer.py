"""Running operations in transactions: on a thread with group commit, or inline.

An operation is a function of a connection. What waits is taken together, each operation under its own
savepoint in one transaction, and answered after the commit: many callers share the cost of one sync.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Generic, Protocol, TypeVar

from msgspec import MsgspecError
from sqlalchemy import Connection, Engine, Transaction
from sqlalchemy.exc import SQLAlchemyError
from twisted.internet.defer import Deferred, succeed

from gateway.errors import StoreError
from gateway.interfaces import IClock
from gateway.store.trouble import Kind, Trouble, error_text, trouble_of

T = TypeVar("T")

Operation = Callable[[Connection], T]
CallFromThread = Callable[..., object]
"""As reactor.callFromThread: call a function with arguments in the reactor's thread, in order."""

MAX_PENDING = 10_000
MAX_BATCH = 256
"""Operations of one transaction. More would make the first of them wait for the last."""


class ChangeRaised(Exception):
    """Carries as its cause what a caller's own function raised inside an operation."""


@dataclass(frozen=True, slots=True)
class BatchReport:
    """How a transaction went: operations in it, seconds it took, and what is wrong with the database.

    ``failure`` is the last failure of the database itself, until something succeeds; damage is told even
    where other operations succeeded. ``warning`` is a line for the log.
    """

    size: int
    seconds: float
    failure: Trouble | None
    warning: str | None = None


class Job(Generic[T]):
    """One operation and the Deferred of whoever asked for it.

    :ivar deferred: fires in the reactor's thread. Cancelling it drops the result; the operation is
        carried out all the same, unless it only reads and has not begun.
    """

    __slots__ = ("_operation", "_reads", "_result", "deferred", "error")

    def __init__(self, operation: Operation[T], *, reads: bool = False) -> None:
        self.deferred: Deferred[T] = Deferred()
        self.error: Exception | None = None
        self._operation = operation
        self._reads = reads
        self._result: T | None = None

    def run(self, connection: Connection) -> None:
        """Carry out the operation; raises what it raises."""
        if not (self._reads and self.deferred.called):
            self._result = self._operation(connection)

    def fail(self, error: Exception) -> None:
        """Note the reason for the failure; the first one stays."""
        self.error = self.error or error

    def fire(self) -> None:
        """Tell whoever asked."""
        if self.error is not None:
            self.deferred.errback(public_error(self.error))
        else:
            self.deferred.callback(self._result)  # type: ignore[arg-type]


def public_error(error: Exception) -> Exception:
    """Return what the caller gets: their own exception as it was, a StoreError for the database's."""
    if isinstance(error, ChangeRaised):
        assert isinstance(error.__cause__, Exception)
        return error.__cause__
    if isinstance(
        error, (SQLAlchemyError, sqlite3.Error, MsgspecError, OverflowError, UnicodeError)
    ):
        public = StoreError(error_text(error))
        public.__cause__ = error
        return public
    return error


class Care:
    """What a connection needs beside its operations; this one needs nothing."""

    def opened(self, connection: Connection, failure: Trouble | None) -> None:
        """A connection was made; ``failure`` is what became of the one before."""

    def committed(self, connection: Connection) -> str | None:
        """A transaction was committed; return a warning for the log. Raises what makes it undone."""

    def closing(self, connection: Connection) -> None:
        """The connection will be closed for good. What is raised is logged."""


class Transactions:
    """Runs jobs on one connection, which is opened for the first of them and again after a failure."""

    def __init__(self, engine: Engine, care: Care, clock: IClock) -> None:
        self._engine = engine
        self._care = care
        self._clock = clock
        self._connection: Connection | None = None
        self._failure: Trouble | None = None

    def run(self, jobs: Sequence[Job[Any]]) -> BatchReport:
        """Run jobs in one transaction; each ends with its result or its error, none raises here."""
        started = self._clock.seconds()
        warning = None
        try:
            connection = self._connect()
            with connection.begin() as transaction:
                if len(jobs) == 1:
                    self._run_alone(connection, transaction, jobs[0])
                else:
                    self._run_together(connection, jobs)
            warning = self._care.committed(connection)
        except Exception as error:
            # BEGIN, COMMIT or the connection failed: nothing of this is stored. Whatever state the
            # connection is in (SQLAlchemy does not roll back after a failed COMMIT), it goes.
            for job in jobs:
                job.fail(error)
            self._disconnect()
        self._note(jobs)
        return BatchReport(len(jobs), self._clock.seconds() - started, self._failure, warning)

    def _connect(self) -> Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
            self._care.opened(self._connection, self._failure)
        return self._connection

    def _run_alone(self, connection: Connection, transaction: Transaction, job: Job[Any]) -> None:
        try:
            job.run(connection)
        except Exception as error:
            job.fail(error)
            if trouble_of(error) is not None:
                raise
            transaction.rollback()

    def _run_together(self, connection: Connection, jobs: Sequence[Job[Any]]) -> None:
        for job in jobs:
            connection.exec_driver_sql("SAVEPOINT job")
            try:
                job.run(connection)
            except Exception as error:
                job.fail(error)
                # A full disk ends the whole transaction: then this raises, and no job was done.
                try:
                    connection.exec_driver_sql("ROLLBACK TO SAVEPOINT job")
                except SQLAlchemyError as broken:
                    raise (error if trouble_of(error) else broken) from None
            connection.exec_driver_sql("RELEASE SAVEPOINT job")

    def _note(self, jobs: Sequence[Job[Any]]) -> None:
        errors = [job.error for job in jobs if job.error is not None]
        troubles = [trouble for error in errors if (trouble := trouble_of(error)) is not None]
        damage = [trouble for trouble in troubles if trouble.kind is Kind.DAMAGED]
        if damage:
            self._failure = damage[-1]
        elif len(errors) < len(jobs):
            self._failure = None
        elif troubles:
            self._failure = troubles[-1]

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(SQLAlchemyError):
                connection.close()

    def close(self) -> str | None:
        """Tidy up and close the connection; return the text of what went wrong with that."""
        failure = None
        if self._connection is not None:
            try:
                self._care.closing(self._connection)
            except Exception as error:
                failure = error_text(error)
            self._disconnect()
        self._engine.dispose()
        return failure


class Executor(Protocol):
    """Takes jobs of the reactor's thread and sees to it that each one fires."""

    @property
    def pending(self) -> int:
        """How many jobs have not fired yet."""

    def start(self) -> None:
        """Begin to work on the jobs."""

    def submit(self, job: Job[Any]) -> None:
        """Take a job. Raises StoreError if it can not be taken."""

    def stop(self) -> Deferred[str | None]:
        """Take no more jobs, finish the others, close; fires with what went wrong with closing."""


class InlineExecutor:
    """Runs every job at once, in the caller's thread."""

    pending = 0

    def __init__(self, transactions: Transactions, on_batch: Callable[[BatchReport], None]) -> None:
        self._transactions = transactions
        self._on_batch = on_batch
        self._stopped = False

    def start(self) -> None:
        """Nothing is needed."""

    def submit(self, job: Job[Any]) -> None:
        """Run the job; its Deferred has fired when this returns."""
        if self._stopped:
            raise StoreError("the store is closed")
        self._on_batch(self._transactions.run((job,)))
        job.fire()

    def stop(self) -> Deferred[str | None]:
        """Close the connection."""
        self._stopped = True
        return succeed(self._transactions.close())


class ThreadExecutor:
    """Runs jobs on one thread of its own, as many in one transaction as wait, at most ``max_batch``."""

    def __init__(
        self,
        name: str,
        transactions: Transactions,
        on_batch: Callable[[BatchReport], None],
        call_from_thread: CallFromThread,
        *,
        max_batch: int = MAX_BATCH,
        max_pending: int = MAX_PENDING,
    ) -> None:
        self._transactions = transactions
        self._on_batch = on_batch
        self._call_from_thread = call_from_thread
        self._max_batch = max_batch
        self._max_pending = max_pending
        # A daemon: a process that has to die must not wait for a disk that hangs.
        self._thread = Thread(target=self._work, name=name, daemon=True)
        self._queue: SimpleQueue[Job[Any] | None] = SimpleQueue()
        self._pending = 0
        self._stopped: Deferred[str | None] | None = None

    @property
    def pending(self) -> int:
        """How many jobs have not fired yet."""
        return self._pending

    def start(self) -> None:
        """Start the thread; jobs that came before are waiting for it."""
        self._thread.start()

    def submit(self, job: Job[Any]) -> None:
        """Queue a job. Raises StoreError when too many wait, or after stop()."""
        if self._stopped is not None:
            raise StoreError("the store is closed")
        if self._pending >= self._max_pending:
            raise StoreError(f"{self._pending} operations wait for the store already")
        self._pending += 1
        self._queue.put(job)

    def stop(self) -> Deferred[str | None]:
        """Let the thread finish what is queued, and end."""
        assert self._stopped is None, "stopped twice"
        self._stopped = Deferred()
        self._queue.put(None)
        if self._thread.ident is None:
            self._thread.start()
        return self._stopped

    def _take(self) -> tuple[list[Job[Any]], bool]:
        """Wait for a job, and take those behind it; the second value is whether more can come."""
        jobs: list[Job[Any]] = []
        job = self._queue.get()
        while job is not None:
            jobs.append(job)
            if len(jobs) == self._max_batch:
                return jobs, True
            try:
                job = self._queue.get_nowait()
            except Empty:
                return jobs, True
        return jobs, False

    def _work(self) -> None:
        more = True
        while more:
            jobs, more = self._take()
            if jobs:
                self._call_from_thread(self._deliver, jobs, self._transactions.run(jobs))
        self._call_from_thread(self._end, self._transactions.close())

    def _deliver(self, jobs: Sequence[Job[Any]], report: BatchReport) -> None:
        self._pending -= len(jobs)
        self._on_batch(report)
        for job in jobs:
            job.fire()

    def _end(self, failure: str | None) -> None:
        # The thread has nothing left to do but to return.
        self._thread.join()
        assert self._stopped is not None
        self._stopped.callback(failure)
