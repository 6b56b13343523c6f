"""JSON-RPC messages, line by line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.agents.jsonrpc import (
    MAX_PARTS,
    ErrorResult,
    Garbage,
    LineTooLong,
    MessageReader,
    Notification,
    Request,
    Result,
    RpcError,
    decode,
    encode_error,
    encode_notification,
    encode_request,
    encode_result,
)

STREAM = (
    encode_request(1, "initialize", {"a": "ä€😀"})
    + b"\r\n"
    + encode_notification("session/update", [1])
    + b"npm warn: hello\n"
    + encode_result("x", None)
    + encode_error(2, RpcError(-32601, "no", {"why": 1}))
)


def shapes(messages: list[Any]) -> list[Any]:
    """Return messages in a form that can be compared; errors compare by identity."""
    return [
        (message.id, message.error.code, message.error.message, message.error.data)
        if isinstance(message, ErrorResult)
        else message
        for message in messages
    ]


WHOLE = [
    Request(1, "initialize", {"a": "ä€😀"}),
    Notification("session/update", [1]),
    Garbage(b"npm warn: hello", 15),
    Result("x", None),
    (2, -32601, "no", {"why": 1}),
]


def test_messages_are_the_same_wherever_the_stream_is_cut() -> None:
    """A stream split in two at every byte gives the same messages, and leaves nothing."""
    for cut in range(len(STREAM) + 1):
        reader = MessageReader()

        messages = reader.feed(STREAM[:cut]) + reader.feed(STREAM[cut:])

        assert shapes(messages) == WHOLE
        assert reader.buffered == 0


def test_messages_arrive_byte_by_byte() -> None:
    """A stream of single bytes gives the same messages."""
    reader = MessageReader()

    messages = [message for byte in STREAM for message in reader.feed(bytes([byte]))]

    assert shapes(messages) == WHOLE


@given(st.binary(max_size=400))
def test_no_bytes_make_the_reader_raise(data: bytes) -> None:
    """Whatever a program prints is a message or garbage."""
    MessageReader().feed(data + b"\n")


@pytest.mark.parametrize(
    "line",
    [
        b"null",
        b"[]",
        b'[{"jsonrpc": "2.0", "method": "x"}]',
        b"{}",
        b'{"id": 1}',
        b'{"id": {}, "method": "x"}',
        b'{"result": 1}',
        b'{"id": 1, "method": 5}',
        b'{"id": 1, "result": NaN}',
        b"[" * 100_000,
        b'{"id": 1, "result": ' + b"9" * 10_000 + b"x}",
        b"\xff\xfe",
    ],
)
def test_what_is_no_message_is_garbage(line: bytes) -> None:
    """Garbage has the first bytes of the line and its size."""
    assert decode(line) == Garbage(line[:200], len(line))


def test_a_lone_surrogate_costs_one_character_only() -> None:
    """A message with half a UTF-16 pair is read; the half is replaced, whole pairs stay."""
    line = rb'{"method": "m", "params": "a\ud83d b \ud83d\ude00 \\ud800"}'

    assert decode(line) == Notification("m", "a\N{REPLACEMENT CHARACTER} b 😀 \\ud800")


def test_bytes_that_are_no_utf8_cost_one_character_only() -> None:
    """A message with raw bytes of a tool in a string is read."""
    assert decode(b'{"method": "m", "params": "a\xffb"}') == Notification("m", "a\ufffdb")


@pytest.mark.parametrize("error", [None, 5, {}, {"code": "x", "message": 1}])
def test_an_error_without_a_shape_is_an_error(error: Any) -> None:
    """What stands under "error" need not be right to count as a refusal."""
    received = decode(json.dumps({"id": 1, "error": error}).encode())

    assert isinstance(received, ErrorResult)
    assert received.error.code == -32603


@pytest.mark.parametrize("pieces", [[b"x" * 101], [b"x" * 60, b"x" * 41], [b"x" * 101 + b"\n"]])
def test_a_line_over_the_bound_raises(pieces: list[bytes]) -> None:
    """More than the bound without a newline can not be a message."""
    reader = MessageReader(max_line_bytes=100)

    with pytest.raises(LineTooLong):
        for piece in pieces:
            reader.feed(piece)


def test_many_lines_may_be_longer_together() -> None:
    """The bound is that of one line."""
    reader = MessageReader(max_line_bytes=100)

    assert len(reader.feed(encode_notification("m", {}) * 50)) == 50


@pytest.mark.parametrize(
    "part", [b"[1]", b'""', b'{"a":"b"}', b"1"], ids=["lists", "texts", "objects", "numbers"]
)
def test_a_message_of_too_many_parts_is_not_taken_apart(part: bytes) -> None:
    """A line may be long; one with more values than could be read in a moment is no message."""
    many = b",".join([part] * (MAX_PARTS + 2))

    received = decode(b'{"id":1,"method":"m","params":[' + many + b"]}")

    assert isinstance(received, Garbage)


def test_a_text_may_hold_as_many_commas_as_it_likes() -> None:
    """What is counted are values: a file with a million commas is one."""
    text = ',"[{' * MAX_PARTS

    received = decode(encode_request(1, "fs/write_text_file", {"content": text}))

    assert received == Request(1, "fs/write_text_file", {"content": text})
