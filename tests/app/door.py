"""A gateway's door, and a device in front of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred

from gateway.app.admission import Admission, Admitted
from gateway.app.hub import Hub
from gateway.app.pairingcaps import PairingCaps
from gateway.app.revocation import Revocations
from gateway.core.access import OriginPolicy, Peer
from gateway.core.connect import DoorPolicy, Proven, judge
from gateway.core.connectparams import decode_connect
from gateway.core.credentials import AuthPolicy
from gateway.core.deviceproof import DeviceIdentity, SignedContext
from gateway.core.pairing import approve
from gateway.core.refusals import Refusal
from gateway.limits import LimitsConfig
from gateway.metrics import Metrics
from gateway.model import Device, Pairing
from gateway.testing import TOKEN, FakeClock, FakeEntropy, memory_store, result_of
from tests.app.faults import FaultyStore
from tests.app.harness import LOCAL, FakeConnection, make_caller

READ = ("operator.read",)


@dataclass
class Door:
    """A gateway's door and one device in front of it."""

    clock: FakeClock
    store: Any
    admission: Admission
    identity: DeviceIdentity
    auth: AuthPolicy
    hub: Hub
    revocations: Revocations
    operator: FakeConnection
    """Somebody who may pair devices."""

    @property
    def told(self) -> list[tuple[str, dict[str, Any]]]:
        """The events that the operator got: names and payloads."""
        return [(frame["event"], frame["payload"]) for frame in self.operator.frames]

    def proven(
        self,
        protocol: int = 4,
        *,
        role: str = "operator",
        scopes: tuple[str, ...] = READ,
        auth: dict[str, str] | None = None,
        peer: Peer = LOCAL,
        device: bool = True,
        client: tuple[str, str] = ("test", "ui"),
        **facts: str,
    ) -> Proven:
        """Return a connect request of the device, judged without the store."""
        auth = {"token": TOKEN} if auth is None else auth
        context = SignedContext(
            client_id=client[0],
            client_mode=client[1],
            role=role,
            scopes=scopes,
            token=auth.get("token", auth.get("deviceToken", auth.get("bootstrapToken", ""))),
            platform=facts.get("platform", "linux"),
            device_family=facts.get("deviceFamily"),
        )
        now_ms = self.clock.now_ms()
        facts = {"platform": "linux", **facts}
        params: dict[str, Any] = {
            "minProtocol": protocol,
            "maxProtocol": protocol,
            "client": {
                "id": client[0],
                "mode": client[1],
                "version": "1.0",
                **facts,
            },
            "role": role,
            "scopes": scopes,
            "auth": auth,
        }
        if device:
            proof = self.identity.prove(context, nonce="n", signed_at_ms=now_ms)
            params["device"] = {
                "id": proof.id,
                "publicKey": proof.public_key,
                "signature": proof.signature,
                "signedAt": now_ms,
                "nonce": "n",
            }
        proven = judge(
            decode_connect(msgspec.json.encode(params)),
            policy=DoorPolicy(self.auth, OriginPolicy()),
            peer=peer,
            nonce="n",
            now_ms=now_ms,
        )
        return proven

    def knock(self, *args: Any, **how: Any) -> Admitted:
        """Connect; return what was admitted, or raise the refusal."""
        return self.enter(self.proven(*args, **how))

    def enter(self, proven: Proven) -> Admitted:
        """Let the store judge a connect request; return what was admitted, or raise the refusal."""
        return result_of(Deferred.fromCoroutine(self.admission.admit(proven)))

    def knocking(self, *args: Any, **how: Any) -> Deferred[Admitted]:
        """Connect; return a Deferred of what is admitted."""
        return Deferred.fromCoroutine(self.admission.admit(self.proven(*args, **how)))

    def refusal(self, *args: Any, **how: Any) -> dict[str, Any]:
        """Connect; return the error of the refusal."""
        with pytest.raises(Refusal) as caught:
            self.knock(*args, **how)
        assert caught.value.error is not None
        return caught.value.error

    def device(self) -> Device | None:
        """Return what the store has of the device."""
        return self.pairing().device

    def pairing(self) -> Pairing:
        """Return all that the store has of the device."""
        pairing: Pairing = result_of(self.store.get_pairing(self.identity.device_id))
        return pairing

    def change(self, change: Callable[[Pairing], Pairing]) -> Pairing:
        """Change what the store has of the device."""
        pairing: Pairing = result_of(self.store.update_pairing(self.identity.device_id, change))
        return pairing

    def approve(self) -> None:
        """Approve what the device asks for, as an operator does."""
        request = self.pairing().request
        assert request is not None
        now_ms = self.clock.now_ms()
        self.change(lambda p: approve(p, request.request_id, via="owner", now_ms=now_ms))


def make_door(*, limits: LimitsConfig | None = None, **how: Any) -> Door:
    """Return a door with the test kit's token; ``how`` goes to the admission."""
    clock = FakeClock()
    store: Any = FaultyStore(memory_store(clock))
    hub = Hub(Metrics([]), maximum=100)
    revocations = Revocations(hub)
    caps = PairingCaps(
        clock=clock, store=store, hub=hub, revocations=revocations, limits=limits or LimitsConfig()
    )
    admission = Admission(
        clock=clock,
        entropy=FakeEntropy(),
        store=store,
        hub=hub,
        revocations=revocations,
        caps=caps,
        **how,
    )
    identity = DeviceIdentity.from_seed(b"1" * 32)
    auth = AuthPolicy("token", TOKEN)
    operator = FakeConnection(make_caller("operator", scopes=("operator.pairing",)))
    hub.add(operator)
    return Door(clock, store, admission, identity, auth, hub, revocations, operator)
