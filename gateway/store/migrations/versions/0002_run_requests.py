"""Runs keep their request until they have ended, and how much of their log is stored."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# What an event takes beside its data is 200 bytes, as gateway.store.logs had it when this was written.
_COPY = """
INSERT INTO runs (
    position, run_id, epoch, session_key, session_id, agent_id, origin, actor, fingerprint, state,
    accepted_at_ms, started_at_ms, ended_at_ms, stop_reason, error, last_seq,
    evicted_through, log_bytes
)
SELECT
    position, run_id, epoch, session_key, session_id, agent_id, origin, actor, fingerprint, state,
    accepted_at_ms, started_at_ms, ended_at_ms, stop_reason, error, last_seq,
    0, (
        SELECT coalesce(sum(length(data) + 200), 0) FROM run_events
        WHERE run_events.run_id = old.run_id AND old.ended_at_ms IS NOT NULL
    )
FROM runs_0001 AS old ORDER BY position
"""


def upgrade() -> None:
    """Make the table of the runs anew, so that it is to the letter what a new database has."""
    op.drop_index("ix_runs_state", "runs")
    op.drop_index("ix_runs_ended", "runs")
    op.rename_table("runs", "runs_0001")
    _runs()
    op.execute(_COPY)
    op.drop_table("runs_0001")


def _runs() -> None:
    position = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "runs",
        sa.Column("position", position, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Text(), nullable=False),
        sa.Column("session_key", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("accepted_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("started_at_ms", sa.BigInteger()),
        sa.Column("ended_at_ms", sa.BigInteger()),
        sa.Column("stop_reason", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("log_bytes", sa.BigInteger(), nullable=False),
        sa.Column("evicted_through", sa.BigInteger(), nullable=False),
        sa.Column("request", sa.LargeBinary()),
        sa.PrimaryKeyConstraint("position", name="pk_runs"),
        sa.UniqueConstraint("run_id", name="uq_runs_run_id"),
    )
    op.create_index("ix_runs_state", "runs", ["state", "position"])
    op.create_index("ix_runs_session", "runs", ["session_key", "position"])
    op.create_index("ix_runs_ended", "runs", ["ended_at_ms"])
    op.create_index(
        "ix_runs_log", "runs", ["position", "log_bytes"], sqlite_where=sa.text("log_bytes > 0")
    )
