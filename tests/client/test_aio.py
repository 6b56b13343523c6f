"""The asyncio driver on real sockets, and where it differs from Twisted's."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.protocols.tls import TLSMemoryBIOFactory

from gateway.cli.session import Loop
from gateway.client import ClientOptions, ConnectFailed, Reconnect
from gateway.client.aio import connect
from gateway.client.testing import FakeGateway
from gateway.client.testserver import server_factory
from tests.client.rigs import AsyncioRig
from tests.client.served import self_signed


def run(coroutine):
    """Run a coroutine in a loop and a thread of its own: pytest-twisted's loop runs in this one."""
    outcomes = []

    def work():
        outcomes.append(asyncio.run(caught(coroutine)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    result, error = outcomes[0]
    if error is not None:
        raise error
    return result


async def caught(coroutine):
    try:
        return await coroutine, None
    except Exception as error:
        return None, error


@contextmanager
def served(gateway, certificate=None) -> Iterator[str]:
    """Serve a fake gateway on a port for the length of a ``with`` block; gives the URL."""
    with Loop() as loop:

        async def listen():
            factory = server_factory(gateway, loop.reactor)
            if certificate is not None:
                context = DefaultOpenSSLContextFactory(str(certificate), str(certificate))
                factory = TLSMemoryBIOFactory(context, False, factory, loop.reactor)
            return loop.reactor.listenTCP(0, factory, interface="127.0.0.1")

        async def stop():
            gateway.cut()
            await port.stopListening()

        port = loop.run(listen)
        try:
            number = port.getHost().port
            yield f"wss://localhost:{number}" if certificate else f"ws://127.0.0.1:{number}"
        finally:
            loop.run(stop)


def answering(run):
    for word in ("one ", "two ", "three"):
        run.say(word)
    run.finish()


async def converse(url, **more):
    async with await connect(url, **more) as client:
        health = await client.health()
        end = await client.chat("hi").result()
    return health.ok, end.text


def test_a_conversation_over_tcp():
    """A client connects to a port, is answered, and leaves."""
    with served(FakeGateway(on_send=answering)) as url:
        assert run(converse(url)) == (True, "one two three")


def test_a_conversation_over_tls(tmp_path):
    """Over TLS the certificate is checked by the context given."""
    certificate = self_signed(tmp_path / "gateway.pem")
    context = ssl.create_default_context(cafile=str(certificate))

    with served(FakeGateway(on_send=answering), certificate) as url:
        assert run(converse(url, ssl_context=context)) == (True, "one two three")


def test_a_certificate_of_nobody(tmp_path):
    """A certificate that the system's roots do not know is refused."""
    certificate = self_signed(tmp_path / "gateway.pem")

    with served(FakeGateway(), certificate) as url, pytest.raises(ConnectFailed, match="certif"):
        run(converse(url))


def test_a_run_over_cut_sockets():
    """Over real sockets too, a run that is cut between its words is whole."""
    words = [f"w{number} " for number in range(30)]
    gateway = FakeGateway(cuts=[6, 7, 8, 9])

    async def probe(url, reactor):
        options = ClientOptions(reconnect=Reconnect(first_s=0.001, cap_s=0.01))
        async with await connect(url, options) as client:
            run = client.chat("hi", idempotency_key="k")
            while "k" not in gateway.runs:
                await asyncio.sleep(0.001)
            for word in words:
                reactor.callFromThread(gateway.runs["k"].say, word)
                await asyncio.sleep(0.002)
            reactor.callFromThread(gateway.runs["k"].finish)
            return (await run.result()).text

    with Loop() as loop:

        async def listen():
            factory = server_factory(gateway, loop.reactor)
            return loop.reactor.listenTCP(0, factory, interface="127.0.0.1")

        async def stop():
            gateway.cut()
            await port.stopListening()

        port = loop.run(listen)
        text = run(probe(f"ws://127.0.0.1:{port.getHost().port}", loop.reactor))
        loop.run(stop)

    assert text == "".join(words)
    assert gateway.accepted == 5


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.mark.parametrize(
    ("host", "why"), [("127.0.0.1", "connection refused"), ("no-such-host.invalid", "unknown host")]
)
def test_why_there_is_no_connection(host, why):
    """A host that can not be reached fails with one line that says why."""
    with pytest.raises(ConnectFailed) as raised:
        run(connect(f"ws://{host}:{free_port()}"))

    assert raised.value.why == why


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (TimeoutError(), "timed out"),
        (OSError("Network is unreachable"), "Network is unreachable"),
        (UnicodeError("label too long"), "label too long"),
        (OSError(), "OSError"),
    ],
)
def test_other_failures_to_connect(error, why):
    """Whatever an opener raises is a failure to connect."""

    async def failing(factory):
        raise error

    with pytest.raises(ConnectFailed) as raised:
        run(connect("ws://h", opener=failing))

    assert raised.value.why == why


def test_giving_up_while_it_is_dialed():
    """A host that never answers is given up after the handshake timeout, and no task is left."""

    async def never(factory):
        await asyncio.Event().wait()

    async def probe():
        with pytest.raises(ConnectFailed, match="timed out"):
            await connect("ws://h", ClientOptions(handshake_timeout=15.0), opener=never)
        await asyncio.sleep(0)
        return len(asyncio.all_tasks())

    with AsyncioRig(FakeGateway()) as rig:
        assert rig.run(probe()) == 1


def test_an_upgrade_that_is_never_answered():
    """A connection whose WebSocket does not open is cut after the handshake timeout."""
    ends = []

    class Silent(asyncio.Transport):
        protocol: Any = None

        def write(self, data):
            pass

        def close(self):
            ends.append("close")

        def abort(self):
            ends.append("abort")
            self.protocol.connection_lost(None)

    async def silent(factory):
        transport = Silent()
        transport.protocol = factory()
        transport.protocol.connection_made(transport)

    async def probe():
        with pytest.raises(ConnectFailed, match="timed out"):
            await connect("ws://h", opener=silent)

    with AsyncioRig(FakeGateway()) as rig:
        rig.run(probe())

    assert ends == ["abort"]


def test_nonsense_and_raising_callbacks_are_logged(caplog):
    """Nonsense is logged and skipped; a listener that raises is logged, and harms nobody."""

    async def probe():
        async with await rig.connect(ClientOptions()) as client:
            client.on_event(lambda notice: 1 // 0)
            for connection in rig.gateway.connections:
                connection.raw(b"{")
            rig.gateway.broadcast("tick")
            await rig.sleep(0.1)
            return (await client.health()).ok

    with AsyncioRig(FakeGateway()) as rig, caplog.at_level(logging.WARNING, "gateway.client"):
        assert rig.run(probe())

    texts = [record.getMessage() for record in caplog.records]
    assert texts == [
        "ignored a message of ws://gateway.test:18789: not JSON",
        "a callback of the client's user raised",
    ]


def test_a_failure_while_reading_ends_the_connection(caplog):
    """Where reading itself fails, the failure is logged and the connection cut, as by a reactor."""

    async def probe():
        client = await rig.connect(ClientOptions())
        client.frame_received = None
        rig.gateway.broadcast("tick")
        await rig.sleep(0.1)
        return (await client.when_closed()).code

    with AsyncioRig(FakeGateway()) as rig, caplog.at_level(logging.ERROR, "gateway.client"):
        assert rig.run(probe()) == 1006

    assert [record.getMessage() for record in caplog.records] == ["reading from the gateway failed"]


def test_no_reactor_is_needed():
    """The driver imports no reactor: nothing of Twisted runs."""
    program = "import sys, gateway.client.aio; print('twisted.internet.reactor' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert (done.stdout, done.stderr) == ("False\n", "")
