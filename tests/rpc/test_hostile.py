"""Whatever a client sends, it gets an answer or a typed refusal."""

from __future__ import annotations

from itertools import product
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.errors import ErrorCode
from gateway.model import Role
from gateway.rpc.families import build_table
from gateway.rpc.table import Method
from tests.app.harness import Client, Gate, assert_fits
from tests.unmeasured import unmeasured

METHODS = [method for method in build_table() if method.params is not None]
INTEGERS = st.integers(-(2**63), 2**64) | st.sampled_from([10**30, -(10**30), 10**400])
TEXT = st.text(max_size=20) | st.sampled_from(
    ["main", "global", "agent:", ":", "agent::x", "\x00", " ", "AGENT:MAIN:main", "'; --", "%_\\"]
)
JSON = st.recursive(
    st.none() | st.booleans() | INTEGERS | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
CODES = {code.value for code in ErrorCode}

LIKELY = st.fixed_dictionaries(
    {},
    optional={
        "key": TEXT,
        "keys": st.lists(TEXT, min_size=1, max_size=3),
        "sessionKey": TEXT,
        "sessionId": TEXT,
        "agentId": TEXT,
        "runId": TEXT,
        "message": TEXT,
        "text": TEXT,
        "label": TEXT,
        "idempotencyKey": TEXT,
        "event": TEXT | st.just("voice.transcript"),
        "payload": JSON,
        "payloadJSON": TEXT,
        "enabled": st.booleans(),
        "limit": INTEGERS,
        "offset": INTEGERS,
        "timeout": INTEGERS,
        "timeoutMs": st.integers(0, 10) | st.just(10**400),
        "activeMinutes": INTEGERS,
        "maxChars": INTEGERS,
        "maxBytes": INTEGERS,
        "cursor": INTEGERS,
        "spawnDepth": INTEGERS,
        "lastInputSeconds": INTEGERS,
        "attachments": st.lists(JSON, max_size=2),
        "tags": st.lists(TEXT, max_size=2),
    },
)
"""Params that have a chance to pass a schema."""


def assert_answered(client: Client, method: str, params: Any) -> None:
    """Assert that a call is answered by valid frames, and that no bug was met."""
    call = client.call(method, params)
    # Whoever waits for a run that never comes is answered after the longest time there is.
    client.gate.clock.advance(0 if call.frames else 86_401)
    assert call.frames, f"{method} did not answer {params}"
    for frame in call.frames:
        assert_fits(client.connection.protocol, "ResponseFrame", frame)
        if not frame["ok"]:
            assert frame["error"]["code"] in CODES
            assert "internal error" not in frame["error"]["message"]
    for run in reversed(list(client.gate.runs._drives)):
        client.gate.runs.abort(run, "test")


# Not parametrised by method: pytest-twisted wraps a test of Hypothesis anew for every set of params.
@unmeasured
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(params=JSON, likely=LIKELY, protocol=st.sampled_from([3, 4]))
def test_any_params(params: Any, likely: dict[str, Any], protocol: int) -> None:
    """Every method answers any JSON with a payload or a typed error, never with an internal one."""
    gate = Gate()
    operator, node = gate.client(protocol), gate.node(protocol)
    for method in METHODS:
        client = node if method.role is Role.NODE else operator
        assert method.params is not None
        names = {field.encode_name for field in msgspec.structs.fields(method.params)}
        assert_answered(client, method.name, params)
        assert_answered(client, method.name, {k: v for k, v in likely.items() if k in names})
    gate.close()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_huge_numbers(gate: Gate, method: Method) -> None:
    """A number of any size is taken for a large one or refused, by every method that takes one."""
    assert method.params is not None
    required = {
        "key": "main",
        "sessionKey": "main",
        "message": "hello",
        "idempotencyKey": "k",
        "runId": "r",
        "keys": ["main"],
        "event": "x",
        "enabled": True,
        "text": "hello",
    }
    fields = msgspec.structs.fields(method.params)
    given_ = {f.encode_name: required[f.encode_name] for f in fields if f.encode_name in required}
    client = gate.node() if method.role is Role.NODE else gate.client()
    names = [field.encode_name for field in fields if field.encode_name not in given_]
    for name, number in product(names, (10**30, 2**63, 2**64, 10**400)):
        assert_answered(client, method.name, given_ | {name: number})


@pytest.mark.parametrize("protocol", [3, 4])
def test_long_names(gate: Gate, protocol: int) -> None:
    """Keys and ids that every event would carry can't be made long."""
    client, long = gate.client(protocol), "k" * 1025
    calls: list[tuple[str, dict[str, Any]]] = [
        ("agent", {"message": "hello", "idempotencyKey": "r", "sessionKey": long}),
        ("agent", {"message": "hello", "idempotencyKey": long}),
        ("agent.wait", {"runId": long}),
        ("chat.send", {"sessionKey": "main", "message": "hello", "idempotencyKey": long}),
        ("chat.history", {"sessionKey": long}),
        ("sessions.create", {"key": long}),
        ("sessions.messages.subscribe", {"key": long}),
        ("sessions.patch", {"key": long, "label": "l"}),
        ("sessions.reset", {"key": long}),
    ]
    for method, params in calls:
        error = client.refused(method, params)
        assert error["code"] == "INVALID_REQUEST"
        assert len(error["message"]) < 300
    assert len(gate.runs) == 0
