"""gatewayctl nodes pending, approve, reject and remove, against a scripted gateway."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cli.ctl import one_line

ROW: dict[str, Any] = {
    "requestId": "3f2a9b1c-0000",
    "nodeId": "14420cbe",
    "clientId": "node-host",
    "displayName": "N1\n\x1b[2J",
    "platform": "linux",
    "version": "1.0.0",
    "caps": ["system"],
    "commands": ["system.run", "system.which\x1b[1m"],
    "permissions": {"x.y": True, "z": False},
    "requiredApproveScopes": ["operator.pairing", "operator.admin"],
    "ts": 1000,
}
OTHER: dict[str, Any] = {
    "requestId": "3f2a9b1c-7777",
    "nodeId": "np1",
    "remoteIp": "192.0.2.7",
    "ts": 1000,
}


class Desk:
    """The nodes of the scripted gateway."""

    def __init__(self, script: Any) -> None:
        self.rows = [ROW, OTHER]
        self.called: list[tuple[str, str]] = []
        script.handlers |= {
            "node.pair.list": lambda c, f: c.answer(f, {"pending": self.rows, "paired": []}),
            "node.pair.approve": self._approve,
            "node.pair.reject": self._reject,
            "node.pair.remove": self._remove,
            "node.list": lambda c, f: c.answer(f, {"nodes": [{"nodeId": "np1"}]}),
        }

    def _approve(self, connection: Any, frame: Any) -> None:
        request_id = frame["params"]["requestId"]
        self.called.append(("approve", request_id))
        if request_id == ROW["requestId"]:
            node = {"nodeId": "14420cbe", "commands": ["system.run"]}
        else:
            node = {"nodeId": "np1", "token": "T0"}
        connection.answer(frame, {"requestId": request_id, "node": node})

    def _reject(self, connection: Any, frame: Any) -> None:
        connection.answer(frame, {"requestId": frame["params"]["requestId"], "nodeId": "14420cbe"})

    def _remove(self, connection: Any, frame: Any) -> None:
        if not self.rows:
            connection.refuse(frame, "INVALID_REQUEST", "unknown nodeId")
        else:
            connection.answer(frame, {"nodeId": "np1"})


@pytest.fixture
def desk(script):
    return Desk(script)


def test_what_waits(to_script, desk):
    """Each request is shown with all that it is about, and steers no terminal."""
    lines = to_script("nodes", "pending").stdout.splitlines()

    assert "\x1b" not in "".join(lines)
    assert lines[0] == "3f2a9b1c-0  N1 [2J (linux, node-host, 1.0.0)"
    assert lines[1] == "    node: 14420cbe"
    assert lines[2].startswith("    asked: ")
    assert lines[2].endswith(" ago, from this machine")
    assert lines[3:7] == [
        "    commands: system.run, system.which [1m",
        "    capabilities: system",
        "    permissions: x.y",
        "    to approve it takes: operator.pairing, operator.admin",
    ]
    assert lines[7] == "3f2a9b1c-7  a node without a name"
    assert lines[9].endswith("from 192.0.2.7")
    desk.rows = []
    assert to_script("nodes", "pending").stdout == "No node waits for approval.\n"


def test_what_waits_as_json(to_script, desk):
    """With --json it is what the gateway answers."""
    assert json.loads(to_script("nodes", "pending", "--json").stdout) == [ROW, OTHER]


def test_answers(to_script, desk):
    """The beginning of an id is enough where it fits one; a token is shown this once."""
    assert to_script("nodes", "approve", "3f2a9b1c-00").stdout == "approved 14420cbe: system.run\n"
    said = to_script("nodes", "approve", OTHER["requestId"]).stdout
    assert said == "approved np1: no commands\ntoken (shown this once): T0\n"
    assert to_script("nodes", "reject", "3f2a9b1c-00").stdout == "rejected 14420cbe\n"
    for word in ("remove", "revoke"):
        assert to_script("nodes", word, "np1").stdout == "removed np1\n"
    assert desk.called == [("approve", ROW["requestId"]), ("approve", OTHER["requestId"])]


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("approve", "3f2a"), "several requests begin with '3f2a'"),
        (("reject", "77"), "no request begins with '77'"),
        (("approve", ""), "no request begins with ''"),
    ],
)
def test_refusals(to_script, desk, args, text):
    """What fits no request, or several, and what the gateway refuses is one line and status 1."""
    assert text in one_line(to_script("nodes", *args), 1)


def test_a_refusal_of_the_gateway(to_script, desk):
    """What the gateway refuses is one line with its words."""
    desk.rows = []

    said = one_line(to_script("nodes", "remove", "np1"), 1)

    assert said == "gatewayctl: the gateway refused node.pair.remove: unknown nodeId\n"
