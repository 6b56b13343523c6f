"""gateway.store.tables: records and rows."""

from __future__ import annotations

import pytest

from gateway.model import (
    Attachment,
    Device,
    DeviceToken,
    Message,
    RunEvent,
    RunRecord,
    Session,
    Struct,
)
from gateway.store import tables


@pytest.mark.parametrize(
    ("table", "kind", "more"),
    [
        ("sessions", Session, {"search_text"}),
        ("messages", Message, {"session_id"}),
        ("runs", RunRecord, {"position", "log_bytes"}),
        ("run_events", RunEvent, set()),
        ("devices", Device, set()),
        ("device_tokens", DeviceToken, set()),
    ],
)
def test_a_column_for_every_field(table: str, kind: type[Struct], more: set[str]) -> None:
    """Every field of a record has its column, and the only other columns are the table's own."""
    columns = tables.metadata.tables[table].columns

    assert set(columns.keys()) == set(kind.__struct_fields__) | more
    assert [
        column.key for column in tables.columns_of(tables.metadata.tables[table], kind)
    ] == list(kind.__struct_fields__)


def test_a_field_without_a_column_fails_at_once() -> None:
    """A record that a table can not hold is refused where the statement is built."""
    with pytest.raises(KeyError):
        tables.columns_of(tables.sessions, Attachment)
