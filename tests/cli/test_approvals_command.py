"""gatewayctl approvals, and what the agent asks during gatewayctl chat, against a scripted gateway."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import Any

import pytest

from tests.cli.ctl import one_line, run_id_of
from tests.cli.test_chat_command import Terminal

ROW: dict[str, Any] = {
    "id": "3f2a9b1c-0000",
    "request": {
        "command": "rm -rf\nbuild",
        "cwd": "/src",
        "agentId": "main",
        "sessionKey": "agent:main:main",
        "allowedDecisions": ["allow-once", "allow-always", "deny"],
    },
    "createdAtMs": 1_000,
    "expiresAtMs": 2_000,
}
OTHER = {
    **ROW,
    "id": "77777777-0000",
    "request": {"command": "ls", "agentId": None, "nodeId": "n1"},
}


class Desk:
    """The approvals of the scripted gateway."""

    def __init__(self, script: Any) -> None:
        self.rows = [ROW]
        self.answered: list[tuple[str, str]] = []
        self.once: Any = None
        """Called with the connection once the first answer has come."""
        script.handlers |= {
            "exec.approval.list": lambda c, frame: c.answer(frame, self.rows),
            "exec.approval.get": self._get,
            "exec.approval.resolve": self._resolve,
        }

    def _get(self, connection: Any, frame: Any) -> None:
        for row in self.rows:
            if row["id"].startswith(frame["params"]["id"]):
                asked = row["request"]
                allowed = asked.get("allowedDecisions", ["allow-once", "deny"])
                shown = {"commandText": asked["command"], "agentId": asked.get("agentId")}
                shown["nodeId"] = asked.get("nodeId")
                connection.answer(frame, {"id": row["id"], "allowedDecisions": allowed, **shown})
                return
        connection.refuse(frame, "INVALID_REQUEST", "unknown or expired approval id")

    def _resolve(self, connection: Any, frame: Any) -> None:
        params = frame["params"]
        if params["id"] == "late":
            connection.refuse(frame, "INVALID_REQUEST", "approval already resolved")
            return
        self.answered.append((params["id"], params["decision"]))
        connection.answer(frame, {"ok": True})
        if self.once is not None:
            self.once(connection)


@pytest.fixture
def desk(script):
    return Desk(script)


@pytest.mark.parametrize("command", [["approvals"], ["approvals", "list"]])
def test_what_waits(to_script, script, desk, command):
    """What waits is a table with short ids and commands on one line; the client shows questions."""
    desk.rows = [ROW, OTHER]
    result = to_script(*command)

    head, first, second = result.stdout.splitlines()
    assert head.split() == ["ID", "AGE", "LEFT", "AGENT", "SESSION", "CWD", "COMMAND"]
    assert first.startswith("3f2a9b1c  ")
    assert first.endswith("main   agent:main:main  /src  rm -rf \\n build")
    assert second.endswith("-      -                -     ls")
    assert script.params("connect")["caps"] == ["approvals"]


def test_what_waits_as_json(to_script, desk):
    """With --json it is what the gateway answers."""
    assert json.loads(to_script("approvals", "--json").stdout) == [ROW]
    assert json.loads(to_script("approvals", "list", "--json").stdout) == [ROW]


def test_nothing_waits(to_script, desk):
    """Where nothing waits, that is said."""
    desk.rows = []
    assert to_script("approvals").stdout == "Nothing waits for approval.\n"


@pytest.mark.parametrize(
    ("command", "decision"),
    [
        (["approve", "3f"], "allow-once"),
        (["approve", "3f", "--always"], "allow-always"),
        (["deny", "3f"], "deny"),
        (["reject", "3f"], "deny"),
    ],
)
def test_an_answer(to_script, desk, command, decision):
    """A question is answered by the beginning of its id; what was answered is said."""
    result = to_script("approvals", *command)
    said = f"{decision} 3f2a9b1c-0000: rm -rf \\n build\n"
    assert (result.exit_code, result.stdout) == (0, said)
    assert desk.answered == [(ROW["id"], decision)]


def test_an_answer_to_what_is_not_shown(to_script, desk):
    """What can not be looked at is answered as it was named, and the gateway says what it thinks of it."""
    assert to_script("approvals", "deny", "gone").stdout == "deny gone\n"


def test_where_the_gateway_is_may_be_said_anywhere(ctl, url, desk):
    """The connection options may stand before and after each word of the command."""
    for words in (
        ["--url", url, "approvals", "deny", "3f"],
        ["approvals", "--url", url, "deny", "3f"],
    ):
        assert ctl(*words, GATEWAY_TOKEN="t-secret-1").exit_code == 0


def test_an_answer_that_is_refused(to_script, desk):
    """What the gateway refuses is one line and exit status 1; an empty id is no command line."""
    line = one_line(to_script("approvals", "deny", "late"), 1)
    assert line.endswith("exec.approval.resolve: approval already resolved\n")
    assert to_script("approvals", "deny", "").exit_code == 2


def test_watching_without_a_terminal(ctl, url, script, desk):
    """Without a terminal each question is shown once, with how to answer it, and so is its end."""

    def go_on(connection: Any, frame: Any) -> None:
        desk.rows = [ROW, OTHER]
        connection.answer(frame, [ROW])
        connection.event("exec.approval.requested", ROW)
        connection.event("exec.approval.requested", OTHER)
        connection.event("tick", {"ts": 1})
        connection.event("exec.approval.requested", {**ROW, "id": "gone"})
        for end in (
            {"id": "7", "decision": "deny", "resolvedBy": "Ann"},
            {"id": "8", "decision": None, "resolvedBy": None, "reason": "timeout"},
            {"id": "9", "decision": None},
        ):
            connection.event("exec.approval.resolved", end)

    script.handlers["exec.approval.list"] = go_on
    process = ctl.process("approvals", "watch", "--url", url, stdin=subprocess.DEVNULL)
    lines = [process.stdout.readline() for _ in range(3)]
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)

    assert lines == [b"7 deny by Ann\n", b"8 timeout\n", b"9 ended\n"]
    assert process.returncode == 130
    assert stderr.decode().splitlines() == [
        "Agent main asks for approval 3f2a9b1c-0000:",
        "    rm -rf",
        "    build",
        "(in /src)",
        "(gatewayctl approvals approve 3f2a9b1c-0000, or deny 3f2a9b1c-0000)",
        "Somebody asks for approval 77777777-0000:",
        "    ls",
        "(on node n1)",
        "(gatewayctl approvals approve 77777777-0000, or deny 77777777-0000)",
        "(approval gone: unknown or expired approval id)",
    ]


def test_watching_at_a_terminal(ctl, url, desk):
    """At a terminal each question is asked; what is no answer is asked again."""
    desk.rows = [ROW, OTHER, {**OTHER, "id": "late"}]
    terminal = Terminal(ctl, "approvals", "watch", "--url", url)
    terminal.expect(b"[y]es, once / [a]lways / [n]o: ")
    terminal.type(b"what?\n")
    terminal.expect(b"y, a or n: ")
    terminal.type(b"a\n")
    terminal.expect(b"[y]es, once / [n]o: ")
    terminal.type(b"always\n")
    terminal.expect(b"y or n: ")
    terminal.type(b"\x04")
    terminal.expect(b"(not answered)")
    terminal.expect(b"[n]o: ")
    terminal.type(b"n\n")
    terminal.expect(b"(not answered: approval already resolved)")

    assert terminal.interrupted() == 130
    os.close(terminal.master)
    assert desk.answered == [(ROW["id"], "allow-always")]


def asking(desk: Desk) -> Any:
    """Return a handler of messages whose run asks for approval, and ends with the answer."""

    def send(connection: Any, frame: Any) -> None:
        run_id = run_id_of(frame)
        connection.answer(frame, {"runId": run_id, "status": "started"})
        for run, data in (
            ("another", {"phase": "requested", "approvalId": "x"}),
            (run_id, {"phase": "resolved", "approvalId": "x"}),
            (run_id, {"phase": "requested"}),
            (run_id, "no object"),
        ):
            connection.event("agent", {"runId": run, "stream": "approval", "data": data})
        connection.event("agent", {"runId": run_id, "stream": "lifecycle", "data": {}})
        connection.chat(run_id, "delta", text="I will")
        data = {"phase": "requested", "approvalId": ROW["id"], "command": "rm"}
        connection.event("agent", {"runId": run_id, "stream": "approval", "data": data})
        desk.once = lambda connection: connection.chat(run_id, "final", text="I will clean.")
        if desk.rows == []:
            desk.once(connection)

    return send


def test_an_agent_that_asks_during_a_chat(ctl, url, script, desk):
    """What the run asks is asked at the terminal between its words, and the answer sent."""
    script.handlers["chat.send"] = asking(desk)
    terminal = Terminal(ctl, "chat", "clean up", "--url", url)
    terminal.expect(b"I will\r\n")
    terminal.expect(b"Agent main asks for approval")
    terminal.expect(b"    build\r\n")
    terminal.expect(b"[n]o: ")
    terminal.type(b"y\n")
    terminal.expect(b" clean.\r\n")

    assert terminal.process.wait(timeout=20) == 0
    os.close(terminal.master)
    assert desk.answered == [(ROW["id"], "allow-once")]


def test_ctrl_c_at_the_question(ctl, url, script, desk):
    """Ctrl-C instead of an answer stops the run."""
    script.handlers["chat.send"] = asking(desk)
    terminal = Terminal(ctl, "chat", "clean up", "--url", url)
    terminal.expect(b"[n]o: ")

    assert terminal.interrupted() == 130
    os.close(terminal.master)
    assert script.methods[-1] == "chat.abort"


def test_an_agent_that_asks_without_a_terminal(to_script, script, desk):
    """Without a terminal it is told on stderr how the question can be answered, and the run goes on."""
    script.handlers["chat.send"] = asking(desk)
    desk.rows = []
    result = to_script("chat", "clean up")
    assert result.exit_code == 0
    assert result.stdout.replace("\n", "") == "I will clean."
    assert result.stderr == "(approval 3f2a9b1c-0000: unknown or expired approval id)\n"


def told(**facts: Any) -> dict[str, Any]:
    """Return the answer to ``approval.get``."""
    presentation = {
        "commandText": "rm -rf\nbuild\x1b[2J",
        "agentId": "ma\x1bin",
        "nodeId": None,
        "warningText": None,
    }
    times = {"createdAtMs": 1_000, "expiresAtMs": 2_000}
    return {"approval": {"id": ROW["id"], "presentation": presentation, **times, **facts}}


def test_one_that_waits_is_shown_whole(to_script, script, desk):
    """Everything that is known is shown, and nothing of it steers the terminal."""
    answer = told(status="pending", sourceSessionKey="agent:main:main")
    script.handlers["approval.get"] = lambda c, frame: c.answer(frame, answer)
    result = to_script("approvals", "show", "3f2a")

    lines = result.stdout.splitlines()
    assert lines[:4] == [
        f"id        {ROW['id']}",
        "agent     ma in",
        "session   agent:main:main",
        "cwd       /src",
    ]
    assert lines[5].startswith("answer    none yet")
    assert lines[6:] == ["    rm -rf", "    build\ufffd[2J"]
    assert "\x1b" not in result.stdout
    assert json.loads(to_script("approvals", "show", "3f2a", "--json").stdout) == {
        **answer,
        "request": ROW["request"],
    }


@pytest.mark.parametrize(
    ("end", "shown"),
    [
        (
            {"status": "denied", "decision": "deny", "resolver": {"kind": "device", "id": "d1"}},
            "deny by d1",
        ),
        ({"status": "expired", "resolver": None}, "expired"),
    ],
)
def test_one_that_has_ended_is_shown(to_script, script, end, shown):
    """What was answered is shown, and by whom."""
    answer = told(**end, source={"sessionKey": "agent:main:main"})
    script.handlers["approval.get"] = lambda c, frame: c.answer(frame, answer)
    lines = to_script("approvals", "show", "3f2a").stdout.splitlines()

    assert "session   agent:main:main" in lines
    assert f"answer    {shown}" in lines


def test_one_that_is_unknown_or_unnamed_is_not_shown(to_script, script):
    """What the gateway refuses is said; an empty id is none."""
    script.handlers["approval.get"] = lambda c, frame: c.refuse(
        frame, "INVALID_REQUEST", "unknown approval id"
    )
    refused, unnamed = (to_script("approvals", "show", name) for name in ("x", ""))

    assert (refused.exit_code, unnamed.exit_code) == (1, 2)
    assert "unknown approval id" in refused.stderr
    assert "ID must not be empty" in unnamed.stderr
