"""Under which names the gateway lets itself be called: the answer to DNS rebinding.

A web page can make its own name point at this machine; the browser then takes the gateway for the page's
own server. The name is in the request's Host header, and no page can change that. So a client on this
machine must have called the gateway by an address, as localhost, by the machine's name, or by a name
that the configuration lists; and so must any web page, unless its origin is listed itself. Other clients
are no browsers, and may have found the gateway under any name.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from gateway.core.access import Peer


def host_of(header: str) -> str:
    """Return the name or address of a Host header: lower case, without port, brackets and last dot."""
    text = header.strip().lower()
    if text.startswith("["):
        address, _, rest = text[1:].partition("]")
        return address if _is_port(rest) else text
    name, colon, port = text.partition(":")
    if _is_port(colon + port):
        text = name
    return text.removesuffix(".")


def _is_port(text: str) -> bool:
    """Whether it is what may stand behind a host: nothing, or a port."""
    return not text or (text[0] == ":" and (text[1:].isdecimal() or not text[1:]))


def own_names(host: str) -> frozenset[str]:
    """Return what a machine is called: its name, whole and without its domain, and that in .local."""
    whole = host_of(host)
    short = whole.partition(".")[0]
    return frozenset({whole, short, f"{short}.local"}) if short else frozenset()


@dataclass(frozen=True, slots=True)
class HostPolicy:
    """The names that the gateway is called by."""

    names: frozenset[str] = frozenset()
    """Lower case: the machine's own, and those of ``server.allowed_hosts``."""

    def knows(self, header: str | None) -> bool:
        """Whether a Host header names the gateway. Without one nobody was called by a name."""
        if header is None:
            return True
        host = host_of(header)
        if host == "localhost" or host.endswith(".localhost") or host in self.names:
            return True
        try:
            ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        return True

    def refuses(self, peer: Peer, *, listed: bool = False) -> bool:
        """Whether a client may be a web page that uses a name of its own for the gateway.

        ``listed`` says that its origin is one that the configuration names.
        """
        browser = peer.origin is not None and not listed
        return (peer.local or browser) and not self.knows(peer.host)
