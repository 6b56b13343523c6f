"""gatewayctl approvals policy, against a scripted gateway that keeps what it is given."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cli.ctl import one_line

FILE: dict[str, Any] = {
    "version": 1,
    "agents": {
        "main": {
            "security": "allowlist",
            "allowlist": [
                {"id": "aaaaaaaa-1", "pattern": "/usr/bin/git", "lastUsedAt": 1000},
                {
                    "id": "aaaabbbb-2",
                    "pattern": "/bin/sh",
                    "commandText": "/bin/sh -c x",
                    "source": "allow-always",
                },
                {"id": "cccccccc-3", "pattern": "/bin/ls", "argPattern": "-l"},
            ],
        },
        "*": {"ask": "always"},
    },
}


class Policy:
    """The policy of the scripted gateway."""

    def __init__(self, script: Any) -> None:
        self.file = json.loads(json.dumps(FILE))
        self.written: list[Any] = []
        script.handlers |= {"exec.approvals.get": self._get, "exec.approvals.set": self._set}

    def snapshot(self) -> dict[str, Any]:
        """Return what the gateway answers."""
        return {
            "path": "p",
            "exists": True,
            "hash": "h1",
            "file": self.file,
            "resolvedDefaults": {"security": "allowlist", "ask": "on-miss", "askFallback": "deny"},
            "grants": {"aaaabbbb-2": {"by": "Ann", "atMs": 5, "approvalId": "x"}},
        }

    def _get(self, connection: Any, frame: Any) -> None:
        connection.answer(frame, self.snapshot())

    def _set(self, connection: Any, frame: Any) -> None:
        params = frame["params"]
        assert params["baseHash"] == "h1"
        if "refused" in params["file"].get("agents", {}):
            connection.refuse(frame, "INVALID_REQUEST", "exec approvals: no")
            return
        self.written.append(params["file"])
        connection.answer(frame, self.snapshot())


@pytest.fixture
def policy(script):
    return Policy(script)


@pytest.mark.parametrize("command", [["policy"], ["policy", "show"]])
def test_showing_it(to_script, policy, command):
    """The policy is shown as two tables: how strict it is, and what is allowed."""
    result = to_script("approvals", *command)

    modes, _, entries = result.stdout.partition("\n\n")
    assert [line.split() for line in modes.splitlines()] == [
        ["AGENT", "SECURITY", "ASK", "UNANSWERED"],
        ["any", "other", "allowlist", "always", "deny"],
        ["main", "allowlist", "-", "-"],
    ]
    head, git, shell, ls = entries.splitlines()
    assert head.split() == ["AGENT", "ID", "PROGRAM", "ARGUMENTS", "USED", "BY"]
    assert git.split()[:4] == ["main", "aaaaaaaa", "/usr/bin/git", "**"]
    assert git.rstrip(" -").endswith("ago")
    assert "exactly: /bin/sh -c x" in shell
    assert shell.endswith("Ann")
    assert ls.split()[3] == "-l"


def test_showing_what_is_not_there(to_script, policy):
    """Without agents there is how strict it is for any."""
    policy.file = {"version": 1}

    assert to_script("approvals", "policy").stdout.splitlines()[1:] == [
        "any other  allowlist  on-miss  deny"
    ]


def test_showing_it_as_json(to_script, policy):
    """With --json it is what the gateway answers."""
    for command in (["policy", "--json"], ["policy", "show", "--json"]):
        assert json.loads(to_script("approvals", *command).stdout) == policy.snapshot()


@pytest.mark.parametrize("whole", [True, False])
def test_replacing_it(to_script, policy, tmp_path, whole):
    """A file with the policy, or with what was shown, replaces it; it may come from standard input."""
    wanted = {"version": 1, "defaults": {"security": "deny"}}
    text = json.dumps({"path": "p", "file": wanted} if whole else wanted)
    (tmp_path / "policy.json").write_text(text)
    to_script("approvals", "policy", "set", str(tmp_path / "policy.json"))
    to_script("approvals", "policy", "set", "-", stdin=text)

    assert policy.written == [wanted, wanted]


def test_a_file_that_is_none(to_script, policy, tmp_path):
    """What is no JSON changes nothing."""
    (tmp_path / "policy.json").write_text("{")

    assert to_script("approvals", "policy", "set", str(tmp_path / "policy.json")).exit_code == 2
    assert policy.written == []


@pytest.mark.parametrize(
    ("words", "agent", "entry"),
    [
        (["main", "/bin/x"], "main", {"pattern": "/bin/x"}),
        (["*", "/bin/*", "--args", "-l *"], "*", {"pattern": "/bin/*", "argPattern": "-l *"}),
        (["new", "/bin/x", "--args", ""], "new", {"pattern": "/bin/x", "argPattern": ""}),
    ],
)
def test_allowing_a_program(to_script, policy, words, agent, entry):
    """A program is added to the list of an agent, and everything else stays."""
    result = to_script("approvals", "policy", "allow", *words)

    assert result.stdout.startswith(f"agent {agent} may run ")
    (written,) = policy.written
    assert written["agents"][agent]["allowlist"].pop() == entry
    if agent == "main":
        assert written == FILE


@pytest.mark.parametrize(
    ("words", "note"),
    [
        (["main", "/bin/ls"], ""),
        (["main", "/usr/bin/python3", "--args", "/srv/check.py"], ""),
        (["*", "/usr/bin/*"], ""),
        (["mian", "/bin/ls"], "(there is no agent mian now: main, other)\n"),
        *(
            (["main", "/usr/bin/python3", *more], "(/usr/bin/python3: it starts other programs")
            for more in ([], ["--args", "*"])
        ),
    ],
)
def test_what_allows_nothing(to_script, script, policy, words, note):
    """A name that no agent has, and a program that would have to be spelled out, are pointed out."""
    agents = [{"id": "main"}, {"id": "other"}]
    script.handlers["agents.list"] = lambda c, frame: c.answer(frame, {"agents": agents})
    result = to_script("approvals", "policy", "allow", *words)

    assert result.exit_code == 0
    assert result.stderr.startswith(note)
    assert bool(result.stderr) is bool(note)


def test_refusing_an_agent_that_is_not_there(to_script, script, policy):
    """Who refuses everything to a misspelled agent reads that there is none of that name."""
    agents = [{"id": "main"}]
    script.handlers["agents.list"] = lambda c, frame: c.answer(frame, {"agents": agents})
    result = to_script("approvals", "policy", "deny", "mian")

    assert result.stdout == "agent mian: security deny\n"
    assert result.stderr == "(there is no agent mian now: main)\n"


def test_removing_an_entry(to_script, policy):
    """An entry is removed by the beginning of its id."""
    result = to_script("approvals", "policy", "remove", "main", "cc")

    assert result.stdout == "agent main: removed cc\n"
    (written,) = policy.written
    assert [e["id"] for e in written["agents"]["main"]["allowlist"]] == ["aaaaaaaa-1", "aaaabbbb-2"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["main", "aaaa"], "several entries begin so"),
        (["main", "x"], "there is no such entry"),
        (["main", ""], "there is no such entry"),
        (["nobody", "aa"], "there is no such entry"),
    ],
)
def test_removing_what_is_not_there(to_script, policy, words, why):
    """Where not exactly one entry is meant, none is removed."""
    assert one_line(to_script("approvals", "policy", "remove", *words), 1).endswith(f"{why}\n")
    assert policy.written == []


def test_how_strict_it_is(to_script, policy):
    """The modes of an agent are set as far as they are said."""
    assert to_script("approvals", "policy", "deny", "main").stdout == "agent main: security deny\n"
    words = ["--security", "full", "--ask", "off", "--unanswered", "allowlist"]
    to_script("approvals", "policy", "mode", "*", *words)
    assert to_script("approvals", "policy", "mode", "main").exit_code == 2

    assert policy.written[0]["agents"]["main"]["security"] == "deny"
    assert policy.written[0]["agents"]["main"]["allowlist"]
    assert policy.written[1]["agents"]["*"] == {
        "security": "full",
        "ask": "off",
        "askFallback": "allowlist",
    }


def test_what_the_gateway_refuses(to_script, policy):
    """A refusal is one line and exit status 1."""
    line = one_line(to_script("approvals", "policy", "deny", "refused"), 1)

    assert line == "gatewayctl: the gateway refused exec.approvals.set: exec approvals: no\n"
