"""Fixtures of the store's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from gateway.store import sqlite
from gateway.store.store import SQLStore
from gateway.store.writer import Care, Transactions
from gateway.testing import FakeClock, result_of

from .harness import Pump, memory_store
from .jobs import TABLE

CONTRACTS = ("contract", "contract_logs", "contract_runs", "contract_sessions", "contract_usage")
pytest.register_assert_rewrite(*(f"{__package__}.{name}" for name in CONTRACTS))


@pytest.fixture
def store() -> Iterator[SQLStore]:
    """Return an open store in memory whose operations run inline."""
    store = memory_store()
    yield store
    result_of(store.stopService())


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Return the URL of a database that does not exist yet."""
    return f"sqlite:///{tmp_path / 'gateway.db'}"


@pytest.fixture
def pump() -> Pump:
    """Return a stand-in for the reactor's thread."""
    return Pump()


@pytest.fixture
def table_engine(tmp_path: Path) -> Engine:
    """Return an engine on a file with one table."""
    engine = sqlite.make_engine(sqlite.parse_url(f"sqlite:///{tmp_path / 'test.db'}"))
    with engine.begin() as connection:
        connection.exec_driver_sql(TABLE)
    return engine


@pytest.fixture
def transactions(table_engine: Engine) -> Iterator[Transactions]:
    """Return what runs jobs on the engine."""
    transactions = Transactions(table_engine, Care(), FakeClock())
    yield transactions
    transactions.close()


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
