"""A compression bomb, and a size limit that cuts instead of refusing (attack 16)."""

from __future__ import annotations

import pytest
from twisted.logger import LogEvent

from tests.net.gate import Gate, closings, limited
from tests.net.wire import masked

OFFERS = (
    "permessage-deflate",
    "permessage-deflate; client_max_window_bits",
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover, permessage-deflate",
    "permessage-bzip2",
    "permessage-snappy",
    "x-webkit-deflate-frame",
)


@pytest.mark.parametrize("offer", OFFERS)
def test_s16_compression_is_never_agreed_on(gate: Gate, offer: str) -> None:
    """Whatever a client offers, no extension is chosen: there is nothing that could be inflated."""
    client = gate.open(Sec_WebSocket_Extensions=offer)
    assert " 101 " in client.status
    assert "extensions" not in client.response.lower()
    assert client.connect()["ok"]


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("joined", [False, True])
def test_s16_a_compressed_frame_breaks_the_protocol(gate: Gate, offer: str, joined: bool) -> None:
    """A frame that is marked as compressed ends the connection with 1002; it is not looked into."""
    client = gate.open(Sec_WebSocket_Extensions=offer)
    if joined:
        client.connect()
    bomb = b"\xec\xc1\x01\x01\x00\x00\x00\x80\x90\xfeO" * 1000
    client.wire.receive(masked(bomb, rsv=4))
    closed = client.closed()
    assert closed is not None
    assert closed[0] == 1002
    assert client.server.frames_in == int(joined)


def test_s16_what_is_too_large_is_refused_whole(log: list[LogEvent]) -> None:
    """A message over the limit is refused with 1009; no shortened one is ever handled."""
    gate = limited(payload_bytes=100_000)
    client = gate.join()
    before = client.server.frames_in
    text = b'{"type":"req","id":"cut","method":"health"}' + b" " * 99_000
    client.raw(text, fin=False)
    client.raw(b" " * 99_000, opcode=0)
    closed = client.closed()
    assert closed is not None
    assert closed[0] == 1009
    assert client.server.frames_in == before
    client.wire.lose()
    assert closings(log)[0]["limitBytes"] == 100_000


def test_s16_twin_what_just_fits_arrives_whole() -> None:
    """A message of exactly the limit, in two fragments, is handled to its last byte."""
    gate = limited(payload_bytes=100_000)
    client = gate.join()
    text = b'{"type":"req","id":"whole","method":"health"}'
    client.raw(text, fin=False)
    client.raw(b" " * (100_000 - len(text)), opcode=0)
    (answer,) = (frame for frame in client.received() if frame["type"] == "res")
    assert (answer["id"], answer["ok"]) == ("whole", True)
