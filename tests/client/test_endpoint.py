"""Where a gateway is, for Twisted, and getting there over real sockets."""

from __future__ import annotations

import pytest
from twisted.internet.testing import MemoryReactorClock

from gateway.cli.session import Loop
from gateway.client import ConnectFailed
from gateway.client.endpoint import endpoint_for
from gateway.client.options import parse_url
from gateway.client.testing import FakeGateway
from gateway.client.twisted import connect
from tests.client.served import self_signed
from tests.client.test_aio import served


def test_addresses_become_endpoints():
    """Plain addresses connect over TCP, wss ones over TLS."""
    reactor = MemoryReactorClock()

    plain = endpoint_for(reactor, parse_url("ws://127.0.0.1:5"), 3.0)
    secure = endpoint_for(reactor, parse_url("wss://localhost:5"), 3.0)

    assert type(plain).__name__ == "HostnameEndpoint"
    assert type(secure).__name__ != "HostnameEndpoint"


def test_a_client_finds_its_own_way():
    """Without an endpoint the client connects to the host and port of its address."""
    with served(FakeGateway()) as url, Loop() as loop:

        async def probe():
            async with await connect(loop.reactor, url) as client:
                return (await client.health()).ok

        assert loop.run(probe)


def test_a_certificate_of_nobody(tmp_path):
    """Over TLS, a certificate that the system's roots do not know is refused."""
    certificate = self_signed(tmp_path / "gateway.pem")
    with served(FakeGateway(), certificate) as url, Loop() as loop:

        async def probe():
            with pytest.raises(ConnectFailed, match="certificate verify failed"):
                await connect(loop.reactor, url)

        loop.run(probe)
