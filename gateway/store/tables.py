"""The tables, and how the records of :mod:`gateway.model` become rows and back.

A column has the name of the record's field, at least as its key. ``REVISIONS`` names every schema there has
been, oldest first; a change here comes with a migration of the same effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)

from gateway.model import Json, RoleGrant, RunState, Struct

S = TypeVar("S", bound=Struct)

REVISIONS = ("0001", "0002", "0003", "0004")
SCHEMA_REVISION = REVISIONS[-1]


class JsonText(TypeDecorator[Json]):
    """A JSON value kept as text, so that a person can read it in the database."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Json, dialect: Dialect) -> str:
        """Encode; what JSON can not hold raises TypeError, which SQLAlchemy wraps."""
        return msgspec.json.encode(value).decode()

    def process_result_value(self, value: str | None, dialect: Dialect) -> Json:
        """Decode; raises msgspec.DecodeError where the stored text was damaged."""
        return msgspec.json.decode(value or "null")


class NamesText(JsonText):
    """A tuple of names kept as a JSON array."""

    cache_ok = True

    def process_result_value(self, value: str | None, dialect: Dialect) -> tuple[str, ...]:
        """Decode; raises msgspec.DecodeError where the stored text was damaged."""
        return msgspec.json.decode(value or "[]", type=tuple[str, ...])


class GrantsText(TypeDecorator[tuple[RoleGrant, ...]]):
    """The grants of a device, kept as a JSON array."""

    impl = Text
    cache_ok = True

    def process_bind_param(
        self, value: tuple[RoleGrant, ...] | None, dialect: Dialect
    ) -> str | None:
        """Encode as records are on the wire."""
        return msgspec.json.encode(value or ()).decode()

    def process_result_value(self, value: str | None, dialect: Dialect) -> tuple[RoleGrant, ...]:
        """Decode; raises msgspec.DecodeError where the stored text was damaged."""
        return msgspec.json.decode(value or "[]", type=tuple[RoleGrant, ...])


class StateText(TypeDecorator[RunState]):
    """The state of a run, kept by its name."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: RunState | None, dialect: Dialect) -> str | None:
        """Return the plain name, which the driver binds faster than a subclass of str."""
        return value and value.value

    def process_result_value(self, value: str | None, dialect: Dialect) -> RunState:
        """Return the state; raises ValueError for one that there is not."""
        return RunState(value or "")


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)

alembic_version = Table(
    "alembic_version",
    metadata,
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
"""Made to the letter as Alembic makes it, so that a fresh database needs no Alembic."""

sessions = Table(
    "sessions",
    metadata,
    Column("key", Text, primary_key=True),
    Column("session_id", Text, nullable=False),
    Column("agent_id", Text, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("updated_at_ms", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("lifecycle_revision", Text, nullable=False),
    Column("label", Text),
    Column("settings", JsonText, nullable=False),
    Column("system_sent", Boolean, nullable=False),
    Column("aborted_last_run", Boolean, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("total_tokens", BigInteger, nullable=False),
    Column("context_tokens", BigInteger),
    Column("compactions", BigInteger, nullable=False),
    Column("agent_session", Text),
    Column("parent_key", Text),
    Column("last_channel", Text),
    Column("created_via", Text, nullable=False),
    Column("last_message_preview", Text),
    Column("first_message_preview", Text),
    Column("search_text", Text, nullable=False),
    UniqueConstraint("session_id"),
    Index("ix_sessions_updated", "updated_at_ms", "key"),
    Index("ix_sessions_agent", "agent_id", "updated_at_ms", "key"),
    Index("ix_sessions_parent", "parent_key", "updated_at_ms", "key"),
    Index("ix_sessions_label", "label"),
)
"""``search_text`` is the case-folded key, label and first message, a line each."""

messages = Table(
    "messages",
    metadata,
    Column("session_id", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("message_id", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("content", JsonText, nullable=False),
    Column("timestamp_ms", BigInteger, nullable=False),
    Column("run_id", Text),
    Column("stop_reason", Text),
    Column("meta", JsonText, nullable=False),
    PrimaryKeyConstraint("session_id", "seq"),
    Index("ix_messages_system", "session_id", "seq", sqlite_where=text("role = 'system'")),
)
"""No foreign key to ``sessions``: a transcript outlives its session unless told otherwise.

The index is for the newest summary, which is a message of the role system.
"""

runs = Table(
    "runs",
    metadata,
    Column("position", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("run_id", Text, nullable=False),
    Column("epoch", Text, nullable=False),
    Column("session_key", Text, nullable=False),
    Column("session_id", Text, nullable=False),
    Column("agent_id", Text, nullable=False),
    Column("origin", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("state", StateText, nullable=False),
    Column("accepted_at_ms", BigInteger, nullable=False),
    Column("started_at_ms", BigInteger),
    Column("ended_at_ms", BigInteger),
    Column("stop_reason", Text),
    Column("error", Text),
    Column("last_seq", BigInteger, nullable=False),
    Column("log_bytes", BigInteger, nullable=False),
    Column("evicted_through", BigInteger, nullable=False),
    Column("request", LargeBinary, key="request_json"),
    UniqueConstraint("run_id"),
    Index("ix_runs_state", "state", "position"),
    Index("ix_runs_session", "session_key", "position"),
    Index("ix_runs_ended", "ended_at_ms"),
    Index("ix_runs_log", "position", "log_bytes", sqlite_where=text("log_bytes > 0")),
)
"""``position`` is the order of acceptance: two runs can share a millisecond, and a clock can jump.

``log_bytes`` is what the events of an ended run take; while it goes, they are not counted.
"""

run_events = Table(
    "run_events",
    metadata,
    Column("run_id", Text, nullable=False),
    Column("epoch", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("stream", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("ts_ms", BigInteger, nullable=False),
    PrimaryKeyConstraint("run_id", "epoch", "seq"),
)
"""No foreign key to ``runs``: one event of an unknown run must not fail the batch it came in."""

usage = Table(
    "usage",
    metadata,
    Column("position", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("run_id", Text, nullable=False),
    Column("ordinal", BigInteger, nullable=False),
    Column("session_key", Text, nullable=False),
    Column("session_id", Text, nullable=False),
    Column("agent_id", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("duration_ms", BigInteger),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cache_read_tokens", BigInteger, nullable=False),
    Column("cache_write_tokens", BigInteger, nullable=False),
    Column("cost_nanousd", BigInteger),
    Index("ix_usage_at", "at_ms"),
    Index("ix_usage_session", "session_key", "at_ms"),
)
"""What each model used of each run, ``ordinal`` 0, 1 ... within a run; ``at_ms`` is the end of the run.

Not unique by run: usage outlives its runs, and the id of a run that was forgotten may be used again.
"""

devices = Table(
    "devices",
    metadata,
    Column("device_id", Text, primary_key=True),
    Column("public_key", Text, nullable=False),
    Column("roles", NamesText, nullable=False),
    Column("scopes", NamesText, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("approved_at_ms", BigInteger, nullable=False),
    Column("approved_via", Text, nullable=False),
    Column("name", Text),
    Column("display_name", Text),
    Column("platform", Text),
    Column("device_family", Text),
    Column("client_id", Text),
    Column("client_mode", Text),
    Column("remote_ip", Text),
    Column("last_seen_at_ms", BigInteger),
    Column("last_seen_reason", Text),
    Column("grants", GrantsText, nullable=False),
    Column("version", BigInteger, nullable=False),
    Index("ix_devices_created", "created_at_ms", "device_id"),
)

device_tokens = Table(
    "device_tokens",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("device_id", Text, ForeignKey("devices.device_id", ondelete="CASCADE"), nullable=False),
    Column("role", Text, nullable=False),
    Column("scopes", NamesText, nullable=False),
    Column("issued_at_ms", BigInteger, nullable=False),
    Column("last_used_at_ms", BigInteger),
    Index("ix_device_tokens_device", "device_id", "role", "issued_at_ms"),
)

pairing_requests = Table(
    "pairing_requests",
    metadata,
    Column("device_id", Text, primary_key=True),
    Column("request_id", Text, nullable=False),
    Column("requested_at_ms", BigInteger, nullable=False),
    Column("record", LargeBinary, nullable=False),
    UniqueConstraint("request_id"),
    Index("ix_pairing_requests_age", "requested_at_ms"),
)
"""One open request a device; ``record`` is the request as JSON, in which nothing is looked for."""

nodes = Table(
    "nodes",
    metadata,
    Column("node_id", Text, primary_key=True),
    Column("record", LargeBinary, nullable=False),
)
"""What is kept of nodes beside their devices, as JSON: it is read by id, or all of it."""

settings = Table(
    "settings",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", LargeBinary, nullable=False),
)
"""What clients may set while the gateway runs; whose it is knows what the value means."""


def columns_of(table: Table, kind: type[Struct]) -> list[Column[Any]]:
    """Return the columns that make a record, in the order of its fields.

    A field without a column is a KeyError when the module is imported, not when a row is read.
    """
    return [table.c[name] for name in kind.__struct_fields__]


def to_record(kind: type[S], row: Sequence[Any]) -> S:
    """Return the record of a row that was selected with :func:`columns_of`."""
    return kind(**dict(zip(kind.__struct_fields__, row, strict=True)))


def to_values(record: Struct) -> dict[str, Any]:
    """Return the values of a record by column name."""
    return msgspec.structs.asdict(record)
