"""Writes to what is kept of nodes that hold only as long as their device is one."""

from __future__ import annotations

from collections.abc import Callable

from gateway.app.revocation import Revocations
from gateway.core.pairing import active_grant
from gateway.interfaces import IStore
from gateway.model import NodeRecord, Pairing, Role


class PairedNodes:
    """Changes the records of paired nodes; what comes after a removal does not bring a record back."""

    def __init__(self, store: IStore, revocations: Revocations) -> None:
        self._store = store
        self._revocations = revocations

    async def update(self, node_id: str, change: Callable[[NodeRecord], NodeRecord]) -> bool:
        """Change the record of a node; return False, and change nothing, for one that is not paired.

        It is asked and written in two steps, so that a removal may come between them. Raises StoreError.
        """
        with self._revocations.watch(node_id) as watch:
            pairing: Pairing = await self._store.get_pairing(node_id)
            if active_grant(pairing.device, Role.NODE) is None:
                return False

            def unless_gone(record: NodeRecord) -> NodeRecord:
                return record if watch.gone else change(record)

            await self._store.update_node(node_id, unless_gone)
            return not watch.gone
