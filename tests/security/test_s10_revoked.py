"""What was revoked, rotated or removed is still good somewhere (attack 10)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent

from tests.net.gate import DEVICE, UI, Client, Gate, closings

FAR = "192.0.2.7"
SOON_S = 5


def paired(gate: Gate, protocol: int) -> tuple[Client, str]:
    """Pair a device; return a connection that came in by its token, and the token."""
    first = gate.open()
    answer = first.connect(protocol, client=UI, device=DEVICE)
    token: str = answer["payload"]["auth"]["deviceToken"]
    first.wire.lose()
    client = gate.open(FAR)
    assert client.connect(protocol, client=UI, auth={"token": token}, device=DEVICE)["ok"]
    return client, token


def _revoke(admin: Client) -> Any:
    return admin.call("device.token.revoke", {"deviceId": DEVICE.device_id, "role": "operator"})


def _rotate(admin: Client) -> Any:
    return admin.call("device.token.rotate", {"deviceId": DEVICE.device_id, "role": "operator"})


def _remove(admin: Client) -> Any:
    return admin.call("device.pair.remove", {"deviceId": DEVICE.device_id})


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("take", [_revoke, _rotate, _remove], ids=["revoke", "rotate", "remove"])
def test_s10_open_and_new_connections_end(
    gate: Gate, log: list[LogEvent], take: Callable[[Client], Any], protocol: int
) -> None:
    """A token that was taken back lets nobody in, and who is in by it is out at once."""
    client, token = paired(gate, protocol)
    admin = gate.join(protocol)

    assert take(admin)["ok"]
    gate.clock.advance(SOON_S)

    closed = client.closed()
    assert closed is not None
    assert closed[0] == 4001
    client.wire.lose()
    assert closings(log)[-1]["cause"] == "client-invalidated"
    again = gate.open(FAR)
    assert not again.connect(protocol, client=UI, auth={"token": token}, device=DEVICE)["ok"]
    explicit = gate.open(FAR)
    answer = explicit.connect(protocol, client=UI, auth={"deviceToken": token}, device=DEVICE)
    assert not answer["ok"]
    assert admin.call("health")["ok"]


@pytest.mark.parametrize("take", [_revoke, _rotate, _remove], ids=["revoke", "rotate", "remove"])
def test_s10_who_is_being_let_in_is_not_let_in_after_it(
    gate: Gate, take: Callable[[Client], Any]
) -> None:
    """A connect that was decided while the right was taken back gets nothing."""
    _, token = paired(gate, 4)
    admin = gate.join()
    store = gate.wiring.store
    real, held = store.get_pairing, []

    def later(device_id: str) -> Any:
        done: Deferred[Any] = Deferred()
        real(device_id).addCallback(lambda found: held.append((done, found)))
        return done

    store.get_pairing = later  # type: ignore[method-assign]
    racing = gate.open(FAR)
    racing.connect(client=UI, auth={"token": token}, device=DEVICE)
    store.get_pairing = real  # type: ignore[method-assign]
    assert take(admin)["ok"]
    assert held
    for done, found in held:
        done.callback(found)
    gate.clock.advance(SOON_S)
    assert racing.server.context is None or racing.closed() is not None


def test_s10_requests_in_work_of_who_is_out_are_not_answered(gate: Gate) -> None:
    """What a connection had asked before it was ended is not told to it afterwards."""
    client, _ = paired(gate, 4)
    client.request("agent.wait", {"runId": "nothing", "timeoutMs": 60_000})
    _remove(gate.join())
    client.received()
    gate.clock.advance(61)
    assert [frame for frame in client.received() if frame.get("type") == "res"] == []


NEW = "another-shared-secret-0123456789"


def _change(gate: Gate) -> None:
    """Take another shared secret, as the service does when its file has changed."""
    gate.wiring.edge.policy = gate.wiring.door(NEW)
    gate.wiring.services.revocations.shared("token")


@pytest.mark.parametrize("protocol", [3, 4])
def test_s10_the_shared_secret_is_changed(gate: Gate, log: list[LogEvent], protocol: int) -> None:
    """Who came in by the old one is out, whoever is being let in by it stays out, and it opens no more."""
    inside = [gate.join(protocol), gate.join(protocol, host=FAR)]
    waiting = gate.stall_store()
    racing = gate.open(FAR)
    racing.connect(protocol, client=UI, device=DEVICE)
    _change(gate)
    for answer in waiting:
        answer()
    gate.clock.advance(SOON_S)

    for client in inside:
        assert client.closed() == (4001, "gateway auth changed")
        client.wire.lose()
        assert closings(log)[-1]["cause"] == "gateway-auth-rotated"
    assert racing.server.context is None or racing.closed() is not None
    assert not gate.open().connect(protocol)["ok"]
    assert gate.open().connect(protocol, auth={"token": NEW})["ok"]


@pytest.mark.parametrize("protocol", [3, 4])
def test_s10_twin_a_device_s_own_token_outlives_the_shared_secret(
    gate: Gate, protocol: int
) -> None:
    """Who came in by a token of his own is not disturbed by a new shared secret, and can come again."""
    client, token = paired(gate, protocol)
    _change(gate)
    gate.clock.advance(SOON_S)

    assert client.call("health")["ok"]
    again = gate.open(FAR)
    assert again.connect(protocol, client=UI, auth={"token": token}, device=DEVICE)["ok"]


def test_s10_twin_others_stay(gate: Gate) -> None:
    """Who came in by another credential, or as another device, notices nothing."""
    paired(gate, 4)
    other, cli = gate.join(), gate.join(3)
    _remove(gate.join())
    gate.clock.advance(SOON_S)
    assert other.call("health")["ok"]
    assert cli.call("health")["ok"]


def test_s10_twin_a_removed_device_can_be_paired_again(gate: Gate) -> None:
    """After its removal a device starts anew, by approval as any other."""
    paired(gate, 4)
    _remove(gate.join())
    assert gate.open().connect(client=UI, device=DEVICE)["ok"]


def test_s10_the_log_says_who_gave_and_took(gate: Gate, log: list[LogEvent]) -> None:
    """Who let a device in, and who threw it out, can be found afterwards."""
    paired(gate, 4)
    admin = gate.join()
    admin.call("device.pair.setupCode", {"publicUrl": "wss://gateway.example"})
    for take in (_rotate, _revoke, _remove):
        assert take(admin)["ok"]

    lines = [
        str(event.get("log_format")).format(**event)
        for event in log
        if str(event.get("log_format")).startswith(("device ", "setup code made"))
    ]
    first, made, *taken = lines
    assert first == f"device paired unasked device={DEVICE.device_id}"
    assert made.endswith(" profile=full by=shared:token")
    assert len(taken) == 3
    assert all(line.endswith(" by=shared:token") for line in taken)
