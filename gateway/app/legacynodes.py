"""Protocol 3's own pairing of nodes, beside that of devices: a request, an approval, a token to check.

It belongs to no device and decides nothing here: what a connected node may do follows from the pairing of
its device and the approval of its surface. It is kept for tools that hand out and check such tokens, of
which only the digest is stored. Requests wait with those of surfaces (:mod:`gateway.app.surfaces`), one a
node; what a device asks for itself has precedence.
"""

from __future__ import annotations

import hmac
from typing import Any, Final

from msgspec.structs import replace

from gateway.app.hub import Hub
from gateway.app.surfaces import request_row, tell
from gateway.core import surface
from gateway.core.access import digest_of
from gateway.core.events import Event
from gateway.core.surfaceshapes import approved
from gateway.errors import Unavailable
from gateway.interfaces import IClock, IStore
from gateway.model import NodeRecord, SurfaceRequest

MAX_WAITING: Final = 100
"""Requests of this kind that wait at once: everybody who may pair can make them, under any name."""

_NO_TOKEN: Final = "0" * 64


class LegacyNodes:
    """The methods ``node.pair.request`` and ``node.pair.verify`` of version 3."""

    def __init__(self, *, clock: IClock, store: IStore, hub: Hub) -> None:
        self._clock = clock
        self._store = store
        self._hub = hub

    async def request(self, node_id: str, asked: SurfaceRequest) -> dict[str, Any]:
        """Ask for a token for a node; a request that waits already is told again.

        Those that have expired are deleted on the way. Raises Unavailable when too many wait.
        """
        now_ms, waiting = self._clock.now_ms(), 0
        records: tuple[NodeRecord, ...] = await self._store.list_nodes()
        for record in records:
            if record.request is None or not record.request.legacy:
                continue
            if surface.open_request(record, now_ms) is not None:
                waiting += 1
            else:
                await self._store.update_node(record.node_id, lambda r: surface.current(r, now_ms))
        if waiting >= MAX_WAITING:
            raise Unavailable("too many nodes wait for an operator", retryable=True)

        def change(record: NodeRecord) -> NodeRecord:
            record = surface.current(record, now_ms)
            return record if record.request is not None else replace(record, request=asked)

        record = await self._store.update_node(node_id, change)
        created = record.request == asked
        row = request_row(record)
        if created:
            tell(self._hub, node_id, Event("node.pair.requested", row))
        return {"status": "pending", "request": row, "created": created}

    async def verify(self, node_id: str, token: str) -> dict[str, Any]:
        """Return whether a token is the node's, and then the node; in a time that tells nothing of it."""
        record: NodeRecord = await self._store.get_node(node_id)
        if not hmac.compare_digest(digest_of(token), record.legacy_token or _NO_TOKEN):
            return {"ok": False}
        return {"ok": True, "node": approved(record, None)}
