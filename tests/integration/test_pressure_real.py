"""Pressure on real sockets: floods, one that does not read among many, and closes that have to be seen."""

from __future__ import annotations

import json
import resource
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import LogEvent

from gateway.errors import CloseCause, CloseCode
from gateway.net.websocket import UNREAD_ANSWERS_BYTES
from gateway.testing import TOKEN
from tests.integration.test_connections_real import Gate, Peer, at_once, certificate, log
from tests.net.gate import CLI, SCOPES
from tests.net.wire import masked

__all__ = ["certificate", "log"]
pytestmark = pytest.mark.integration
reactor: Any = _reactor
GIGABYTE = 1_000_000_000


def resident() -> int:
    """Return the memory of this process, in bytes."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
@pytest_twisted.ensureDeferred
async def test_a_gigabyte_of_requests_is_pushed_back(certificate: Path, secure: bool) -> None:
    """A client that sends 1 GB and reads nothing gets in some MB, then blocks; when it reads it is served."""
    context = None
    spec = "127.0.0.1:0"
    if secure:
        spec = f"ssl:0:interface=127.0.0.1:privateKey={certificate}:certKey={certificate}"
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    gate = Gate(spec)
    peer = await deferToThread(lambda: Peer(gate, receive=65_536, tls=context).join())
    (connection,) = gate.factory.open_connections
    request = b'{"type":"req","id":"%06d","method":"health"}'
    chunk = 1000
    before = resident()

    def flood() -> int:
        """Send until it blocks for a second; return how many bytes went in."""
        peer.socket.settimeout(1)
        sent = 0
        while sent < GIGABYTE:
            number = sent // len(masked(request % 0))
            data = b"".join(masked(request % n) for n in range(number, number + chunk))
            view = memoryview(data)
            while view:
                try:
                    taken = peer.socket.send(view)
                except TimeoutError:
                    return sent
                sent, view = sent + taken, view[taken:]
        return sent

    sent = await deferToThread(flood)
    assert 100_000 < sent < 30_000_000
    assert connection.closing is None
    assert connection.outbox.held < UNREAD_ANSWERS_BYTES + 100_000
    assert len(connection._unread) < 200_000
    assert resident() - before < 40_000_000
    count = sent // len(masked(request % 0))

    def catch_up() -> list[int]:
        peer.socket.settimeout(15)
        ids: list[int] = []
        while len(ids) < count:
            assert peer.read()
            ids += [int(json.loads(payload)["id"]) for _, payload in peer.frames]
            peer.frames.clear()
        return ids

    assert await deferToThread(catch_up) == list(range(count))
    await gate.stop()


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_while_it_is_pushed_back(how: str, log: list[LogEvent]) -> None:
    """That a client is gone is noticed at once although nothing is read from it."""
    gate = Gate(outbox_bytes=65_536)
    peer = await deferToThread(lambda: Peer(gate, receive=4096).join())
    (connection,) = gate.factory.open_connections
    data = masked(b'{"type":"req","id":"h","method":"health"}') * 1000
    await deferToThread(peer.socket.sendall, data)
    await gate.until(lambda: connection._reading_paused)
    (peer.reset if how == "reset" else peer.socket.close)()
    await gate.until(lambda: not len(gate.factory), seconds=5)
    assert [line["cause"] for line in log] == ["peer-gone"]
    assert log[0]["dropped"]["must"] > 0
    await gate.stop()


@pytest_twisted.ensureDeferred
async def test_one_that_stops_reading_among_many(log: list[LogEvent]) -> None:
    """While 20 times its cap is published the total never passes the cap, the others get all, the slow one its code."""  # noqa: E501
    cap, size = 256 * 1024, 16 * 1024
    gate = Gate(outbox_bytes=cap, outbox_total_bytes=cap)
    count = 20 * cap // size
    peers = await at_once(lambda _: Peer(gate).join(), list(range(20)))
    quick = gate.factory.open_connections
    slow = await deferToThread(lambda: Peer(gate, receive=4096).join())
    total = gate.wiring.edge.outboxes
    (stuck,) = set(gate.factory.open_connections).difference(quick)
    seen: Deferred[tuple[int, str] | None] | None = None
    held = []

    def listen(peer: Peer) -> list[int]:
        while len(peer.frames) < count:
            assert peer.read(), peer.frames[-1:]
        return [json.loads(payload)["payload"]["n"] for _, payload in peer.frames]

    with ThreadPoolExecutor(len(peers)) as pool:
        listening = [pool.submit(listen, peer) for peer in peers]
        for number in range(count):
            gate.broadcast("session.message", n=number, x="x" * size)
            held.append(total.held)
            if stuck.closing and seen is None:  # from now on it has a second to begin to read
                seen = deferToThread(slow.closed)
            while any(c.waiting for c in quick):  # publish as fast as the others read
                await deferLater(reactor, 0.001, lambda: None)
        await gate.until(lambda: all(work.done() for work in listening))
    assert [work.result() for work in listening] == [list(range(count))] * len(peers)
    assert cap / 2 < max(held) <= cap
    assert seen is not None
    assert await seen == (1008, "slow consumer")
    await gate.until(lambda: len(gate.factory) == len(peers))
    (line,) = log
    assert line["cause"] == "slow-consumer"
    assert line["limit"] in ("outbox_bytes", "outbox_total_bytes")
    assert line["dropped"]["must"] >= (cap - 2 * size) // (size + 500)
    assert total.held == 0
    await gate.stop()


EACH = 40


def late(peer: Peer) -> tuple[int, str] | None:
    """Begin to read half a second after the close."""
    time.sleep(0.5)
    return peer.closed()


def asks(peer: Peer, token: str) -> tuple[int, str] | None:
    """Try to connect with a token, and read to the end."""
    params = {"minProtocol": 4, "maxProtocol": 4, "client": CLI, "scopes": SCOPES}
    params |= {"auth": {"token": token}}
    request = {"type": "req", "id": "c", "method": "connect", "params": params}
    peer.send(json.dumps(request).encode())
    return peer.closed()


@pytest_twisted.ensureDeferred
async def test_two_hundred_closes_are_seen(log: list[LogEvent]) -> None:
    """Of 200 peers closed for five reasons, which read within a second, at least 99 % see code and reason."""
    each = list(range(EACH))
    ends: list[tuple[object, tuple[int, str], list[tuple[int, str] | None]]] = []
    gate = Gate(outbox_bytes=100_000, connections_max=EACH)

    stuck = await at_once(lambda _: Peer(gate, receive=16_384).join(), each)
    while any(connection.closing is None for connection in gate.factory.open_connections):
        gate.broadcast("agent", text="x" * 40_000)
    ends.append(("slow", (1008, "slow consumer"), await at_once(late, stuck)))

    strangers = await at_once(lambda _: Peer(gate), each)
    seen = await at_once(lambda peer: asks(peer, "wrong"), strangers)
    ends.append(("refused", (1008, "unauthorized: gateway token mismatch ("), seen))

    await gate.until(lambda: not len(gate.factory))
    inside = await at_once(lambda _: Peer(gate).join(), each)
    strangers = await at_once(lambda _: Peer(gate), each)
    seen = await at_once(lambda peer: asks(peer, TOKEN), strangers)
    ends.append(("full", (1013, "too many connections"), seen))

    for connection in gate.factory.open_connections:
        connection.close(CloseCause.DRAIN, CloseCode.RESTART, "service restart")
    ends.append(("drain", (1012, "service restart"), await at_once(late, inside)))
    await gate.stop()

    gate = Gate(ping_silence_s=0.2, ping_timeout_s=0.2)
    silent = await at_once(lambda _: Peer(gate).join(), each)
    await gate.until(lambda: all(c.closing for c in gate.factory.open_connections))
    ends.append(("silent", (1008, "keepalive timeout"), await at_once(late, silent)))
    await gate.until(lambda: not len(gate.factory))
    await gate.stop()

    right = sum(
        end is not None and end[0] == code and end[1].startswith(reason)
        for _, (code, reason), seen in ends
        for end in seen
    )
    assert sum(len(seen) for _, _, seen in ends) == 5 * EACH
    assert right >= 0.99 * 5 * EACH, [(kind, set(seen)) for kind, _, seen in ends]
    assert len(log) == 5 * EACH
