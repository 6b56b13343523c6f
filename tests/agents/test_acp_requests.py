"""What an agent asks of the gateway during a turn: permissions, files, terminals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from gateway.agents.acp_requests import Access
from gateway.agents.process import MARK_VARIABLE
from gateway.model import Decision, RunResult
from tests.agents.acp_setup import Setup
from tests.agents.fakes import FakeProcess

OPTIONS = [
    {"optionId": "yes", "name": "Yes", "kind": "allow_once"},
    {"optionId": "always", "name": "Always", "kind": "allow_always"},
    {"optionId": "no", "name": "No", "kind": "reject_once"},
]
LS = {"toolCallId": "t1", "title": "List", "kind": "execute", "rawInput": {"command": "ls -l"}}
CANCELLED = {"outcome": {"outcome": "cancelled"}}


def selected(option: str) -> dict[str, Any]:
    return {"outcome": {"outcome": "selected", "optionId": option}}


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def decide(setup: Setup) -> list[Deferred[Decision | None]]:
    """Leave the questions of the run open; return them."""
    questions: list[Deferred[Decision | None]] = []

    def ask(_: Any) -> Deferred[Decision | None]:
        questions.append(Deferred())
        return questions[-1]

    setup.sink.decide = ask
    return questions


def answer(setup: Setup, decision: Decision | None) -> None:
    """Answer every question of the run at once."""

    def ask(_: Any) -> Deferred[Decision | None]:
        done: Deferred[Decision | None] = Deferred()
        done.callback(decision)
        return done

    setup.sink.decide = ask


@pytest.mark.parametrize(
    ("decision", "option"),
    [
        (Decision.ALLOW_ONCE, "yes"),
        (Decision.ALLOW_ALWAYS, "always"),
        (Decision.DENY, "no"),
        (None, "no"),
    ],
)
def test_an_operator_decides(setup: Setup, decision: Decision | None, option: str) -> None:
    """A request for permission is a question to an operator, whose answer is the agent's option."""
    setup.turn()
    questions = decide(setup)

    assert setup.ask("session/request_permission", toolCall=LS, options=OPTIONS) == []
    (request,) = setup.sink.asked
    assert (request.command, request.tool_call_id, request.always) == ("ls -l", "t1", True)
    assert request.cwd == str(setup.root)
    assert setup.sink.events[0][1]["phase"] == "start"
    questions[0].callback(decision)

    (told,) = setup.process.messages()
    assert (told["id"], told["result"]) == ("q", selected(option))


def test_the_run_goes_on_while_a_question_is_open(setup: Setup) -> None:
    """Other messages are handled meanwhile, and that a question is open can be seen."""
    process = setup.turn()
    questions = decide(setup)
    worker = setup.backend._pool.worker_of("run-1")
    assert worker is not None

    setup.ask("session/request_permission", toolCall=LS, options=OPTIONS)
    process.say("s1", "waiting")
    assert (setup.sink.said, worker.asking) == ("waiting", 1)
    questions[0].callback(Decision.DENY)
    assert worker.asking == 0


def test_a_question_is_withdrawn_with_its_turn(setup: Setup) -> None:
    """An abort takes the question back; the agent learns that the turn and the request are cancelled."""
    setup.turn()
    withdrawn: list[Any] = []
    setup.sink.decide = lambda _: Deferred(withdrawn.append)
    setup.ask("session/request_permission", toolCall=LS, options=OPTIONS)

    setup.going.addErrback(lambda failure: None).cancel()

    cancel, told = setup.process.messages()
    assert cancel["method"] == "session/cancel"
    assert told["result"] == CANCELLED
    assert len(withdrawn) == 1
    late = setup.ask("session/request_permission", toolCall=LS, options=OPTIONS)
    assert late[0]["result"] == CANCELLED


def test_a_question_is_withdrawn_when_the_process_dies(setup: Setup) -> None:
    """Nobody is asked for a process that is gone."""
    process = setup.turn()
    withdrawn: list[Any] = []
    setup.sink.decide = lambda _: Deferred(withdrawn.append)
    setup.ask("session/request_permission", toolCall=LS, options=OPTIONS)

    process.end(signal=9)

    assert len(withdrawn) == 1


def test_an_answer_with_a_question_open_ends_the_turn(setup: Setup) -> None:
    """An agent that answers its prompt while it asks has its answer, and the question is withdrawn."""
    process = setup.turn()
    decide(setup)
    setup.ask("session/request_permission", toolCall=LS, options=OPTIONS)

    process.answer(setup.prompt_id, {"stopReason": "end_turn"})

    assert isinstance(setup.ends[0], RunResult)
    assert process.messages()[0]["result"] == CANCELLED


@pytest.mark.parametrize("params", [{"sessionId": "s9"}, {"sessionId": ["odd"]}, {}])
def test_permission_without_a_turn_is_cancelled(setup: Setup, params: dict[str, Any]) -> None:
    """A request that belongs to no turn asks nobody."""
    process = setup.turn()

    process.send(id=1, method="session/request_permission", params=params)

    assert process.messages()[0]["result"] == CANCELLED
    assert setup.sink.asked == []


def test_files_of_the_workspace(setup: Setup) -> None:
    """An agent reads and writes text in its workspace, by absolute and by relative path."""
    setup.turn()

    path = str(setup.root / "sub" / "a.txt")
    (wrote,) = setup.ask("fs/write_text_file", path=path, content="one\ntwo\nthree\n")
    (read,) = setup.ask("fs/read_text_file", path=path)
    (line,) = setup.ask("fs/read_text_file", path="sub/a.txt", line=2, limit=1)

    assert wrote["result"] == {}
    assert read["result"] == {"content": "one\ntwo\nthree\n"}
    assert line["result"] == {"content": "two\n"}


@pytest.mark.parametrize(
    ("path", "code", "reason"),
    [
        ("/etc/passwd", -32602, "outside"),
        ("../a", -32602, "outside"),
        ("link/a", -32602, "outside"),
        ("no/such", -32002, "not-found"),
        (".", -32602, "not-a-file"),
        ("x" * 300, -32603, "failed"),
    ],
)
def test_files_elsewhere_are_refused(setup: Setup, path: str, code: int, reason: str) -> None:
    """Each refusal is an error of JSON-RPC that says why."""
    setup.turn()
    (setup.root / "link").symlink_to("/etc")

    (told,) = setup.ask("fs/read_text_file", path=path)

    assert told["error"]["code"] == code
    assert told["error"]["data"] == {"reason": reason}


def test_odd_requests_for_files_are_refused(setup: Setup) -> None:
    """A path or a content that is no text is refused; so is a write outside of a turn."""
    setup.turn()

    for method, params in (
        ("fs/read_text_file", {}),
        ("fs/write_text_file", {"path": "a", "content": 5}),
        ("fs/write_text_file", {"path": "a", "content": "x", "sessionId": "s2"}),
    ):
        (told,) = setup.ask(method, **params)
        assert told["error"]["code"] == -32602
    assert list(setup.root.iterdir()) == []


def test_access_can_be_switched_off(tmp_path: Path) -> None:
    """An agent without files and terminals is told so, and refused if it asks all the same."""
    setup = Setup(tmp_path, Access(files=False, terminal="off"))
    setup.backend.startService()
    (initialize,) = setup.process.messages()
    assert initialize["params"]["clientCapabilities"] == {
        "fs": {"readTextFile": False, "writeTextFile": False},
        "terminal": False,
    }
    setup.process.answer(initialize["id"], {"protocolVersion": 1})

    for method in ("fs/read_text_file", "fs/write_text_file", "terminal/create"):
        (told,) = setup.ask(method, path="a", command="ls")
        assert told["error"]["code"] == -32601


def create(setup: Setup, **params: Any) -> tuple[str, FakeProcess]:
    agent = setup.process
    agent.send(
        id="c", method="terminal/create", params={"sessionId": "s1", "command": "ls"} | params
    )
    (told,) = agent.messages()
    assert len(setup.reactor.processes) > 1, told
    return told["result"]["terminalId"], setup.process


def test_a_terminal_that_an_operator_allows(setup: Setup) -> None:
    """A command is shown with its variables and its directory, and runs when it is allowed."""
    agent = setup.turn()
    (setup.root / "sub").mkdir()
    answer(setup, Decision.ALLOW_ONCE)

    env = [{"name": "MODE", "value": "a b"}]
    id_, command = create(setup, args=["-l", "x y"], env=env, cwd="sub", outputByteLimit=4)

    (request,) = setup.sink.asked
    assert request.command == "MODE='a b' ls -l 'x y'"
    assert (request.argv, request.cwd) == (("ls", "-l", "x y"), str(setup.root / "sub"))
    assert not request.always
    assert command.argv == ["ls", "-l", "x y"]
    assert {name: command.env[name] for name in ("PATH", "MODE")} == {
        "PATH": "/usr/bin:/bin",
        "MODE": "a b",
    }
    assert set(command.env) == {"PATH", "MODE", MARK_VARIABLE}
    assert command.path == str(setup.root / "sub")

    def ask(method: str) -> Any:
        params = {"sessionId": "s1", "terminalId": id_}
        agent.send(id=method, method=method, params=params)
        return [message.get("result") for message in agent.messages()]

    command.protocol.childDataReceived(1, b"output")
    assert ask("terminal/output") == [{"output": "tput", "truncated": True}]
    assert ask("terminal/wait_for_exit") == []
    assert ask("terminal/kill") == [{}]
    command.end(signal=9)
    end = {"exitCode": None, "signal": "SIGKILL"}
    assert [message["result"] for message in agent.messages()] == [end]
    assert ask("terminal/output") == [{"output": "tput", "truncated": True, "exitStatus": end}]
    assert ask("terminal/release") == [{}]
    assert ask("terminal/output") == [None]


def test_a_line_is_run_by_a_shell(tmp_path: Path) -> None:
    """A command without arguments is a line for a shell; with terminal = "allow" nobody is asked."""
    setup = Setup(tmp_path, Access(terminal="allow"))
    setup.turn()

    _, command = create(setup, command="ls -l | wc")

    assert command.argv == ["/bin/sh", "-c", "ls -l | wc"]
    assert setup.sink.asked == []


@pytest.mark.parametrize(
    ("decision", "text"),
    [(None, 'set terminal = "allow"'), (Decision.DENY, "refused")],
)
def test_a_terminal_that_nobody_allows(setup: Setup, decision: Decision | None, text: str) -> None:
    """Without an operator's yes no command runs, and the error says what to do."""
    setup.turn()
    answer(setup, decision)

    (told,) = setup.ask("terminal/create", command="ls")

    assert text in told["error"]["message"]
    assert len(setup.reactor.processes) == 1


def test_what_was_allowed_is_not_asked_again(setup: Setup) -> None:
    """A command that an operator has just allowed as a tool call runs once without another question."""
    setup.turn()
    answer(setup, Decision.ALLOW_ONCE)
    setup.ask("session/request_permission", toolCall=LS, options=OPTIONS)

    create(setup, command="ls -l")
    assert len(setup.sink.asked) == 1
    setup.ask("terminal/create", command="ls -l")
    assert len(setup.sink.asked) == 1


@pytest.mark.parametrize(
    "params",
    [
        {"command": "ls -l", "cwd": "sub"},
        {"command": "ls -l", "env": [{"name": "PATH", "value": "/x"}]},
        {"command": "ls", "args": ["-l"]},
        {"command": "ls -l;rm x"},
    ],
)
def test_what_was_allowed_is_exactly_that(setup: Setup, params: dict[str, Any]) -> None:
    """Another directory, variable or word makes another command, which is asked for."""
    setup.turn()
    (setup.root / "sub").mkdir()
    answer(setup, Decision.ALLOW_ALWAYS)
    setup.ask("session/request_permission", toolCall=LS, options=OPTIONS)

    create(setup, **params)

    assert len(setup.sink.asked) == 2


def test_a_question_for_a_terminal_is_withdrawn(setup: Setup) -> None:
    """An abort while an operator is asked for a command runs nothing."""
    setup.turn()
    questions = decide(setup)
    setup.ask("terminal/create", command="ls")

    setup.going.addErrback(lambda failure: None).cancel()

    assert questions[0].called
    told = [message for message in setup.process.messages() if "error" in message]
    assert "cancelled" in told[0]["error"]["message"]
    assert len(setup.reactor.processes) == 1


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"command": ""},
        {"command": "a\0b"},
        {"command": "ls", "args": [5]},
        {"command": "ls", "env": [{"name": "A=B", "value": "x"}]},
        {"command": "ls", "env": ["odd"]},
        {"command": "ls", "cwd": "/etc"},
        {"command": "ls", "sessionId": "s2"},
    ],
)
def test_odd_commands_are_refused(setup: Setup, params: dict[str, Any]) -> None:
    """What is no command, or is to run outside of the workspace or of a turn, is refused unasked."""
    setup.turn()

    (told,) = setup.ask("terminal/create", **params)

    assert told["error"]["code"] == -32602
    assert setup.sink.asked == []


def test_the_end_of_a_turn_ends_its_terminals(tmp_path: Path) -> None:
    """Commands go with the turn that started them, whether it ends well, by abort or by death."""
    for how in ("answer", "cancel", "death"):
        setup = Setup(tmp_path / how, Access(terminal="allow"))
        agent = setup.turn()
        _, command = create(setup)
        if how == "answer":
            agent.answer(setup.prompt_id, {"stopReason": "end_turn"})
        elif how == "cancel":
            setup.going.addErrback(lambda failure: None).cancel()
        else:
            setup.going.addErrback(lambda failure: None)
            agent.end(signal=9)
        assert command.signals == ["SIGUSR1"]
