"""Where devices find the gateway of this host."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from gateway.cli.common import Failure, Flags
from gateway.cli.where import is_loopback
from gateway.client.errors import InvalidUrl
from gateway.client.options import parse_url
from gateway.config import load
from gateway.errors import StartError

_ANYWHERE: Final = ("192.0.2.1", 9)
"""An address of nobody (RFC 5737); a UDP socket that is connected to it sends nothing."""


def own_address() -> str | None:
    """Return the address of this machine on its network."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(_ANYWHERE)
        return str(probe.getsockname()[0])
    return None


def reachable_url(
    flags: Flags, environ: Mapping[str, str], own: Callable[[], str | None] = own_address
) -> str:
    """Return the address under which devices reach the gateway. Raises Failure where none is known.

    ``own`` tells the address of this machine on its network.
    """
    url = flags.url or environ.get("GATEWAY_URL")
    try:
        if url is not None and not is_loopback(parse_url(url).host):
            return url
        listen = load(None, environ).config.server.listen
    except (InvalidUrl, StartError) as error:
        raise Failure(str(error)) from None
    for address in listen:
        host, colon, port = address.rpartition(":")
        if not colon or not port.isdigit() or is_loopback(host.strip("[]")):
            continue
        if host in ("0.0.0.0", "[::]"):  # noqa: S104 - compared
            host = own() or ""
        if host:
            return f"ws://{host}:{port}"
    raise Failure(
        "no address is known that other machines reach: give --public-url wss://HOST, that of the gateway"
        " or of the proxy or tunnel in front of it"
    )
