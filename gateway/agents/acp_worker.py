"""One agent process that speaks the Agent Client Protocol, from its start to its certain end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.logger import Logger

from gateway import __version__
from gateway.agents.acp_capabilities import PROTOCOL_VERSION, Capabilities, read_capabilities
from gateway.agents.acp_content import (
    prompt_blocks,
    prompt_error,
    prompt_meta,
    read_compaction,
    run_result,
    texts_before,
)
from gateway.agents.acp_models import LIST_S
from gateway.agents.acp_opening import Opener
from gateway.agents.acp_requests import Access, ClientSide
from gateway.agents.acp_session import AgentSession, SessionTable
from gateway.agents.acp_terminals import MakeTerminal, Terminals
from gateway.agents.acp_turn import Turn
from gateway.agents.acp_updates import KINDS
from gateway.agents.acp_values import mapping, text_of
from gateway.agents.jsonrpc import LineTooLong, RpcError
from gateway.agents.pipes import InputFull
from gateway.agents.process import ChildProcess, Command, Exit
from gateway.agents.rpc import Conversation, TooMuchGarbage
from gateway.agents.vitality import Liveness
from gateway.app.threads import InThread
from gateway.errors import BackendError, BackendErrorKind
from gateway.interfaces import IClock, IRunSink
from gateway.model import Attachment, Compaction, RunRequest, RunResult

INITIALIZE_S = 30.0
"""How long a process has from its start to its answer to ``initialize``."""
STEER_S = 10.0
"""How long an agent has to say whether it takes another message."""
UNKNOWN_KINDS = 100
"""Kinds of update that are not known and were logged; more are not."""

T = TypeVar("T")

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
    :ivar models: ids of the models that it offered in its latest turn.
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
        *,
        access: Access,
        make_terminal: MakeTerminal,
        in_thread: InThread,
    ) -> None:
        self._name = name
        self._command = command
        self._clock = clock
        self._on_ready = on_ready
        self._on_end = on_end
        self._access = access
        self._log = Logger(namespace=f"gateway.agents.{name}")
        self._child = make_child(self._received, self._died, self._exited)
        self._liveness = Liveness(clock, hang_timeout_s, self._hung)
        self._terminals = Terminals(make_terminal)
        self._client = ClientSide(
            access=access,
            cwd=command.cwd,
            terminals=self._terminals,
            in_thread=in_thread,
            turn_of=lambda session_id: self._turns.get(session_id),
            log=self._log,
        )
        self._rpc = Conversation(
            write=self._write,
            on_request=self._asked,
            on_notification=self._notified,
            clock=clock,
            log=self._log,
        )
        self._sessions = SessionTable(self._close)
        self._turns: dict[str, Turn[Any]] = {}
        self._unknown: set[str] = set()
        self._can = Capabilities()
        self._opener: Opener | None = None
        self._error: BackendError | None = None
        self.agent_info: dict[str, Any] = {}
        self.models: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether it takes no more turns: it is stopped, killed or gone."""
        return self._error is not None

    @property
    def pid(self) -> int | None:
        """The process id."""
        return self._child.pid

    @property
    def asking(self) -> int:
        """How many questions to an operator are open."""
        return sum(len(turn.questions) for turn in self._turns.values())

    def holds(self, key: str, session_id: str) -> bool:
        """Whether the conversation of this session is open in it."""
        return self._sessions.holds(key, session_id)

    def describe(self) -> dict[str, Any]:
        """Return ``{pid?, launcherPid?, sessions, questions?, terminals?}``."""
        facts = {
            "pid": self._child.pid,
            "launcherPid": self._child.launcher_pid,
            "questions": self.asking or None,
            "terminals": len(self._terminals) or None,
        }
        known = {name: value for name, value in facts.items() if value is not None}
        return {**known, "sessions": len(self._sessions)}

    def start(self) -> None:
        """Start the process. Raises OSError if there can be none."""
        Path(self._command.cwd).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._child.spawn(self._command)
        params = {
            "protocolVersion": PROTOCOL_VERSION,
            "clientCapabilities": self._access.capabilities,
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

    def steer(self, run_id: str, text: str, attachments: Sequence[Attachment]) -> Deferred[bool]:
        """Give a run that goes on another message; whether the agent took it."""
        return Deferred.fromCoroutine(self._steer(run_id, text, attachments))

    def compact(self, request: RunRequest, sink: IRunSink) -> Deferred[Compaction | None]:
        """Have the agent summarise a session's older turns. Cancelling it ends it at once."""
        return Deferred.fromCoroutine(self._compact(request, sink))

    async def _run(self, request: RunRequest, sink: IRunSink) -> RunResult:
        session, acp_id = await self._locked(request, sink)
        try:
            assert self._opener is not None
            notices = await self._opener.settle(session, request)
            self.models = session.facts.offered()
        except BaseException:
            self._sessions.release(session)
            raise

        def read(answer: Any) -> RunResult:
            option = session.facts.option("model") or {}
            return run_result(
                answer,
                context_tokens=turn.updates.context_tokens,
                provider=self._can.name or self._name,
                model=text_of(option.get("currentValue")) or session.facts.model,
            )

        preface, session.preface = session.preface, None
        before = texts_before(request, preface, self._can)
        params = {
            "sessionId": acp_id,
            "prompt": prompt_blocks(request.text, request.attachments, self._can, before),
            "_meta": prompt_meta(request),
        }
        turn = self._turn(session, acp_id, request, sink, read)
        for kind, text in notices:
            turn.updates.notice(kind, text)
        return await self._go(turn, "session/prompt", params)

    async def _compact(self, request: RunRequest, sink: IRunSink) -> Compaction | None:
        if not self._can.compact:
            raise BackendError("this agent can not shorten a conversation when told to")
        session, acp_id = await self._locked(request, sink)
        turn = self._turn(session, acp_id, request, sink, read_compaction)
        params = {"sessionId": acp_id}
        if request.text:
            params["instructions"] = request.text
        return await self._go(turn, "_gateway/compact", params)

    async def _steer(self, run_id: str, text: str, attachments: Sequence[Attachment]) -> bool:
        going = (turn for turn in self._turns.values() if turn.run_id == run_id)
        turn = next((each for each in going if not each.cancelled), None)
        if turn is None or not self._can.steer:
            return False
        params = {"sessionId": turn.acp_id, "prompt": prompt_blocks(text, attachments, self._can)}
        try:
            answer = await self._rpc.request("_gateway/steer", params, STEER_S)
        except (RpcError, DeferredTimeout, BackendError) as error:
            self._log.info("a run took no other message: {error!s:.200}", error=error)
            return False
        return mapping(answer).get("accepted") is True

    def list_models(self) -> Deferred[Any]:
        """Ask an agent of ours what it knows of its models; others give nothing. Fails as a request does."""
        asks = self._can.models
        return self._rpc.request("_gateway/models", {}, LIST_S) if asks else succeed(None)

    async def _locked(self, request: RunRequest, sink: IRunSink) -> tuple[AgentSession, str]:
        """Return the session of a request, open and locked, and the agent's id of it."""
        session = self._sessions.get(request.session_key, request.session_id)
        await session.lock.acquire()
        try:
            assert self._opener is not None
            acp_id = session.acp_id
            if acp_id is not None and session.bound and request.agent_session is None:
                # The gateway was told to begin anew: by a reset, or a compaction of its own.
                self._close(acp_id, for_good=True)
                session.begin_anew()
                acp_id = None
            if acp_id is None:
                acp_id = await self._opener.open(session, request, sink)
            if acp_id in self._turns:
                raise BackendError("the agent has given one id to two sessions")
        except BaseException:
            self._sessions.release(session)
            raise
        return session, acp_id

    def _turn(
        self,
        session: AgentSession,
        acp_id: str,
        request: RunRequest,
        sink: IRunSink,
        read: Callable[[Any], T],
    ) -> Turn[T]:
        turn = Turn(
            self._rpc,
            session,
            acp_id,
            request.run_id,
            sink,
            self._clock,
            log=self._log,
            on_stuck=lambda: self._kill("did not answer a cancelled prompt"),
            read=read,
            terminal=lambda terminal_id: self._terminals.text(acp_id, terminal_id),
        )
        self._turns[acp_id] = turn
        return turn

    def _go(self, turn: Turn[T], method: str, params: dict[str, Any]) -> Deferred[T]:
        def ended(result: Any) -> Any:
            self._terminals.end(turn.acp_id)
            return result

        self._liveness.begin(turn)

        def answered(_: None) -> None:
            self._liveness.end(turn)
            del self._turns[turn.acp_id]
            self._sessions.release(turn.session)

        turn.done.addBoth(ended)
        turn.start(method, params).addCallback(answered)
        return turn.done

    def _initialized(self, answer: Any) -> None:
        self._can = read_capabilities(answer)
        self.agent_info = mapping(mapping(answer).get("agentInfo"))
        self._opener = Opener(
            self._rpc,
            self._can,
            name=self._can.name or Path(self._command.argv[0]).name,
            cwd=self._command.cwd,
            servers=self._access.servers,
            log=self._log,
        )
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

    def _asked(self, method: str, params: Any) -> Any:
        turn = self._turns.get(str(mapping(params).get("sessionId")))
        return self._liveness.during(self._client.requested(method, params), turn)

    def _notified(self, method: str, params: Any) -> None:
        shape = mapping(params)
        session_id = text_of(shape.get("sessionId"))
        if session_id is None:
            return
        turn = self._turns.get(session_id)
        if method == "session/update":
            self._updated(session_id, turn, mapping(shape.get("update")))
        elif turn is not None and method == "_gateway/event" and self._can.events:
            turn.event(shape.get("stream"), shape.get("data"))
        elif turn is not None and method == "_gateway/compacted":
            compaction = read_compaction(shape)
            if compaction is not None:
                turn.compacted(compaction)

    def _updated(self, session_id: str, turn: Turn[Any] | None, update: dict[str, Any]) -> None:
        kind = str(update.get("sessionUpdate"))[:100]
        if kind not in KINDS:
            if len(self._unknown) < UNKNOWN_KINDS and kind not in self._unknown:
                self._unknown.add(kind)
                self._log.debug("an update of a kind that is not known: {kind}", kind=kind)
            return
        session = self._sessions.find(session_id) if turn is None else turn.session
        if session is not None:
            session.facts.update(update)
        if turn is not None:
            turn.update(update)

    def _close(self, acp_id: str, for_good: bool) -> None:
        if self._opener is not None and self._error is None:
            self._opener.close(acp_id, for_good=for_good)

    def _hung(self) -> None:
        self._kill("showed no sign of life for too long", BackendErrorKind.TIMEOUT)

    def _kill(self, why: str, kind: BackendErrorKind = BackendErrorKind.UNKNOWN) -> None:
        if self._error is None:
            self._log.warn("{why}: killed, pid={pid}", why=why, pid=self.pid)
            self._fail(BackendError(f"agent {self._name} {why}", kind=kind))
        self._child.kill()

    def _died(self, how: Exit) -> None:
        early = "" if self._opener else ", before it was ready: the log has what it said"
        self._fail(BackendError(f"the process of agent {self._name} ended: {how}{early}"))

    def _exited(self, how: Exit) -> None:
        self._log.info("process ended, pid={pid}, {how}", pid=self.pid, how=how)
        self._died(how)
        assert self._error is not None
        self._terminals.gone().addCallback(lambda _, why: self._on_end(why), self._error)

    def _fail(self, error: BackendError) -> None:
        """The end of every turn, once."""
        if self._error is None:
            self._error = error
            self._rpc.close(error)
            self._terminals.close()
