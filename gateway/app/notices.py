"""Who is told of an approval: the operators who may answer it, and those who watch its session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateway.app.context import Caller
from gateway.app.hub import Hub
from gateway.core.access import ADMIN
from gateway.core.approval import SCOPE, Approval, Viewer
from gateway.core.approvalshapes import pending_shape, resolved_shape, session_shape
from gateway.core.events import Event
from gateway.interfaces import IClock


class Notices:
    """Tells connected operators."""

    def __init__(self, clock: IClock, hub: Hub) -> None:
        self._clock = clock
        self._hub = hub

    def reaches_anybody(self, approval: Approval) -> bool:
        """Whether an operator is connected who would be told of an approval, and may answer it."""
        return any(
            SCOPE in connection.caller.scopes and approval.reaches(viewer_of(connection.caller))
            for connection in self._hub.connections
        )

    def requested(self, approval: Approval) -> None:
        """Tell that it waits."""
        self._announce("exec.approval.requested", pending_shape, approval)

    def resolved(self, approval: Approval) -> None:
        """Tell the same operators that it has ended."""
        self._announce("exec.approval.resolved", resolved_shape, approval)

    def _announce(
        self, name: str, shape: Callable[[Approval, int], Any], approval: Approval
    ) -> None:
        event = Event(name, shape(approval, 4), v3=shape(approval, 3))
        self._hub.broadcast_where(event, lambda caller: approval.reaches(viewer_of(caller)))
        key = approval.question.session
        if not key:
            return
        watching = [c for c in self._hub.approval_watchers(key) if self._sees(c, approval)]
        if watching:
            payload = session_shape(approval, key, self._clock.now_ms())
            self._hub.send_to(Event("session.approval", payload, v3=None), watching, key)

    def _sees(self, conn_id: str, approval: Approval) -> bool:
        connection = self._hub.get(conn_id)
        return connection is not None and approval.visible_to(viewer_of(connection.caller))


def viewer_of(caller: Caller) -> Viewer:
    """Return a caller as approvals see it."""
    return Viewer(
        conn_id=caller.conn_id,
        device_id=caller.principal.device_id,
        protocol=caller.protocol,
        client_id=caller.client.id,
        caps=caller.caps,
        admin=ADMIN in caller.scopes,
    )
