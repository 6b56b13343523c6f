"""An approval of a command on a node serves whoever asked for it, there, for exactly that, once."""

from __future__ import annotations

import json
import shlex
from itertools import count
from typing import Any

import pytest

from tests.app.asking import asked, invoke, live_node
from tests.app.harness import Client, Gate

ARGV = ["/bin/echo", "a b"]
TEXT = '/bin/echo "a b"'
ASK: dict[str, Any] = {
    "id": "ap-1",
    "command": TEXT,
    "host": "node",
    "nodeId": "n1",
    "cwd": "/w",
    "agentId": "main",
    "sessionKey": "agent:main:main",
    "timeoutMs": 120_000,
}
RUN: dict[str, Any] = {
    "command": ARGV,
    "cwd": "/w",
    "agentId": "main",
    "sessionKey": "agent:main:main",
    "runId": "ap-1",
    "approved": True,
    "approvalDecision": "allow-once",
}

_KEYS = count()


@pytest.fixture
def node(gate: Gate) -> Client:
    """Return a node that runs commands."""
    return live_node(gate, 3)


@pytest.fixture
def cli(gate: Gate) -> Client:
    """Return an operator's client with a device."""
    return gate.client(3, client="cli", device_id="d1")


def approve(client: Client, decision: str | None = "allow-once", **more: Any) -> None:
    """Ask for a command, and answer it."""
    client.call("exec.approval.request", {**ASK, **more})
    if decision is not None:
        client.ok("exec.approval.resolve", {"id": "ap-1", "decision": decision})


def run(client: Client, **more: Any) -> Any:
    """Let the node run the command."""
    params = {name: value for name, value in {**RUN, **more}.items() if value != "absent"}
    return invoke(client, "system.run", key=f"k{next(_KEYS)}", params=params)


def sent(node: Client) -> dict[str, Any]:
    """Return the params of the last thing that the node was asked."""
    params: dict[str, Any] = json.loads(asked(node)[-1]["paramsJSON"])
    return params


def code(call: Any) -> Any:
    """Return the code of a refusal."""
    return call.error["details"]["code"]


def test_an_approval_serves_once(node: Client, cli: Client) -> None:
    """What was allowed once goes to the node as approved, and is refused the next time."""
    approve(cli)
    run(cli)
    assert sent(node) == RUN

    assert code(run(cli)) == "APPROVAL_REQUIRED"
    assert len(asked(node)) == 1


@pytest.mark.parametrize(
    ("wanted", "passed"),
    [("allow-always", "allow-always"), ("allow-once", "allow-once"), ("absent", "allow-once")],
)
def test_an_answer_for_always_serves_again(
    node: Client, cli: Client, wanted: str, passed: str
) -> None:
    """What was allowed for always serves as long as it can be asked for, as what was wanted of it."""
    approve(cli, "allow-always")
    for _ in range(2):
        run(cli, approvalDecision=wanted)
        assert sent(node)["approvalDecision"] == passed


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"approved": False},
        {"approved": "yes"},
        {"approved": 1},
        {"approvalDecision": "deny"},
        {"approvalDecision": "ALLOW-ONCE"},
    ],
)
def test_claims_go_to_no_node(node: Client, cli: Client, claims: dict[str, Any]) -> None:
    """A word of approval that is none is left out of what the node gets."""
    approve(cli)
    run(cli, **({"approved": "absent", "approvalDecision": "absent"} | claims))

    assert not {"approved", "approvalDecision"} & set(sent(node))
    run(cli)
    assert sent(node)["approved"] is True


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"runId": "absent"}, "MISSING_RUN_ID"),
        ({"runId": " "}, "MISSING_RUN_ID"),
        ({"runId": 5}, "MISSING_RUN_ID"),
        ({"runId": "ap"}, "UNKNOWN_APPROVAL_ID"),
        ({"runId": "ap-2"}, "UNKNOWN_APPROVAL_ID"),
        ({"command": ["/bin/echo", "a", "b"]}, "APPROVAL_REQUEST_MISMATCH"),
        ({"command": ["/bin/rm", "a b"]}, "APPROVAL_REQUEST_MISMATCH"),
        ({"command": ["/bin/rm"], "rawCommand": TEXT}, "APPROVAL_REQUEST_MISMATCH"),
        ({"rawCommand": "/bin/rm x"}, "APPROVAL_REQUEST_MISMATCH"),
        ({"command": TEXT}, "APPROVAL_REQUEST_MISMATCH"),
        ({"command": []}, "APPROVAL_REQUEST_MISMATCH"),
        ({"command": [5]}, "APPROVAL_REQUEST_MISMATCH"),
        ({"command": ["/bin/echo", "a b\u200b"]}, "APPROVAL_REQUEST_MISMATCH"),
        ({"command": ["/tmp/sh", "-lc", TEXT]}, "APPROVAL_REQUEST_MISMATCH"),
        ({"cwd": "/"}, "APPROVAL_REQUEST_MISMATCH"),
        ({"cwd": "absent"}, "APPROVAL_REQUEST_MISMATCH"),
        ({"agentId": "other"}, "APPROVAL_REQUEST_MISMATCH"),
        ({"sessionKey": "agent:main:x"}, "APPROVAL_REQUEST_MISMATCH"),
        ({"approved": "absent", "command": ["/bin/rm"]}, "APPROVAL_REQUEST_MISMATCH"),
        ({"approvalDecision": "absent", "command": ["/bin/rm"]}, "APPROVAL_REQUEST_MISMATCH"),
    ],
)
def test_what_an_approval_is_not_for(
    node: Client, cli: Client, more: dict[str, Any], expected: str
) -> None:
    """An approval that is not named, not known, or of something else lets nothing through, and stays."""
    approve(cli)
    call = run(cli, **more)

    assert call.error["code"] == "INVALID_REQUEST"
    assert code(call) == expected
    assert asked(node) == []
    run(cli)
    assert len(asked(node)) == 1


@pytest.mark.parametrize(
    "command",
    [ARGV, ["/bin/sh", "-lc", TEXT], ["/bin/sh", "-c", TEXT], ["cmd.exe", "/d", "/s", "/c", TEXT]],
)
@pytest.mark.parametrize("raw", [TEXT, "absent"])
def test_words_that_mean_the_text(node: Client, cli: Client, command: list[str], raw: str) -> None:
    """A text that was approved is run as its words, or through the shells that nodes use."""
    approve(cli)
    run(cli, command=command, rawCommand=raw)

    assert sent(node)["command"] == command


@pytest.mark.parametrize(
    ("text", "argv", "same"),
    [
        ("/bin/echo 'a b'", ARGV, True),
        ('/bin/echo ""', ["/bin/echo", ""], True),
        ('/bin/echo "say \\"x\\""', ["/bin/echo", 'say "x"'], True),
        ('/bin/echo "a\\b c"', ["/bin/echo", "a\\b c"], False),
        ("/bin/echo a b", ARGV, False),
        ("find / -name 'x -delete y'", ["find", "/", "-name", "'x", "-delete", "y'"], False),
        ("rm -r ./a && ls /", ["rm", "-r", "./a", "&&", "ls", "/"], False),
        ("find /tmp # -delete", ["find", "/tmp", "#", "-delete"], False),
        ("ls *.py", ["ls", "*.py"], True),
    ],
)
def test_how_clients_write_words(
    node: Client, cli: Client, text: str, argv: list[str], same: bool
) -> None:
    """Words may be quoted as a shell or as the protocol's clients do, if that can not be misread."""
    approve(cli, command=text)
    call = run(cli, command=argv)

    assert bool(asked(node)) is same
    assert same or code(call) == "APPROVAL_REQUEST_MISMATCH"


@pytest.mark.parametrize("decision", [None, "deny"])
def test_what_was_not_allowed(node: Client, cli: Client, decision: str | None) -> None:
    """A question that waits, or was denied, lets nothing through."""
    approve(cli, decision)

    assert code(run(cli)) == "APPROVAL_REQUIRED"
    assert asked(node) == []


@pytest.mark.parametrize(("seconds", "timeout_ms"), [(16, 120_000), (6, 5000)])
def test_an_approval_that_is_over(
    gate: Gate, node: Client, cli: Client, seconds: float, timeout_ms: int
) -> None:
    """An answer serves for 15 seconds, and never longer than its question could have waited."""
    approve(cli, timeoutMs=timeout_ms)
    gate.clock.advance(seconds)

    assert code(run(cli)) == "APPROVAL_EXPIRED"


def test_an_approval_of_another(gate: Gate, node: Client, cli: Client) -> None:
    """Another device can not use an approval; another connection of the same device can."""
    approve(cli)
    assert code(run(gate.client(3, device_id="d2"))) == "APPROVAL_DEVICE_MISMATCH"
    assert code(run(gate.client(3))) == "APPROVAL_DEVICE_MISMATCH"
    run(gate.client(3, device_id="d1"))

    assert sent(node)["approved"] is True


def test_an_approval_without_a_device(gate: Gate, node: Client) -> None:
    """Without a device it is the connection that may use it."""
    client = gate.client(3)
    approve(client)
    assert code(run(gate.client(3))) == "APPROVAL_CLIENT_MISMATCH"
    run(client)

    assert sent(node)["approved"] is True


def test_an_approval_for_elsewhere(gate: Gate, node: Client, cli: Client) -> None:
    """An approval for another node, or for none, serves at no other."""
    approve(cli, nodeId="n2")
    assert code(run(cli)) == "APPROVAL_NODE_MISMATCH"
    gate.clock.advance(20)
    approve(cli, host="gateway")
    assert code(run(cli)) == "APPROVAL_NODE_BINDING_MISSING"
    gate.clock.advance(20)
    approve(cli, nodeId=None, host=None)
    assert code(run(cli)) == "APPROVAL_NODE_BINDING_MISSING"


def test_words_of_version_4(gate: Gate) -> None:
    """Where words were approved they must be the same; an environment was not seen by who approved."""
    node, cli = live_node(gate), gate.client(client="openclaw-control-ui", device_id="d1")
    plan = {"argv": ARGV, "commandText": TEXT}
    params = {**ASK, "commandArgv": ARGV, "systemRunPlan": plan}
    gate.client(client="openclaw-macos")
    cli.call("exec.approval.request", params)
    cli.ok("exec.approval.resolve", {"id": "ap-1", "decision": "allow-once"})

    assert code(run(cli, command=["/bin/echo", "a", "b"])) == "APPROVAL_REQUEST_MISMATCH"
    assert code(run(cli, env={"LD_PRELOAD": "x"})) == "APPROVAL_REQUEST_MISMATCH"
    run(cli)
    assert sent(node)["approved"] is True


EVIL = ["/bin/sh", "-c", "evil"]


def test_who_approves_is_shown_what_would_be_run(gate: Gate) -> None:
    """A text that says something else than the words of the plan is not what operators are shown."""
    node, asker = live_node(gate), gate.client(client="cli", device_id="d1")
    operator = gate.client(client="openclaw-macos")
    for more in (
        {"commandArgv": EVIL},
        {"systemRunPlan": {"argv": EVIL, "commandText": TEXT}},
        {"commandArgv": ARGV, "systemRunPlan": {"argv": EVIL, "commandText": TEXT}},
    ):
        number = next(_KEYS)
        asker.call(
            "exec.approval.request", {"systemRunPlan": {}, **ASK, **more, "id": f"e{number}"}
        )
        shown = operator.ok("exec.approval.get", {"id": f"e{number}"})
        assert shown["commandText"] == "/bin/sh -c evil"
        operator.ok("exec.approval.resolve", {"id": f"e{number}", "decision": "allow-once"})
        assert code(run(asker, runId=f"e{number}")) == "APPROVAL_REQUEST_MISMATCH"
    assert asked(node) == []


def test_the_policy_allows_no_text_beside_a_harmless_plan(gate: Gate) -> None:
    """What the list names by the words of a plan is no approval of the text that came with it."""
    node, asker = live_node(gate), gate.client(client="cli", device_id="d1")
    snapshot = asker.ok("exec.approvals.get", {})
    file = {"version": 1, "agents": {"*": {"allowlist": [{"pattern": "/bin/echo"}]}}}
    asker.ok("exec.approvals.set", {"file": file, "baseHash": snapshot["hash"]})
    plan = {"argv": ARGV, "commandText": "/bin/sh -c evil"}
    params = {**ASK, "systemRunPlan": plan}
    del params["command"]

    assert asker.ok("exec.approval.request", params)["decision"] is None
    assert code(run(asker, command=EVIL)) != ""
    assert asked(node) == []


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize(
    "more",
    [
        {"env": {"LD_PRELOAD": "/tmp/x.so"}},
        {"env": {"GIT_PAGER": "id"}},
        {"rawCommand": "/bin/rm -rf /"},
        {"systemRunPlan": {"argv": EVIL}},
        {"systemRunPlan": {"argv": ARGV, "commandText": "evil"}},
        {"systemRunPlan": {"argv": ARGV, "cwd": "/etc"}},
        {"systemRunPlan": "evil"},
    ],
)
def test_nothing_else_comes_with_what_was_approved(
    gate: Gate, protocol: int, more: dict[str, Any]
) -> None:
    """An environment, another text or another plan beside the approved words is refused, in both versions."""
    node, cli = live_node(gate, protocol), gate.client(protocol, client="cli", device_id="d1")
    gate.client(client="openclaw-macos")
    plan: dict[str, Any] = {}
    if protocol >= 4:
        plan = {"systemRunPlan": {"argv": ARGV, "commandText": TEXT}}
    approve(cli, **plan)

    assert code(run(cli, **more)) == "APPROVAL_REQUEST_MISMATCH"
    assert asked(node) == []
    run(cli, rawCommand=TEXT, systemRunPlan={"argv": ARGV, "commandText": TEXT, "cwd": "/w"})
    assert sent(node)["approved"] is True


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_node_gets_no_params_that_nobody_knows(gate: Gate, protocol: int) -> None:
    """Beside an approved command a node gets what the protocol knows, not what it may make something of."""
    node, cli = live_node(gate, protocol), gate.client(3, client="cli", device_id="d1")
    approve(cli)
    run(cli, timeoutMs=5, shell="/tmp/evil", argv=EVIL, stdin="evil", Env={"A": "b"})
    assert set(sent(node)) == {*RUN, "timeoutMs"}

    run(cli, approved="absent", approvalDecision="absent", shell="/bin/zsh")
    assert sent(node)["shell"] == "/bin/zsh"  # the node decides about what is not approved


def test_a_text_that_reads_otherwise_is_not_shown(gate: Gate) -> None:
    """Operators are shown words with their own quotes where a text would be read as other words."""
    asker, operator = gate.client(client="cli"), gate.client(client="openclaw-macos")
    argv = ["find", "/", "-name", "'x", "-delete", "y'"]
    asked_for = {"id": "e1", "command": " ".join(argv), "commandArgv": argv}
    asker.call("exec.approval.request", asked_for)

    shown = operator.ok("exec.approval.get", {"id": "e1"})["commandText"]
    assert shlex.split(shown) == argv


@pytest.mark.parametrize("decision", [None, "allow-once", "allow-always"])
def test_rights_that_are_taken_away(gate: Gate, node: Client, decision: str | None) -> None:
    """What a device asked ends when it is removed; what it was allowed serves no more if it comes back."""
    cli, other = gate.client(3, device_id="d1"), gate.client(3, device_id="d2")
    approve(cli, decision)
    other.call("exec.approval.request", {**ASK, "id": "ap-2"})
    gate.services.revocations.device("d1")
    cli.leave()

    assert [row["id"] for row in other.ok("exec.approval.list")] == ["ap-2"]
    ended = [e["id"] for e in other.events("exec.approval.resolved")]
    assert ended == ["ap-1"]
    assert code(run(gate.client(3, device_id="d1"))) == "APPROVAL_REQUIRED"
    assert asked(node) == []


def test_what_is_refused_later_uses_up_no_approval(gate: Gate, node: Client, cli: Client) -> None:
    """Params that are too large anyway do not cost the one use of an answer."""
    approve(cli)
    call = run(cli, more="x" * gate.services.limits.node_params_bytes)
    assert code(call) == "PAYLOAD_TOO_LARGE"
    run(cli)

    assert sent(node)["approved"] is True


def test_two_at_once_share_no_answer_for_once(gate: Gate, node: Client, cli: Client) -> None:
    """Of two requests that name one answer for once, sent before either is answered, one gets through."""
    approve(cli)
    other = gate.client(3, device_id="d1")
    first, second = run(cli), run(other)

    assert len(asked(node)) == 1
    assert code(second) == "APPROVAL_REQUIRED"
    assert first is not None
