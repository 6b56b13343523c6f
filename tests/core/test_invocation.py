"""One invocation of a node's command."""

from __future__ import annotations

import msgspec
import pytest

from gateway.core.frames import encode
from gateway.core.invocation import (
    End,
    Invocation,
    answered,
    ended,
    failed,
    not_allowed,
    not_connected,
)
from gateway.errors import Unavailable


def make_invocation() -> Invocation:
    """Return an invocation that waits."""
    return Invocation(
        id="i",
        key="k",
        idempotency_key="k",
        fingerprint="f",
        node_id="n",
        conn_id="c",
        protocol=4,
        command="x",
        params_json='"secret"',
        deadline=1.0,
    )


def test_the_first_end_counts() -> None:
    """An invocation ends once; what comes later changes nothing."""
    invocation = make_invocation()
    first, second = answered(b"1", None), ended(End.TIMEOUT, "x")

    assert (invocation.finish(first), invocation.finish(second)) == (True, False)
    assert invocation.outcome is first


def test_a_refusal_is_short() -> None:
    """The name of a command, which may be of any length, is not repeated in full."""
    refusal = not_allowed("x" * 100_000, "r", "x" * 100_000)

    assert len(refusal.message) < 5000
    assert (refusal.details or {})["command"] == "x" * 128


def test_secrets_are_not_shown() -> None:
    """What is asked and what is answered does not stand in what is logged of an invocation."""
    assert "secret" not in repr(make_invocation())
    assert "secret" not in repr(answered(b'"secret"', '"secret"'))


@pytest.mark.parametrize("end", [end for end in End if end is not End.OK])
@pytest.mark.parametrize("protocol", [3, 4])
def test_every_end_has_words(end: End, protocol: int) -> None:
    """Every end but an answer is an UNAVAILABLE with a sentence."""
    outcome = failed(None, None) if end is End.NODE_ERROR else ended(end, "cmd")
    with pytest.raises(Unavailable) as caught:
        outcome.payload_for("n", "cmd", protocol)

    assert caught.value.message
    assert caught.value.details


@pytest.mark.parametrize("text", ['{"a":1', "[" * 100_000, "nul", '"\ud800"'])
def test_text_that_is_no_json(text: str) -> None:
    """Text that is no JSON is handed on in an object, and can be sent unless it is no Unicode."""
    assert answered(None, text).payload == {"payloadJSON": text}


def test_large_numbers_pass() -> None:
    """JSON text of a node is handed on as it is, also what this gateway could not read."""
    digits = "1" + "0" * 400
    payload = answered(None, digits).payload_for("n", "x", 4)

    assert encode(payload["payload"]).decode() == digits
    assert msgspec.json.encode(payload)


def test_a_node_that_is_not_there() -> None:
    """Version 4 is told that nothing was dispatched."""
    assert not_connected(3).details == {"code": "NOT_CONNECTED"}
    assert (not_connected(4).details or {})["nodeCommandDispatched"] is False
