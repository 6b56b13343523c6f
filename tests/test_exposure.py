"""Who can reach the gateway: every way to say it, and the refusal to stand open."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from gateway.config import AuthConfig, Config
from gateway.errors import StartError
from gateway.exposure import (
    far_warning,
    open_door_warnings,
    own_url,
    reaches_others,
    spec_reaches_others,
)
from gateway.net.listen import Listener


class FakePort:
    """A port that says where it listens."""

    def __init__(self, address: Any) -> None:
        self.address = address
        self.listening = True

    def getHost(self) -> Any:
        return self.address

    def stopListening(self) -> None:
        self.listening = False


def listener(address: Any) -> Any:
    return Listener("SPEC", "ws://x", FakePort(address))  # type: ignore[arg-type]


def tcp(host: str) -> Any:
    return listener((IPv6Address if ":" in host else IPv4Address)("TCP", host, 1))


@pytest.mark.parametrize(
    ("spec", "open_to_others"),
    [
        ("127.0.0.1:18789", False),
        ("localhost:18789", False),
        ("[::1]:18789", False),
        ("0.0.0.0:18789", True),
        ("[::]:18789", True),
        ("192.0.2.1:18789", True),
        ("tcp:18789", True),
        ("tcp:18789:interface=127.0.0.1", False),
        ("tcp:18789:interface=localhost", False),
        ("tcp:18789:interface=", True),
        ("tcp:18789:interface=0.0.0.0", True),
        ("tcp6:18789", True),
        ("tcp6:18789:interface=\\:\\:1", False),
        ("tcp6:18789:interface=\\:\\:", True),
        ("ssl:443:privateKey=k.pem:certKey=c.pem", True),
        ("ssl:443:interface=127.0.0.1:privateKey=k.pem", False),
        ("unix:/run/gateway.sock", False),
        ("systemd:domain=INET:index=0", True),
        ("plugin:interface=127.0.0.1", True),
        ("gateway.example:18789", True),
    ],
)
def test_what_a_specification_opens(spec: str, open_to_others: bool) -> None:
    """Only what surely is a loopback address or a Unix socket counts as closed to others."""
    assert spec_reaches_others(spec) is open_to_others


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "fe80::1", "::ffff:192.0.2.1"])
def test_no_credential_where_others_can_connect(host: str) -> None:
    """Mode none does not start on an address that others reach, and no port stays open."""
    config = Config(auth=AuthConfig(mode="none"))
    both = [tcp("127.0.0.1"), tcp(host)]
    assert [reaches_others(each) for each in both] == [False, True]
    with pytest.raises(StartError, match="loopback addresses only"):
        open_door_warnings(config, both)
    assert [each.port.listening for each in both] == [False, False]


def test_an_address_that_nobody_knows() -> None:
    """A port that does not say where it listens counts as open to others."""
    with pytest.raises(StartError):
        open_door_warnings(Config(auth=AuthConfig(mode="none")), [listener(object())])


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_no_credential_on_this_machine(host: str) -> None:
    """The twin: on loopback addresses mode none starts, without a warning."""
    assert open_door_warnings(Config(auth=AuthConfig(mode="none")), [tcp(host)]) == []


def test_asked_for_by_name() -> None:
    """Who asks for an open door gets it, with a warning for each port at every start."""
    config = Config(auth=AuthConfig(mode="none", allow_unauthenticated=True))
    (line,) = open_door_warnings(config, [tcp("127.0.0.1"), tcp("0.0.0.0")])
    assert "without a credential" in line
    assert "auth.allow_unauthenticated" in line


def at(*hosts: str) -> list[Any]:
    """Return listeners at these addresses, by port 1, 2, …; ``unix`` is a socket."""
    made = []
    for port, host in enumerate(hosts, 1):
        address: Any = UNIXAddress("/run/gateway.sock")
        if host != "unix":
            address = (IPv6Address if ":" in host else IPv4Address)("TCP", host, port)
        shown = f"[{host}]" if ":" in host else host
        made.append(Listener("SPEC", f"ws://{shown}:{port}", FakePort(address)))  # type: ignore[arg-type]
    return made


@pytest.mark.parametrize(
    ("hosts", "url"),
    [
        (("192.0.2.1", "127.0.0.1"), "ws://127.0.0.1:2"),
        (("192.0.2.1", "0.0.0.0"), "ws://127.0.0.1:2"),
        (("::", "192.0.2.1"), "ws://[::1]:1"),
        (("0.0.0.0", "::1"), "ws://[::1]:2"),
        (("192.0.2.1", "192.0.2.2"), "ws://192.0.2.1:1"),
        (("unix", "127.0.0.1"), "ws://127.0.0.1:2"),
    ],
)
def test_where_the_commands_of_this_machine_go(hosts: tuple[str, ...], url: str) -> None:
    """They take the loopback address, whatever is listened on first: there they are local."""
    assert own_url(at(*hosts)) == url


@pytest.mark.parametrize(
    ("hosts", "warned"),
    [
        (("192.0.2.1",), True),
        (("2001:db8::1", "192.0.2.1"), True),
        (("192.0.2.1", "127.0.0.1"), False),
        (("0.0.0.0",), False),
        (("unix",), False),
    ],
)
def test_a_gateway_that_its_own_host_is_far_from(hosts: tuple[str, ...], warned: bool) -> None:
    """Where no loopback address is listened on, gatewayctl can approve nobody: the start says so."""
    assert ("server.listen" in (far_warning(at(*hosts)) or "")) is warned


def test_with_a_credential_every_address_is_fine() -> None:
    """Token, password and trusted-proxy may listen anywhere."""
    assert open_door_warnings(Config(), [tcp("0.0.0.0")]) == []


@pytest.mark.parametrize(
    ("mode", "warned"),
    [(0o666, True), (0o660, True), (0o602, True), (0o600, False), (0o644, False)],
)
def test_a_socket_without_authentication(tmp_path: Path, mode: int, warned: bool) -> None:
    """Where nobody is asked for a credential, a socket that others may write to is warned of."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path)
        os.chmod(path, mode)
        door = [listener(UNIXAddress(path))]
        lines = open_door_warnings(Config(auth=AuthConfig(mode="none")), door)

        assert ["mode=600" in line for line in lines] == [True] * warned
        assert open_door_warnings(Config(), door) == []


@pytest.mark.parametrize("name", ["\0gateway", None, "/nowhere/gateway.sock"])
def test_a_socket_that_can_not_be_looked_at(name: str | None) -> None:
    """A socket without a file is for everybody."""
    config = Config(auth=AuthConfig(mode="none"))
    assert len(open_door_warnings(config, [listener(UNIXAddress(name))])) == 1
