"""A database behind Deferreds: its threads, its transactions, its health.

Writes are done in the order they were asked for, by one thread, many in one transaction. Reads have a
thread of their own and see every write whose Deferred has fired; reports, which add up a whole table, have
another one, so that no message waits for them. In memory, one thread does all.
Threads and connections begin with startService, so that a fork before it does no harm.

Durability, by ``synchronous``. ``normal``: what is acknowledged was handed to the operating system, so it
survives the death of the process; after a power cut the last transactions may be missing, and nothing is
torn. ``full``: it was synced to the disk as well, once per transaction, which all that wait at that
moment share.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from sqlalchemy import URL, Engine
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.logger import Logger

from gateway.errors import StartError, StoreError
from gateway.interfaces import IClock
from gateway.store import backup, probes, schema, sqlite
from gateway.store.background import Background
from gateway.store.care import WriterCare
from gateway.store.health import Health, Side
from gateway.store.trouble import Kind, Trouble
from gateway.store.writer import (
    BatchReport,
    CallFromThread,
    Care,
    Executor,
    InlineExecutor,
    Job,
    Operation,
    ThreadExecutor,
    Transactions,
)

T = TypeVar("T")

SLOW_BATCH_S = 1.0
"""A transaction that takes longer is worth a line in the log."""


@dataclass(frozen=True, slots=True)
class _Executors:
    """Who carries out writes, reads and reports; all can be the same."""

    writer: Executor
    reader: Executor
    reporter: Executor

    @property
    def each(self) -> tuple[Executor, ...]:
        """Each of them once, in the order in which they are stopped."""
        return tuple(dict.fromkeys((self.reader, self.reporter, self.writer)))


class Database(Service):
    """One database, opened, worked on and closed."""

    log = Logger()

    def __init__(
        self,
        url: str,
        *,
        synchronous: str = "normal",
        clock: IClock,
        call_from_thread: CallFromThread,
        threads: bool = True,
        driver: type[sqlite3.Connection] = sqlite3.Connection,
        compiled: sqlite.Compiled | None = None,
    ) -> None:
        """Make a store; nothing is opened yet.

        :param url: ``sqlite:////path/file``, or ``sqlite://`` for one in memory.
        :param synchronous: ``normal`` or ``full``, see the module.
        :param call_from_thread: as reactor.callFromThread.
        :param threads: False runs every operation at once in the caller's thread.
        :param driver: the class of the driver's connections, for tests of what can go wrong.
        :param compiled: what a database in memory shares with others, for tests that make many.
        """
        self._url = url
        self._synchronous = synchronous
        self._clock = clock
        self._call_from_thread = call_from_thread
        self._threads = threads
        self._driver = driver
        self._compiled = compiled
        self._path: str | None = None
        self._executors: _Executors | None = None
        self._health = Health(clock, self._try_again)
        self._backup: Background[None] | None = None

    @property
    def failing(self) -> str | None:
        """What is wrong with the database, in words for people; None while it works."""
        trouble = self._health.trouble
        return None if trouble is None else trouble.advice

    @property
    def pending(self) -> int:
        """How many operations wait or are under way."""
        return sum(executor.pending for executor in self._executors.each) if self._executors else 0

    def open(self) -> None:
        """Open or create the database, and upgrade one of an older gateway. Raises StartError."""
        if self._synchronous not in sqlite.SYNCHRONOUS:
            raise StartError(f"store.synchronous has to be one of {', '.join(sqlite.SYNCHRONOUS)}")
        url = sqlite.parse_url(self._url)
        path = self._path = sqlite.path_of(url)
        if path is not None:
            # Absolute from now on: a daemon changes its directory.
            url = url.set(database=path)
        engine = sqlite.make_engine(
            url,
            synchronous=self._synchronous,
            must_exist=True,
            driver=self._driver,
            compiled=self._compiled,
        )
        if path is None:
            schema.create_all(engine)
        else:
            schema.prepare_file(engine, path)
        self._health = Health(self._clock, self._try_again)
        self._executors = self._make_executors(engine, url)

    def _make_executors(self, engine: Engine, url: URL) -> _Executors:
        care = Care() if self._path is None else WriterCare(self._path)
        transactions = Transactions(engine, care, self._clock)
        if not self._threads:
            both: Executor = InlineExecutor(transactions, self._note_write)
            return _Executors(both, both, both)
        writer = ThreadExecutor(
            "gateway-store-writer", transactions, self._note_write, self._call_from_thread
        )
        if self._path is None:
            return _Executors(writer, writer, writer)
        return _Executors(
            writer, self._make_reader(url, "reader"), self._make_reader(url, "reports")
        )

    def _make_reader(self, url: URL, name: str) -> Executor:
        engine = sqlite.make_engine(url, read_only=True, must_exist=True, driver=self._driver)
        return ThreadExecutor(
            f"gateway-store-{name}",
            Transactions(engine, Care(), self._clock),
            self._note_read,
            self._call_from_thread,
            # One by one: a quick read must not be answered together with a slow one.
            max_batch=1,
        )

    def startService(self) -> None:
        """Start the threads, after open()."""
        assert self._executors is not None, "open() comes first"
        super().startService()  # type: ignore[no-untyped-call]
        for executor in self._executors.each:
            executor.start()

    def stopService(self) -> Deferred[None]:
        """Carry out what waits, write the log back into the file and close it."""
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        executors, self._executors = self._executors, None
        if executors is None:
            return
        self._health.stop()
        if self._backup is not None:
            self._backup.give_up()
            await self._backup.ended
        # The readers first: the writer's connection, closed last, can then remove the log.
        for executor in executors.each:
            failure = await executor.stop()
            if failure is not None:
                self.log.warn("store closed badly reason={reason}", reason=failure)

    # -- health

    def _note_write(self, report: BatchReport) -> None:
        self._health.note(Side.WRITER, report.failure)
        self._note(report)

    def _note_read(self, report: BatchReport) -> None:
        # What one statement could not read is no fault of the database: a search can be too complex.
        failure = report.failure
        self._health.note(Side.READER, failure if failure and failure.lasting else None)
        self._note(report)

    def _note(self, report: BatchReport) -> None:
        if report.seconds >= SLOW_BATCH_S:
            self.log.warn(
                "store slow seconds={seconds:.1f} operations={size}",
                seconds=report.seconds,
                size=report.size,
            )
        if report.warning is not None:
            self.log.warn("store: {warning}", warning=report.warning)

    def _try_again(self, side: Side, trouble: Trouble) -> Deferred[None]:
        if trouble.kind is Kind.MOVED:
            # Another file of that name would be another store, and the reader still has the old one.
            return fail(StoreError(trouble.text))
        if trouble.kind is Kind.DAMAGED:
            return self._submit(Side.WRITER, Job(probes.check))
        if side is Side.READER:
            return self._submit(Side.READER, Job(probes.read))
        write = partial(probes.write, kind=trouble.kind, path=self._path)
        return self._submit(Side.WRITER, Job(write))

    # -- operations

    def _write(self, operation: Operation[T]) -> Deferred[T]:
        refusal = self._health.refusal
        if refusal is not None:
            return fail(StoreError(refusal))
        return self._submit(Side.WRITER, Job(operation))

    def _read(self, operation: Operation[T]) -> Deferred[T]:
        return self._submit(Side.READER, Job(operation, reads=True))

    def _report(self, operation: Operation[T]) -> Deferred[T]:
        """Read what takes its time; no other read waits for it."""
        return self._submit(Side.READER, Job(operation, reads=True), slow=True)

    def _submit(self, side: Side, job: Job[T], *, slow: bool = False) -> Deferred[T]:
        executors = self._executors
        if executors is None:
            return fail(StoreError("the store is not open"))
        reader = executors.reporter if slow else executors.reader
        executor = executors.writer if side is Side.WRITER else reader
        try:
            executor.submit(job)
        except StoreError as error:
            return fail(error)
        return job.deferred

    def backup(self, path: str) -> Deferred[None]:
        """See IStore. The store keeps working; a second backup at the same time is refused."""
        if self._executors is None:
            return fail(StoreError("the store is not open"))
        if self._path is None:
            return fail(StoreError("a database in memory has no backup"))
        if not os.path.isabs(path):
            return fail(StoreError("the path of a backup has to be absolute"))
        if self._backup is not None:
            return fail(StoreError("a backup is being written already"))
        if not self._threads:
            return maybeDeferred(backup.write, self._path, path)
        work = partial(_write_backup, self._path, path)
        running = self._backup = Background("gateway-store-backup", work, self._call_from_thread)
        running.ended.addCallback(self._backup_ended)
        running.start()
        return running.deferred

    def _backup_ended(self, result: None) -> None:
        self._backup = None


def _write_backup(database: str, target: str, unwanted: Callable[[], bool]) -> None:
    backup.write(database, target, unwanted=unwanted)
