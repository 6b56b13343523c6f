"""The scripted gateway on a real port of the loopback interface, in a thread with its own reactor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gateway.cli.session import Loop
from tests.client.scripted import Script, server_factory


@contextmanager
def served(script: Script) -> Iterator[str]:
    """Serve a script for the length of a ``with`` block; gives the URL."""
    with Loop() as loop:

        async def listen() -> Any:
            factory = server_factory(script, loop.reactor)
            return loop.reactor.listenTCP(0, factory, interface="127.0.0.1")

        async def stop() -> None:
            for connection in script.connections:
                connection.transport.abortConnection()
            await port.stopListening()

        port = loop.run(listen)
        try:
            yield f"ws://127.0.0.1:{port.getHost().port}"
        finally:
            loop.run(stop)
