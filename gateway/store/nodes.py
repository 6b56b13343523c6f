"""What is kept of nodes, and the settings that clients may change."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from sqlalchemy import Connection, bindparam, delete, insert, select

from gateway.errors import StoreError
from gateway.model import NodeRecord
from gateway.store.changes import call_change
from gateway.store.tables import nodes, settings

LIST_LIMIT = 2000

_NODE = select(nodes.c.record).where(nodes.c.node_id == bindparam("node_id"))
_NODES = select(nodes.c.record).order_by(nodes.c.node_id).limit(LIST_LIMIT)
_INSERT_NODE = insert(nodes)
_DELETE_NODE = delete(nodes).where(nodes.c.node_id == bindparam("at_node_id"))

_SETTING = select(settings.c.value).where(settings.c.name == bindparam("name"))
_INSERT_SETTING = insert(settings)
_DELETE_SETTING = delete(settings).where(settings.c.name == bindparam("at_name"))


def node_by_id(connection: Connection, node_id: str) -> NodeRecord:
    """Return what is kept of a node."""
    record = connection.execute(_NODE, {"node_id": node_id}).scalar()
    return NodeRecord(node_id=node_id) if record is None else _decoded(record)


def all_nodes(connection: Connection) -> tuple[NodeRecord, ...]:
    """Return what is kept of all nodes, by id."""
    return tuple(map(_decoded, connection.execute(_NODES).scalars()))


def update_node(
    connection: Connection, node_id: str, change: Callable[[NodeRecord], NodeRecord]
) -> NodeRecord:
    """Store what ``change`` makes of a node; one that says nothing is deleted."""
    current = node_by_id(connection, node_id)
    wanted = call_change(change, current)
    if wanted.node_id != node_id:
        raise StoreError("a node can not change its id")
    if wanted != current:
        connection.execute(_DELETE_NODE, {"at_node_id": node_id})
        if wanted != NodeRecord(node_id=node_id):
            values = {"node_id": node_id, "record": msgspec.json.encode(wanted)}
            connection.execute(_INSERT_NODE, values)
    return wanted


def setting(connection: Connection, name: str) -> bytes | None:
    """Return a setting."""
    value: bytes | None = connection.execute(_SETTING, {"name": name}).scalar()
    return value


def update_setting(
    connection: Connection, name: str, change: Callable[[bytes | None], bytes | None]
) -> bytes | None:
    """Store what ``change`` makes of a setting; ``None`` deletes it."""
    current = setting(connection, name)
    wanted = call_change(change, current)
    if wanted != current:
        connection.execute(_DELETE_SETTING, {"at_name": name})
        if wanted is not None:
            connection.execute(_INSERT_SETTING, {"name": name, "value": wanted})
    return wanted


def _decoded(record: bytes) -> NodeRecord:
    return msgspec.json.decode(record, type=NodeRecord)
