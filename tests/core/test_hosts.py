"""The names that the gateway may be called by: pages whose name points here are refused."""

from __future__ import annotations

import pytest

from gateway.core.access import Peer
from gateway.core.hosts import HostPolicy, host_of, own_names

POLICY = HostPolicy(own_names("Box.lan") | {"gw.example"})


@pytest.mark.parametrize(
    "header",
    [
        None,
        "localhost",
        "LOCALHOST:18789",
        "app.localhost:18789",
        "127.0.0.1:18789",
        "[::1]:18789",
        "::1",
        "[fe80::1%eth0]",
        "192.0.2.1",
        "box",
        "box.lan:18789",
        "box.local.",
        "gw.example:443",
    ],
)
def test_names_of_the_gateway(header: str | None) -> None:
    """Addresses, localhost, the machine's own names and the listed ones are the gateway's."""
    assert POLICY.knows(header)
    assert not POLICY.refuses(Peer("127.0.0.1", host=header))


@pytest.mark.parametrize(
    "header",
    [
        "evil.example",
        "evil.example:18789",
        "localhost.evil.example",
        "gw.example.evil",
        "evilgw.example",
        "127.0.0.1.evil.example",
        "127.0.0.1.nip.io",
        "",
        "[",
    ],
)
def test_foreign_names(header: str) -> None:
    """A name that a page made point here is refused to local clients and to pages from anywhere."""
    assert POLICY.refuses(Peer("127.0.0.1", host=header))
    assert POLICY.refuses(Peer("unix", host=header))
    page = Peer("192.0.2.7", host=header, origin="http://evil.example")
    assert POLICY.refuses(page)
    assert not POLICY.refuses(page, listed=True)
    assert not POLICY.refuses(Peer("192.0.2.7", host=header)), "no browser: any name will do"
    assert POLICY.refuses(Peer("127.0.0.1", host=header), listed=True)


def test_reading_a_host() -> None:
    """A Host header is read without its port, its brackets and its last dot."""
    assert host_of(" Gw.Example.:80 ") == "gw.example"
    assert host_of("Gw.Example.") == "gw.example"
    assert host_of("[::1]:80") == "::1"
    assert own_names("") == frozenset()
