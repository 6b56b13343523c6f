"""gateway.store.logs: what events take of the file. The rest is in the contract."""

from __future__ import annotations

import os
from pathlib import Path

from gateway.store import logs, schema, sqlite

from .harness import an_event


def test_size_is_what_the_file_grows_by(tmp_path: Path) -> None:
    """The reckoned size of a log is within a fifth of what the file has grown by."""
    path = str(tmp_path / "gateway.db")
    engine = sqlite.make_engine(sqlite.parse_url(sqlite.url_of(path)))
    schema.prepare_file(engine, path)
    run_ids = [f"{number:08d}-1111-4111-8111-111111111111" for number in range(20)]
    epoch = "22222222-2222-4222-8222-222222222222"
    events = [an_event(seq, run_id, epoch=epoch) for seq in range(1, 251) for run_id in run_ids]
    with engine.connect() as connection:
        assert sqlite.checkpoint(connection, 0)
        before = os.path.getsize(path)
        with connection.begin():
            logs.append(connection, events)
        assert sqlite.checkpoint(connection, 0)

    grown = os.path.getsize(path) - before

    assert 0.8 < logs.size_of(events) / grown < 1.2


def test_no_events_take_nothing() -> None:
    """No events have no size."""
    assert logs.size_of([]) == 0
