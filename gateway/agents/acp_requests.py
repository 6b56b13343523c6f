"""What an agent program asks of the gateway as its client: permissions, files, terminals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.logger import Logger

from gateway.agents.acp_permissions import (
    CANCELLED,
    Questions,
    approval_request,
    command_line,
    one_line,
    outcome,
    words_of,
)
from gateway.agents.acp_terminals import Terminals, exit_status
from gateway.agents.acp_values import count_of, items, mapping, text_of
from gateway.agents.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    NOT_FOUND,
    RpcError,
)
from gateway.agents.mcpconfig import ResolvedServer
from gateway.agents.process import Command
from gateway.app.threads import InThread
from gateway.model import ApprovalRequest, Decision
from gateway.workspace import Refused, Workspace, WorkspaceError

FILES_AT_ONCE = 4
"""Files that one agent reads or writes at the same time; more wait."""
WORDS_MAX = 1000
"""Arguments, or variables, of one command."""


class Access(NamedTuple):
    """What an agent may do through the gateway, ready for use.

    ``terminal_env`` is the environment of the commands it runs, ``servers`` are MCP servers it is told.
    """

    files: bool = True
    terminal: Literal["ask", "allow", "off"] = "ask"
    terminal_env: Mapping[str, str] = {}
    servers: tuple[ResolvedServer, ...] = ()

    @property
    def capabilities(self) -> dict[str, object]:
        """Return it as ``clientCapabilities`` of ACP."""
        fs = {"readTextFile": self.files, "writeTextFile": self.files}
        return {"fs": fs, "terminal": self.terminal != "off"}


class Asker(Protocol):
    """The turn that a request belongs to."""

    @property
    def cancelled(self) -> bool:
        """Whether the run has ended."""

    @property
    def questions(self) -> Questions:
        """The questions that are open."""

    @property
    def permitted(self) -> dict[tuple[tuple[str, ...], str], Decision]:
        """Commands that an operator has allowed, by words and directory."""

    def update(self, update: dict[str, Any]) -> None:
        """Take a ``session/update``."""


class ClientSide:
    """Answers the requests of one agent process.

    Whatever it is asked, it answers a result or raises RpcError. ``turn_of`` finds the turn of a session.
    """

    def __init__(
        self,
        *,
        access: Access,
        cwd: str,
        terminals: Terminals,
        in_thread: InThread,
        turn_of: Callable[[str], Asker | None],
        log: Logger,
    ) -> None:
        self._access = access
        self._workspace = Workspace(cwd)
        self._terminals = terminals
        self._in_thread = in_thread
        self._turn_of = turn_of
        self._log = log
        self._files = DeferredSemaphore(FILES_AT_ONCE)

    def requested(self, method: str, params: Any) -> Any:
        """Answer a request: a value or a Deferred. Raises RpcError."""
        shape = mapping(params)
        if method == "session/request_permission":
            return Deferred.fromCoroutine(self._permission(shape))
        if self._access.files and method in ("fs/read_text_file", "fs/write_text_file"):
            read = method == "fs/read_text_file"
            return Deferred.fromCoroutine(self._read(shape) if read else self._write(shape))
        if self._access.terminal != "off":
            match method:
                case "terminal/create":
                    return Deferred.fromCoroutine(self._create(shape))
                case "terminal/output":
                    return self._output(shape)
                case "terminal/wait_for_exit":
                    return self._terminal(shape).wait().addCallback(exit_status)
                case "terminal/kill":
                    self._terminal(shape).kill()
                    return {}
                case "terminal/release":
                    self._terminal(shape).release()
                    return {}
        raise RpcError(METHOD_NOT_FOUND, f"Method not found: {method[:100]}")

    async def _permission(self, params: dict[str, Any]) -> Any:
        turn = self._turn_of(str(params.get("sessionId")))
        if turn is None or turn.cancelled:
            return CANCELLED
        call = mapping(params.get("toolCall"))
        turn.update(call | {"sessionUpdate": "tool_call_update"})
        request = approval_request(params, str(self._workspace.root))
        try:
            decision = await turn.questions.ask(request)
        except CancelledError:
            return CANCELLED
        if turn.cancelled:
            return CANCELLED
        if turn.questions.logged:
            self._log.info(
                "permission for a tool call: {decision}", decision=decision or "nobody decided"
            )
        if decision in (Decision.ALLOW_ONCE, Decision.ALLOW_ALWAYS):
            _permit(turn, words_of(params), request, decision)
        return outcome(params.get("options"), decision)

    async def _read(self, params: dict[str, Any]) -> Any:
        path = _path(params)
        line, limit = count_of(params.get("line")), count_of(params.get("limit"))
        work = partial(self._workspace.read_text, path, line=line, limit=limit)
        return {"content": await self._file(work)}

    async def _write(self, params: dict[str, Any]) -> Any:
        path, content = _path(params), params.get("content")
        self._turn(params)
        if not isinstance(content, str):
            raise RpcError(INVALID_PARAMS, "content is no text")
        await self._file(partial(self._workspace.write, path, content.encode("utf-8", "replace")))
        return {}

    async def _file(self, work: Callable[[], Any]) -> Any:
        try:
            return await self._files.run(self._in_thread, work)
        except WorkspaceError as error:
            raise _refused(error) from None

    def _turn(self, params: Mapping[str, Any]) -> Asker:
        turn = self._turn_of(str(params.get("sessionId")))
        if turn is None or turn.cancelled:
            raise RpcError(INVALID_PARAMS, "no turn of this session goes on")
        return turn

    async def _create(self, params: dict[str, Any]) -> Any:
        session_id, turn = str(params.get("sessionId")), self._turn(params)
        argv, env = _argv(params), _env(params)
        limit = count_of(params.get("outputByteLimit"))
        self._terminals.room(session_id)
        work = partial(self._workspace.subdirectory, text_of(params.get("cwd")))
        cwd = await self._file(work)
        if self._access.terminal != "allow":
            await self._allowed(turn, argv, env, cwd)
        if turn.cancelled:
            raise RpcError(INVALID_PARAMS, "no turn of this session goes on")
        # As in a shell: a command without arguments is a line of one.
        whole = argv if len(argv) > 1 else ("/bin/sh", "-c", *argv)
        command = Command(whole, dict(self._access.terminal_env) | env, cwd)
        return {"terminalId": self._terminals.create(session_id, command, limit)}

    async def _allowed(
        self, turn: Asker, argv: tuple[str, ...], env: dict[str, str], cwd: str
    ) -> None:
        """Return if an operator allows the command, or has just done so. Raises RpcError."""
        line = one_line(command_line(argv, env))
        permitted = None if env else turn.permitted.get((argv, cwd))
        if permitted is not None:
            if permitted is Decision.ALLOW_ONCE:
                del turn.permitted[argv, cwd]
            return
        request = ApprovalRequest(command=line, argv=argv, cwd=cwd, always=False, certain=not env)
        try:
            decision = await turn.questions.ask(request)
        except CancelledError:
            raise RpcError(INTERNAL_ERROR, "the turn was cancelled") from None
        if decision is None:
            text = (
                "nobody could allow the command: connect a client that can approve, "
                'or set terminal = "allow" for this agent'
            )
            raise RpcError(INTERNAL_ERROR, text, {"reason": "not-approved"})
        if decision is Decision.DENY:
            raise RpcError(INTERNAL_ERROR, "the operator refused it", {"reason": "denied"})

    def _terminal(self, params: Mapping[str, Any]) -> Any:
        return self._terminals.get(str(params.get("sessionId")), params.get("terminalId"))

    def _output(self, params: Mapping[str, Any]) -> dict[str, Any]:
        terminal = self._terminal(params)
        answer = {"output": terminal.text, "truncated": terminal.truncated}
        status = terminal.exit_status
        return answer if status is None else answer | {"exitStatus": status}


def _permit(
    turn: Asker, words: tuple[str, ...], request: ApprovalRequest, decision: Decision
) -> None:
    """Remember a command that was allowed, so that its terminal is not asked for again."""
    if words and len(turn.permitted) < WORDS_MAX:
        turn.permitted[words, request.cwd or ""] = decision


def _path(params: Mapping[str, Any]) -> str:
    path = text_of(params.get("path"))
    if path is None:
        raise RpcError(INVALID_PARAMS, "path is missing")
    return path


def _argv(params: Mapping[str, Any]) -> tuple[str, ...]:
    words = [params.get("command"), *items(params.get("args"))]
    if len(words) > WORDS_MAX or not words[0] or not all(map(_usable, words)):
        raise RpcError(INVALID_PARAMS, "command and args are texts")
    return tuple(words)


def _env(params: Mapping[str, Any]) -> dict[str, str]:
    env: dict[str, str] = {}
    for pair in map(mapping, items(params.get("env"))[:WORDS_MAX]):
        name, value = pair.get("name"), pair.get("value")
        if not (name and _usable(name) and _usable(value)) or "=" in str(name):
            raise RpcError(INVALID_PARAMS, "env is a list of {name, value}")
        env[str(name)] = str(value)
    return env


def _usable(word: Any) -> bool:
    """Whether a word can be given to a program."""
    return isinstance(word, str) and "\0" not in word


def _refused(error: WorkspaceError) -> RpcError:
    codes = {Refused.NOT_FOUND: NOT_FOUND, Refused.FAILED: INTERNAL_ERROR}
    data = {"reason": error.reason.value}
    return RpcError(codes.get(error.reason, INVALID_PARAMS), error.message, data)
