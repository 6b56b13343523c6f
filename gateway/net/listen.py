"""Listen specifications made into listening ports, before the reactor runs.

=============================  =====================================================================
``HOST:PORT``                  an IPv4 address, an IPv6 address in brackets, or ``localhost``
                               (127.0.0.1); port 0 takes a free one. Has the fast transport.
a Twisted endpoint string      ``tcp:…`` and ``ssl:…`` (both with the fast transport too), ``unix:…``,
                               ``systemd:…`` and those of plugins
=============================  =====================================================================

Not ``haproxy:…``: it believes of everybody who connects what a PROXY header says, loopback included.

Host names are not looked up: that would take time before the reactor runs, and what a name means may
change; an empty host is refused, since listening on every interface must be asked for by name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Any, Final

from twisted.internet.address import UNIXAddress
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.python.failure import Failure

from gateway.errors import StartError
from gateway.net.certificates import ServedCertificate
from gateway.net.transport import FastPort

BACKLOG: Final = 1024
"""Connections the kernel keeps for us until they are accepted: all clients may come back at once."""
KEY: Final = "server.listen"

_HOST_PORT: Final = re.compile(r"(\[[^\]]*\]|[^:\[\]]*):(\d+)")
_TLS_KINDS: Final = ("ssl", "tls", "txsni", "le")


@dataclass(frozen=True)
class Listener:
    """A port that listens."""

    spec: str
    url: str
    """Where clients connect: ``ws://127.0.0.1:18789``, ``wss://…``, or ``unix:/path``."""
    port: IListeningPort
    certificate: ServedCertificate | None = None
    """What an ``ssl:`` endpoint serves."""

    def stopListening(self) -> Any:  # noqa: N802 - as IListeningPort
        """Accept no more connections; returns a Deferred, or None if that is done."""
        return self.port.stopListening()


class _Reactor:
    """The reactor, except that it makes ports with the fast transport and a long queue."""

    def __init__(self, reactor: Any, certificate: ServedCertificate | None = None) -> None:
        self._reactor = reactor
        self._certificate = certificate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(  # noqa: N802 - IReactorTCP
        self, port: int, factory: Any, backlog: int = 0, interface: str = ""
    ) -> FastPort:
        listening = FastPort(port, factory, max(backlog, BACKLOG), interface, self._reactor)
        listening.accepted = getattr(getattr(factory, "wrappedFactory", factory), "accepted", None)
        listening.startListening()
        return listening

    def listenSSL(  # noqa: N802 - IReactorSSL
        self, port: int, factory: Any, contextFactory: Any, backlog: int = 0, interface: str = ""
    ) -> FastPort:
        from twisted.protocols.tls import TLSMemoryBIOFactory  # needs OpenSSL: only for who has TLS

        if self._certificate is not None:
            self._certificate.use(contextFactory)
            contextFactory = self._certificate
        wrapped = TLSMemoryBIOFactory(contextFactory, False, factory, self._reactor)
        return self.listenTCP(port, wrapped, backlog, interface)


def listen(specs: Iterable[str], factory: IProtocolFactory, reactor: Any) -> list[Listener]:
    """Listen on every specification, at once.

    If the factory has a method ``accepted``, it is called with a TCP port after each turn in which that
    accepted connections.
    Raises StartError for the first that fails; those before it are closed again.
    """
    listeners: list[Listener] = []
    try:
        for spec in specs:
            listeners.append(_listen(spec.strip(), factory, reactor))
    except StartError:
        for listener in listeners:
            listener.stopListening()
        raise
    return listeners


def _listen(spec: str, factory: IProtocolFactory, reactor: Any) -> Listener:
    match = _HOST_PORT.fullmatch(spec)
    if match and match[1] not in ("tcp", "unix"):
        host, number = _address(spec, match[1]), int(match[2])
        if number > 65_535:
            raise _bad(spec, "the port is larger than 65535")
        try:
            port = _Reactor(reactor).listenTCP(number, factory, interface=host)
        except CannotListenError as error:
            raise _bad(spec, _reason(error)) from error
        return Listener(spec, _url(spec, port), port)
    return _listen_at_endpoint(spec, factory, reactor)


def _listen_at_endpoint(spec: str, factory: IProtocolFactory, reactor: Any) -> Listener:
    if spec.startswith("haproxy:"):
        raise _bad(
            spec, "whoever connects can write a PROXY header; server.trusted_proxies instead"
        )
    certificate = ServedCertificate(spec) if spec.startswith("ssl:") else None
    try:
        outcome = serverFromString(_Reactor(reactor, certificate), spec).listen(factory)
    except OSError as error:
        raise _bad(spec, _reason(error)) from error
    except Exception as error:
        # Parsers are plugins, and raise what they like: for whoever wrote the line it is all one.
        raise _bad(spec, f"neither HOST:PORT nor an endpoint: {_reason(error)}") from error
    results: list[Any] = []
    outcome.addBoth(results.append)
    if not results:
        outcome.cancel()
        raise _bad(spec, "the endpoint does not listen at once")
    if isinstance(results[0], Failure):
        cause = results[0].value
        raise _bad(spec, _reason(cause)) from cause
    return Listener(spec, _url(spec, results[0]), results[0], certificate)


def _address(spec: str, host: str) -> str:
    if host == "localhost":
        return "127.0.0.1"
    try:
        if host.startswith("["):
            return str(IPv6Address(host[1:-1]))
        return str(IPv4Address(host))
    except AddressValueError:
        pass
    if not host:
        raise _bad(spec, "the host is missing; 0.0.0.0 or [::] listens on every interface")
    if host.startswith("["):
        raise _bad(spec, f"{host} is no IPv6 address")
    raise _bad(spec, f'"{host}" is no IP address, and host names are not looked up')


def _url(spec: str, port: IListeningPort) -> str:
    address: Any = port.getHost()
    if isinstance(address, UNIXAddress):
        return f"unix:{os.fsdecode(address.name or b'')}"
    scheme = "wss" if spec.partition(":")[0] in _TLS_KINDS else "ws"
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{scheme}://{host}:{address.port}"


def _reason(error: Any) -> str:
    """Return in plain words why it failed."""
    if isinstance(error, CannotListenError):
        error = error.socketError
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if name := getattr(error, "filename2", None) or getattr(error, "filename", None):
        text += f": {os.fsdecode(name)}"
    return text[:1].lower() + text[1:]


def _bad(spec: str, why: str) -> StartError:
    return StartError(f"cannot listen on {spec}: {' '.join(why.split())} ({KEY})")
