"""The address that a setup code names."""

from __future__ import annotations

import pytest

from gateway.cli.common import Failure, Flags
from gateway.cli.reach import own_address, reachable_url
from tests.cli.ctl import write_config

LAN = '[server]\nlisten = ["127.0.0.1:1", "192.0.2.9:4000"]'


@pytest.mark.parametrize(
    ("flags", "config", "url"),
    [
        (Flags(url="wss://gw.example"), "", "wss://gw.example"),
        (Flags(url="ws://127.0.0.1:1"), LAN, "ws://192.0.2.9:4000"),
        (Flags(), LAN, "ws://192.0.2.9:4000"),
        (Flags(), '[server]\nlisten = ["unix:/tmp/x", "[fd00::1]:5"]', "ws://[fd00::1]:5"),
    ],
)
def test_where_devices_find_the_gateway(tmp_path, flags, config, url):
    """It is the address that the gateway is known by here, or the first one that it listens on for others."""
    assert reachable_url(flags, write_config(tmp_path, config)) == url


@pytest.mark.parametrize(("own", "url"), [("192.0.2.3", "ws://192.0.2.3:4000"), (None, None)])
def test_a_gateway_that_listens_everywhere(tmp_path, own, url):
    """A gateway on every address is found at this machine's own one, if it has any."""
    environ = write_config(tmp_path, '[server]\nlisten = ["0.0.0.0:4000"]')
    if url is None:
        with pytest.raises(Failure, match="no address is known"):
            reachable_url(Flags(), environ, lambda: own)
    else:
        assert reachable_url(Flags(), environ, lambda: own) == url


@pytest.mark.parametrize(
    ("flags", "config", "text"),
    [
        (Flags(), "", "no address is known that other machines reach: give --public-url"),
        (
            Flags(),
            '[server]\nlisten = ["ssl:4000:privateKey=k:certKey=c"]',
            "give --public-url wss://HOST",
        ),
        (Flags(url="http://x"), "", "not a gateway URL"),
        (Flags(), "[server]\nlisten = 1", "server.listen"),
    ],
)
def test_a_gateway_that_nobody_finds(tmp_path, flags, config, text):
    """Where no address is known for others, what to give is said."""
    with pytest.raises(Failure, match=text):
        reachable_url(flags, write_config(tmp_path, config))


def test_the_address_of_this_machine():
    """It is an address or nothing, whatever network there is."""
    found = own_address()
    assert found is None or found.count(".") == 3
