"""A gateway's door and the clients before it, for the tests of the handshake."""

from __future__ import annotations

import json
from typing import Any

from gateway.core.access import OriginPolicy, Peer
from gateway.core.connect import DoorPolicy
from gateway.core.credentials import AuthPolicy
from gateway.core.deviceproof import (
    DeviceIdentity,
    DeviceProof,
    SignedContext,
    payload_v2,
    payload_v3,
)
from gateway.core.handshake import Handshake, Step, new_handshake

TOKEN = "canary-token-of-the-gateway"
NONCE = "7f0e7a0e-0000-4000-8000-000000000000"
NOW_MS = 1_700_000_000_000
LOCAL = Peer("127.0.0.1", 50_000, host="127.0.0.1:18789")
REMOTE = Peer("192.0.2.7", 50_000, host="gateway.example")
DEVICE = DeviceIdentity.from_seed(bytes(range(32)))
POLICY = DoorPolicy(AuthPolicy("token", TOKEN), OriginPolicy())
MAX_QUEUED = 15
MAX_BYTES = 65_536


def client(kind: str = "cli/cli", **extra: Any) -> dict[str, Any]:
    """Return ``params.client`` of a client id and mode."""
    client_id, mode = kind.split("/")
    return {"id": client_id, "version": "1", "platform": "linux", "mode": mode, **extra}


def params(kind: str = "cli/cli", versions: tuple[int, int] = (3, 4), **extra: Any) -> Any:
    """Return connect params with the gateway's token; ``None`` leaves a field out."""
    fields = {
        "minProtocol": versions[0],
        "maxProtocol": versions[1],
        "client": client(kind),
        "role": "operator",
        "scopes": ["operator.admin"],
        "auth": {"token": TOKEN},
        **extra,
    }
    return {name: value for name, value in fields.items() if value is not None}


def signed(
    fields: Any,
    *,
    payload: str = "v3",
    identity: DeviceIdentity = DEVICE,
    nonce: str = NONCE,
    signed_at_ms: int = NOW_MS,
    **device: Any,
) -> Any:
    """Return connect params with the proof of a device, some of its fields changed."""
    who, auth = fields["client"], fields.get("auth", {})
    context = SignedContext(
        client_id=who["id"],
        client_mode=who["mode"],
        role=fields.get("role", "operator"),
        scopes=tuple(fields.get("scopes", ())),
        token=auth.get("token", auth.get("deviceToken")),
        platform=who["platform"],
        device_family=who.get("deviceFamily"),
    )
    build = {"v3": payload_v3, "v2": payload_v2}[payload]
    text = build(identity.device_id, signed_at_ms, nonce, context)
    proof = DeviceProof(
        identity.device_id, identity.public_key, identity.sign(text), signed_at_ms, nonce
    )
    shown = {
        "id": proof.id,
        "publicKey": proof.public_key,
        "signature": proof.signature,
        "signedAt": proof.signed_at_ms,
        "nonce": proof.nonce,
    }
    return {**fields, "device": {**shown, **device}}


def frame(fields: Any, method: str = "connect") -> bytes:
    """Return a request frame."""
    return json.dumps({"type": "req", "id": "c1", "method": method, "params": fields}).encode()


def opened(policy: DoorPolicy = POLICY, peer: Peer = LOCAL) -> Handshake:
    """Return the handshake of a connection whose challenge was written."""
    machine = new_handshake(lambda: policy, peer, max_queued=MAX_QUEUED, max_bytes=MAX_BYTES)
    machine.challenge(NONCE)
    return machine


def knock(data: bytes, policy: DoorPolicy = POLICY, peer: Peer = LOCAL) -> Step:
    """Return what becomes of a first frame."""
    return opened(policy, peer).receive(data, NOW_MS)
