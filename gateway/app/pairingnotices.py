"""Who is told of pairings: operators who may decide on them, and a device of its own."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from gateway.app.context import Caller
from gateway.app.hub import Hub
from gateway.core.access import ADMIN
from gateway.core.events import Event
from gateway.core.pairingshapes import requested, resolved
from gateway.interfaces import IClock
from gateway.model import PairingRequest

APPROVED = "approved"
REJECTED = "rejected"

Decided = Callable[[PairingRequest, str], None]
"""Takes a request that has ended, and how: approved or rejected."""


class PairingNotices:
    """Announces requests and their ends to connected operators."""

    _log = Logger()

    def __init__(self, clock: IClock, hub: Hub) -> None:
        self._clock = clock
        self._hub = hub
        self._listeners: list[Decided] = []

    def add_listener(self, listener: Decided) -> None:
        """Call a function with every request that was decided."""
        self._listeners.append(listener)

    def requested(self, request: PairingRequest) -> None:
        """Tell that a device asks."""
        event = Event("device.pair.requested", requested(request, 4), v3=requested(request, 3))
        self._tell(event, request.device_id)

    def resolved(self, request: PairingRequest, decision: str) -> None:
        """Tell that a request was approved or rejected; superseding it rejects it."""
        self._resolved(request.request_id, request.device_id, decision)
        for listener in self._listeners:
            listener(request, decision)

    def paired(self, request_id: str, device_id: str) -> None:
        """Tell that a device was paired, or given more, without a request that anybody was told of."""
        self._log.info("device paired unasked device={device}", device=device_id)
        self._resolved(request_id, device_id, APPROVED)

    def changed(self, device_id: str) -> None:
        """Tell that a paired device is another now, or gone."""
        self._tell(Event("device.pair.changed", {}, v3=None), device_id)

    def _resolved(self, request_id: str, device_id: str, decision: str) -> None:
        payload = resolved(request_id, device_id, decision, self._clock.now_ms())
        self._tell(Event("device.pair.resolved", payload), device_id)

    def _tell(self, event: Event, device_id: str) -> None:
        self._hub.broadcast_where(event, lambda caller: sees_device(caller, device_id))


def sees_device(caller: Caller, device_id: str) -> bool:
    """Whether a caller may look at a device: a device that is no admin sees itself only."""
    own = caller.principal.device_id
    return ADMIN in caller.scopes or own is None or own == device_id
