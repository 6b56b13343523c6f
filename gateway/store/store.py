"""The store on a SQL database: :class:`IStore` by SQLAlchemy Core."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from sqlalchemy import URL, Engine
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from zope.interface import implementer

from gateway.errors import StartError, StoreError
from gateway.interfaces import IClock, IStore
from gateway.model import (
    Device,
    DeviceToken,
    Message,
    RunEvent,
    RunRecord,
    Session,
    SessionPage,
    SessionQuery,
    TurnEnd,
)
from gateway.store import devices, runs, schema, sessions, sqlite, transcripts
from gateway.store.writer import (
    BatchReport,
    CallFromThread,
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
    """Who carries out writes and reads; both can be the same."""

    writer: Executor
    reader: Executor

    @property
    def each(self) -> tuple[Executor, ...]:
        """Each of them once, in the order in which they are stopped."""
        return (self.writer,) if self.reader is self.writer else (self.reader, self.writer)


@implementer(IStore)
class SQLStore(Service):
    """Sessions, transcripts, runs and devices in one database.

    Writes are done in the order they were asked for, by one thread, many in one transaction. Reads have
    a thread of their own and see every write whose Deferred has fired. In memory, one thread does both.
    Threads and connections begin with startService, so that a fork before it does no harm.

    :ivar failing: what the database said when it last failed to write, until a write succeeds.
    """

    log = Logger()

    def __init__(
        self,
        url: str,
        *,
        synchronous: str = "normal",
        clock: IClock,
        call_from_thread: CallFromThread,
        threads: bool = True,
    ) -> None:
        """Make a store; nothing is opened yet.

        :param url: ``sqlite:////path/file``, or ``sqlite://`` for one in memory.
        :param synchronous: ``normal``: what is acknowledged survives the death of the process;
            ``full``: a power cut too, for one sync of the disk per transaction.
        :param call_from_thread: as reactor.callFromThread.
        :param threads: False runs every operation at once in the caller's thread.
        """
        self.failing: str | None = None
        self._url = url
        self._synchronous = synchronous
        self._clock = clock
        self._call_from_thread = call_from_thread
        self._threads = threads
        self._executors: _Executors | None = None

    @property
    def pending(self) -> int:
        """How many operations wait or are under way."""
        return sum(executor.pending for executor in self._executors.each) if self._executors else 0

    def open(self) -> None:
        """Open or create the database, and upgrade one of an older gateway. Raises StartError."""
        if self._synchronous not in sqlite.SYNCHRONOUS:
            raise StartError(f"store.synchronous has to be one of {', '.join(sqlite.SYNCHRONOUS)}")
        url = sqlite.parse_url(self._url)
        path = sqlite.path_of(url)
        if path is not None:
            # Absolute from now on: a daemon changes its directory.
            url = url.set(database=path)
        engine = sqlite.make_engine(url, synchronous=self._synchronous)
        if path is None:
            schema.create_all(engine)
        else:
            schema.prepare_file(engine, path)
        self._executors = self._make_executors(engine, url)

    def _make_executors(self, engine: Engine, url: URL) -> _Executors:
        transactions = Transactions(engine, sqlite.checkpoint, self._clock)
        if not self._threads:
            both: Executor = InlineExecutor(transactions, self._note_write)
            return _Executors(both, both)
        writer = ThreadExecutor(
            "gateway-store-writer", transactions, self._note_write, self._call_from_thread
        )
        if sqlite.path_of(url) is None:
            return _Executors(writer, writer)
        engine = sqlite.make_engine(url, read_only=True)
        reader = ThreadExecutor(
            "gateway-store-reader",
            Transactions(engine, lambda connection: None, self._clock),
            self._note_slow,
            self._call_from_thread,
            # One by one: a quick read must not be answered together with a slow one.
            max_batch=1,
        )
        return _Executors(writer, reader)

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
        # The reader first: the writer's connection, closed last, can then remove the log.
        for executor in executors.each:
            failure = await executor.stop()
            if failure is not None:
                self.log.warn("store closed badly reason={reason}", reason=failure)

    def _note_write(self, report: BatchReport) -> None:
        if report.failure is not None and self.failing is None:
            self.log.warn("store failing reason={reason}", reason=report.failure)
        elif report.failure is None and self.failing is not None:
            self.log.info("store works again")
        self.failing = report.failure
        self._note_slow(report)

    def _note_slow(self, report: BatchReport) -> None:
        if report.seconds >= SLOW_BATCH_S:
            self.log.warn(
                "store slow seconds={seconds:.1f} operations={size}",
                seconds=report.seconds,
                size=report.size,
            )

    def _write(self, operation: Operation[T]) -> Deferred[T]:
        executor = self._executors.writer if self._executors else None
        return self._submit(executor, Job(operation))

    def _read(self, operation: Operation[T]) -> Deferred[T]:
        executor = self._executors.reader if self._executors else None
        return self._submit(executor, Job(operation, reads=True))

    def _submit(self, executor: Executor | None, job: Job[T]) -> Deferred[T]:
        if executor is None:
            return fail(StoreError("the store is not open"))
        try:
            executor.submit(job)
        except StoreError as error:
            return fail(error)
        return job.deferred

    def get_session(self, key: str) -> Deferred[Session | None]:
        """See IStore."""
        return self._read(partial(sessions.by_key, key=key))

    def get_session_by_id(self, session_id: str) -> Deferred[Session | None]:
        """See IStore."""
        return self._read(partial(sessions.by_id, session_id=session_id))

    def find_sessions(self, query: SessionQuery) -> Deferred[SessionPage]:
        """See IStore. Case is folded as Unicode has it."""
        return self._read(partial(sessions.find, query=query))

    def update_session(
        self, key: str, change: Callable[[Session | None], Session | None]
    ) -> Deferred[Session | None]:
        """See IStore."""
        return self._write(partial(sessions.update_by, key=key, change=change))

    def delete_session(self, key: str, *, delete_transcript: bool) -> Deferred[bool]:
        """See IStore. The logs of its runs stay until prune_runs."""
        return self._write(partial(sessions.remove, key=key, delete_transcript=delete_transcript))

    def append_messages(
        self, session_id: str, messages: Sequence[Message]
    ) -> Deferred[tuple[Message, ...]]:
        """See IStore. The previews of the session stay as they are."""
        return self._write(
            partial(transcripts.append, session_id=session_id, added=tuple(messages))
        )

    def list_messages(
        self, session_id: str, *, limit: int, before_seq: int | None = None, offset: int = 0
    ) -> Deferred[tuple[Message, ...]]:
        """See IStore."""
        return self._read(
            partial(
                transcripts.newest,
                session_id=session_id,
                limit=limit,
                before_seq=before_seq,
                offset=offset,
            )
        )

    def count_messages(self, session_id: str) -> Deferred[int]:
        """See IStore."""
        return self._read(partial(transcripts.count, session_id=session_id))

    def accept_turn(
        self,
        run: RunRecord,
        change: Callable[[Session | None], Session],
        message: Message | None,
    ) -> Deferred[tuple[Session, Message | None]]:
        """See IStore. Fails with VersionConflict if a run of this id is stored."""
        return self._write(partial(runs.accept, run=run, change=change, message=message))

    def append_events(self, events: Sequence[RunEvent]) -> Deferred[None]:
        """See IStore. An event whose place in its log is taken fails all of them."""
        return self._write(partial(runs.append_events, events=tuple(events)))

    def finish_turn(self, end: TurnEnd) -> Deferred[tuple[Message, ...]]:
        """See IStore. Fails with VersionConflict if the run has ended before."""
        return self._write(partial(runs.finish, end=end))

    def get_run(self, run_id: str) -> Deferred[RunRecord | None]:
        """See IStore."""
        return self._read(partial(runs.by_id, run_id=run_id))

    def open_runs(self) -> Deferred[tuple[RunRecord, ...]]:
        """See IStore. Oldest is what was accepted first, whatever the clock said."""
        return self._read(runs.open_runs)

    def list_events(
        self, run_id: str, *, after_seq: int, limit: int
    ) -> Deferred[tuple[RunEvent, ...]]:
        """See IStore. Only events of the epoch that the run is stored with."""
        return self._read(partial(runs.events, run_id=run_id, after_seq=after_seq, limit=limit))

    def prune_runs(self, ended_before_ms: int, limit: int) -> Deferred[int]:
        """See IStore. Everything else waits meanwhile: keep ``limit`` small and come again."""
        return self._write(partial(runs.prune, ended_before_ms=ended_before_ms, limit=limit))

    def get_device(self, device_id: str) -> Deferred[Device | None]:
        """See IStore."""
        return self._read(partial(devices.by_id, device_id=device_id))

    def list_devices(self) -> Deferred[tuple[Device, ...]]:
        """See IStore."""
        return self._read(devices.newest)

    def update_device(
        self, device_id: str, change: Callable[[Device | None], Device | None]
    ) -> Deferred[Device | None]:
        """See IStore."""
        return self._write(partial(devices.update_by, device_id=device_id, change=change))

    def put_device_token(self, token: DeviceToken, *, keep: int) -> Deferred[None]:
        """See IStore. A token of a device that is not paired is refused."""
        return self._write(partial(devices.put_token, token=token, keep=keep))

    def get_device_token(self, digest: str) -> Deferred[DeviceToken | None]:
        """See IStore."""
        return self._read(partial(devices.token_by_digest, digest=digest))
