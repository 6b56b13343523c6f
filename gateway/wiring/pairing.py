"""The parts that let devices in, and take what they may away from them again."""

from __future__ import annotations

from typing import Any

from gateway.app.admission import Admission
from gateway.app.devices import Devices
from gateway.app.pairingcaps import PairingCaps
from gateway.app.pairingnotices import PairingNotices
from gateway.app.periodic import Sized
from gateway.app.revocation import Revocations
from gateway.app.scopeupgrades import ScopeUpgrades
from gateway.app.setupcodes import SetupCodes
from gateway.app.threads import InThread
from gateway.wiring.base import Base


class PairingParts:
    """Admission and pairing, connected."""

    def __init__(self, base: Base, in_thread: InThread) -> None:
        clock, entropy, store, hub = base.clock, base.entropy, base.store, base.hub
        limits = base.config.limits
        self.notices, self.revocations = PairingNotices(clock, hub), Revocations(hub)
        common: dict[str, Any] = {"clock": clock, "store": store, "revocations": self.revocations}
        caps = PairingCaps(hub=hub, limits=limits, **common)
        shared = {**common, "entropy": entropy, "notices": self.notices}
        codes = SetupCodes(
            clock=clock,
            entropy=entropy,
            hub=hub,
            revocations=self.revocations,
            limits=limits,
            in_thread=in_thread,
        )
        upgrades = ScopeUpgrades(maximum=limits.scope_upgrades_max, **shared)
        self.admission = Admission(
            hub=hub,
            caps=caps,
            silent_local=base.config.pairing.silent_local,
            setup_codes=codes,
            **shared,
        )
        self.services: dict[str, Any] = {
            "pairing_caps": caps,
            "revocations": self.revocations,
            "pairing_notices": self.notices,
            "devices": Devices(hub=hub, caps=caps, **shared),
            "scope_upgrades": upgrades,
            "setup_codes": codes,
        }
        """By the names that :class:`gateway.app.context.Services` has for them."""
        self.registries: tuple[Sized, ...] = (codes, upgrades)
