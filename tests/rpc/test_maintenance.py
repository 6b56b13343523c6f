"""``gateway.drain``: who may stop the gateway, and what they are told."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.app.operations import StopOrder
from tests.app.harness import READ, WRITE, Client, Gate


@pytest.fixture
def orders(gate: Gate) -> list[StopOrder]:
    """Let the gateway be stopped by its clients; return the orders that came."""
    found: list[StopOrder] = []

    def shut_down(order: StopOrder) -> StopOrder:
        found.append(order)
        return order

    gate.services.operations.shut_down = shut_down
    return found


@pytest.fixture(params=[3, 4])
def client(request: pytest.FixtureRequest, gate: Gate) -> Client:
    """An admin's client of either version."""
    return gate.client(request.param)


def test_drain(gate: Gate, client: Client, orders: list[StopOrder]) -> None:
    """The answer comes at once, and counts what goes, what waits and who is connected."""
    client.send("hello", run="r1")
    client.send("hello", run="r2")
    params = {"graceMs": 60_000, "reason": "deploy", "restartExpectedMs": 1500}

    answer = client.ok("gateway.drain", params)

    assert orders == [StopOrder(60.0, "deploy", 1500)]
    assert answer == {
        "draining": True,
        "graceMs": 60_000,
        "runs": 1,
        "waitingRuns": 1,
        "connections": 1,
        "pid": 1,
    }


def test_drain_by_default(client: Client, orders: list[StopOrder]) -> None:
    """Without params the grace is the configuration's, and when it will be back is not known."""
    assert client.ok("gateway.drain")["graceMs"] == 3000
    assert orders == [StopOrder(3.0, "gateway stopping", None)]


@pytest.mark.parametrize(
    "params",
    [
        {"graceMs": -1},
        {"graceMs": 86_400_001},
        {"graceMs": 1.5},
        {"reason": ""},
        {"reason": "r" * 201},
        {"restartExpectedMs": -1},
        {"wait": True},
    ],
)
def test_params_that_are_refused(
    client: Client, orders: list[StopOrder], params: dict[str, Any]
) -> None:
    """What makes no sense is refused, and the gateway goes on."""
    assert client.refused("gateway.drain", params)["code"] == "INVALID_REQUEST"
    assert orders == []


@pytest.mark.parametrize("scopes", [READ, WRITE])
def test_only_for_admins(gate: Gate, orders: list[StopOrder], scopes: tuple[str, ...]) -> None:
    """Nobody but an admin can stop the gateway."""
    client = gate.client(4, scopes=scopes)

    assert client.refused("gateway.drain")["details"]["missingScope"] == "operator.admin"
    assert orders == []


def test_embedded(client: Client) -> None:
    """A gateway that is a part of another program is not its clients' to stop."""
    assert client.refused("gateway.drain")["code"] == "UNAVAILABLE"
