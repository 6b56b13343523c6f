"""Version 3's own pairing of nodes: a request, an approval, a token that can be checked."""

from __future__ import annotations

from typing import Any

from gateway.app.legacynodes import MAX_WAITING
from gateway.core.surface import REQUEST_TTL_MS
from gateway.model import NodeSurface
from gateway.testing import result_of
from tests.app.harness import Client, Gate

SYSTEM = NodeSurface(commands=("system.run",))


def ask(client: Client, node_id: str = "np1", **more: Any) -> dict[str, Any]:
    """Ask for a token."""
    answer: dict[str, Any] = client.ok("node.pair.request", {"nodeId": node_id, **more})
    return answer


def test_a_token_is_asked_approved_and_checked(gate: Gate) -> None:
    """The token is told once; only its digest is kept, and nothing else passes the check."""
    operator = gate.client(3)
    asked = ask(operator, displayName="NP", commands=["x"], platform="linux", version="1")
    request = asked["request"]
    assert asked == {
        "status": "pending",
        "created": True,
        "request": {
            "requestId": request["requestId"],
            "nodeId": "np1",
            "displayName": "NP",
            "platform": "linux",
            "version": "1",
            "commands": ["x"],
            "isRepair": False,
            "ts": gate.clock.now_ms(),
        },
    }
    assert ask(operator) == {**asked, "created": False}
    assert operator.events("node.pair.requested") == [request]
    assert operator.ok("node.pair.list")["pending"] == [request]
    assert operator.ok("node.pair.verify", {"nodeId": "np1", "token": "x"}) == {"ok": False}

    answer = operator.ok("node.pair.approve", {"requestId": request["requestId"]})

    token = answer["node"].pop("token")
    assert len(token) == 43
    assert token not in str(result_of(gate.store.get_node("np1")).legacy_token)
    verified = operator.ok("node.pair.verify", {"nodeId": "np1", "token": token})
    assert verified == {"ok": True, "node": answer["node"]}
    assert answer["node"]["displayName"] == "NP"
    assert operator.ok("node.pair.verify", {"nodeId": "np2", "token": token}) == {"ok": False}
    assert operator.ok("node.pair.list") == {"pending": [], "paired": [answer["node"]]}
    assert ask(operator)["request"]["isRepair"] is True
    assert operator.ok("node.pair.remove", {"nodeId": "np1"}) == {"nodeId": "np1"}
    assert operator.ok("node.pair.verify", {"nodeId": "np1", "token": token}) == {"ok": False}


def test_it_takes_only_the_scope_of_pairing_and_makes_nothing_live(gate: Gate) -> None:
    """A token for a name says nothing of what a device of that name may do."""
    operator = gate.client(3, scopes=("operator.pairing",))
    request = ask(operator, "n1", commands=["system.run"])["request"]
    node = gate.node(3, surface=NodeSurface())
    session = gate.services.nodes.session("n1")
    assert session is not None

    operator.ok("node.pair.approve", {"requestId": request["requestId"]})

    assert session.live == NodeSurface()
    node.leave()
    gate.node(surface=SYSTEM)
    assert gate.services.nodes.session("n1").live == NodeSurface()  # type: ignore[union-attr]


def test_what_a_device_asks_itself_has_precedence(gate: Gate) -> None:
    """A device's own request takes the place of one in its name, and is not displaced by one."""
    operator = gate.client(3)
    named = ask(operator, "n1")["request"]
    gate.node(surface=SYSTEM)
    own = operator.events("node.pair.requested")[-1]

    assert operator.events("node.pair.resolved")[0]["requestId"] == named["requestId"]
    assert ask(operator, "n1") == {"status": "pending", "created": False, "request": own}


def test_requests_are_bounded(gate: Gate) -> None:
    """So many wait and no more, no text is long, and what has expired makes room."""
    operator = gate.client(3)
    for number in range(MAX_WAITING):
        ask(operator, f"np{number}")
    assert operator.refused("node.pair.request", {"nodeId": "more"})["code"] == "UNAVAILABLE"
    for bad in ({"nodeId": "n" * 257}, {"nodeId": "n", "commands": ["c"] * 129}):
        assert operator.refused("node.pair.request", bad)["code"] == "INVALID_REQUEST"

    gate.clock.advance(REQUEST_TTL_MS / 1000)

    assert ask(operator, "more")["created"] is True
    assert [record.node_id for record in result_of(gate.store.list_nodes())] == ["more"]
    assert len(operator.ok("node.pair.list")["pending"]) == 1
    assert len(result_of(gate.store.list_nodes())) == 1
