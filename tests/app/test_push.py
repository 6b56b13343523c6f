"""Where nodes can be woken."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.testing import result_of
from tests.app.faults import Lines
from tests.app.harness import Client, Gate

TOKEN = "a1b2c3d4" * 8


def register(node: Client, **payload: Any) -> dict[str, Any]:
    """Say where the node can be woken."""
    params = {"event": "push.apns.register", "payload": payload}
    answer: dict[str, Any] = node.ok("node.event", params)
    return answer


@pytest.mark.parametrize("protocol", [3, 4])
def test_an_address_is_kept_and_shown_nowhere(gate: Gate, protocol: int) -> None:
    """The token is stored once; it is in no log, no repr and no answer."""
    node = gate.node(protocol)
    with Lines() as lines:
        answer = register(node, token=f" {TOKEN} ", topic="app", environment="sandbox")
        register(node, token=TOKEN, topic="app", environment="sandbox")

    record = result_of(gate.store.get_node("n1"))
    assert answer == {"ok": True}
    assert record.push == {
        "transport": "apns",
        "token": TOKEN,
        "topic": "app",
        "environment": "sandbox",
    }
    operator = gate.client()
    shown = [operator.ok("node.list"), operator.ok("node.pair.list"), repr(record), lines.texts]
    assert TOKEN not in str(shown)


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"token": TOKEN},
        {"token": " ", "topic": "app"},
        {"token": 7, "topic": "app"},
        {"token": "x" * 513, "topic": "app"},
        {"token": TOKEN, "topic": "x" * 257},
        {"token": TOKEN, "topic": "app", "environment": "moon"},
    ],
)
def test_what_is_no_address_is_ignored(gate: Gate, payload: dict[str, Any]) -> None:
    """What is incomplete, too long or of an unknown kind is not kept, and said to be so."""
    assert register(gate.node(), **payload)["reason"] == "invalid_payload"
    assert result_of(gate.store.get_node("n1")).push == {}


def test_an_unpaired_client_has_no_address(gate: Gate) -> None:
    """Only a device has an address that stays."""
    node = gate.node(device_id=None)

    assert register(node, token=TOKEN, topic="app")["reason"] == "not_paired"
