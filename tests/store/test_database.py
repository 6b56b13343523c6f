"""gateway.store.database: opening and closing, its threads, and what it says of its health."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError

from gateway.errors import StartError, StoreError
from gateway.model import Session
from gateway.store.care import LOG_LIMIT
from gateway.store.database import SLOW_BATCH_S
from gateway.store.health import CHECK_S
from gateway.store.store import SQLStore
from gateway.store.writer import MAX_PENDING
from gateway.testing import FakeClock, result_of

from .harness import (
    KEY,
    Pump,
    a_message,
    a_session,
    an_event,
    as_it_is,
    call_nothing,
    inline_store,
    setting,
    threaded_store,
)


def a_store(url: str, **arguments: Any) -> SQLStore:
    """Return a store that is not open."""
    defaults = {"clock": FakeClock(), "call_from_thread": call_nothing, "threads": False}
    return SQLStore(url, **{**defaults, **arguments})


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


@pytest.mark.parametrize(("synchronous", "level"), [("normal", 1), ("full", 2)])
def test_durability_that_was_asked_for(url: str, synchronous: str, level: int) -> None:
    """The connection that writes syncs as it was asked for, also the one after a failure."""
    made: list[sqlite3.Connection] = []

    class Kept(sqlite3.Connection):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            made.append(self)

    store = a_store(url, synchronous=synchronous, driver=Kept)
    store.open()
    store.startService()
    made.clear()
    result_of(store.append_messages("s", [a_message()]))
    levels = [made[-1].execute("PRAGMA synchronous").fetchone()[0]]
    made[-1].close()
    with pytest.raises(StoreError):
        result_of(store.append_messages("s", [a_message()]))

    result_of(store.append_messages("s", [a_message()]))

    levels.append(made[-1].execute("PRAGMA synchronous").fetchone()[0])
    assert len(made) == 2
    assert levels == [level, level]
    result_of(store.stopService())


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


def test_log_that_a_reader_holds_back_is_logged(url: str, logged: list[str]) -> None:
    """A write-ahead log that grows since somebody reads for ever is told."""
    store = inline_store(url)
    result_of(store.append_messages("s", [a_message()]))
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM messages").fetchall()
        result_of(store.append_events([an_event(1, data=b"x" * (LOG_LIMIT + 1))]))

    assert logged == ["store: the write-ahead log has grown to 64 MiB: a reader holds it back"]
    assert store.failing is None
    result_of(store.stopService())


def remove(url: str) -> None:
    """Remove a database with all its files."""
    for end in ("", "-wal", "-shm"):
        if os.path.exists(url.removeprefix("sqlite:///") + end):
            os.unlink(url.removeprefix("sqlite:///") + end)


def test_database_that_is_removed_while_in_use(url: str, tmp_path: Path) -> None:
    """What went to files without a name was not acknowledged; only a restart begins anew."""
    clock = FakeClock()
    store = a_store(url, clock=clock)
    store.open()
    store.startService()
    result_of(store.append_messages("s", [a_message()]))
    remove(url)

    with pytest.raises(StoreError, match=r"gateway.db-wal is gone"):
        result_of(store.append_messages("s", [a_message()]))
    clock.pump([CHECK_S, CHECK_S])

    assert store.failing == (
        f"the database was removed or replaced ({tmp_path / 'gateway.db-wal'} is gone);"
        " restart the gateway"
    )
    with pytest.raises(StoreError, match="restart the gateway"):
        result_of(store.append_messages("s", [a_message()]))
    result_of(store.stopService())
    assert list(tmp_path.iterdir()) == []


def test_lost_file_does_not_come_back_empty(url: str, tmp_path: Path) -> None:
    """A connection that finds no file fails; a new and empty database is made by open() alone."""
    store = a_store(url)
    store.open()
    remove(url)
    store.startService()

    with pytest.raises(StoreError, match="unable to open database file"):
        result_of(store.append_messages("s", [a_message()]))

    assert list(tmp_path.iterdir()) == []
    result_of(store.stopService())


def test_trouble_with_closing_is_logged(url: str, logged: list[str]) -> None:
    """A connection that can not be tidied up is dropped, with a line in the log."""
    store = inline_store(url)
    result_of(store.update_session(KEY, setting()))
    assert store._executors is not None
    # Only the driver's own connection can be broken from outside, and nothing public leads to it.
    writer: Any = store._executors.writer
    writer._transactions._connection.connection.driver_connection.close()

    result_of(store.stopService())

    assert logged == ["store closed badly reason=Cannot operate on a closed database."]
