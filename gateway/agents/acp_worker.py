"""One agent process that speaks the Agent Client Protocol, from its start to its certain end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.logger import Logger

from gateway import __version__
from gateway.agents.acp_content import (
    CANCELLED_PERMISSION,
    HISTORY_MESSAGES,
    history_items,
    prompt_blocks,
    prompt_error,
    prompt_meta,
    refusal,
)
from gateway.agents.acp_session import AgentSession, SessionTable, Turn
from gateway.agents.jsonrpc import METHOD_NOT_FOUND, LineTooLong, RpcError
from gateway.agents.pipes import InputFull
from gateway.agents.process import ChildProcess, Command, Exit
from gateway.agents.rpc import Conversation, TooMuchGarbage
from gateway.agents.vitality import Liveness
from gateway.errors import BackendError, BackendErrorKind
from gateway.interfaces import IClock, IRunSink
from gateway.model import RunRequest, RunResult

PROTOCOL_VERSION = 1
INITIALIZE_S = 30.0
"""How long a process has from its start to its answer to ``initialize``."""
NEW_SESSION_S = 60.0
"""How long it has to open a session."""

MakeChild = Callable[
    [Callable[[bytes], None], Callable[[Exit], None], Callable[[Exit], None]], ChildProcess
]
"""Makes a child from what it calls: with its output, at its death, and when nothing is left of it."""


class AcpWorker:
    """Starts the process, initializes it, runs turns in it.

    ``on_ready`` is called once it has answered ``initialize``, ``on_end`` once it is gone, with the
    error that its runs ended with. Whatever it does wrong (no answer, garbage, a line without end, a
    cancelled prompt it does not answer, input it does not read, silence for ``hang_timeout_s`` while it
    has a turn), it is killed for it, and its runs fail at that moment.

    :ivar agent_info: what the program says of itself: name, title, version.
    """

    def __init__(
        self,
        name: str,
        command: Command,
        make_child: MakeChild,
        clock: IClock,
        on_ready: Callable[[], None],
        on_end: Callable[[BackendError], None],
        hang_timeout_s: float = 0.0,
    ) -> None:
        self._name = name
        self._command = command
        self._clock = clock
        self._on_ready = on_ready
        self._on_end = on_end
        self._log = Logger(namespace=f"gateway.agents.{name}")
        self._child = make_child(self._received, self._died, self._exited)
        self._liveness = Liveness(clock, hang_timeout_s, self._hung)
        self._rpc = Conversation(
            write=self._write,
            on_request=self._requested,
            on_notification=self._notified,
            clock=clock,
            log=self._log,
        )
        self._sessions = SessionTable()
        self._turns: dict[str, Turn] = {}
        self._capabilities: dict[str, Any] = {}
        self._error: BackendError | None = None
        self.agent_info: dict[str, Any] = {}

    @property
    def failed(self) -> bool:
        """Whether it takes no more turns: it is stopped, killed or gone."""
        return self._error is not None

    @property
    def pid(self) -> int | None:
        """The process id."""
        return self._child.pid

    def holds(self, key: str, session_id: str) -> bool:
        """Whether the conversation of this session is open in it."""
        return self._sessions.holds(key, session_id)

    def describe(self) -> dict[str, Any]:
        """Return ``{pid?, launcherPid?, sessions}``."""
        ids = {"pid": self._child.pid, "launcherPid": self._child.launcher_pid}
        known = {name: value for name, value in ids.items() if value is not None}
        return {**known, "sessions": len(self._sessions)}

    def start(self) -> None:
        """Start the process. Raises OSError if there can be none."""
        self._child.spawn(self._command)
        params = {
            "protocolVersion": PROTOCOL_VERSION,
            "clientCapabilities": {
                "fs": {"readTextFile": False, "writeTextFile": False},
                "terminal": False,
            },
            "clientInfo": {"name": "txgateway", "title": "gateway", "version": __version__},
        }
        answer = self._rpc.request("initialize", params, INITIALIZE_S)
        answer.addCallback(self._initialized).addErrback(self._not_initialized)

    def stop(self) -> None:
        """End the turns that go on, then the process, in order: ``on_end`` tells when it is gone."""
        error = BackendError(f"agent {self._name} is stopping")
        for turn in tuple(self._turns.values()):
            turn.stop(error)
        self._fail(error)
        self._child.stop()

    def run(self, request: RunRequest, sink: IRunSink) -> Deferred[RunResult]:
        """Run one turn, after the turns before it in its session. Cancelling it ends it at once."""
        return Deferred.fromCoroutine(self._run(request, sink))

    async def _run(self, request: RunRequest, sink: IRunSink) -> RunResult:
        session = self._sessions.get(request.session_key, request.session_id)
        await session.lock.acquire()
        try:
            if session.acp_id is None:
                history = await sink.history(HISTORY_MESSAGES)
                session.acp_id = await self._open(history_items(history))
        except BaseException:
            session.lock.release()
            raise
        return await self._prompt(session, session.acp_id, request, sink)

    async def _open(self, history: list[dict[str, str]]) -> str:
        meta = {"gateway": {"history": history}}
        params = {"cwd": self._command.cwd, "mcpServers": [], "_meta": meta}
        try:
            answer = await self._rpc.request("session/new", params, NEW_SESSION_S)
        except RpcError as error:
            raise prompt_error(error) from None
        except DeferredTimeout:
            text = f"the agent did not open a session within {NEW_SESSION_S:.0f} s"
            raise BackendError(text, kind=BackendErrorKind.TIMEOUT) from None
        acp_id = _dict(answer).get("sessionId")
        if not isinstance(acp_id, str):
            raise BackendError("the agent opened a session without an id")
        return acp_id

    def _prompt(
        self, session: AgentSession, acp_id: str, request: RunRequest, sink: IRunSink
    ) -> Deferred[RunResult]:
        turn = Turn(self._rpc, session, acp_id, sink, self._clock, self._stuck)
        self._turns[acp_id] = turn

        self._liveness.begin()

        def answered(_: None) -> None:
            self._liveness.end()
            del self._turns[acp_id]
            session.lock.release()

        images = bool(_dict(self._capabilities.get("promptCapabilities")).get("image"))
        blocks = prompt_blocks(request, images=images)
        turn.start(blocks, prompt_meta(request)).addCallback(answered)
        return turn.done

    def _initialized(self, answer: Any) -> None:
        shape = _dict(answer)
        if shape.get("protocolVersion") != PROTOCOL_VERSION:
            version = shape.get("protocolVersion")
            raise BackendError(f"speaks version {version!r:.20} of the protocol, not 1")
        self._capabilities = _dict(shape.get("agentCapabilities"))
        self.agent_info = _dict(shape.get("agentInfo"))
        self._on_ready()

    def _not_initialized(self, failure: Any) -> None:
        if self._error is not None:
            return
        if failure.check(DeferredTimeout):
            self._kill(f"did not answer initialize within {INITIALIZE_S:.0f} s")
        elif failure.check(RpcError):
            self._kill(f"refused to start: {prompt_error(failure.value).message}")
        elif failure.check(BackendError):
            self._kill(failure.value.message)
        else:
            self._log.failure("initialize", failure=failure)
            self._kill("could not be initialized")

    def _write(self, data: bytes) -> None:
        try:
            self._child.write(data)
        except InputFull:
            self._kill("does not read its input")

    def _received(self, data: bytes) -> None:
        self._liveness.sign()
        try:
            self._rpc.received(data)
        except (LineTooLong, TooMuchGarbage) as error:
            self._kill(f"wrote {error}")
        except Exception:
            self._log.failure("a message could not be handled")
            self._kill("sent what could not be handled")

    def _requested(self, method: str, params: Any) -> Any:
        if method == "session/request_permission":
            turn = self._turns.get(str(_dict(params).get("sessionId")))
            if turn is None or turn.cancelled:
                return CANCELLED_PERMISSION
            self._log.info("permission refused: approvals are not configured for this agent")
            return refusal(_dict(params).get("options"))
        raise RpcError(METHOD_NOT_FOUND, f"Method not found: {method[:100]}")

    def _notified(self, method: str, params: Any) -> None:
        shape = _dict(params)
        session_id, update = shape.get("sessionId"), shape.get("update")
        if method == "session/update" and isinstance(session_id, str) and isinstance(update, dict):
            turn = self._turns.get(session_id)
            if turn is not None:
                turn.update(update)

    def _stuck(self) -> None:
        self._kill("did not answer a cancelled prompt")

    def _hung(self) -> None:
        self._kill("showed no sign of life for too long", BackendErrorKind.TIMEOUT)

    def _kill(self, why: str, kind: BackendErrorKind = BackendErrorKind.UNKNOWN) -> None:
        if self._error is None:
            self._log.warn("{why}: killed, pid={pid}", why=why, pid=self.pid)
            self._fail(BackendError(f"agent {self._name} {why}", kind=kind))
        self._child.kill()

    def _died(self, how: Exit) -> None:
        self._fail(BackendError(f"the process of agent {self._name} ended: {how}"))

    def _exited(self, how: Exit) -> None:
        self._log.info("process ended, pid={pid}, {how}", pid=self.pid, how=how)
        self._died(how)
        assert self._error is not None
        self._on_end(self._error)

    def _fail(self, error: BackendError) -> None:
        """The end of every turn, once."""
        if self._error is None:
            self._error = error
            self._rpc.close(error)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
