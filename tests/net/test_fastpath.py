"""gateway.net.fastpath: not to be told apart from Autobahn's own protocol, frame by frame."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from autobahn.websocket.compress import PerMessageDeflateOfferAccept
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.net.fastpath import disable_handshake_logging, frame, prepare
from gateway.testing import FakeClock
from tests.net.wire import (
    Base,
    Fast,
    Wire,
    close_frame,
    masked,
    opened,
    splits,
    upgrade,
    websocket_factory,
)
from tests.unmeasured import unmeasured

disable_handshake_logging()


class Framed(Fast):
    """Ours, sending its own frames."""

    def sendMessage(self, payload: bytes, isBinary: bool = False) -> None:
        data = frame(payload)
        self.send_frame_bytes(b"\x82" + data[1:] if isBinary else data)


def operations(wire: Wire) -> list[tuple[Any, ...]]:
    """What was done to a transport, consecutive writes joined: the order that a peer can see."""
    joined: list[tuple[Any, ...]] = []
    for operation in wire.log:
        if operation[0] == "write" and joined and joined[-1][0] == "write":
            joined[-1] = ("write", joined[-1][1] + operation[1])
        else:
            joined.append(operation)
    return joined


STATE = (
    "state closedByMe failedByMe droppedByMe wasClean wasNotCleanReason localCloseCode "
    "localCloseReason remoteCloseCode remoteCloseReason wasMaxMessagePayloadSizeExceeded "
    "wasMaxFramePayloadSizeExceeded inside_message"
).split()


def snapshot(protocol: Any) -> dict[str, Any]:
    """Everything about a connection that its peer or its subclass can notice."""
    seen: dict[str, Any] = {name: getattr(protocol, name) for name in STATE}
    seen["events"] = list(protocol.events)
    seen["wire"] = operations(protocol.transport)
    if protocol.state != protocol.STATE_CLOSED:
        seen["data"] = protocol.data
        current = protocol.current_frame
        if current is not None:
            seen["frame"] = (current.opcode, current.fin, current.rsv, current.length, current.mask)
            seen["got"] = protocol.current_frame_masker.pointer()
        if protocol.inside_message:
            seen["partial"] = b"".join(protocol.message_data)
    return seen


def compare(chunks: Iterable[bytes], ours: Any = Fast, **options: Any) -> dict[str, Any]:
    """Feed both classes the same reads; return the last snapshot, equal after every read."""
    clock = FakeClock()
    base = opened(websocket_factory(Base, clock, **options))
    fast_factory = websocket_factory(ours, clock, **options)
    prepare(fast_factory, clock)
    fast = opened(fast_factory)
    fed = b""
    for chunk in chunks:
        base.dataReceived(chunk)
        fast.dataReceived(chunk)
        fed += chunk
        assert snapshot(fast) == snapshot(base), f"after {fed!r}"
    result = snapshot(fast)
    for protocol in (base, fast):
        protocol.transport.lose()
    assert snapshot(fast)["events"] == snapshot(base)["events"]
    return result


HELLO = masked(b"hello")
UTF8 = "Héllo ✓ 𝄞".encode()
CASES = {
    "one text": HELLO,
    "one binary": masked(b"\x00\xff\x80", 2),
    "empty text": masked() + HELLO,
    "zero mask": masked(b"hello", mask=b"\x00\x00\x00\x00"),
    "three texts": masked(b"a") + masked(b"bb") + masked(b"ccc"),
    "text with ping in between": HELLO + masked(b"p", 9) + HELLO,
    "unasked pong": masked(b"p", 10) + HELLO,
    "fragments with ping in between": masked(b"he", fin=False) + masked(b"", 9) + masked(b"llo", 0),
    "fragments of nothing": masked(fin=False) + masked(b"", 0, fin=False) + masked(b"", 0) + HELLO,
    "text inside a fragmented message": masked(b"he", fin=False) + HELLO,
    "continuation of nothing": masked(b"x", 0) + HELLO,
    "utf-8": masked(UTF8),
    "utf-8 split in fragments": masked(UTF8[:2], fin=False) + masked(UTF8[2:], 0),
    "invalid utf-8": HELLO + masked(b"a\xc3(") + HELLO,
    "surrogate": masked(b"\xed\xa0\x80") + HELLO,
    "utf-8 that ends too early": masked(b"a\xe2\x82") + HELLO,
    "invalid utf-8 in a fragment": masked(b"a", fin=False) + masked(b"\xff", 0, fin=False),
    "binary that is no utf-8": masked(b"\xff\xfe", 2) + HELLO,
    "unmasked": HELLO + masked(b"hello", mask=None) + HELLO,
    "unmasked ping": masked(b"", 9, mask=None) + HELLO,
    **{f"rsv {rsv}": HELLO + masked(b"x", rsv=rsv) + HELLO for rsv in range(1, 8)},
    **{f"opcode {code}": HELLO + masked(b"x", code) for code in (3, 4, 5, 6, 7)},
    **{f"opcode {code}": HELLO + masked(b"x", code) for code in (11, 12, 13, 14, 15)},
    "fragmented ping": masked(b"x", 9, fin=False) + HELLO,
    "ping of 126 bytes": masked(b"x" * 126, 9) + HELLO,
    "close of 126 bytes": close_frame(1000, b"x" * 124),
    "16-bit length": masked(b"x" * 126) + HELLO,
    "16-bit length not minimal": HELLO + masked(b"short", form=16) + HELLO,
    "16-bit length of nothing": masked(b"", form=16) + HELLO,
    "64-bit length not minimal": HELLO + masked(b"short", form=64) + HELLO,
    "64-bit length too large": masked(b"x", form=64, length=(1 << 64) - 1) + HELLO,
    "64-bit length of an exabyte": masked(b"x", form=64, length=1 << 60),
    "close without code": HELLO + close_frame(None) + HELLO,
    "close of one byte": masked(b"\x03", 8),
    "close 1000": close_frame(1000, b"bye") + HELLO,
    **{
        f"close {code}": HELLO + close_frame(code)
        for code in (0, 999, 1001, 1004, 1005, 1006, 1011, 1012, 1015, 1016, 2999, 3000, 4999, 5000)
    },
    "close with invalid utf-8": close_frame(1000, b"\xc3("),
    "close fragmented": masked(b"\x03\xe8", 8, fin=False),
    "handler closes, peer answers": masked(b"close") + HELLO + close_frame(1000) + HELLO,
    "handler closes, half a frame follows": masked(b"close") + masked(b"x" * 20) + close_frame(),
    "handler closes, error follows": masked(b"close") + masked(b"x", 5) + close_frame(),
    "handler drops": HELLO + masked(b"drop") + HELLO,
    "handler pings": HELLO + masked(b"ping") + HELLO + masked(b"from handler", 10),
    "handler lowers the limit": masked(b"hello!") + masked(b"limit") + masked(b"hello!") + HELLO,
}


@pytest.mark.parametrize("fail_by_drop", [True, False], ids=["drop", "close"])
@pytest.mark.parametrize("name", CASES)
def test_same_as_base_at_every_split(name: str, fail_by_drop: bool) -> None:
    """Every kind of frame gives the callbacks, bytes and state of the base class, however it is split."""
    for chunks in splits(CASES[name]):
        compare(chunks, failByDrop=fail_by_drop)


@pytest.mark.parametrize(
    "name", ["three texts", "utf-8", "text with ping in between", "close 1000"]
)
def test_own_frames_same_as_base(name: str) -> None:
    """Frames sent as bytes give what sendMessage of the base class gives, in the same order."""
    for chunks in splits(CASES[name] + masked(b"\x01\x02", 2)):
        compare(chunks, Framed)


LIMITS = [
    ({"maxMessagePayloadSize": 5}, HELLO + masked(b"123456") + HELLO),
    ({"maxMessagePayloadSize": 5}, masked(b"123", fin=False) + masked(b"456", 0)),
    ({"maxFramePayloadSize": 5}, HELLO + masked(b"123456") + HELLO),
    ({"maxMessagePayloadSize": 130}, masked(b"x" * 130) + masked(b"x" * 131)),
    ({"utf8validateIncoming": False}, masked(b"\xff\xfe") + HELLO),
    ({"requireMaskedClientFrames": False}, masked(b"hello", mask=None) + HELLO),
    ({"applyMask": False}, HELLO + HELLO),
    ({"echoCloseCodeReason": True}, HELLO + close_frame(3000, b"why")),
]


@pytest.mark.parametrize("fail_by_drop", [True, False], ids=["drop", "close"])
@pytest.mark.parametrize(("options", "stream"), LIMITS)
def test_options_are_kept(options: dict[str, Any], stream: bytes, fail_by_drop: bool) -> None:
    """Limits and options of the factory act as in the base class, at every split."""
    for chunks in splits(stream):
        compare(chunks, failByDrop=fail_by_drop, **options)


@pytest.mark.parametrize("size", [125, 126, 127, 1024, 1025, 65_535, 65_536, 200_000])
def test_lengths(size: int) -> None:
    """Messages around every change of the length's form are the same, whole and in reads of 64 KiB."""
    payload = bytes(32 + at % 90 for at in range(size))
    stream = masked(payload, 2) + masked(payload) + HELLO
    compare([stream])
    compare([stream[at : at + 65_536] for at in range(0, len(stream), 65_536)])
    compare([stream[:3], stream[3 : size // 2], stream[size // 2 :]])


def test_compressed_messages() -> None:
    """With compression negotiated, compressed and plain messages mix as in the base class."""
    press = zlib.compressobj(wbits=-15)
    packed = (press.compress(b"hello hello") + press.flush(zlib.Z_SYNC_FLUSH))[:-4]
    stream = HELLO + masked(packed, rsv=4) + HELLO + masked(packed, 9, rsv=4)

    def accept(offers: list[Any]) -> Any:
        return PerMessageDeflateOfferAccept(offers[0])

    for chunks in splits(stream):
        results = []
        for protocol in (Base, Fast):
            wire = Wire()
            factory = websocket_factory(protocol, FakeClock(), perMessageCompressionAccept=accept)
            connected = wire.connect(factory.buildProtocol(wire.getPeer()))
            wire.receive(upgrade(Sec_WebSocket_Extensions="permessage-deflate"))
            wire.log.clear()
            for chunk in chunks:
                wire.receive(chunk)
            results.append(snapshot(connected))
        assert results[0] == results[1]
    assert ("message", b"hello hello", False) in results[0]["events"]


def frames() -> st.SearchStrategy[bytes]:
    """Frames as a client might send them, a tenth of them wrong in some way."""
    payload = st.one_of(
        st.binary(max_size=20),
        st.text(max_size=20).map(str.encode),
        st.sampled_from([b"close", b"ping", b"limit", b"x" * 126, b"x" * 300, b"y" * 1500]),
    )
    plain = st.builds(masked, payload, st.sampled_from([1, 1, 1, 2]))
    parts = st.builds(masked, payload, st.sampled_from([0, 1, 2]), fin=st.booleans())
    control = st.builds(masked, st.binary(max_size=125), st.sampled_from([9, 10]))
    closing = st.builds(close_frame, st.sampled_from([None, 1000, 1001, 1005, 3000]))
    wrong = st.one_of(
        st.builds(masked, payload, st.integers(0, 15), fin=st.booleans(), rsv=st.integers(0, 7)),
        st.builds(masked, payload, mask=st.none()),
        st.builds(masked, payload, form=st.sampled_from([16, 64])),
        st.binary(min_size=1, max_size=20),
    )
    return st.one_of(plain, plain, plain, plain, parts, parts, control, control, closing, wrong)


@unmeasured
@settings(max_examples=300, deadline=None)
@given(
    sent=st.lists(frames(), max_size=12).map(b"".join),
    cuts=st.lists(st.integers(0, 4000), max_size=8),
    options=st.fixed_dictionaries(
        {"failByDrop": st.booleans(), "maxMessagePayloadSize": st.sampled_from([0, 30, 1000])}
    ),
)
def test_same_as_base_for_any_stream(sent: bytes, cuts: list[int], options: dict[str, Any]) -> None:
    """Any sequence of frames in any reads gives the callbacks, bytes and state of the base class."""
    places = sorted({at for at in cuts if at < len(sent)} | {0, len(sent)})
    compare([sent[a:b] for a, b in pairwise(places)], **options)


# -- RFC 6455, judged by itself and not by the base class

OK, VIOLATION, BAD_DATA, TOO_BIG = None, 1002, 1007, 1009
RFC = [
    ("5.1 a server fails an unmasked frame", masked(b"x", mask=None), VIOLATION),
    ("5.2 reserved bits", masked(b"x", rsv=1), VIOLATION),
    ("5.2 reserved data opcode", masked(b"x", 3), VIOLATION),
    ("5.2 reserved control opcode", masked(b"x", 11), VIOLATION),
    ("5.2 length not minimal", masked(b"x", form=16), VIOLATION),
    ("5.4 continuation without a start", masked(b"x", 0), VIOLATION),
    ("5.4 new message inside a message", masked(b"x", fin=False) + HELLO, VIOLATION),
    ("5.4 control frames inside a message", CASES["fragments with ping in between"], OK),
    ("5.5 control frame over 125 bytes", masked(b"x" * 126, 9), VIOLATION),
    ("5.5 fragmented control frame", masked(b"x", 9, fin=False), VIOLATION),
    ("5.5.1 close with a body of 1 byte", masked(b"x", 8), VIOLATION),
    ("5.6 binary may hold anything", masked(b"\xff", 2), OK),
    ("7.4.1 close code 1005 on the wire", close_frame(1005), VIOLATION),
    ("7.4.2 close code below 1000", close_frame(999), VIOLATION),
    ("8.1 text that is no UTF-8", masked(b"\xff"), BAD_DATA),
    ("8.1 UTF-8 that ends too early", masked(b"\xe2\x82"), BAD_DATA),
    ("8.1 overlong form", masked(b"\xc0\xaf"), BAD_DATA),
    ("8.1 above U+10FFFF", masked(b"\xf4\x90\x80\x80"), BAD_DATA),
    ("8.1 noncharacters are valid", masked("\uffff\U0010ffff".encode()), OK),
    ("5.5.1 reason that is no UTF-8", close_frame(1000, b"\xff"), BAD_DATA),
    ("10.4 larger than the limit", masked(b"x" * 2000), TOO_BIG),
]


@pytest.mark.parametrize(("rule", "stream", "code"), RFC, ids=[rule for rule, _, _ in RFC])
def test_rfc6455(rule: str, stream: bytes, code: int | None) -> None:
    """What RFC 6455 forbids is answered with its close code, what it allows is delivered."""
    protocol = opened(
        websocket_factory(Fast, FakeClock(), failByDrop=False, maxMessagePayloadSize=1000)
    )
    protocol.dataReceived(stream)
    sent = protocol.transport.sent
    if code is None:
        assert protocol.state == protocol.STATE_OPEN
        assert any(event[0] == "message" for event in protocol.events)
    else:
        assert sent[0] == 0x88
        assert int.from_bytes(sent[2:4], "big") == code
        assert protocol.state != protocol.STATE_OPEN
