"""Typed calls: the methods that a client uses most, with answers as structs.

A struct has what both protocol versions and this gateway tell in common, and tolerates whatever else
an answer holds; what a gateway leaves out is ``None`` or empty. Times ending in ``_ms`` are integers of
milliseconds. For everything else there is ``call``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar

import msgspec

from gateway.client.errors import UnexpectedAnswer
from gateway.model import Position

T = TypeVar("T")

WAIT_MARGIN_S = 15.0
"""How much longer than the wait itself the answer of ``agent.wait`` may take."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of every answer: unknown keys are ignored."""


class Health(Answer, frozen=True, kw_only=True):
    """The health snapshot."""

    ok: bool
    ts: int = 0
    duration_ms: int = 0
    default_agent_id: str | None = None
    agents: list[dict[str, Any]] = []
    sessions: dict[str, Any] = {}


class Status(Answer, frozen=True, kw_only=True):
    """A summary for people."""

    runtime_version: str | None = None
    heartbeat: dict[str, Any] = {}
    sessions: dict[str, Any] = {}
    tasks: dict[str, Any] = {}
    connections: int | None = None
    pid: int | None = None


class SessionRow(Answer, frozen=True, kw_only=True):
    """One session in a list."""

    key: str
    session_id: str | None = None
    agent_id: str | None = None
    label: str | None = None
    updated_at: int | None = None
    derived_title: str | None = None
    last_message_preview: str | None = None


class SessionList(Answer, frozen=True, kw_only=True):
    """A page of sessions, the last used first. The last three keys are of version 4."""

    sessions: list[SessionRow] = []
    count: int = 0
    total_count: int | None = None
    has_more: bool | None = None
    next_offset: int | None = None


class ChatMessage(Answer, frozen=True, kw_only=True):
    """One message of a transcript."""

    role: str
    content: str | list[dict[str, Any]] = ""
    timestamp: int | None = None
    stop_reason: str | None = None

    @property
    def text(self) -> str:
        """The visible text: the content, or its blocks of type ``text``."""
        if isinstance(self.content, str):
            return self.content
        texts = (block.get("text") for block in self.content if block.get("type") == "text")
        return "".join(text for text in texts if isinstance(text, str))


class History(Answer, frozen=True, kw_only=True):
    """The newest messages of a session, the oldest first."""

    session_key: str
    session_id: str | None = None
    messages: list[ChatMessage] = []
    has_more: bool | None = None


class Aborted(Answer, frozen=True, kw_only=True):
    """Which runs ``chat.abort`` ended."""

    aborted: bool
    run_ids: list[str] = []


class Waited(Answer, frozen=True, kw_only=True):
    """How a run ended; ``status`` is ok, error, timeout or (version 4) pending.

    A run that was aborted reports ``timeout`` with an ``ended_at``.
    """

    run_id: str
    status: str
    started_at: int | None = None
    ended_at: int | None = None
    error: str | None = None
    stop_reason: str | None = None


class LogEvent(Answer, frozen=True, kw_only=True):
    """One event of a run's log."""

    seq: int
    stream: str
    data: dict[str, Any] = {}
    ts: int = 0


class Snapshot(Answer, frozen=True, kw_only=True):
    """What stands for the events that are no longer kept."""

    text: str
    state: str


class LogPage(Answer, frozen=True, kw_only=True):
    """What a reader of a run's log is owed; ``status`` is up-to-date, replay, gap or unknown.

    ``next`` is the position to read on from.
    """

    status: str
    epoch: str | None = None
    events: list[LogEvent] = []
    next: Position | None = None
    evicted_through: int | None = None
    snapshot: Snapshot | None = None


class RunInfo(Answer, frozen=True, kw_only=True):
    """What is known of a run; ``state`` is accepted, running, done, failed or aborted."""

    run_id: str
    state: str
    session_key: str | None = None
    session_id: str | None = None
    agent_id: str | None = None
    origin: str | None = None
    epoch: str | None = None
    last_seq: int | None = None
    accepted_at_ms: int | None = None
    started_at_ms: int | None = None
    ended_at_ms: int | None = None
    queue_position: int | None = None
    backend: str | None = None
    model: str | None = None
    worker: Any = None
    stop_reason: str | None = None
    error: str | None = None


class _RunList(Answer, frozen=True, kw_only=True):
    runs: list[RunInfo]


class _RunOne(Answer, frozen=True, kw_only=True):
    run: RunInfo


class ConnectionInfo(Answer, frozen=True, kw_only=True):
    """One connection; the last five say why it ended, where it has."""

    conn_id: str
    peer: str | None = None
    client: Any = None
    protocol: int | None = None
    role: str | None = None
    device_id: str | None = None
    opened_at_ms: int | None = None
    state: str | None = None
    phase: str | None = None
    queued_bytes: int | None = None
    frames_in: int | None = None
    frames_out: int | None = None
    last_frame: Any = None
    cause: str | None = None
    code: int | None = None
    reason: str | None = None
    closed_at_ms: int | None = None
    duration_ms: int | None = None


class ApprovalAsked(Answer, frozen=True, kw_only=True):
    """What is to be approved. The last three keys are of version 4."""

    command: str
    cwd: str | None = None
    agent_id: str | None = None
    session_key: str | None = None
    run_id: str | None = None
    tool_call_id: str | None = None
    allowed_decisions: list[str] = []


class ApprovalInfo(Answer, frozen=True, kw_only=True):
    """A question that waits for an operator's answer."""

    id: str
    request: ApprovalAsked
    created_at_ms: int
    expires_at_ms: int


class _ConnectionList(Answer, frozen=True, kw_only=True):
    connections: list[ConnectionInfo]


class Methods(ABC):
    """The typed calls of a client. Each raises what ``call`` raises, and UnexpectedAnswer.

    What only looks is sent again where a connection breaks before the answer.
    """

    @abstractmethod
    def call(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        resend: bool = False,
    ) -> Awaitable[Any]:
        """Send a request; awaiting it gives the payload of its answer."""

    async def health(self) -> Health:
        """Return the health snapshot."""
        return await self._look("health", Health)

    async def status(self) -> Status:
        """Return a summary for people."""
        return await self._look("status", Status)

    async def sessions_list(
        self,
        *,
        limit: int | None = None,
        offset: int | None = None,
        agent_id: str | None = None,
        search: str | None = None,
    ) -> SessionList:
        """Return a page of sessions. ``offset`` is of version 4."""
        params = {"limit": limit, "offset": offset, "agentId": agent_id, "search": search}
        return await self._look("sessions.list", SessionList, params)

    async def chat_history(self, session_key: str = "main", *, limit: int | None = None) -> History:
        """Return the newest messages of a session."""
        params = {"sessionKey": session_key, "limit": limit}
        return await self._look("chat.history", History, params)

    async def chat_abort(self, session_key: str = "main", run_id: str | None = None) -> Aborted:
        """End one run of a session, or all of them."""
        params = {"sessionKey": session_key, "runId": run_id}
        return await self._ask("chat.abort", Aborted, params)

    async def agent_wait(self, run_id: str, *, timeout_s: float = 30.0) -> Waited:
        """Wait until a run has ended, at most ``timeout_s``."""
        params = {"runId": run_id, "timeoutMs": round(timeout_s * 1000)}
        timeout = timeout_s + WAIT_MARGIN_S
        return await self._look("agent.wait", Waited, params, timeout=timeout)

    async def runs_read(
        self, run_id: str, after: Position | None = None, *, limit: int | None = None
    ) -> LogPage:
        """Read a run's log from a position on, or from its start."""
        position = None if after is None else msgspec.to_builtins(after)
        params = {"runId": run_id, "after": position, "limit": limit}
        return await self._look("runs.read", LogPage, params)

    async def runs_list(
        self,
        session_key: str | None = None,
        *,
        state: str | None = None,
        limit: int | None = None,
    ) -> list[RunInfo]:
        """Return runs, the last accepted first."""
        params = {"sessionKey": session_key, "state": state, "limit": limit}
        return (await self._look("runs.list", _RunList, params)).runs

    async def runs_describe(self, run_id: str) -> RunInfo:
        """Return what is known of a run."""
        return (await self._look("runs.describe", _RunOne, {"runId": run_id})).run

    async def connections_list(self) -> list[ConnectionInfo]:
        """Return the open connections."""
        return (await self._look("connections.list", _ConnectionList)).connections

    async def connections_closed(self, *, limit: int | None = None) -> list[ConnectionInfo]:
        """Return the connections that ended, and why."""
        params = {"limit": limit}
        return (await self._look("connections.closed", _ConnectionList, params)).connections

    async def exec_approval_list(self) -> list[ApprovalInfo]:
        """Return the questions that wait for an answer and that this client may see, the oldest first."""
        return await self._look("exec.approval.list", list[ApprovalInfo])

    async def exec_approval_resolve(self, approval_id: str, decision: str) -> None:
        """Answer a question: allow-once, allow-always or deny."""
        await self._ask("exec.approval.resolve", Any, {"id": approval_id, "decision": decision})

    async def _look(
        self,
        method: str,
        kind: type[T],
        params: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> T:
        return await self._ask(method, kind, params, timeout, resend=True)

    async def _ask(
        self,
        method: str,
        kind: type[T],
        params: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        *,
        resend: bool = False,
    ) -> T:
        given = {name: value for name, value in (params or {}).items() if value is not None}
        payload = await self.call(method, given, timeout=timeout, resend=resend)
        try:
            return msgspec.convert(payload, kind)
        except msgspec.ValidationError as error:
            raise UnexpectedAnswer(method, str(error), payload) from None
