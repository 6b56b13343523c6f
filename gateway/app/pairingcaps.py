"""How many devices may be known, and how many may wait to be: never more than the gateway can show."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from twisted.internet.defer import DeferredLock
from twisted.logger import Logger

from gateway.app.hub import Hub
from gateway.app.revocation import Revocations
from gateway.core.attempts import canonical_address
from gateway.core.pairing import live, remove
from gateway.errors import StoreError, Unavailable
from gateway.interfaces import IClock, IStore
from gateway.limits import LimitsConfig
from gateway.model import Device, NodeRecord, Pairing


class PairingCaps:
    """Makes room for one more device or request, or says that there is none.

    Hold ``turn`` from asking for room until it is taken; else two may be given the same place.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        clock: IClock,
        store: IStore,
        hub: Hub,
        revocations: Revocations,
        limits: LimitsConfig,
    ) -> None:
        self._clock = clock
        self._store = store
        self._hub = hub
        self._revocations = revocations
        self._limits = limits
        self.turn = DeferredLock()

    async def for_request(self, address: str | None) -> None:
        """Make sure that one more device may wait for approval; ``address`` is None on this machine.

        Requests that nobody may approve any more are deleted on the way. Raises Unavailable: those that
        wait are never driven out by who comes later.
        """
        limits, waiting = self._limits, []
        for pairing in await self._store.list_pairings():
            if pairing.request is None:
                continue
            still = partial(live, now_ms=self._clock.now_ms())
            if still(pairing).request is not None:
                waiting.append(pairing.request)
            else:
                await self._store.update_pairing(pairing.device_id, still)
        near = [r for r in waiting if _source(r.remote_ip) == _source(address)]
        if (
            len(waiting) >= limits.pairing_requests_max
            or len(near) >= limits.pairing_requests_per_address
        ):
            raise Unavailable(
                "too many pairing requests wait (on the gateway's host: gatewayctl devices list)",
                retryable=True,
                retry_after_ms=30_000,
            )

    async def for_device(self) -> None:
        """Make sure that one more device may be paired: one that nobody asked for and nobody misses goes.

        Raises Unavailable where there is none such.
        """
        pairings: tuple[Pairing, ...] = await self._store.list_pairings()
        devices = [pairing.device for pairing in pairings if pairing.device is not None]
        if len(devices) < self._limits.devices_max:
            return
        for device in self._least_missed(devices):
            if await self._forget(device):
                return
        raise Unavailable(
            f"{len(devices)} devices are paired already, which is limits.devices_max"
            " (on the gateway's host: gatewayctl devices remove ID)"
        )

    def _least_missed(self, devices: Iterable[Device]) -> list[Device]:
        """Return devices that were paired silently and are not there, the one unseen for longest first."""
        candidates = [
            device
            for device in devices
            if device.approved_via == "silent" and not self._hub.of_device(device.device_id)
        ]
        return sorted(candidates, key=lambda device: device.last_seen_at_ms or 0)

    async def _forget(self, device: Device) -> bool:
        """Remove a device unless it changed meanwhile; return whether it is gone."""

        def unless_changed(current: Pairing) -> Pairing:
            return remove(current) if current.device == device else current

        left: Pairing = await self._store.update_pairing(device.device_id, unless_changed)
        if left.device is not None:
            return False
        self._revocations.device(device.device_id)
        self._log.info(
            "device {device} was forgotten: more are paired than limits.devices_max allows",
            device=device.device_id,
        )
        await self.forget_node(device.device_id)
        return True

    async def forget_node(self, device_id: str) -> None:
        """Delete what is kept of a device as a node, once it is removed.

        Where the store fails that much is left: what was approved in it counts for no other pairing.
        """
        try:
            await self._store.update_node(device_id, lambda _: NodeRecord(node_id=device_id))
        except StoreError:
            self._log.failure(
                "the node record of a removed device stays device={device}", device=device_id
            )


def _source(address: str | None) -> str | None:
    """Return where clients come from that share a budget: an address, or an IPv6 network."""
    return None if address is None else canonical_address(address)
