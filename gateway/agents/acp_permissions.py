"""What an agent asks an operator for, and the operator's answer in the terms of ACP."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.agents.acp_values import items, mapping, text_of
from gateway.interfaces import IRunSink
from gateway.model import ApprovalRequest, Decision

QUESTIONS_MAX = 16
"""Questions of one turn that are open at once; more are refused."""
QUESTIONS_LOGGED = 100
"""Questions of one turn that are logged."""

CANCELLED: dict[str, Any] = {"outcome": {"outcome": "cancelled"}}

_OPTIONS = {
    Decision.ALLOW_ONCE: ("allow_once",),
    Decision.ALLOW_ALWAYS: ("allow_always", "allow_once"),
    Decision.DENY: ("reject_once", "reject_always"),
    None: ("reject_once",),
}
"""The kinds of option for each decision, the best first. None allows more than was decided."""

_HARMLESS = frozenset(
    "command args cwd workdir description title timeout timeout_ms timeoutMs run_in_background is_background "
    "reason call_id turn_id parsed_cmd".split()
)
"""What may stand beside a command without changing what is run."""


def approval_request(params: Mapping[str, Any], cwd: str) -> ApprovalRequest:
    """Return the question of a ``session/request_permission``."""
    call = mapping(params.get("toolCall"))
    given = mapping(call.get("rawInput"))
    argv = _argv(given)
    command = given.get("command")
    line = command if isinstance(command, str) and not given.get("args") else shlex.join(argv)
    shown = line or _title(call)
    kinds = [mapping(option).get("kind") for option in items(params.get("options"))]
    # Any tool may have a parameter called command, or a title that reads like one.
    # What else is given with a command may say where, as whom or with what it is run.
    more = any(value for name, value in given.items() if name not in _HARMLESS)
    certain = bool(line) and call.get("kind") == "execute" and not more
    return ApprovalRequest(
        command=one_line(shown),
        tool_call_id=(text_of(call.get("toolCallId")) or "")[:200] or None,
        argv=argv,
        cwd=(text_of(given.get("cwd")) or text_of(given.get("workdir")) or cwd)[:4096],
        always="allow_always" in kinds,
        certain=certain,
    )


def words_of(params: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the command that a ``session/request_permission`` is about; a line counts as one word."""
    given = mapping(mapping(params.get("toolCall")).get("rawInput"))
    command = text_of(given.get("command"))
    return _argv(given) or (() if command is None else (command,))


def outcome(options: Any, decision: Decision | None) -> dict[str, Any]:
    """Return the answer to a ``session/request_permission`` for what was decided.

    An option that means it, never one that allows more; without one the request counts as cancelled.
    """
    for kind in _OPTIONS[decision]:
        for option in map(mapping, items(options)):
            id_ = text_of(option.get("optionId"))
            if option.get("kind") == kind and id_ is not None:
                return {"outcome": {"outcome": "selected", "optionId": id_}}
    return CANCELLED


def command_line(argv: Sequence[str], env: Mapping[str, str]) -> str:
    """Return a command as a shell would take it, with the variables that it is given."""
    given = [f"{name}={shlex.quote(value)}" for name, value in env.items()]
    return " ".join([*given, shlex.join(argv) if len(argv) > 1 else argv[0]])


def one_line(text: str) -> str:
    """Return a text as one line of printable characters, whole: what is not shown is not allowed."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


class Questions:
    """The open questions of one turn. Withdrawn, they are answered by CancelledError."""

    def __init__(self, sink: IRunSink, log: Logger) -> None:
        self._sink = sink
        self._log = log
        self._open: set[Deferred[Decision | None]] = set()
        self._withdrawn = False
        self._asked = 0

    def __len__(self) -> int:
        return len(self._open)

    @property
    def logged(self) -> bool:
        """Whether what becomes of a question is worth a line in the log still."""
        return self._asked <= QUESTIONS_LOGGED

    def ask(self, request: ApprovalRequest) -> Deferred[Decision | None]:
        """Ask; None if there are too many questions already, or nobody could decide."""
        self._asked += 1
        if self._withdrawn or len(self._open) >= QUESTIONS_MAX:
            if self.logged:
                self._log.warn("a question too many: refused")
            return succeed(None)
        asked: Deferred[Decision | None] = maybeDeferred(self._sink.ask, request)
        self._open.add(asked)

        def done(result: Any) -> Any:
            self._open.discard(asked)
            if isinstance(result, Failure) and not result.check(CancelledError):
                self._log.failure("nobody could be asked", failure=result)
                return None
            return result

        asked.addBoth(done)
        return asked

    def withdraw(self) -> None:
        """Take all questions back."""
        self._withdrawn = True
        for asked in tuple(self._open):
            asked.cancel()


def _title(call: Mapping[str, Any]) -> str:
    """Return what a call without a command is: many agents' titles are a path, and leave out what for."""
    title, kind = text_of(call.get("title")), text_of(call.get("kind"))
    if title is None or kind in (None, "other") or kind.lower() in title.lower():
        return title or kind or "a tool call"
    return f"{kind} {title}"


def _argv(given: Mapping[str, Any]) -> tuple[str, ...]:
    command, args = given.get("command"), items(given.get("args"))
    words = command if isinstance(command, list) else [command, *args] if args else []
    return tuple(words) if all(isinstance(word, str) for word in words) else ()
