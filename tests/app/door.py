"""A gateway's door, and a device in front of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred

from gateway.app.admission import Admission, Admitted
from gateway.core.access import AuthPolicy, OriginPolicy, Peer
from gateway.core.connect import DoorPolicy, Refusal, decode_connect, judge
from gateway.core.deviceproof import DeviceIdentity, SignedContext
from gateway.model import Device
from gateway.testing import TOKEN, FakeClock, FakeEntropy, memory_store, result_of
from tests.app.faults import FaultyStore
from tests.app.harness import LOCAL

READ = ("operator.read",)


@dataclass
class Door:
    """A gateway's door and one device in front of it."""

    clock: FakeClock
    store: Any
    admission: Admission
    identity: DeviceIdentity
    auth: AuthPolicy

    def knock(
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
    ) -> Admitted:
        """Connect; return what was admitted, or raise the refusal."""
        auth = {"token": TOKEN} if auth is None else auth
        context = SignedContext(
            client_id=client[0],
            client_mode=client[1],
            role=role,
            scopes=scopes,
            token=auth.get("token", auth.get("deviceToken", "")),
            platform="linux",
            device_family=facts.get("deviceFamily"),
        )
        now_ms = self.clock.now_ms()
        params: dict[str, Any] = {
            "minProtocol": protocol,
            "maxProtocol": protocol,
            "client": {
                "id": client[0],
                "mode": client[1],
                "version": "1.0",
                "platform": "linux",
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
        return result_of(Deferred.fromCoroutine(self.admission.admit(proven)))

    def refusal(self, *args: Any, **how: Any) -> dict[str, Any]:
        """Connect; return the error of the refusal."""
        with pytest.raises(Refusal) as caught:
            self.knock(*args, **how)
        assert caught.value.error is not None
        return caught.value.error

    def device(self) -> Device | None:
        """Return what the store has of the device."""
        device: Device | None = result_of(self.store.get_device(self.identity.device_id))
        return device


def make_door() -> Door:
    """Return a door with the test kit's token."""
    clock = FakeClock()
    store: Any = FaultyStore(memory_store(clock))
    admission = Admission(clock=clock, entropy=FakeEntropy(), store=store)
    identity = DeviceIdentity.from_seed(b"1" * 32)
    return Door(clock, store, admission, identity, AuthPolicy("token", TOKEN))
