"""A device gets itself paired without anybody's approval (attack 9)."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config import Config, PairingConfig
from gateway.core.deviceproof import DeviceIdentity
from tests.net.gate import CLI, DEVICE, UI, Gate

FAR = "192.0.2.7"
OTHER = DeviceIdentity.from_seed(b"\x09" * 32)
NODE = {"id": "node-host", "version": "1.0", "platform": "linux", "mode": "node"}


def refused(answer: dict[str, Any]) -> str:
    """Return why a device has to be approved first."""
    assert answer["error"]["code"] == "NOT_PAIRED", answer
    reason: str = answer["error"]["details"]["reason"]
    return reason


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("client", [UI, CLI, NODE], ids=["ui", "cli", "node"])
def test_s09_a_device_from_afar_waits_for_an_operator(
    gate: Gate, client: dict[str, str], protocol: int
) -> None:
    """The shared token alone pairs no device of another machine."""
    role = "node" if client is NODE else "operator"
    visitor = gate.open(FAR)
    assert (
        refused(visitor.connect(protocol, client=client, role=role, device=DEVICE)) == "not-paired"
    )


@pytest.mark.parametrize(
    "headers",
    [{"X_Forwarded_For": "127.0.0.1"}, {"Forwarded": "for=127.0.0.1"}],
    ids=["xff", "rfc"],
)
def test_s09_a_device_behind_a_proxy_is_not_local(gate: Gate, headers: dict[str, str]) -> None:
    """Who comes to loopback through a proxy is from elsewhere, whatever the headers say."""
    visitor = gate.open("127.0.0.1", **headers)
    if " 101 " in visitor.status:
        assert refused(visitor.connect(client=UI, device=DEVICE)) == "not-paired"


def test_s09_a_page_that_is_no_known_client_waits(gate: Gate) -> None:
    """A page of this machine with another client's name is not paired by itself."""
    visitor = gate.open(Origin="http://localhost:3000")
    assert refused(visitor.connect(client=CLI, device=DEVICE)) == "not-paired"


def test_s09_it_can_be_switched_off() -> None:
    """Where the operator wants to see every device, none is paired by itself, not even here."""
    gate = Gate(config=Config(pairing=PairingConfig(silent_local=False)))
    assert refused(gate.open().connect(client=UI, device=DEVICE)) == "not-paired"


def test_s09_a_known_device_does_not_grow_by_itself(gate: Gate) -> None:
    """A device that reads does not become an admin from afar, nor a node anywhere."""
    gate.open().connect(client=UI, scopes=["operator.read"], device=DEVICE)
    assert refused(gate.open(FAR).connect(client=UI, device=DEVICE)) == "scope-upgrade"
    node = gate.open().connect(client={**NODE, "platform": "linux"}, role="node", device=DEVICE)
    assert refused(node) == "role-upgrade"


def test_s09_another_key_gets_nothing_of_a_device(gate: Gate) -> None:
    """A device of another key that names itself after a paired one is refused by its proof."""
    gate.open().connect(client=UI, device=DEVICE)
    visitor = gate.open(FAR)
    nonce = visitor.received()[0]["payload"]["nonce"]
    params = {
        "minProtocol": 4,
        "maxProtocol": 4,
        "client": UI,
        "auth": {"token": "token-of-the-test-gateway"},
        "device": {
            "id": DEVICE.device_id,
            "publicKey": OTHER.public_key,
            "signature": OTHER.sign("x"),
            "signedAt": gate.clock.now_ms(),
            "nonce": nonce,
        },
    }
    visitor.request("connect", params)
    (answer,) = visitor.received()[:1]
    assert answer["error"]["details"]["reason"] == "device-id-mismatch"


def test_s09_an_operator_sees_who_asks_and_the_request_expires(gate: Gate) -> None:
    """What waits names device, client and address; after five minutes nothing waits, nothing was granted."""
    gate.open(FAR).connect(client=UI, device=DEVICE)
    admin = gate.join()
    (row,) = admin.call("device.pair.list", {})["payload"]["pending"]
    assert row["deviceId"] == DEVICE.device_id
    assert (row["clientId"], row["remoteIp"], row["scopes"]) == ("test", FAR, ["operator.admin"])
    gate.clock.advance(301)
    listed = admin.call("device.pair.list", {})["payload"]
    assert DEVICE.device_id not in {row["deviceId"] for row in listed["paired"] + listed["pending"]}
    answer = admin.call("device.pair.approve", {"requestId": row["requestId"]})
    assert answer["error"]["message"] == "unknown requestId"


def test_s09_a_request_is_approved_once(gate: Gate) -> None:
    """What was approved or refused can not be approved again."""
    gate.open(FAR).connect(client=UI, device=DEVICE)
    admin = gate.join()
    (row,) = admin.call("device.pair.list", {})["payload"]["pending"]
    params = {"requestId": row["requestId"]}
    assert admin.call("device.pair.reject", params)["ok"]
    assert not admin.call("device.pair.approve", params)["ok"]
    assert refused(gate.open(FAR).connect(client=UI, device=DEVICE)) == "not-paired"


def test_s09_a_flood_of_requests_is_bounded() -> None:
    """Devices without end that ask fill no memory and no list of an operator."""
    gate = Gate()
    for number in range(150):
        device = DeviceIdentity.from_seed(number.to_bytes(32, "big"))
        visitor = gate.open(f"2001:db8:{number % 40:x}::1")
        visitor.connect(client=UI, device=device)
        visitor.wire.lose()
    pending = gate.join().call("device.pair.list", {})["payload"]["pending"]
    assert len(pending) <= gate.wiring.edge.limits.pairing_requests_max


def test_s09_twin_a_client_of_this_machine_is_paired(gate: Gate) -> None:
    """Who has the token and is on this machine needs no approval, and an approved one gets in from afar."""
    assert gate.open().connect(client=UI, device=DEVICE)["ok"]
    gate.open(FAR).connect(client=UI, device=OTHER)
    admin = gate.join()
    (row,) = admin.call("device.pair.list", {})["payload"]["pending"]
    assert admin.call("device.pair.approve", {"requestId": row["requestId"]})["ok"]
    assert gate.open(FAR).connect(client=UI, device=OTHER)["ok"]
