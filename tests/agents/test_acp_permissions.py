"""What an agent asks an operator for, and what it is answered."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.logger import LogEvent, Logger

from gateway.agents.acp_permissions import (
    CANCELLED,
    QUESTIONS_LOGGED,
    QUESTIONS_MAX,
    Questions,
    approval_request,
    command_line,
    one_line,
    outcome,
    words_of,
)
from gateway.model import ApprovalRequest, Decision
from gateway.testing import result_of
from tests.agents.fakes import RecordingSink

ONCE, ALWAYS, NO, NEVER = (
    {"optionId": kind, "name": kind, "kind": kind}
    for kind in ("allow_once", "allow_always", "reject_once", "reject_always")
)


def asked(options: Any = (), **call: Any) -> ApprovalRequest:
    return approval_request({"toolCall": call, "options": list(options)}, "/w")


def test_the_command_is_shown() -> None:
    """The question is the command line where there is one, else what the agent calls the tool call."""
    line = asked([ONCE, ALWAYS], toolCallId="t", rawInput={"command": "ls -l"}, title="List")
    words = asked([ONCE], rawInput={"command": ["rm", "a b"], "cwd": "/w/x"})
    split = asked(rawInput={"command": "rm", "args": ["a b"], "workdir": "/w/y"})

    assert line == ApprovalRequest(command="ls -l", tool_call_id="t", cwd="/w", always=True)
    assert (words.command, words.argv, words.cwd) == ("rm 'a b'", ("rm", "a b"), "/w/x")
    assert not words.always
    assert (split.command, split.argv, split.cwd) == ("rm 'a b'", ("rm", "a b"), "/w/y")
    assert asked(title="Edit a.txt", kind="edit").command == "Edit a.txt"
    assert asked(kind="edit").command == "edit"
    assert asked(title="/w/a.txt", kind="edit").command == "edit /w/a.txt"
    assert asked(title="a.txt", kind="other").command == asked(title="a.txt").command == "a.txt"
    assert approval_request({"toolCall": 5, "options": 6}, "/w").command == "a tool call"
    assert asked(rawInput={"command": [1, 2]}, title="odd").argv == ()


@pytest.mark.parametrize(
    ("call", "certain"),
    [
        ({"kind": "execute", "rawInput": {"command": "ls -l"}}, True),
        ({"kind": "execute", "rawInput": {"command": ["ls"], "env": {}}}, True),
        ({"kind": "execute", "rawInput": {"command": "ls", "env": {"PATH": "/tmp"}}}, False),
        ({"kind": "execute", "rawInput": {"command": "ls", "environment": {"A": "b"}}}, False),
        ({"kind": "execute", "rawInput": {"command": "ls", "stdin": "rm x"}}, False),
        ({"kind": "execute", "rawInput": {"command": "ls", "shell": "/tmp/sh"}}, False),
        (
            {"kind": "execute", "rawInput": {"command": "ls", "dangerouslyDisableSandbox": True}},
            False,
        ),
        (
            {"kind": "execute", "rawInput": {"command": "ls", "dangerouslyDisableSandbox": False}},
            True,
        ),
        (
            {"kind": "execute", "rawInput": {"command": "ls", "description": "x", "timeout": 5}},
            True,
        ),
        ({"kind": "execute", "rawInput": {"command": ""}, "title": "ls -l"}, False),
        ({"kind": "execute", "title": "ls -l"}, False),
        ({"kind": "other", "rawInput": {"command": "ls -l"}}, False),
        ({"rawInput": {"command": "ls -l"}}, False),
    ],
)
def test_what_is_certain_to_be_a_command(call: dict[str, Any], certain: bool) -> None:
    """Only a call that executes a command line, and nothing else, is one for sure: a title is none."""
    assert asked(**call).certain is certain


def test_the_words_that_were_allowed() -> None:
    """A command line is one word, as it is for a terminal without arguments."""
    assert words_of({"toolCall": {"rawInput": {"command": "ls -l"}}}) == ("ls -l",)
    assert words_of({"toolCall": {"rawInput": {"command": ["ls", "-l"]}}}) == ("ls", "-l")
    assert words_of({"toolCall": {"title": "ls"}}) == ()


def test_a_question_is_one_line() -> None:
    """Control characters are shown as such, and a long command is shown whole."""
    assert one_line("a\nb\x1b[1m") == "a\\nb\\x1b[1m"
    assert one_line("x" * 20_000) == "x" * 20_000
    assert command_line(("ls",), {}) == "ls"
    assert command_line(("ls", "a b"), {"PATH": "/x y"}) == "PATH='/x y' ls 'a b'"


@pytest.mark.parametrize(
    ("decision", "options", "chosen"),
    [
        (Decision.ALLOW_ONCE, [ALWAYS, ONCE], "allow_once"),
        (Decision.ALLOW_ONCE, [ALWAYS, NO], None),
        (Decision.ALLOW_ALWAYS, [ONCE, ALWAYS], "allow_always"),
        (Decision.ALLOW_ALWAYS, [ONCE], "allow_once"),
        (Decision.DENY, [ONCE, NEVER, NO], "reject_once"),
        (Decision.DENY, [ONCE, NEVER], "reject_always"),
        (None, [ONCE, NO], "reject_once"),
        (None, [ONCE, NEVER], None),
        (Decision.ALLOW_ONCE, [{"kind": "allow_once"}, 5], None),
        (Decision.ALLOW_ONCE, "odd", None),
    ],
)
def test_the_answer_never_allows_more(
    decision: Decision | None, options: Any, chosen: str | None
) -> None:
    """The option that means the decision is chosen; where there is none the request is cancelled."""
    answer = outcome(options, decision)

    if chosen is None:
        assert answer == CANCELLED
    else:
        assert answer == {"outcome": {"outcome": "selected", "optionId": chosen}}


def test_questions_are_bounded_and_withdrawn() -> None:
    """A question too many is not asked; all that are open are taken back, and none comes after."""
    sink = RecordingSink()
    sink.decide = lambda _: Deferred()
    questions = Questions(sink, Logger())
    open_ = [questions.ask(asked()) for _ in range(QUESTIONS_MAX)]

    assert result_of(questions.ask(asked())) is None
    assert (len(questions), len(sink.asked)) == (QUESTIONS_MAX, QUESTIONS_MAX)
    questions.withdraw()
    for each in open_:
        with pytest.raises(CancelledError):
            result_of(each)
    assert len(questions) == 0
    assert result_of(questions.ask(asked())) is None


def test_a_sink_that_can_not_ask_allows_nothing(
    logged_failures: list[LogEvent], expected_failures: list[type[BaseException]]
) -> None:
    """A failure on the way to the operator is logged and counts as no decision."""
    expected_failures.append(ValueError)
    sink = RecordingSink()
    sink.decide = lambda _: fail(ValueError("x"))

    assert result_of(Questions(sink, Logger()).ask(asked())) is None
    assert len(logged_failures) == 1


def test_of_many_questions_the_first_are_logged(log_lines: list[str]) -> None:
    """An agent that asks all the time does not fill the log."""
    sink = RecordingSink()
    sink.decide = lambda _: Deferred()
    questions = Questions(sink, Logger())

    for _ in range(10 * QUESTIONS_LOGGED):
        questions.ask(asked())

    assert not questions.logged
    assert len(log_lines) == QUESTIONS_LOGGED - QUESTIONS_MAX
