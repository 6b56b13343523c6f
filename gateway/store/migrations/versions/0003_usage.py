"""What runs use is kept by model; sessions know their agent's conversation and what is in its context."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_COPY = """
INSERT INTO sessions (
    key, session_id, agent_id, created_at_ms, updated_at_ms, version, lifecycle_revision, label,
    settings, system_sent, aborted_last_run, input_tokens, output_tokens, total_tokens, compactions,
    parent_key, last_channel, created_via, last_message_preview, first_message_preview, search_text
)
SELECT
    key, session_id, agent_id, created_at_ms, updated_at_ms, version, lifecycle_revision, label,
    settings, system_sent, aborted_last_run, input_tokens, output_tokens, total_tokens, 0,
    parent_key, last_channel, created_via, last_message_preview, first_message_preview, search_text
FROM sessions_0002 ORDER BY rowid
"""


def upgrade() -> None:
    """Make the table of the sessions anew, so that it is to the letter what a new database has."""
    for index in ("updated", "agent", "parent", "label"):
        op.drop_index(f"ix_sessions_{index}", "sessions")
    op.rename_table("sessions", "sessions_0002")
    _sessions()
    op.execute(_COPY)
    op.drop_table("sessions_0002")
    system = sa.text("role = 'system'")
    op.create_index("ix_messages_system", "messages", ["session_id", "seq"], sqlite_where=system)
    _usage()


def _sessions() -> None:
    op.create_table(
        "sessions",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("lifecycle_revision", sa.Text(), nullable=False),
        sa.Column("label", sa.Text()),
        sa.Column("settings", sa.Text(), nullable=False),
        sa.Column("system_sent", sa.Boolean(), nullable=False),
        sa.Column("aborted_last_run", sa.Boolean(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("total_tokens", sa.BigInteger(), nullable=False),
        sa.Column("context_tokens", sa.BigInteger()),
        sa.Column("compactions", sa.BigInteger(), nullable=False),
        sa.Column("agent_session", sa.Text()),
        sa.Column("parent_key", sa.Text()),
        sa.Column("last_channel", sa.Text()),
        sa.Column("created_via", sa.Text(), nullable=False),
        sa.Column("last_message_preview", sa.Text()),
        sa.Column("first_message_preview", sa.Text()),
        sa.Column("search_text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_sessions"),
        sa.UniqueConstraint("session_id", name="uq_sessions_session_id"),
    )
    op.create_index("ix_sessions_updated", "sessions", ["updated_at_ms", "key"])
    op.create_index("ix_sessions_agent", "sessions", ["agent_id", "updated_at_ms", "key"])
    op.create_index("ix_sessions_parent", "sessions", ["parent_key", "updated_at_ms", "key"])
    op.create_index("ix_sessions_label", "sessions", ["label"])


def _usage() -> None:
    position = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "usage",
        sa.Column("position", position, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("ordinal", sa.BigInteger(), nullable=False),
        sa.Column("session_key", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("duration_ms", sa.BigInteger()),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cache_read_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cache_write_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost_nanousd", sa.BigInteger()),
        sa.PrimaryKeyConstraint("position", name="pk_usage"),
    )
    op.create_index("ix_usage_at", "usage", ["at_ms"])
    op.create_index("ix_usage_session", "usage", ["session_key", "at_ms"])
