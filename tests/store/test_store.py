"""gateway.store.store: the contract of IStore, in memory and in files, inline and with threads."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from threading import Event
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from gateway.errors import StoreError
from gateway.model import UsageQuery
from gateway.store.store import SQLStore
from gateway.testing import result_of

from .contract import StoreContract
from .harness import (
    KEY,
    PATIENCE_S,
    Pump,
    a_message,
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


def test_reads_see_what_was_acknowledged(url: str, pump: Pump) -> None:
    """A read on its own connection sees every write whose Deferred has fired."""
    store = threaded_store(url, pump)
    for number in range(1, 20):
        pump.wait(store.append_messages("s", [a_message()]))
        assert pump.wait(store.count_messages("s")) == number
    pump.wait(store.stopService())


def test_no_read_waits_for_a_report(url: str, pump: Pump) -> None:
    """While usage is added up, which takes as long as there are rows, messages are read and written."""
    held, go_on = Event(), Event()

    class Slow(UsageQuery, frozen=True):
        def __getattribute__(self, name: str) -> Any:
            if name == "by":
                held.set()
                assert go_on.wait(PATIENCE_S)
            return super().__getattribute__(name)

    store = threaded_store(url, pump)
    report = store.sum_usage(Slow(since_ms=0, until_ms=1))
    assert held.wait(PATIENCE_S)
    try:
        pump.wait(store.append_messages("s", [a_message()]))
        assert pump.wait(store.count_messages("s")) == 1
        assert not report.called
    finally:
        go_on.set()
    assert pump.wait(report) == ()
    pump.wait(store.stopService())


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
