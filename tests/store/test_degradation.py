"""A store whose disk, file or lock fails: what it says, what it refuses, how it comes back."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from gateway.errors import StoreError, VersionConflict
from gateway.model import RunState
from gateway.store import probes
from gateway.store.health import CHECK_S, PROBE_S
from gateway.store.store import SQLStore
from gateway.testing import FakeClock, result_of

from .faults import Faults
from .harness import (
    KEY,
    Pump,
    a_message,
    a_run,
    a_session,
    an_end,
    an_event,
    call_nothing,
    setting,
)

KINDS = {
    sqlite3.SQLITE_FULL: "the disk is full (database or disk is full)",
    sqlite3.SQLITE_READONLY: (
        "the database can not be written (attempt to write a readonly database)"
    ),
    sqlite3.SQLITE_BUSY: "another program has locked the database (database is locked)",
    sqlite3.SQLITE_IOERR: "the disk fails (disk I/O error)",
    sqlite3.SQLITE_CANTOPEN: "the database can not be opened (unable to open database file)",
}
DAMAGE = (
    "the database is damaged (database disk image is malformed);"
    " stop the gateway and put a backup in its place"
)


@pytest.fixture
def faults() -> Faults:
    """Return what goes wrong with the store's connections; nothing, at first."""
    return Faults()


@pytest.fixture
def clock() -> FakeClock:
    """Return the store's clock."""
    return FakeClock()


@pytest.fixture
def store(url: str, faults: Faults, clock: FakeClock) -> Iterator[SQLStore]:
    """Return an open store, in a file and inline, whose connections fail on demand."""
    store = SQLStore(
        url, clock=clock, call_from_thread=call_nothing, threads=False, driver=faults.driver()
    )
    store.open()
    store.startService()
    yield store
    faults.__init__()  # type: ignore[misc]
    result_of(store.stopService())
    assert clock.getDelayedCalls() == []


def threaded(url: str, pump: Pump, faults: Faults, clock: FakeClock) -> SQLStore:
    """Return an open store with its threads, whose connections fail on demand."""
    store = SQLStore(
        url, clock=clock, call_from_thread=pump.call_from_thread, driver=faults.driver()
    )
    store.open()
    store.startService()
    return store


def write(store: SQLStore, text: str = "hello") -> int:
    """Write one message; return its number."""
    (message,) = result_of(store.append_messages("s", [a_message(text)]))
    return message.seq


def count(store: SQLStore) -> int:
    """Return how many messages are stored."""
    return result_of(store.count_messages("s"))


@pytest.mark.parametrize(("code", "reason"), KINDS.items())
def test_refused_at_once_until_it_works_again(
    url: str, pump: Pump, faults: Faults, logged: list[str], code: int, reason: str
) -> None:
    """The first failure is told in words, later writes are refused by it untried, a probe mends it."""
    clock = FakeClock()
    store = threaded(url, pump, faults, clock)
    pump.wait(store.append_messages("s", [a_message()]))
    faults.code = code
    with pytest.raises(StoreError):
        pump.wait(store.append_messages("s", [a_message("lost")]))
    faults.statements.clear()

    with pytest.raises(StoreError) as caught:
        result_of(store.append_messages("s", [a_message("refused")]))
    assert str(caught.value) == store.failing == reason
    assert faults.statements == []
    assert pump.wait(store.count_messages("s")) == 1
    for _ in range(2):
        clock.advance(PROBE_S)
        pump.step()
        assert store.failing == reason
    faults.code = None
    clock.advance(PROBE_S)
    pump.step()

    assert store.failing is None
    assert pump.wait(store.append_messages("s", [a_message("again")]))[0].seq == 2
    assert logged == [f"store failing reason={reason}", "store works again"]
    pump.wait(store.stopService())
    assert clock.getDelayedCalls() == []


def test_probe_changes_nothing(store: SQLStore, faults: Faults, clock: FakeClock, url: str) -> None:
    """What is written to try leaves every table as it was."""
    write(store)
    faults.code = sqlite3.SQLITE_FULL
    with pytest.raises(StoreError):
        write(store)
    before = dump(url)
    faults.code = None

    clock.advance(PROBE_S)

    assert store.failing is None
    assert dump(url) == before


def dump(url: str) -> list[str]:
    """Return the whole content of the database."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        return list(connection.iterdump())


def test_disk_with_little_room_stays_full(
    store: SQLStore, faults: Faults, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that was full is tried only when there is room for more than a page."""
    free = [probes.FREE_MIN - 1]

    class Disk:
        f_frsize = 1

        @property
        def f_bavail(self) -> int:
            return free[0]

    monkeypatch.setattr(os, "statvfs", lambda path: Disk())
    faults.code = sqlite3.SQLITE_FULL
    with pytest.raises(StoreError):
        write(store)
    faults.code = None

    clock.advance(PROBE_S)
    assert store.failing == KINDS[sqlite3.SQLITE_FULL]
    free[0] += 1
    clock.advance(PROBE_S)

    assert store.failing is None


def test_full_database_in_memory(faults: Faults, clock: FakeClock) -> None:
    """A database in memory has no disk to look at: it is tried by writing."""
    store = SQLStore(
        "sqlite://",
        clock=clock,
        call_from_thread=call_nothing,
        threads=False,
        driver=faults.driver(),
    )
    store.open()
    store.startService()
    faults.code = sqlite3.SQLITE_FULL
    with pytest.raises(StoreError):
        write(store)
    faults.code = None

    clock.advance(PROBE_S)

    assert store.failing is None
    result_of(store.stopService())


@pytest.mark.parametrize("stored_all_the_same", [False, True])
@pytest.mark.parametrize("number", range(1, 7))
def test_commit_that_fails(
    store: SQLStore,
    faults: Faults,
    clock: FakeClock,
    number: int,
    stored_all_the_same: bool,
) -> None:
    """Whichever commit fails, what was acknowledged is stored once, and a repeat finds it whole.

    A commit that could not be synced may be stored all the same: then the repeat is a conflict.
    """
    faults.stored_all_the_same = stored_all_the_same
    first = faults.commits
    faults.fails = lambda commit: sqlite3.SQLITE_IOERR if commit == first + number else None

    def insist(operation: Any) -> None:
        try:
            result_of(operation())
        except StoreError:
            clock.advance(PROBE_S)
            try:
                result_of(operation())
            except VersionConflict:
                assert stored_all_the_same

    for run_id in ("a", "b", "c"):
        run = a_run(run_id)
        insist(lambda run=run: store.accept_turn(run, lambda now: now or a_session(), a_message()))
        insist(lambda run_id=run_id: store.finish_turn(an_end(run_id, messages=(a_message(),))))

    assert store.failing is None
    assert result_of(store.open_runs()) == ()
    assert result_of(store.count_messages(f"id of {KEY}")) == 6
    for run_id in ("a", "b", "c"):
        record = result_of(store.get_run(run_id))
        assert record is not None
        assert record.state is RunState.DONE


def test_batch_that_meets_a_full_disk(url: str, pump: Pump, faults: Faults) -> None:
    """Of writes that wait together on a full disk none is acknowledged, and none is stored."""
    clock = FakeClock()
    store = SQLStore(
        url, clock=clock, call_from_thread=pump.call_from_thread, driver=faults.driver()
    )
    store.open()
    before = [store.append_messages("s", [a_message(str(number))]) for number in range(5)]
    faults.code = sqlite3.SQLITE_FULL
    store.startService()

    for deferred in before:
        with pytest.raises(StoreError):
            pump.wait(deferred)
    assert pump.wait(store.count_messages("s")) == 0
    with pytest.raises(StoreError, match="the disk is full"):
        result_of(store.append_messages("s", [a_message()]))
    faults.code = None
    clock.advance(PROBE_S)
    pump.step()

    assert pump.wait(store.append_messages("s", [a_message()]))[0].seq == 1
    pump.wait(store.stopService())


def test_reads_that_fail(url: str, pump: Pump, faults: Faults, logged: list[str]) -> None:
    """When only reads fail the store says so, goes on writing, and notices when they work again."""
    clock = FakeClock()
    store = threaded(url, pump, faults, clock)
    faults.code, faults.where = sqlite3.SQLITE_IOERR, ("SELECT count(*)", "SELECT version_num")
    with pytest.raises(StoreError, match="disk I/O error"):
        pump.wait(store.count_messages("s"))
    assert store.failing == KINDS[sqlite3.SQLITE_IOERR]

    pump.wait(store.append_messages("s", [a_message()]))
    assert store.failing == KINDS[sqlite3.SQLITE_IOERR]
    clock.advance(PROBE_S)
    pump.step()
    assert store.failing == KINDS[sqlite3.SQLITE_IOERR]
    faults.code = None
    clock.advance(PROBE_S)
    pump.step()

    assert store.failing is None
    assert pump.wait(store.count_messages("s")) == 1
    assert len(logged) == 2
    pump.wait(store.stopService())


def test_a_read_that_fails_by_itself(url: str, pump: Pump, faults: Faults) -> None:
    """A statement that SQLite can not carry out is the fault of that read alone."""
    store = threaded(url, pump, faults, FakeClock())
    faults.code, faults.where = sqlite3.SQLITE_ERROR, ("SELECT count(*)",)

    with pytest.raises(StoreError, match="something is wrong"):
        pump.wait(store.count_messages("s"))

    assert store.failing is None
    pump.wait(store.stopService())


def damage(path: str) -> bytes:
    """Overwrite the second page of a database and all after it; return what was there."""
    with open(path, "r+b") as stream:
        stream.seek(4096)
        whole = stream.read()
        stream.seek(4096)
        stream.write(b"\xa5" * len(whole))
    return whole


def test_damaged_file_at_run_time(url: str, logged: list[str]) -> None:
    """Damage is told with what mends it and refuses writes, until a check of the whole file passes."""
    clock, path = FakeClock(), url.removeprefix("sqlite:///")
    store = SQLStore(url, clock=clock, call_from_thread=call_nothing, threads=False)
    store.open()
    store.startService()
    result_of(store.accept_turn(a_run(), setting(), a_message()))
    result_of(store.stopService())
    store.open()
    whole = damage(path)
    store.startService()

    for _ in range(2):
        with pytest.raises(StoreError, match="malformed"):
            result_of(store.get_session(KEY))
    with pytest.raises(StoreError, match="put a backup in its place"):
        result_of(store.append_events([an_event(1)]))
    assert store.failing == DAMAGE
    clock.advance(CHECK_S)
    assert store.failing == DAMAGE
    with open(path, "r+b") as stream:
        stream.seek(4096)
        stream.write(whole)
    clock.advance(CHECK_S)

    assert store.failing is None
    result_of(store.append_events([an_event(1)]))
    assert result_of(store.get_session(KEY)) is not None
    assert logged == [f"store failing reason={DAMAGE}", "store works again"]
    result_of(store.stopService())


def test_damage_is_noticed_beside_what_works(store: SQLStore, faults: Faults) -> None:
    """A row that can not be read is damage though writes elsewhere succeed."""
    write(store)
    faults.code, faults.where = sqlite3.SQLITE_CORRUPT, ("SELECT count(*)",)
    with pytest.raises(StoreError):
        count(store)
    faults.code = None

    assert count(store) == 1
    assert store.failing == DAMAGE
    with pytest.raises(StoreError, match="damaged"):
        write(store)


def test_check_that_finds_damage(
    store: SQLStore, faults: Faults, clock: FakeClock, url: str
) -> None:
    """A check that can be carried out and finds something wrong leaves the store as it is."""
    write(store)
    path = url.removeprefix("sqlite:///")
    no_role(path)
    faults.code, faults.where = sqlite3.SQLITE_CORRUPT, ("SELECT count(*)",)
    with pytest.raises(StoreError):
        count(store)
    faults.code = None

    clock.advance(CHECK_S)

    assert store.failing == DAMAGE


def no_role(path: str) -> None:
    """Take a value away that the table can not do without, as only damage can."""
    change = "UPDATE sqlite_master SET sql = replace(sql, ?, ?) WHERE name = 'messages'"
    asked, loose = "role TEXT NOT NULL", "role TEXT"
    for statement, values in (
        (change, (asked, loose)),
        ("UPDATE messages SET role = NULL", ()),
        (change, (loose, asked)),
    ):
        # A connection of its own for each: it knows the schema as it was when it began.
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA writable_schema=ON")
            connection.execute(statement, values)


def test_a_clock_that_jumps(store: SQLStore) -> None:
    """A day forth and back between writes changes neither their order nor what is kept."""
    day = 24 * 3600 * 1000
    for number, jump in enumerate((0, day, -day, 0)):
        run = a_run(f"run-{number}", accepted_at_ms=FakeClock.EPOCH_MS + jump)
        result_of(store.accept_turn(run, lambda now: now or a_session(), a_message(str(number))))

    open_runs = result_of(store.open_runs())
    assert [run.run_id for run in open_runs] == [f"run-{number}" for number in range(4)]
    messages = result_of(store.list_messages(f"id of {KEY}", limit=9))
    assert [message.message_id for message in messages] == ["m 0", "m 1", "m 2", "m 3"]
