"""Who can reach the gateway, and whether that may be."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from typing import Any, Final

from twisted.internet.address import UNIXAddress

from gateway.config import Config
from gateway.core.access import is_loopback
from gateway.errors import StartError
from gateway.net.listen import Listener

_HOST_PORT: Final = re.compile(r"(\[[^\]]*\]|[^:\[\]]*):\d+")
_INTERFACE: Final = re.compile(r":interface=((?:\\.|[^:\\])*)")
_NETWORK_KINDS: Final = ("tcp", "tcp4", "tcp6", "ssl", "tls", "txsni", "le")
ENCRYPTED_KINDS: Final = ("ssl", "tls", "txsni", "le")


def kind_of(spec: str) -> str:
    """Return what a listen specification is of: ``host`` for HOST:PORT, else the endpoint's kind."""
    match = _HOST_PORT.fullmatch(spec)
    if match and match[1] not in ("tcp", "unix"):
        return "host"
    return spec.partition(":")[0]


def spec_reaches_others(spec: str) -> bool:
    """Whether more than this machine can connect to what a specification asks for, as far as it tells.

    What does not tell, such as a socket of systemd, counts as open.
    """
    kind = kind_of(spec)
    if kind == "unix":
        return False
    if kind == "host":
        host = spec.rpartition(":")[0].strip("[]")
    else:
        match = _INTERFACE.search(spec)
        host = re.sub(r"\\(.)", r"\1", match[1]) if match and kind in _NETWORK_KINDS else ""
    return not (host == "localhost" or is_loopback(host))


def reaches_others(listener: Listener) -> bool:
    """Whether more than this machine can connect to a port: not to a loopback address or a Unix socket.

    What the port says of itself counts, not how it was asked for: a name, an empty interface and a
    socket that somebody else opened all end up as an address.
    """
    host: Any = listener.port.getHost()
    if isinstance(host, UNIXAddress):
        return False
    return not is_loopback(getattr(host, "host", ""))


def own_url(listeners: Sequence[Listener]) -> str:
    """Return where the commands of this machine connect: a loopback address if there is one.

    Whoever comes by another one is from elsewhere to the gateway, and could not so much as approve a device.
    """
    near = (each for each in listeners if is_loopback(getattr(each.port.getHost(), "host", "")))
    anywhere = (each for each in listeners if _listens_everywhere(each))
    found = next(near, None) or next(anywhere, None) or listeners[0]
    return found.url.replace("://0.0.0.0:", "://127.0.0.1:").replace("://[::]:", "://[::1]:")


def far_warning(listeners: Sequence[Listener]) -> str | None:
    """Return a warning where the commands of this machine count as from elsewhere, or None."""
    if any(_listens_everywhere(each) or not reaches_others(each) for each in listeners):
        return None
    return (
        "no loopback address is listened on: to this gateway gatewayctl is from elsewhere on its own host"
        " too, and can approve nobody; listen on 127.0.0.1 as well (server.listen)"
    )


def _listens_everywhere(listener: Listener) -> bool:
    return getattr(listener.port.getHost(), "host", "") in ("0.0.0.0", "::")  # noqa: S104 - compared


def open_door_warnings(config: Config, listeners: Sequence[Listener]) -> list[str]:
    """Return a warning for every port on which anybody is let in.

    Raises StartError where that was not asked for, and then nothing listens any more.
    """
    if config.auth.mode != "none":
        return []
    exposed = list(filter(reaches_others, listeners))
    if exposed and not config.auth.allow_unauthenticated:
        for listener in listeners:
            listener.stopListening()
        raise StartError(
            f'{exposed[0].spec}: auth.mode "none" is for loopback addresses only; '
            "set a token or listen on 127.0.0.1 (server.listen)"
        )
    return [
        f"security: anybody who reaches {listener.url} is let in without a credential "
        "(auth.allow_unauthenticated)"
        for listener in exposed
    ] + [
        f"security: every user of this machine who can reach the file {listener.url} is let in without a "
        "credential: its mode decides who may connect; add :mode=600 to the address (server.listen)"
        for listener in listeners
        if _shared_socket(listener)
    ]


def _shared_socket(listener: Listener) -> bool:
    """Whether a port is a Unix socket to which others than its owner may connect, by its mode.

    To connect takes the right to write (unix(7)). What can not be looked at, such as a name without a
    file, counts as open. Twisted makes sockets with mode 666 unless the address says otherwise.
    """
    host: Any = listener.port.getHost()
    if not isinstance(host, UNIXAddress):
        return False
    try:
        mode = os.stat(host.name or b"").st_mode
    except (OSError, ValueError):
        return True
    return bool(mode & (stat.S_IWGRP | stat.S_IWOTH))
