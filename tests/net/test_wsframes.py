"""gateway.net.wsframes: frames as bytes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from autobahn.twisted.websocket import WebSocketServerProtocol
from hypothesis import given
from hypothesis import strategies as st

from gateway.net.wsframes import fragments, frame, frame_end, frame_header, keep, unmasked
from gateway.testing import FakeClock
from tests.net.wire import MASK, close_frame, masked, opened, websocket_factory

LENGTHS = (0, 1, 125, 126, 127, 65_535, 65_536, 1 << 20)


def parse(data: bytes) -> list[tuple[int, bytes]]:
    """Return the first byte and the payload of every unmasked frame in ``data``."""
    found, at = [], 0
    while at < len(data):
        size, header = data[at + 1], 2
        if size == 126:
            size, header = int.from_bytes(data[at + 2 : at + 4], "big"), 4
        elif size == 127:
            size, header = int.from_bytes(data[at + 2 : at + 10], "big"), 10
        found.append((data[at], data[at + header : at + header + size]))
        at += header + size
    assert at == len(data)
    return found


@pytest.mark.parametrize("length", LENGTHS)
def test_frame_is_what_autobahn_sends(length: int) -> None:
    """A text frame has the bytes that the base class would send."""
    protocol = opened(websocket_factory(WebSocketServerProtocol, FakeClock()))
    protocol.sendMessage(b"x" * length)
    assert frame(b"x" * length) == protocol.transport.sent


def test_header_takes_any_first_byte() -> None:
    """The first byte of a header is the caller's."""
    assert frame_header(3, 0x82) == b"\x82\x03"
    assert frame_header(300, 0x00) == b"\x00\x7e\x01\x2c"
    assert frame_header(70_000, 0x01) == b"\x01\x7f\x00\x00\x00\x00\x00\x01\x11\x70"


@given(size=st.integers(0, 1000), limit=st.integers(16, 300))
def test_fragments_fit_and_join(size: int, limit: int) -> None:
    """Fragments are no larger than the limit, join to the message, and only the last one is final."""
    payload = bytes(at % 251 for at in range(size))
    pieces = fragments(payload, limit)
    assert all(len(piece) <= limit for piece in pieces)
    frames = [parse(piece) for piece in pieces]
    assert all(len(parsed) == 1 for parsed in frames)
    assert b"".join(parsed[0][1] for parsed in frames) == payload
    firsts = [parsed[0][0] for parsed in frames]
    assert firsts == ([0x81] if len(firsts) == 1 else [1, *[0] * (len(firsts) - 2), 0x80])


@pytest.mark.parametrize("limit", [65_539, 65_540, 65_545, 65_546, 70_000])
@pytest.mark.parametrize("size", [65_535, 65_536, 131_072, 200_000])
def test_large_fragments(size: int, limit: int) -> None:
    """The limit holds where the header grows to ten bytes."""
    pieces = fragments(b"x" * size, limit)
    assert max(map(len, pieces)) <= limit
    assert sum(len(parse(piece)[0][1]) for piece in pieces) == size


def test_fragments_need_room() -> None:
    """A limit that leaves no room for a payload is an error of the caller."""
    with pytest.raises(ValueError, match="16"):
        fragments(b"x" * 100, 15)


@given(payload=st.binary(max_size=3000), mask=st.binary(min_size=4, max_size=4))
def test_unmasked(payload: bytes, mask: bytes) -> None:
    """Unmasking gives the payload, by both ways and for every length modulo four."""
    data = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    assert unmasked(mask, data, len(data)) == payload


@pytest.mark.parametrize(
    "data",
    [
        masked(),
        masked(b"x"),
        masked(b"x" * 200),
        masked(b"x" * 70_000),
        masked(b"x", mask=None),
        close_frame(),
    ],
)
def test_frame_end(data: bytes) -> None:
    """The end of a frame is found from its header alone, wherever it starts."""
    assert frame_end(b"??" + data + b"rest", 2, len(data) + 6) == len(data) + 2
    header = len(data) - len(data.lstrip(data[:0])) or 14
    assert frame_end(data[:header], 0, min(header, len(data))) == len(data)


def test_frame_end_of_half_a_header() -> None:
    """While the length is not whole, the end is that of the data."""
    for data in (b"", b"\x81", masked(b"x" * 200)[:3], masked(b"x" * 70_000)[:9]):
        assert frame_end(data, 0, len(data)) == len(data)
    assert MASK not in masked(b"x" * 200)[:3]


@given(st.lists(st.sampled_from([b"", b"a", b"bc", b"x" * 1023, b"y" * 1024, b"z" * 5000])))
def test_pieces_are_kept_together(pieces: list[bytes]) -> None:
    """All that came is there, in order, and no two neighbours are small."""
    kept: list[bytes | bytearray] = []
    for piece in pieces:
        keep(kept, piece)
    assert b"".join(kept) == b"".join(pieces)
    assert all(len(a) + len(b) > 1024 for a, b in pairwise(kept))
