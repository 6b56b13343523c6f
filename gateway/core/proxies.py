"""Reverse proxies: whose word counts on where a client comes from, and who it is.

A proxy's headers are worth what the proxy is: they are read only of peers that the configuration
names, and only the one header that it names, since a proxy passes on what a client writes into the
others. A connection through a proxy is never local, whatever the headers say.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from gateway.core.access import UNIX_ADDRESS, Peer, is_local_address

FORWARDED_HEADERS: Final = (
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "via",
)
"""What proxies put into a request; one of them says that the client is not the peer."""
MAX_HOPS: Final = 32
MAX_USER: Final = 256

_PAIR: Final = re.compile(
    r"""[ \t]*(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)=("(?:[^"\\]|\\.)*"|[^\s",;]*))?[ \t]*(?:([,;])|$)"""
)
"""One ``name=value`` of a Forwarded header (RFC 7239 section 4), and what ends it."""
_WITH_PORT: Final = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::\d+)?|([0-9.]+):\d+")
_USER: Final = re.compile(rf"[!-+\--~]{{1,{MAX_USER}}}")
"""One word without a comma, which would stand between two headers of one name."""

_MAPPED: Final = 96
"""Bits before an IPv4 address that is mapped into IPv6."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Unattributed(Exception):
    """A request came through a proxy, and nobody who is believed says from where."""


def networks_of(texts: Iterable[str]) -> tuple[Network, ...]:
    """Return networks, those of IPv4 as such. Raises ValueError for what is no address or network."""
    return tuple(_unmapped(ipaddress.ip_network(text, strict=False)) for text in texts)


def _unmapped(network: Network) -> Network:
    """Return the IPv4 network that is written as one of IPv6, as a log shows it; others as they are."""
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < _MAPPED:
        return network
    return ipaddress.IPv4Network((int(mapped), network.prefixlen - _MAPPED))


@dataclass(frozen=True, slots=True)
class ProxyPolicy:
    """Which peers are proxies that are believed, and which header they set."""

    trusted: tuple[Network, ...] = ()
    header: str = "x-forwarded-for"
    """Where they write the client's address: x-forwarded-for, forwarded or x-real-ip."""
    user_header: str | None = None
    """Where they write who the client is, with mode trusted-proxy."""
    required_headers: tuple[str, ...] = ()
    """What they must have set beside it."""
    allow_loopback: bool = False
    """Whether one on this machine may say who the client is."""

    def trusts(self, address: str) -> bool:
        """Whether a peer is one of the proxies."""
        try:
            ip = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        ip = getattr(ip, "ipv4_mapped", None) or ip
        return any(ip in network for network in self.trusted)

    def attribute(self, peer: Peer, headers: Mapping[str, str]) -> Peer:
        """Return the peer as it is behind its proxy, if there is one. Raises Unattributed.

        ``headers`` are by lower-case name; of several headers of one name the values are joined by
        commas, in their order.
        """
        trusted = self.trusts(peer.address)
        if any(name in headers for name in FORWARDED_HEADERS):
            if peer.address == UNIX_ADDRESS:
                raise Unattributed(
                    "this request came through a proxy on a Unix socket, which has no address to trust: "
                    "let it connect to 127.0.0.1, and add that to server.trusted_proxies"
                )
            if not trusted:
                raise Unattributed(
                    "this request came through a proxy that is not known here: add the proxy's address "
                    "to server.trusted_proxies, and let it overwrite the headers that clients send"
                )
            found = replace(peer, address=self._client(headers), port=0, forwarded=True)
        elif trusted and self.user_header is not None and self.user_header in headers:
            found = replace(peer, forwarded=True)
        else:
            return peer
        if self.user_header is None:
            return found
        user, refusal = self._identity(peer, headers)
        return replace(found, user=user, user_refusal=refusal)

    def _client(self, headers: Mapping[str, str]) -> str:
        """Return the last address on the way that is not one of our proxies."""
        value = headers.get(self.header)
        if value is None:
            raise Unattributed(
                f"the proxy sent no {self.header} header: let it set that one, "
                "or name the one that it sets in server.proxy_header"
            )
        hops = _hops(value) if self.header == "forwarded" else value.split(",")
        if not hops:
            raise Unattributed(f"the proxy's {self.header} header names nobody")
        address = ""
        for hop in reversed(hops[-MAX_HOPS:]):
            address = _address(hop)
            if not self.trusts(address):
                break
        return address

    def _identity(self, peer: Peer, headers: Mapping[str, str]) -> tuple[str | None, str | None]:
        """Return who the client is, or why that is not believed."""
        assert self.user_header is not None
        if is_local_address(peer.address) and not self.allow_loopback:
            return None, "trusted_proxy_loopback_source"
        for name in self.required_headers:
            if not headers.get(name, "").strip():
                return None, f"trusted_proxy_missing_header_{name}"
        user = headers.get(self.user_header, "").strip()
        if not _USER.fullmatch(user):
            return None, "trusted_proxy_user_missing"
        return user, None


def _hops(value: str) -> list[str]:
    """Return whom each element of a Forwarded header is for. Raises Unattributed.

    What stands in quotes is no pair: a proxy quotes there what a client says, such as its Host header.
    """
    hops: list[str] = []
    pairs: dict[str, str] = {}
    at = 0
    while at < len(value):
        match = _PAIR.match(value, at)
        name = (match[1] or "").lower() if match is not None else ""
        if match is None or name in pairs:
            raise Unattributed("the proxy's forwarded header can not be read")
        at = match.end()
        if name:
            pairs[name] = match[2]
        if pairs and (match[3] == "," or at == len(value)):
            hops.append(pairs.get("for", ""))  # who says nothing names nobody
            pairs = {}
    return hops


def _address(hop: str) -> str:
    """Return a hop's address in its one form. Raises Unattributed."""
    text = hop.strip().strip('"')
    match = _WITH_PORT.fullmatch(text)
    if match:
        text = match[1] or match[2]
    try:
        ip = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        raise Unattributed("the proxy's header does not name the client by its address") from None
    return str(getattr(ip, "ipv4_mapped", None) or ip)
