"""gatewayctl nodes, against a scripted gateway."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cli.ctl import one_line

ROWS: list[dict[str, Any]] = [
    {
        "nodeId": "383ba15f9e88",
        "displayName": "Study\x1b[2J",
        "platform": "linux",
        "commands": ["system.notify", "system.run"],
        "connected": True,
        "lastSeenAtMs": 5,
        "approvalState": "approved",
    },
    {
        "nodeId": "3900aaaabbbb",
        "displayName": "Phone",
        "commands": [],
        "connected": False,
        "lastSeenAtMs": 5,
        "approvalState": "pending-approval",
    },
    {"nodeId": "x1", "displayName": "Phone", "commands": [], "connected": False},
]


@pytest.fixture(autouse=True)
def listed(script):
    script.handlers["node.list"] = lambda c, frame: c.answer(frame, {"ts": 1, "nodes": ROWS})


@pytest.mark.parametrize("command", [["nodes"], ["nodes", "list"]])
def test_the_list(to_script, command):
    """Nodes are a table with short ids, on one line each, that steers no terminal."""
    head, first, second, third = to_script(*command).stdout.splitlines()

    assert head.split() == ["ID", "NAME", "STATE", "PLATFORM", "COMMANDS", "SEEN"]
    assert first.split("  ")[0] == "383ba15f"
    assert "Study [2J  connected " in first
    assert first.endswith("linux     system.notify system.run  -")
    assert "away, pending-approval" in second
    assert second.endswith(" ago")
    assert third.split()[:3] == ["x1", "Phone", "away"]


def test_the_list_as_json(to_script, script):
    """With --json it is what the gateway answers; without any node that is said."""
    assert json.loads(to_script("nodes", "--json").stdout)["nodes"] == ROWS
    script.handlers["node.list"] = lambda c, frame: c.answer(frame, {"ts": 1, "nodes": []})
    assert to_script("nodes").stdout == "There are no nodes.\n"


def test_describe(to_script, script):
    """A node is described as JSON."""
    script.handlers["node.describe"] = lambda c, frame: c.answer(frame, ROWS[0])

    assert json.loads(to_script("nodes", "describe", "383").stdout) == ROWS[0]
    assert script.params("node.describe") == {"nodeId": "383ba15f9e88"}


@pytest.mark.parametrize(
    ("text", "node"),
    [("3900", "3900aaaabbbb"), ("x1", "x1"), ("zz", "zz"), ("study\x1b[2j", "383ba15f9e88")],
)
def test_which_node_is_meant(to_script, script, text, node):
    """A node is meant by its id, by how that begins, or by its name; what fits none goes as it is."""
    script.handlers["node.rename"] = lambda c, frame: c.answer(frame, frame["params"])
    result = to_script("nodes", "rename", text, "New name")

    assert result.stdout == f"node {node} is New name\n"
    assert script.params("node.rename") == {"nodeId": node, "displayName": "New name"}


@pytest.mark.parametrize("text", ["3", "phone"])
def test_several_nodes_are_meant(to_script, text):
    """What fits several nodes is refused with their ids."""
    line = one_line(to_script("nodes", "describe", text), 1)

    assert f"several nodes fit {text}: 3" in line


def test_no_node_is_meant(to_script):
    """Nothing is no node."""
    assert to_script("nodes", "describe", "").exit_code == 2


@pytest.mark.parametrize("given", [[], ['{"title": "x"}']])
def test_invoke(to_script, script, given):
    """The payload of a node's answer is printed; each call has a key of its own."""
    script.handlers["node.invoke"] = lambda c, frame: c.answer(
        frame, {"ok": True, "payload": {"a": 1}, "payloadJSON": None}
    )
    command = ["nodes", "invoke", "383", "system.notify", *given, "--timeout", "2.5"]
    assert json.loads(to_script(*command).stdout) == {"a": 1}

    params = script.params("node.invoke")
    assert len(params.pop("idempotencyKey")) == 36
    wanted = {"nodeId": "383ba15f9e88", "command": "system.notify", "timeoutMs": 2500}
    assert params == (wanted | {"params": {"title": "x"}} if given else wanted)


def test_an_invocation_that_fails(to_script, script):
    """An error is JSON on stderr and exit status 1, as with call."""
    details = {"nodeError": {"code": "TIMEOUT", "message": "m"}}
    script.handlers["node.invoke"] = lambda c, frame: c.refuse(
        frame, "UNAVAILABLE", "TIMEOUT: m", details=details
    )
    result = to_script("nodes", "invoke", "x1", "system.notify")

    assert (result.exit_code, result.stdout) == (1, "")
    assert json.loads(result.stderr) == {
        "code": "UNAVAILABLE",
        "message": "TIMEOUT: m",
        "details": details,
    }


@pytest.mark.parametrize("words", [["[1"], ["--timeout", "0"]])
def test_command_lines_that_make_no_sense(to_script, words):
    """Params that are no JSON, and no time, are refused before anything is asked."""
    assert to_script("nodes", "invoke", "x1", "system.notify", *words).exit_code == 2
