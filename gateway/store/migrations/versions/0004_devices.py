"""Devices have a grant for each role, requests are stored, and so are nodes and settings."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_COPY = """
INSERT INTO devices (
    device_id, public_key, roles, scopes, created_at_ms, approved_at_ms, approved_via, display_name,
    platform, device_family, client_id, client_mode, last_seen_at_ms, grants, version
)
SELECT
    device_id, public_key, roles, scopes, created_at_ms, approved_at_ms, approved_via, display_name,
    platform, device_family, client_id, client_mode, last_seen_at_ms, '[]', version
FROM devices_0003 ORDER BY rowid
"""
_COPY_TOKENS = """
INSERT INTO device_tokens (digest, device_id, role, scopes, issued_at_ms, last_used_at_ms)
SELECT digest, device_id, role, scopes, issued_at_ms, last_used_at_ms
FROM device_tokens_0003 ORDER BY rowid
"""


def upgrade() -> None:
    """Make the tables of the devices anew, so that they are to the letter what a new database has."""
    op.drop_index("ix_devices_created", "devices")
    op.drop_index("ix_device_tokens_device", "device_tokens")
    op.rename_table("device_tokens", "device_tokens_0003")
    op.rename_table("devices", "devices_0003")
    _devices()
    op.execute(_COPY)
    _grant()
    op.execute(_COPY_TOKENS)
    op.drop_table("device_tokens_0003")
    op.drop_table("devices_0003")
    _others()


def _grant() -> None:
    """Give every device a grant for each of its roles, as old as its approval."""
    bind = op.get_bind()
    query = "SELECT device_id, roles, scopes, approved_at_ms FROM devices"
    for device_id, roles, scopes, approved_at_ms in bind.execute(sa.text(query)).all():
        grants = [
            {
                "role": role,
                "scopes": json.loads(scopes) if role == "operator" else [],
                "createdAtMs": approved_at_ms,
            }
            for role in json.loads(roles)
        ]
        bind.execute(
            sa.text("UPDATE devices SET grants = :grants WHERE device_id = :device_id"),
            {"grants": json.dumps(grants, separators=(",", ":")), "device_id": device_id},
        )


def _devices() -> None:
    op.create_table(
        "devices",
        sa.Column("device_id", sa.Text(), nullable=False),
        sa.Column("public_key", sa.Text(), nullable=False),
        sa.Column("roles", sa.Text(), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("approved_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("approved_via", sa.Text(), nullable=False),
        sa.Column("name", sa.Text()),
        sa.Column("display_name", sa.Text()),
        sa.Column("platform", sa.Text()),
        sa.Column("device_family", sa.Text()),
        sa.Column("client_id", sa.Text()),
        sa.Column("client_mode", sa.Text()),
        sa.Column("remote_ip", sa.Text()),
        sa.Column("last_seen_at_ms", sa.BigInteger()),
        sa.Column("last_seen_reason", sa.Text()),
        sa.Column("grants", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("device_id", name="pk_devices"),
    )
    op.create_index("ix_devices_created", "devices", ["created_at_ms", "device_id"])
    op.create_table(
        "device_tokens",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("device_id", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("issued_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_used_at_ms", sa.BigInteger()),
        sa.PrimaryKeyConstraint("digest", name="pk_device_tokens"),
        sa.ForeignKeyConstraint(
            ["device_id"],
            ["devices.device_id"],
            name="fk_device_tokens_device_id",
            ondelete="CASCADE",
        ),
    )
    op.create_index(
        "ix_device_tokens_device", "device_tokens", ["device_id", "role", "issued_at_ms"]
    )


def _others() -> None:
    op.create_table(
        "pairing_requests",
        sa.Column("device_id", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("requested_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("device_id", name="pk_pairing_requests"),
        sa.UniqueConstraint("request_id", name="uq_pairing_requests_request_id"),
    )
    op.create_index("ix_pairing_requests_age", "pairing_requests", ["requested_at_ms"])
    op.create_table(
        "nodes",
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("node_id", name="pk_nodes"),
    )
    op.create_table(
        "settings",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_settings"),
    )
