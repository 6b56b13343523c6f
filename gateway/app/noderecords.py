"""Notes in the store when nodes come and go: at most once a minute of each node."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from msgspec.structs import replace
from twisted.internet.defer import Deferred, gatherResults
from twisted.python.failure import Failure

from gateway.app.nodes import NodeListener, NodeSession
from gateway.app.periodic import Periodic
from gateway.interfaces import IClock, IStore
from gateway.model import NodeRecord

INTERVAL_S: Final = 60.0
MAX_NOTED: Final = 4096
"""Nodes whose last note is remembered; beyond, all that waits is written at once."""


@dataclass(slots=True)
class _Note:
    """What is to be written of one node, and when something was written last."""

    fields: dict[str, Any] = field(default_factory=dict)
    written_at: float = float("-inf")


class NodeRecords(Periodic, NodeListener):
    """Writes when a node was connected and what it said it is; the rest of its record stays as it is.

    A node that comes and goes all the time is written once in a minute, with what holds then.
    """

    def __init__(self, clock: IClock, store: IStore) -> None:
        super().__init__("node records", clock, INTERVAL_S, self.flush)
        self._store = store
        self._notes: dict[str, _Note] = {}

    def __len__(self) -> int:
        return len(self._notes)

    def stopService(self) -> Deferred[Any]:
        """Write what waits, then end."""
        stopped = super().stopService()
        written = self.flush()
        return written if stopped is None else gatherResults([stopped, written])

    def node_joined(self, session: NodeSession) -> None:
        """Note that a node is there, and what it says of itself."""
        caller = session.caller
        client = caller.client
        self._note(
            session.node_id,
            last_connected_at_ms=session.since_ms,
            last_seen_at_ms=session.since_ms,
            last_seen_reason="connect",
            display_name=client.display_name,
            platform=client.platform,
            version=client.version,
            device_family=client.device_family,
            model_identifier=client.model_identifier,
            remote_ip=None if caller.peer.local else caller.peer.address,
        )

    def node_left(self, session: NodeSession) -> None:
        """Note that a node has gone."""
        self._note(session.node_id, last_disconnected_at_ms=self.clock.now_ms())

    def forget(self, node_id: str) -> None:
        """Write nothing that waits of a node: it is none any more."""
        self._notes.pop(node_id, None)

    def flush(self) -> Deferred[Any]:
        """Write what waits, and forget the nodes of which nothing was written for a while."""
        now = self.clock.seconds()
        for node_id, note in list(self._notes.items()):
            if not note.fields and note.written_at + INTERVAL_S <= now:
                del self._notes[node_id]
        waiting = [(node_id, note) for node_id, note in self._notes.items() if note.fields]
        return gatherResults([self._write(node_id, note) for node_id, note in waiting])

    def _note(self, node_id: str, **fields: Any) -> None:
        note = self._notes.get(node_id)
        if note is None:
            if len(self._notes) >= MAX_NOTED:
                self.flush()
                self._notes.clear()
            note = self._notes[node_id] = _Note()
        note.fields.update(fields)
        if note.written_at + INTERVAL_S <= self.clock.seconds():
            self._write(node_id, note)

    def _write(self, node_id: str, note: _Note) -> Deferred[Any]:
        fields, note.fields = note.fields, {}
        note.written_at = self.clock.seconds()

        def change(record: NodeRecord) -> NodeRecord:
            if "last_connected_at_ms" not in fields and record.last_connected_at_ms is None:
                return record  # it was removed meanwhile: its end must not bring it back
            return replace(record, **fields)

        def failed(failure: Failure) -> None:
            self._log.failure("a note of a node failed node={node}", failure, node=node_id)

        return self._store.update_node(node_id, change).addErrback(failed)
