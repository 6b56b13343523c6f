"""gateway.store.store: the contract, opening and closing, and what it says of its health."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from gateway.errors import StartError, StoreError
from gateway.model import Session
from gateway.store.store import SLOW_BATCH_S, SQLStore
from gateway.store.writer import MAX_PENDING
from gateway.testing import FakeClock, result_of

from .contract import StoreContract
from .harness import (
    KEY,
    PATIENCE_S,
    Pump,
    a_message,
    a_session,
    as_it_is,
    call_nothing,
    inline_store,
    setting,
    threaded_store,
)


class TestInlineInMemory(StoreContract):
    """The contract, in memory and inline."""

    @pytest.fixture
    def wait(self) -> Callable[[Deferred[Any]], Any]:
        """Return what reads a Deferred that has fired."""
        return result_of


class TestInlineInAFile(TestInlineInMemory):
    """The contract, in a file and inline."""

    @pytest.fixture
    def store(self, url: str) -> Iterator[SQLStore]:
        """Return an open store."""
        store = inline_store(url, synchronous="full")
        yield store
        result_of(store.stopService())


class TestThreads(StoreContract):
    """The contract, in a file with a thread for writes and one for reads."""

    @pytest.fixture
    def store(self, url: str, pump: Pump) -> Iterator[SQLStore]:
        """Return an open store."""
        store = threaded_store(url, pump)
        yield store
        pump.wait(store.stopService())

    @pytest.fixture
    def wait(self, pump: Pump) -> Callable[[Deferred[Any]], Any]:
        """Return what waits for a Deferred."""
        return pump.wait


class TestThreadInMemory(TestThreads):
    """The contract, in memory with one thread for all."""

    @pytest.fixture
    def url(self) -> str:
        """Return the URL of a database in memory."""
        return "sqlite://"


def a_store(url: str, **arguments: Any) -> SQLStore:
    """Return a store that is not open."""
    defaults = {"clock": FakeClock(), "call_from_thread": call_nothing, "threads": False}
    return SQLStore(url, **{**defaults, **arguments})


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """Collect the lines that are logged."""
    lines: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        lines.append(str(event["log_format"]).format(**event))

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


def test_import_is_light() -> None:
    """Importing the store imports neither Alembic nor the ORM."""
    program = (
        "import sys, gateway.store.store;"
        "print([name for name in ('alembic', 'mako', 'sqlalchemy.orm') if name in sys.modules])"
    )

    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )

    assert done.stdout == "[]\n"


def test_nothing_is_done_before_open_or_after_stop() -> None:
    """An operation on a store that is not open, or not any more, fails with StoreError."""
    store = a_store("sqlite://")
    with pytest.raises(StoreError, match="not open"):
        result_of(store.get_session(KEY))
    assert store.pending == 0
    store.open()
    store.startService()

    result_of(store.stopService())

    with pytest.raises(StoreError, match="not open"):
        result_of(store.update_session(KEY, setting()))


def test_stop_without_open() -> None:
    """A store that was never opened can be stopped."""
    assert result_of(a_store("sqlite://").stopService()) is None


def test_what_is_stored_is_there_after_a_restart(url: str, tmp_path: Path) -> None:
    """A stopped store leaves one file without a log, and the same store can be opened again."""
    store = inline_store(url)
    stored = result_of(store.update_session(KEY, setting()))

    result_of(store.stopService())

    assert [path.name for path in tmp_path.iterdir()] == ["gateway.db"]
    store.open()
    store.startService()
    assert result_of(store.get_session(KEY)) == stored
    result_of(store.stopService())


def test_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path means the directory at open(), wherever the process goes later."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    store = a_store("sqlite:///gateway.db")
    store.open()
    monkeypatch.chdir(elsewhere)
    store.startService()

    result_of(store.update_session(KEY, setting()))
    result_of(store.stopService())

    assert (tmp_path / "gateway.db").exists()
    assert not list(elsewhere.iterdir())


def test_open_holds_no_file(url: str) -> None:
    """After open() and before startService no file is open, so that a daemon may fork in between."""
    a_store(url).open()

    links = [os.path.join("/proc/self/fd", number) for number in os.listdir("/proc/self/fd")]
    held = [os.readlink(link) for link in links if os.path.islink(link)]

    assert not [path for path in held if "gateway.db" in path]


def test_synchronous_is_checked() -> None:
    """Another value of ``synchronous`` than the two is a StartError."""
    with pytest.raises(StartError, match="normal, full"):
        a_store("sqlite://", synchronous="off").open()


def test_stop_carries_out_what_waits(url: str, pump: Pump) -> None:
    """Operations that wait when the store stops are done and answered first, also unstarted ones."""
    store = a_store(url, call_from_thread=pump.call_from_thread, threads=True)
    store.open()
    writes = [store.append_messages("s", [a_message(str(number))]) for number in range(20)]
    read = store.count_messages("other")
    assert store.pending == 21

    pump.wait(store.stopService())

    assert [result_of(write)[0].seq for write in writes] == list(range(1, 21))
    assert result_of(read) == 0
    assert not os.path.exists(url.removeprefix("sqlite:///") + "-wal")


def test_too_many_waiting_operations_are_refused(url: str, pump: Pump) -> None:
    """Over the cap an operation fails at once, and those that wait are not touched."""
    store = a_store(url, call_from_thread=pump.call_from_thread, threads=True)
    store.open()
    waiting = [store.append_messages("s", []) for _ in range(MAX_PENDING)]

    with pytest.raises(StoreError, match="wait for the store already"):
        result_of(store.append_messages("s", []))

    pump.wait(store.stopService())
    assert {result_of(deferred) for deferred in waiting} == {()}


def test_cancelled_write_is_carried_out(url: str, pump: Pump) -> None:
    """Cancelling the Deferred of a write drops the answer, not the write."""
    store = threaded_store(url, pump)
    cancelled = store.update_session(KEY, setting())
    cancelled.cancel()
    with pytest.raises(CancelledError):
        result_of(cancelled)

    after = pump.wait(store.update_session(KEY, as_it_is))

    assert after is not None
    assert after.version == 2
    pump.wait(store.stopService())


def test_reads_see_what_was_acknowledged(url: str, pump: Pump) -> None:
    """A read on its own connection sees every write whose Deferred has fired."""
    store = threaded_store(url, pump)
    for number in range(1, 20):
        pump.wait(store.append_messages("s", [a_message()]))
        assert pump.wait(store.count_messages("s")) == number
    pump.wait(store.stopService())


def test_failing_until_a_write_succeeds(url: str, logged: list[str]) -> None:
    """A failure of the database is kept and logged once; a write that succeeds ends it."""
    store = inline_store(url)
    path = url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as other:
        other.execute("ALTER TABLE messages RENAME TO hidden")
        for _ in range(2):
            with pytest.raises(StoreError, match="no such table: messages"):
                result_of(store.append_messages("s", [a_message()]))
        failing = store.failing
        other.execute("ALTER TABLE hidden RENAME TO messages")

    result_of(store.append_messages("s", [a_message()]))

    assert failing == "no such table: messages"
    assert store.failing is None
    assert logged == ["store failing reason=no such table: messages", "store works again"]
    result_of(store.stopService())


def test_refusals_are_no_failure_of_the_database(store: SQLStore) -> None:
    """What a change raises, a conflict and a broken constraint leave ``failing`` as it is."""
    result_of(store.update_session(KEY, setting()))

    def change(current: Session | None) -> Session:
        raise LookupError

    with pytest.raises(LookupError):
        result_of(store.update_session(KEY, change))
    with pytest.raises(StoreError):
        result_of(store.update_session("b", setting(key="b", session_id=f"id of {KEY}")))

    assert store.failing is None


def test_slow_transaction_is_logged(logged: list[str]) -> None:
    """A transaction of a second or more is logged with its size."""
    clock = FakeClock()
    store = a_store("sqlite://", clock=clock)
    store.open()
    store.startService()

    def change(current: Session | None) -> Session:
        clock.advance(SLOW_BATCH_S)
        return a_session()

    result_of(store.update_session(KEY, change))
    result_of(store.update_session(KEY, setting()))

    assert logged == ["store slow seconds=1.0 operations=1"]
    result_of(store.stopService())


def test_trouble_with_closing_is_logged(logged: list[str]) -> None:
    """A connection that can not be tidied up is dropped, with a line in the log."""
    store = inline_store("sqlite://")
    result_of(store.update_session(KEY, setting()))
    assert store._executors is not None
    # Only the driver's own connection can be broken from outside, and nothing public leads to it.
    writer: Any = store._executors.writer
    writer._transactions._connection.connection.driver_connection.close()

    result_of(store.stopService())

    assert logged == ["store closed badly reason=Cannot operate on a closed database."]


def test_damaged_row_is_a_store_error(url: str) -> None:
    """A row whose JSON was damaged fails the read with StoreError."""
    store = inline_store(url)
    result_of(store.update_session(KEY, setting()))
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as other:
        other.execute("UPDATE sessions SET settings = '{'")
        other.commit()

    with pytest.raises(StoreError):
        result_of(store.get_session(KEY))
    result_of(store.stopService())
