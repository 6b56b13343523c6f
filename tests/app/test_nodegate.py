"""What may be asked of a node."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.app.asking import answer, asked, invoke, live_node
from tests.app.harness import Gate
from tests.app.test_nodes import pair


def reason(error: dict[str, Any]) -> str:
    """Return why a command was refused."""
    assert error["code"] == "INVALID_REQUEST"
    assert error["message"].startswith("node command not allowed: ")
    found: str = error["details"]["reason"]
    return found


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("system.which", "command not declared by node"),
        ("camera.snap", "command not allowlisted"),
        ("system.run", "command not allowlisted"),
        ("bogus", "command not allowlisted"),
        ("SYSTEM.NOTIFY", "command not allowlisted"),
        (" ", "command required"),
    ],
)
def test_refused_commands(gates: Callable[..., Gate], command: str, why: str) -> None:
    """What is denied, not of the platform, or not declared is refused, and nothing leaves."""
    gate = gates(nodes={"deny_commands": ["system.run"]})
    node = live_node(gate, commands=["system.notify", "system.run", "camera.snap", "bogus"])
    error = invoke(gate.client(), command).error

    assert reason(error) == why
    assert error["details"]["command"] == command
    assert not asked(node)


def test_a_command_that_is_not_approved(gate: Gate) -> None:
    """What a node of version 4 offers can be asked for once an operator approved it."""
    node = gate.node(commands=["system.notify"])
    error = invoke(gate.client()).error
    gate.services.nodes.set_live(
        "n1", node.connection.conn_id, gate.services.nodes.connected[0].offered
    )
    call = invoke(gate.client())
    answer(node)

    assert reason(error) == "command not approved"
    assert "gatewayctl nodes approve" in error["message"]
    assert call.payload["ok"]


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_node_that_has_just_come(gate: Gate, protocol: int) -> None:
    """As long as the store has not said what of a node is approved, who asks is told to ask again."""
    gate.store.hanging.add("update_node")
    node, client = gate.node(protocol, commands=["system.notify"]), gate.client()
    early = invoke(client).error
    gate.store.hanging.clear()
    for go_on in gate.store.held:
        go_on()
    call = invoke(client)

    assert early["details"] == {"code": "NODE_NOT_READY"}
    assert (early["retryable"], early["retryAfterMs"]) == (True, 250)
    if protocol == 3:
        answer(node)
        assert call.payload["ok"]
    else:
        assert reason(call.error) == "command not approved"


def test_a_node_without_commands(gate: Gate) -> None:
    """A node that declared nothing can be asked for nothing."""
    gate.node()

    assert reason(invoke(gate.client()).error) == "node did not declare commands"


def test_an_allowed_command(gates: Callable[..., Gate]) -> None:
    """What the configuration allows can be asked for, if the node declares it."""
    gate = gates(nodes={"allow_commands": ["camera.snap"]})
    node = live_node(gate, commands=["camera.snap"], platform="ios")
    call = invoke(gate.client(), "camera.snap")
    answer(node, payload="jpeg")

    assert call.payload["payload"] == "jpeg"


@pytest.mark.parametrize("command", ["system.execApprovals.get", "system.execApprovals.x"])
@pytest.mark.parametrize("allow", [[], ["system.execApprovals.get"]])
def test_exec_approvals(gates: Callable[..., Gate], command: str, allow: list[str]) -> None:
    """A node's own approvals can not be reached this way, whatever is allowed."""
    gate = gates(nodes={"allow_commands": allow})
    node = live_node(gate, commands=[command])
    error = invoke(gate.client(), command).error

    assert error["message"].startswith("node.invoke does not allow system.execApprovals.*")
    assert error["details"] == {"command": command}
    assert not asked(node)


@pytest.mark.parametrize(
    ("protocol", "paired", "code"),
    [
        (3, False, "NOT_CONNECTED"),
        (3, True, "NOT_CONNECTED"),
        (4, True, "NOT_CONNECTED"),
        (4, False, "PAIRING_CHANGED"),
    ],
)
def test_a_node_that_is_not_there(gate: Gate, protocol: int, paired: bool, code: str) -> None:
    """A node that is away is not connected; one that is unknown is so only to version 3."""
    if paired:
        pair(gate, "n1", "Phone")
    error = invoke(gate.client(protocol)).error

    assert (error["code"], error["details"]["code"]) == ("UNAVAILABLE", code)


# -- system.run


def sent(gate: Gate, protocol: int, params: Any) -> dict[str, Any]:
    """Ask a node to run something; return the params that it gets."""
    node = live_node(gate, protocol)
    more = {} if params is None else {"params": params}
    invoke(gate.client(), "system.run", key=f"k{protocol}", **more)
    got: dict[str, Any] = json.loads(asked(node)[0]["paramsJSON"])
    node.leave()
    return got


def test_words_of_approval_are_taken_out(gate: Gate) -> None:
    """Nobody approves a command by saying so in its params."""
    params = {"command": ["ls"], "approved": False, "approvalDecision": None, "runId": "r"}

    assert sent(gate, 4, params) == {"command": ["ls"], "runId": "r"}


@pytest.mark.parametrize("word", [{"approved": True}, {"approvalDecision": "allow-once"}])
@pytest.mark.parametrize(
    ("run", "code"), [({}, "MISSING_RUN_ID"), ({"runId": "r"}, "UNKNOWN_APPROVAL_ID")]
)
def test_an_approval_of_nothing(gate: Gate, word: Any, run: Any, code: str) -> None:
    """A word of approval that names no run, or none that was approved, is refused."""
    node = live_node(gate)
    params = {"command": ["ls"], **word, **run}
    error = invoke(gate.client(), "system.run", params=params).error

    assert error["details"]["code"] == code
    assert not asked(node)


def test_a_run_gets_an_id(gate: Gate) -> None:
    """A node of version 4 is told an id of the run, where the asker gave none."""
    assert len(sent(gate, 4, None)["runId"]) == 36
    assert sent(gate, 3, {"approved": False}) == {}


def test_params_of_a_run(gate: Gate) -> None:
    """What is run is an object."""
    live_node(gate)
    error = invoke(gate.client(), "system.run", params=["ls"]).error

    assert error["message"] == "the params of system.run must be an object"
