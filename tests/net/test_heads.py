"""gateway.net.heads: in a request head everybody sees the same headers."""

from __future__ import annotations

import pytest
from autobahn.websocket.protocol import parseHttpHeader
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.net.heads import BLANK_LINE, unambiguous
from tests.net.wire import upgrade

HEADER = st.tuples(
    st.sampled_from([b"Host", b"X-Forwarded-For", b" X-Forwarded-For", b"X\xa0", b"A b", b""]),
    st.sampled_from([b":", b": ", b" :", b"", b"\x1c:"]),
    st.binary(max_size=12),
)


@given(st.lists(HEADER, max_size=4), st.binary(max_size=8))
@example([(b"X", b":", b"a\x85X-Forwarded-For: b")], b"rest")
@example([(b"X", b":", b"a\x0bX-Forwarded-For: b")], b"")
def test_no_header_hides_in_another(headers: list[tuple[bytes, bytes, bytes]], rest: bytes) -> None:
    """What is taken holds for Autobahn the headers that lie between line ends, and no others."""
    lines = [b"GET / HTTP/1.1", *map(b"".join, headers)]
    head = b"\r\n".join(lines) + BLANK_LINE
    at = head.index(BLANK_LINE)
    end = at + len(BLANK_LINE)
    try:
        taken = unambiguous(head + rest, at)
    except ValueError:
        return
    assert taken[end:] == (head + rest)[end:]
    _, _, counts = parseHttpHeader(taken[:end])
    names = [line.partition(b":")[0].decode("ascii") for line in lines[1:] if line]
    assert sum(counts.values()) == len(names)
    assert set(counts) == {name.lower() for name in names}


@pytest.mark.parametrize(
    "line", [b"X : a", b" X: a", b"no colon", b"X: a\x00", b"X: a\rb", b"X: a\nB: c", b": a"]
)
def test_what_others_may_read_differently_is_refused(line: bytes) -> None:
    """A blank in a name, a line that goes on, a control character: no client sends that."""
    head = upgrade()[:-2] + line + BLANK_LINE
    with pytest.raises(ValueError, match="malformed"):
        unambiguous(head, len(head) - len(BLANK_LINE))


def test_ordinary_heads_stay_as_they_are() -> None:
    """Tabs and letters beyond ASCII may stand in a value."""
    head = upgrade(User_Agent="a\tb \u00e9", X="") + b"frames\x85\n"
    assert unambiguous(head, head.index(BLANK_LINE)) is head
