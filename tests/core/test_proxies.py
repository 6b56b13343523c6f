"""Proxies: who is believed about where a client comes from, and who it is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.access import Peer
from gateway.core.proxies import FORWARDED_HEADERS, ProxyPolicy, Unattributed, networks_of

PROXY = Peer("10.0.0.1", 5555)
STRANGER = Peer("192.0.2.7", 5555)
TRUSTED = networks_of(["10.0.0.0/24", "fd00::1", "127.0.0.1"])


def policy(**how: Any) -> ProxyPolicy:
    return ProxyPolicy(TRUSTED, **how)


def behind(value: str, *, header: str = "x-forwarded-for", peer: Peer = PROXY) -> str:
    """Return the address that is found in a header."""
    found = policy(header=header).attribute(peer, {header: value})
    assert found.forwarded
    assert not found.local
    return found.address


def test_a_direct_client_is_itself() -> None:
    """Without a proxy's header nothing changes, whether the address is a proxy's or not."""
    assert policy().attribute(STRANGER, {"host": "h"}) == STRANGER
    assert policy().attribute(Peer("127.0.0.1"), {}).local


@pytest.mark.parametrize("name", FORWARDED_HEADERS)
def test_headers_of_a_peer_that_is_no_proxy(name: str) -> None:
    """A peer that nobody named may not speak for others; the sentence says what mends it."""
    with pytest.raises(Unattributed, match=r"server\.trusted_proxies"):
        policy().attribute(STRANGER, {name: "127.0.0.1"})
    with pytest.raises(Unattributed):
        ProxyPolicy().attribute(Peer("127.0.0.1"), {name: "127.0.0.1"})
    with pytest.raises(Unattributed, match="connect to 127"):
        policy().attribute(Peer("unix"), {name: "127.0.0.1"})


@pytest.mark.parametrize("text", ["::ffff:10.0.0.0/120", "::ffff:10.0.0.1"])
def test_a_proxy_is_named_as_the_log_shows_it(text: str) -> None:
    """An IPv4 address written as IPv6 names the same proxy; a wider network of IPv6 is one of IPv6."""
    proxies = ProxyPolicy(networks_of([text]))
    assert proxies.trusts("10.0.0.1")
    assert proxies.trusts("::ffff:10.0.0.1")
    assert not proxies.trusts("10.0.1.1")
    assert not ProxyPolicy(networks_of(["::ffff:0:0/90"])).trusts("10.0.0.1")


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("127.0.0.1, 203.0.113.9", "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9, 10.0.0.7", "203.0.113.9"),
        ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("203.0.113.9:1234", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("127.0.0.1", "127.0.0.1"),
    ],
)
def test_the_last_hop_that_is_no_proxy_is_the_client(value: str, address: str) -> None:
    """What stands left of it was written by the client itself, and is not looked at."""
    assert behind(value) == address


@pytest.mark.parametrize("value", ["", "unknown", "203.0.113.9, ", "a b", "203.0.113.9, _hidden"])
def test_a_hop_that_is_no_address(value: str) -> None:
    """A proxy that does not name its client leaves nobody to count."""
    with pytest.raises(Unattributed):
        behind(value)


def test_the_standard_header() -> None:
    """With Forwarded, the last element's for= is the client; names without an address are refused."""
    text = 'for=6.6.6.6;by=1.2.3.4, For="[2001:db8::1]:80";proto=https'
    assert behind(text, header="forwarded") == "2001:db8::1"
    assert behind("203.0.113.9", header="x-real-ip") == "203.0.113.9"
    with pytest.raises(Unattributed):
        behind("for=_secret", header="forwarded")
    with pytest.raises(Unattributed, match="by its address"):
        behind("proto=https", header="forwarded")
    with pytest.raises(Unattributed, match="names nobody"):
        behind("", header="forwarded")


@pytest.mark.parametrize(
    "text",
    [
        'for=203.0.113.9;host="x;for=127.0.0.1"',
        'for=203.0.113.9;host="x,for=127.0.0.1";proto=https',
        'host="\\",for=127.0.0.1";for=203.0.113.9',
        "for=127.0.0.1, notfor=6.6.6.6;for=203.0.113.9",
        "for=127.0.0.1,, For=6.6.6.6 , for=203.0.113.9,",
    ],
)
def test_what_a_proxy_quotes_is_no_hop(text: str) -> None:
    """A client's Host header, which a proxy passes on in Forwarded, does not say where the client is."""
    assert behind(text, header="forwarded") == "203.0.113.9"


@pytest.mark.parametrize(
    "text",
    [
        "for=203.0.113.9;host=x;for=127.0.0.1",
        "for=127.0.0.1, proto=https",
        'for=127.0.0.1, for="203.0.113.9',
        'for=127.0.0.1;x=", for="[2001:db8::1]"',
        "for=127.0.0.1 for=203.0.113.9",
    ],
)
def test_a_forwarded_header_that_can_be_read_in_two_ways(text: str) -> None:
    """Two clients in one element, an element without one, and broken quotes are refused."""
    with pytest.raises(Unattributed):
        behind(text, header="forwarded")


def test_only_the_header_that_is_named_is_believed() -> None:
    """What a client writes into another header passes through proxies, and is not looked at."""
    both = {"x-forwarded-for": "203.0.113.9", "forwarded": "for=127.0.0.1", "x-real-ip": "1.1.1.1"}
    assert policy().attribute(PROXY, both).address == "203.0.113.9"
    with pytest.raises(Unattributed, match=r"server\.proxy_header"):
        policy().attribute(PROXY, {"x-real-ip": "203.0.113.9"})


@given(st.lists(st.ip_addresses().map(str), max_size=40), st.ip_addresses(v=4))
def test_a_client_can_not_choose_its_address(forged: list[str], real: Any) -> None:
    """Whatever a client puts before what its proxy adds, it is counted where it is."""
    if not policy().trusts(str(real)):
        assert behind(", ".join([*forged, str(real)])) == str(real)


def test_mapped_and_scoped_addresses_of_proxies() -> None:
    """A proxy is known however its address is written."""
    assert policy().trusts("::ffff:10.0.0.9")
    assert policy().trusts("fd00::1%eth0")
    assert not policy().trusts("10.0.1.1")
    assert not policy().trusts("proxy.example")


# -- who it is


def named(headers: dict[str, str], *, peer: Peer = PROXY, **how: Any) -> Peer:
    settings = {"user_header": "x-user", "required_headers": ("x-auth",), **how}
    return policy(**settings).attribute(peer, headers)


GOOD = {"x-forwarded-for": "203.0.113.9", "x-user": "ann@example.org", "x-auth": "1"}


def test_a_proxy_says_who_it_is() -> None:
    """The user is the header's, and the client is where the proxy says; it is never local."""
    found = named(GOOD)
    assert (found.user, found.user_refusal, found.address) == (
        "ann@example.org",
        None,
        "203.0.113.9",
    )
    without_address = named({"x-user": "ann", "x-auth": "1"})
    assert (without_address.user, without_address.local) == ("ann", False)


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"x-auth": ""}, "trusted_proxy_missing_header_x-auth"),
        ({"x-user": ""}, "trusted_proxy_user_missing"),
        ({"x-user": "evil, ann"}, "trusted_proxy_user_missing"),
        ({"x-user": "a\x00b"}, "trusted_proxy_user_missing"),
        ({"x-user": "a" * 257}, "trusted_proxy_user_missing"),
    ],
)
def test_identities_that_are_not_believed(headers: dict[str, str], reason: str) -> None:
    """Of two headers of one name nobody knows whose is the proxy's: it is as if there were none."""
    found = named(GOOD | headers)
    assert (found.user, found.user_refusal) == (None, reason)


def test_a_proxy_on_this_machine_has_to_be_allowed() -> None:
    """Every program here could be it, so that must be asked for."""
    here = Peer("127.0.0.1")
    assert named(GOOD, peer=here).user_refusal == "trusted_proxy_loopback_source"
    allowed = named(GOOD, peer=here, allow_loopback=True)
    assert (allowed.user, allowed.local) == ("ann@example.org", False)


def test_headers_of_identity_mean_nothing_from_others() -> None:
    """Whoever is no proxy is nobody, whatever it writes; without the mode nobody has a name."""
    assert named({"x-user": "ann", "x-auth": "1"}, peer=STRANGER).user is None
    assert policy().attribute(PROXY, GOOD).user is None
