"""Addresses of gateways, and what becomes of them."""

from __future__ import annotations

import pytest

from gateway.client.errors import (
    InvalidUrl,
)
from gateway.client.options import parse_url
from gateway.client.websocket import ClientFactory
from gateway.testing import FakeClock


def test_an_address_is_taken_apart():
    """Host, port and security come from the URL; messages show it without its query."""
    target = parse_url("wss://[::1]:9/path?x=secret#y")

    assert (target.host, target.port, target.secure) == ("::1", 9, True)
    assert target.url == "wss://[::1]:9/path"
    assert target.request_url == "wss://[::1]:9/path?x=secret"
    assert "secret" not in repr(target)
    assert parse_url("ws://h").port == 80
    assert parse_url("wss://h").port == 443


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h:1",
        "http://h:1",
        "ws://",
        "ws://:1",
        "ws://h:99999",
        "ws://h:x",
        "ws://[::1",
        "ws://a b",
    ],
)
def test_a_bad_address_is_refused(url):
    """What is no ws or wss URL with a host is refused in one line."""
    with pytest.raises(InvalidUrl) as raised:
        parse_url(url)

    assert "\n" not in str(raised.value)


def test_credentials_in_an_address_are_refused_and_not_shown():
    """An address with a password in it is refused without repeating it."""
    with pytest.raises(InvalidUrl) as raised:
        parse_url("ws://user:s3cret@host:1")

    assert "s3cret" not in str(raised.value)


def test_which_addresses_are_private():
    """Nobody listens in on TLS or on the loopback interface."""
    urls = ("wss://h", "ws://localhost:1", "ws://127.0.0.1", "ws://[::1]:1", "ws://127.1:1")

    assert all(parse_url(url).private for url in urls)
    assert not parse_url("ws://10.0.0.1:1").private


def test_the_upgrade_names_host_and_program():
    """The HTTP request names the host as a URL does, this program, and no origin."""
    sent: list[bytes] = []

    class Transport:
        def write(self, data):
            sent.append(data)

        def getPeer(self):
            return None

        def getHost(self):
            return None

    factory = ClientFactory(object(), parse_url("ws://[::1]:5/x?y=z"), FakeClock())  # type: ignore[arg-type]
    protocol = factory.buildProtocol(None)
    protocol.makeConnection(Transport())

    head = sent[0].decode()
    assert head.startswith("GET /x?y=z HTTP/1.1\r\n")
    assert "Host: [::1]:5\r\n" in head
    assert "User-Agent: txgateway/" in head
    assert "Origin" not in head
