"""What connections.list and connections.closed tell of real connections over wires in memory."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import fail
from twisted.logger import LogEvent

from gateway.cli import explain
from gateway.client.methods import ConnectionInfo
from gateway.config import Config, ServerConfig
from gateway.core.handshake import MAX_CLAIMS
from gateway.errors import StoreError
from gateway.net.facts import facts_of
from tests.net.gate import CLI, DEVICE, Client, Gate, closings, limited
from tests.net.wire import Wire, close_frame


def listed(gate: Gate, method: str = "list", **params: Any) -> list[dict[str, Any]]:
    """Ask as another operator; return the connections, its own left out."""
    admin = gate.join()
    payload = admin.call(f"connections.{method}", params)["payload"]
    rows: list[dict[str, Any]] = payload["connections"]
    for row in rows:
        msgspec.convert(row, ConnectionInfo)
    return [row for row in rows if row["connId"] != admin.server.conn_id]


@pytest.mark.parametrize("protocol", [3, 4])
def test_an_open_connection(gate: Gate, protocol: int) -> None:
    """A connection is told with who it is, since when it is there, and what it said last."""
    client = gate.join(protocol, device=DEVICE)
    gate.clock.advance(2.5)
    client.call("health")

    (row,) = listed(gate)
    assert row == {
        "connId": client.server.conn_id,
        "peer": row["peer"],
        "client": {"id": "cli", "mode": "cli", "version": "1.0", "platform": "linux"},
        "protocol": protocol,
        "role": "operator",
        "deviceId": row["deviceId"],
        "openedAtMs": gate.clock.now_ms() - 2500,
        "state": "open",
        "phase": "connected",
        "queuedBytes": 0,
        "framesIn": 2,
        "framesOut": client.server.frames_out,
        "lastFrame": {"type": "req", "method": "health", "id": "r2"},
        "host": row["host"],
    }
    assert row["peer"].startswith("127.0.0.1:")
    assert len(row["deviceId"]) == 64


def test_the_phases_of_a_connection(gate: Gate) -> None:
    """Connections that are not authenticated are told too, with what they are waited for."""
    waiting = gate.stall_store()
    wire = Wire()
    wire.connect(gate.wiring.factory.buildProtocol(wire.getPeer()))
    gate.open()
    deciding = gate.open()
    deciding.connect(device=DEVICE)
    closing = gate.join()
    closing.wire.receive(close_frame())

    rows = listed(gate)
    assert [row["phase"] for row in rows] == ["closing", "connect", "challenge", "upgrade"]
    assert [row["state"] for row in rows] == ["closing", "open", "open", "open"]
    assert {row["phase"] for row in rows} | {"connected"} == {*explain._PHASES, "closing"}
    assert [row["client"] for row in rows[1:]] == [None, None, None]
    assert [row["role"] for row in rows[1:]] == [None, None, None]
    waiting[0]()
    wire.lose()


def test_a_slow_and_a_silent_connection(gate: Gate) -> None:
    """What waits for a client that does not read is counted; one that answers no ping is silent."""
    slow = gate.join()
    slow.server.pauseProducing()
    gate.wiring.tick()
    silent = gate.join()
    gate.wiring.factory.sweep()
    gate.clock.advance(21)
    gate.wiring.factory.sweep()

    silent_row, slow_row = listed(gate)
    assert (silent_row["connId"], silent_row["state"]) == (silent.server.conn_id, "silent")
    assert (slow_row["state"], slow_row["queuedBytes"]) == ("slow", slow.server.outbox.queued)
    assert slow_row["queuedBytes"] > 200


def test_a_limit_and_a_beginning_of_an_id(gate: Gate) -> None:
    """At most as many as asked for are told, the newest first, with how many there are in all."""
    clients = [gate.join() for _ in range(4)]
    wanted = clients[1].server.conn_id

    answer = clients[0].call("connections.list", {"limit": 3})["payload"]
    assert answer["total"] == 4
    newest = [client.server.conn_id for client in reversed(clients)]
    assert [row["connId"] for row in answer["connections"]] == newest[:3]
    (row,) = listed(gate, connId=wanted[:13])
    assert row["connId"] == wanted
    assert listed(gate, "closed", connId=wanted[:13]) == []


def test_a_connection_that_was_refused(gate: Gate, log: list[LogEvent]) -> None:
    """A refused connection is remembered with its cause, and what it said it was."""
    client = gate.open()
    client.connect(auth={"token": "wrong-token-canary"})
    client.wire.lose()

    (row,) = listed(gate, "closed")
    assert (row["cause"], row["code"]) == ("unauthorized", 1008)
    assert row["reason"].startswith("unauthorized: ")
    assert (row["state"], row["phase"], row["handshake"]) == ("closed", "connect", "failed")
    assert row["claims"] == "cli cli v1.0"
    assert (row["durationMs"], row["closedAtMs"] - row["openedAtMs"]) == (250, 250)
    assert row["lastFrame"]["method"] == "connect"
    assert "canary" not in str(row)
    (line,) = closings(log)
    assert not {"connId", "lastFrame", "state", "openedAtMs", "closedAtMs"} & line.keys()
    assert (line["claims"], line["phase"], line["protocol"]) == ("cli cli v1.0", "connect", None)


def test_what_a_client_claims_is_cut(gate: Gate) -> None:
    """A refused client that says much of itself is remembered by the beginning of it."""
    client = gate.open()
    client.connect(auth={"token": "wrong"}, client=CLI | {"version": "v" * 5000})
    client.wire.lose()

    (row,) = listed(gate, "closed")
    assert len(row["claims"]) == MAX_CLAIMS


def test_a_connection_that_was_authenticated(gate: Gate) -> None:
    """An ended connection keeps who it was, and where it was when it ended."""
    info = CLI | {"displayName": "Ann's\tlaptop"}
    client = gate.join(client=info)
    client.wire.receive(close_frame(1000, b"bye"))
    client.wire.lose()

    (row,) = listed(gate, "closed")
    assert (row["cause"], row["code"], row["reason"]) == ("peer-closed", 1000, "bye")
    assert row["client"] == {
        "id": "cli",
        "mode": "cli",
        "version": "1.0",
        "platform": "linux",
        "displayName": "Ann's laptop",
    }
    assert (row["phase"], row["handshake"], row["protocol"]) == ("connected", "connected", 4)


def test_no_room_is_a_cause_of_its_own(log: list[LogEvent]) -> None:
    """A client beyond the maximum ends under capacity, and is remembered by what it claims."""
    gate = limited(connections_max=1)
    first = gate.join()
    second = gate.open()
    second.connect()
    second.wire.lose()
    first.wire.lose()

    last, refused = listed(gate, "closed")
    assert (refused["cause"], refused["code"], refused["claims"]) == (
        "capacity",
        1013,
        "cli cli v1.0",
    )
    assert refused["reason"] == "too many connections"
    assert last["cause"] == "peer-gone"
    assert [line["cause"] for line in closings(log)] == ["capacity", "peer-gone"]


def test_a_store_that_fails_is_no_want_of_room(
    gate: Gate, expected_failures: list[type[BaseException]]
) -> None:
    """A client that the store keeps out ends under internal-error, to come back later."""
    expected_failures.append(StoreError)
    gate.wiring.store.update_pairing = lambda *_: fail(StoreError("disk"))  # type: ignore[method-assign]
    client = gate.open()
    client.connect(device=DEVICE)
    client.wire.lose()

    del gate.wiring.store.update_pairing
    (row,) = listed(gate, "closed")
    assert (row["cause"], row["code"]) == ("internal-error", 1013)


def test_a_peer_through_a_proxy() -> None:
    """What the upgrade request said is told, and that a proxy brought it, with the client's address."""
    gate = Gate(config=Config(server=ServerConfig(trusted_proxies=["2001:db8::/32"])))
    client = Client(
        gate,
        Wire("2001:db8::7"),
        X_Forwarded_For="1.2.3.4",
        User_Agent="curl/8",
        Origin="http://x.y",
    )

    unix = Wire()
    unix.getPeer = lambda: UNIXAddress("/s")  # type: ignore[method-assign]
    local = Client(gate, unix)

    socket, row = listed(gate)
    assert socket["peer"] == "unix"
    local.wire.lose()
    assert (row["userAgent"], row["origin"], row["forwarded"]) == ("curl/8", "http://x.y", True)
    assert row["peer"] == "1.2.3.4"
    client.wire.lose()


def test_an_origin_that_is_a_whole_url_is_cut(gate: Gate) -> None:
    """Of an Origin only scheme and host are told: a password or a query in it is somebody's secret."""
    client = gate.open(Origin="https://user:canary@x.example/path?token=canary")
    assert facts_of(client.server)["origin"] == "https://x.example"
    odd = gate.open(Origin="x.example")
    assert " 400 " in odd.status or facts_of(odd.server)["origin"] == "x.example"
