"""gateway.net.listen: what is said of a specification that can't be had; see tests/integration too."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from twisted.internet import endpoints
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ServerFactory
from twisted.internet.testing import MemoryReactorClock

from gateway.errors import StartError
from gateway.net.listen import listen


class Quiet(ServerFactory):
    """A factory that says nothing."""

    noisy = False


def refused(spec: str, reactor: Any) -> str:
    """Return what is said of a specification, without what is said of each."""
    with pytest.raises(StartError) as caught:
        listen([spec], Quiet(), reactor)
    text = str(caught.value)
    assert text.startswith(f"cannot listen on {spec}: ")
    assert text.endswith(" (server.listen)")
    assert "\n" not in text
    return text.removeprefix(f"cannot listen on {spec}: ").removesuffix(" (server.listen)")


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (":80", "the host is missing; 0.0.0.0 or [::] listens on every interface"),
        ("gw.example:80", '"gw.example" is no IP address, and host names are not looked up'),
        ("127.1:80", '"127.1" is no IP address, and host names are not looked up'),
        ("[zz]:80", "[zz] is no IPv6 address"),
        ("[]:80", "[] is no IPv6 address"),
        ("127.0.0.1:65536", "the port is larger than 65535"),
        ("18789", "neither HOST:PORT nor an endpoint: unknown endpoint type: '18789'"),
        ("ws://127.0.0.1:1", "neither HOST:PORT nor an endpoint: unknown endpoint type: 'ws'"),
        (
            "haproxy:tcp:0",
            "whoever connects can write a PROXY header; server.trusted_proxies instead",
        ),
        ("ssl:0:privateKey=/no/such", "no such file or directory: /no/such"),
    ],
)
def test_bad_specification(spec: str, why: str) -> None:
    """What is no specification is answered with the reason in one line."""
    assert refused(spec, MemoryReactorClock()) == why


def test_empty_specification() -> None:
    """An empty specification is refused like any other."""
    assert refused("", MemoryReactorClock()).startswith("neither HOST:PORT nor an endpoint")


def test_unix() -> None:
    """A UNIX endpoint is known by its path."""
    reactor = MemoryReactorClock()
    (listener,) = listen([" unix:/run/x.sock "], Quiet(), reactor)
    assert listener.url == "unix:/run/x.sock"
    assert listener.spec == "unix:/run/x.sock"
    assert reactor.unixServers[0][0] == "/run/x.sock"


def test_system_error() -> None:
    """What the system refuses is told in its words, with the file."""

    class Locked(MemoryReactorClock):
        def listenUNIX(self, *args: Any, **options: Any) -> Any:
            raise OSError(errno.EACCES, "Permission denied", "/run/x.sock")

    assert refused("unix:/run/x.sock", Locked()) == "permission denied: /run/x.sock"


def test_endpoint_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that does not listen at once is given up: the start must not hang on it."""
    cancelled: list[object] = []

    class Waiting:
        prefix = "slow"

        def parseStreamServer(self, reactor: Any, *args: str) -> Waiting:
            return self

        def listen(self, factory: Any) -> Deferred[Any]:
            return Deferred(cancelled.append)

    monkeypatch.setattr(endpoints, "getPlugins", lambda interface: [Waiting()])
    assert refused("slow:1:2", MemoryReactorClock()) == "the endpoint does not listen at once"
    assert len(cancelled) == 1
