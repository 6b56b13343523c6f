"""A stranger sends what is too large: one frame, many fragments, a head without end (attack 15)."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.logger import LogEvent

from tests.net.gate import Client, Gate, closings
from tests.net.wire import Wire, masked

LIMIT = 65_536


def refused(client: Client, log: list[LogEvent]) -> LogEvent:
    """Check that a stranger is closed with 1009; return the close line."""
    assert client.closed() == (1009, "preauth payload too large")
    client.wire.lose()
    (line,) = closings(log)
    assert line["cause"] == "preauth-payload-too-large"
    return line


@pytest.mark.parametrize("size", [LIMIT + 1, 1 << 20, 25 << 20, (1 << 63) - 1])
@pytest.mark.parametrize("opcode", [1, 2])
def test_s15_a_large_frame_is_refused_by_its_header(
    gate: Gate, log: list[LogEvent], size: int, opcode: int
) -> None:
    """The length in the header is enough to close: nothing is waited for, and nothing kept."""
    client = gate.open()
    client.wire.receive(masked(b"", opcode, length=size))
    assert refused(client, log)["payloadBytes"] == size
    assert len(client.server.data) < 100


@pytest.mark.parametrize("piece", [1, 1000, 30_000])
def test_s15_fragments_are_counted_together(gate: Gate, log: list[LogEvent], piece: int) -> None:
    """A message in many fragments is refused when their sum is too large, whatever each has."""
    client = gate.open()
    frame = masked(b"x" * piece, 0, fin=False)
    client.wire.receive(masked(b"x" * piece, 1, fin=False))
    sent = piece
    while client.server.closing is None:
        batch = max(1, 20_000 // piece)
        client.wire.receive(frame * batch)
        sent += batch * piece
        assert sent < 2 * LIMIT
    refused(client, log)


def test_s15_empty_fragments_cost_nothing(gate: Gate) -> None:
    """Fragments without any bytes, without end, are not kept one by one."""
    client = gate.open()
    client.wire.receive(masked(b"", 1, fin=False) + masked(b"", 0, fin=False) * 20_000)
    assert client.server.message_data == []
    gate.clock.advance(15)
    assert client.server.closing is not None, (
        "and the time for the handshake is not extended by them"
    )


@pytest.mark.parametrize("piece", [1, 2, 500])
def test_s15_small_fragments_take_no_more_than_they_hold(gate: Gate, piece: int) -> None:
    """A message in fragments of a byte or two is kept in few pieces, and delivered whole."""
    client = gate.open()
    client.wire.receive(masked(b"x" * piece, 1, fin=False))
    client.wire.receive(masked(b"x" * piece, 0, fin=False) * (20_000 // piece))
    assert len(client.server.message_data) == 1
    client.wire.receive(masked(b"", 0))
    assert client.server.frames_in == 1


def test_s15_a_frame_in_single_bytes_is_refused_as_early(gate: Gate, log: list[LogEvent]) -> None:
    """Who drips the header is closed with its last byte."""
    client = gate.open()
    head = masked(b"", length=LIMIT + 1)
    for at in range(len(head)):
        client.wire.receive(head[at : at + 1])
    refused(client, log)


def test_s15_compressed_bytes_do_not_get_around_the_limit(gate: Gate) -> None:
    """A compressed frame is refused, since nothing was negotiated that could make it larger."""
    client = gate.open(Sec_WebSocket_Extensions="permessage-deflate")
    client.wire.receive(masked(b"\xcaH\xcd\xc9\xc9\x07\x00", rsv=4))
    assert client.server.closing is not None
    assert client.server.closing.code == 1002


def test_s15_twin_a_large_connect_that_drips_is_served(gate: Gate) -> None:
    """A connect of nearly the limit, in small fragments over a slow link, is let in."""
    client = gate.open()
    filler = {f"permission-{n}": True for n in range(2000)}
    wire: Wire = client.wire
    sent: list[bytes] = []
    receive: Any = wire.receive
    wire.receive = sent.append  # type: ignore[method-assign,assignment]
    client.connect(permissions=filler)
    wire.receive = receive  # type: ignore[method-assign]
    (data,) = sent
    assert 40_000 < len(data) < LIMIT
    for at in range(0, len(data), 500):
        wire.receive(data[at : at + 500])
        gate.clock.advance(0.1)
    assert any(frame.get("ok") for frame in client.received())
