"""Where a gateway is, for Twisted."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.ssl import optionsForClientTLS
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from gateway.client.options import Target


def endpoint_for(reactor: Any, target: Target, timeout: float) -> IStreamClientEndpoint:
    """Return where a target is, over TLS for ``wss``: certificates are checked by the system's roots."""
    endpoint = HostnameEndpoint(reactor, target.host.encode("ascii"), target.port, timeout)
    return _TLSEndpoint(reactor, target.host, endpoint) if target.secure else endpoint


@implementer(IStreamClientEndpoint)
class _TLSEndpoint:
    """TLS on top of an endpoint. Twisted's own wrapper has timers on the global reactor."""

    def __init__(self, reactor: Any, host: str, endpoint: IStreamClientEndpoint) -> None:
        self._reactor = reactor
        self._options = optionsForClientTLS(host)
        self._endpoint = endpoint

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        wrapped = TLSMemoryBIOFactory(self._options, True, protocolFactory, self._reactor)
        connecting: Deferred[Any] = self._endpoint.connect(wrapped)
        return connecting.addCallback(lambda made: made.wrappedProtocol)
