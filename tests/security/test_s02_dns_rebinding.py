"""A page's own name is made to point at this machine (DNS rebinding, attack 2)."""

from __future__ import annotations

import pytest

from gateway.config import Config, ServerConfig
from gateway.core.hosts import HostPolicy, own_names
from tests.net.gate import CLI, DEVICE, UI, Client, Gate
from tests.net.wire import Wire, upgrade

REBOUND = [
    "rebind.attacker.example",
    "rebind.attacker.example:18789",
    "127.0.0.1.attacker.example:18789",
    "localhost.attacker.example",
    "localhost:18789@attacker.example",
    "attacker.example#localhost",
    "xn--lcalhost-9na",
    "[::1].attacker.example",
    "gateway.test-host",
    "7f000001.attacker.example",
]
OWN = ["127.0.0.1:18789", "localhost:18789", "LOCALHOST", "[::1]:18789", "test-host:18789"]


def called(gate: Gate, host: str, **headers: str) -> Client:
    """Open a WebSocket by a name."""
    client = gate.open()
    client.wire.lose()
    client.wire = wire = Wire()
    client.server = wire.connect(gate.wiring.factory.buildProtocol(wire.getPeer()))
    wire.receive(upgrade(**headers).replace(b"Host: 127.0.0.1:18789", b"Host: " + host.encode()))
    head, _, _ = wire.sent.partition(b"\r\n\r\n")
    client.response = head.decode()
    client._seen = len(head) + 4
    return client


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("with_origin", [False, True])
@pytest.mark.parametrize("host", REBOUND)
def test_s02_a_foreign_name_is_refused(
    gate: Gate, host: str, with_origin: bool, protocol: int
) -> None:
    """Whoever calls the gateway on this machine by a name that is not its own is refused, token or not."""
    headers = {"Origin": f"http://{host}"} if with_origin else {}
    visitor = called(gate, host, **headers)

    if " 101 " in visitor.status:
        assert not visitor.connect(protocol, client=UI, device=DEVICE)["ok"]
        closed = visitor.closed()
        assert closed is not None
        assert closed[0] == 1008
    else:
        assert visitor.status == "HTTP/1.1 400 Bad Request", "what is no name of a host"
    assert len(gate.wiring.services.hub) == 0


@pytest.mark.parametrize("host", REBOUND)
def test_s02_a_foreign_name_is_no_own_name(host: str) -> None:
    """None of these spellings is taken for an address or a name of this machine."""
    assert not HostPolicy(own_names("test-host")).knows(host)


@pytest.mark.parametrize("host", OWN)
def test_s02_twin_its_own_names_work(gate: Gate, host: str) -> None:
    """By an address, as localhost and by the machine's name it can be called."""
    assert called(gate, host).connect(client=CLI)["ok"]


def test_s02_twin_a_name_of_the_operator_works() -> None:
    """A name that the configuration lists works too, whatever its case."""
    gate = Gate(config=Config(server=ServerConfig(allowed_hosts=["gateway.example"])))
    assert called(gate, "Gateway.Example:18789").connect(client=CLI)["ok"]
