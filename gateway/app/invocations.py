"""What nodes are asked to do: each invocation is sent once, and ends once.

Requirements. Whoever asks gets one answer, however many things happen at once; a node that says nothing,
too much, or what nobody asked for costs a bounded amount. A request that is repeated with its key is not
run again: while it runs the repeated one waits for the same answer, afterwards it gets what is remembered.

Design. What waits is in one map by id and in one by key, both bounded; one timer stands at the earliest
deadline or before it. An answer counts only from the connection that was asked, over which nothing else
is asked once a newer connection has the node's place. A node whose connection ends fails what it was asked
at once: there is no time in which results of a lost connection could still come in, as they have none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from gateway.app.context import Caller
from gateway.app.hub import Hub
from gateway.app.nodeanswers import NodeAnswers, Remembered
from gateway.app.nodegate import SYSTEM_RUN, NodeGate
from gateway.app.nodes import NodeListener, Nodes, NodeSession
from gateway.core.events import Event
from gateway.core.invocation import Ask, End, Invocation, Outcome, ended
from gateway.core.nodecommands import is_exec_approvals
from gateway.core.registry import Registry
from gateway.errors import InvalidRequest, Unavailable
from gateway.interfaces import IClock, IEntropy
from gateway.limits import LimitsConfig
from gateway.metrics import Metrics

RUNS_TTL_S: Final = 86_400.0

PROGRESS_CAP: Final = "node-invoke-progress"
"""The capability by which a client asks for the progress of what it invokes."""

NodeFailed = Callable[[Invocation, str], Mapping[str, Any] | None]
"""Takes an invocation that its node refused, and the node's code; returns more details for who asked."""


@dataclass(slots=True, eq=False)
class _Pending:
    """An invocation that waits, and who waits for it."""

    invocation: Invocation
    waiters: dict[Deferred[Outcome], Caller] = field(default_factory=dict)


class Invocations(NodeListener):
    """All invocations; a Sweepable."""

    name = "node-invocations"
    _log = Logger()

    def __init__(
        self,
        *,
        clock: IClock,
        entropy: IEntropy,
        hub: Hub,
        nodes: Nodes,
        gate: NodeGate,
        limits: LimitsConfig,
        metrics: Metrics,
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._hub = hub
        self._nodes = nodes
        self._gate = gate
        self._limits = limits
        self._metrics = metrics
        self._pending: dict[str, _Pending] = {}
        self._keys: dict[str, _Pending] = {}
        self._of_connection: Counter[str] = Counter()
        """How many wait by the connection that was asked."""
        self.answers = NodeAnswers(
            maximum=limits.idempotency_max,
            max_bytes=limits.node_answers_bytes,
            ttl_s=limits.idempotency_ttl_s,
        )
        self.runs: Registry[tuple[str, float]] = Registry(
            "node-runs", maximum=limits.idempotency_max, ttl_s=RUNS_TTL_S
        )
        """For which session a node was asked to run something (empty: none), and when; by node and run id."""
        self.node_failed: NodeFailed = lambda _invocation, _code: None
        """Asked about every refusal of a node before it is told."""
        self._timer: IDelayedCall | None = None
        self._stopped = False

    def __len__(self) -> int:
        return len(self._pending)

    async def invoke(self, caller: Caller, ask: Ask) -> dict[str, Any]:
        """Ask a node, and return what it answers.

        Raises GatewayError: for what may not be asked, nothing has left the gateway then; for how it
        ended otherwise. To cancel it takes the request back; the last one who waits takes it from the node.
        """
        outcome = await self._outcome(caller, ask)
        return outcome.payload_for(ask.node_id, ask.command, caller.protocol)

    async def _outcome(self, caller: Caller, ask: Ask) -> Outcome:
        deadline = self._clock.seconds() + min(ask.timeout_s, self._limits.node_timeout_s)
        key = f"{caller.principal.actor}\0{ask.idempotency_key}"
        known = self.answers.get(key)
        if known is not None:
            _check_same(known.fingerprint, ask)
            return known.outcome
        running = self._keys.get(key)
        if running is not None:
            _check_same(running.invocation.fingerprint, ask)
            return await self._wait(running, caller)
        session = self._nodes.session(ask.node_id)
        if session is None:
            raise await self._gate.absent(caller, ask.node_id)
        self._gate.check(session, ask.command)
        self._check_room(session)
        params, params_json = self._gate.params(caller, session, ask)
        invocation = Invocation(
            id=self._entropy.uuid4(),
            key=key,
            idempotency_key=ask.idempotency_key,
            fingerprint=ask.fingerprint,
            node_id=ask.node_id,
            conn_id=session.connection.conn_id,
            protocol=session.caller.protocol,
            command=ask.command,
            params_json=params_json,
            deadline=deadline,
            asker=caller.principal,
        )
        if ask.command == SYSTEM_RUN:
            self._note_run(ask, params)
        return await self._send(session, invocation, caller, ask.session_key)

    def session_of_run(self, run_id: str, node_id: str) -> tuple[str, float] | None:
        """Return for which session a node was asked to run something under this id, within a day, and when.

        The session is as who asked spelled it, and empty where he named none; the time is of the steady
        clock. None for what the node was not asked to run.
        """
        return self.runs.fresh(_run_key(run_id, node_id), self._clock.seconds())

    # -- what comes from nodes

    def result(self, caller: Caller, invocation_id: str, outcome: Outcome) -> bool:
        """Take a node's answer; return whether it was waited for.

        Raises InvalidRequest for one that is too large, which ends the invocation.
        """
        pending = self._asked(caller, invocation_id)
        if pending is None:
            return False
        invocation = pending.invocation
        if outcome.size > self._limits.node_result_bytes:
            self._end(pending, ended(End.TOO_LARGE, invocation.command))
            raise InvalidRequest(
                f"the answer has more than {self._limits.node_result_bytes} bytes",
                details={"code": "PAYLOAD_TOO_LARGE", "maxBytes": self._limits.node_result_bytes},
            )
        if outcome.end is End.NODE_ERROR:
            more = self.node_failed(invocation, outcome.code)
            if more:
                outcome = Outcome(
                    outcome.end, code=outcome.code, message=outcome.message, details=more
                )
        self._end(pending, outcome)
        return True

    def progress(self, caller: Caller, invocation_id: str, seq: int, chunk: str) -> bool:
        """Take a piece of progress, and show it to those who want it; return whether it counts.

        It does not where it is not the next one, or beyond ``limits.node_progress_bytes``.
        """
        pending = self._asked(caller, invocation_id)
        most = self._limits.node_progress_bytes
        size = len(chunk.encode("utf-8", "surrogatepass"))
        if pending is None or not pending.invocation.progress(seq, size, most):
            return False
        invocation = pending.invocation
        event = None
        for waiter in pending.waiters.values():
            connection = self._hub.get(waiter.conn_id)
            if PROGRESS_CAP not in waiter.caps or connection is None or connection.waiting:
                continue
            event = event or Event(
                "node.invoke.progress",
                {
                    "invokeId": invocation.id,
                    "nodeId": invocation.node_id,
                    "idempotencyKey": invocation.idempotency_key,
                    "seq": seq,
                    "chunk": chunk,
                },
            )
            connection.deliver_direct(event)
        return True

    def _asked(self, caller: Caller, invocation_id: str) -> _Pending | None:
        pending = self._pending.get(invocation_id)
        if pending is None or pending.invocation.conn_id != caller.conn_id:
            return None
        return pending

    # -- what happens

    def connection_left(self, session: NodeSession) -> None:
        """A connection of a node ended: nothing that it was asked will be answered."""
        self._end_of(session.connection.conn_id, lambda _invocation: End.DISCONNECTED)

    def node_changed(self, session: NodeSession) -> None:
        """A node may be asked something else: what it may not be asked any more ends."""
        commands = session.live.commands

        def how(invocation: Invocation) -> End | None:
            command = invocation.command
            # Who may be asked to run programs may be asked what of them is approved.
            kept = SYSTEM_RUN if is_exec_approvals(command) else command
            return None if kept in commands else End.PAIRING_CHANGED

        self._end_of(session.connection.conn_id, how)

    def refuse(self) -> None:
        """Ask nodes nothing more; what they were asked goes on."""
        self._stopped = True

    def stop(self) -> None:
        """End everything, and ask nodes nothing more."""
        self.refuse()
        for pending in list(self._pending.values()):
            self._end(pending, ended(End.STOPPED, pending.invocation.command), cancel=True)

    def sweep(self, now: float) -> int:
        """End what is due; return how many that were."""
        due = [p for p in self._pending.values() if p.invocation.deadline <= now]
        for pending in due:
            self._end(pending, ended(End.TIMEOUT, pending.invocation.command), cancel=True)
        return len(due)

    # -- inside

    async def _send(
        self, session: NodeSession, invocation: Invocation, caller: Caller, session_key: str | None
    ) -> Outcome:
        pending = _Pending(invocation)
        self._pending[invocation.id] = self._keys[invocation.key] = pending
        self._of_connection[invocation.conn_id] += 1
        self._metrics.invocations_pending(len(self._pending))
        waiting = self._wait(pending, caller)
        self._arm(invocation.deadline)
        left_s = max(0.0, invocation.deadline - self._clock.seconds())
        payload: dict[str, Any] = {
            "id": invocation.id,
            "nodeId": invocation.node_id,
            "command": invocation.command,
            "timeoutMs": round(left_s * 1000),
            "idempotencyKey": invocation.idempotency_key,
        }
        if invocation.params_json is not None:
            payload["paramsJSON"] = invocation.params_json
        if session_key is not None and invocation.protocol >= 4:
            payload["sessionKey"] = session_key
        self._log.info(
            "node invoked invocation={invocation} node={node} command={command} actor={actor}",
            invocation=invocation.id,
            node=invocation.node_id,
            command=invocation.command,
            actor=caller.principal.actor,
        )
        session.connection.deliver_direct(Event("node.invoke.request", payload))
        return await waiting

    def _wait(self, pending: _Pending, caller: Caller) -> Deferred[Outcome]:
        """Return how an invocation ends; who cancels it waits no more, and the last one ends it."""

        def cancelled(waiting: Deferred[Outcome]) -> None:
            del pending.waiters[waiting]
            if not pending.waiters:
                end = ended(End.CANCELLED, pending.invocation.command)
                self._end(pending, end, cancel=True)

        waiting = Deferred[Outcome](cancelled)
        pending.waiters[waiting] = caller
        return waiting

    def _note_run(self, ask: Ask, params: Mapping[str, Any]) -> None:
        run_id, named = params.get("runId"), params.get("sessionKey")
        if isinstance(run_id, str):
            session = ask.session_key or (named if isinstance(named, str) else "")
            now = self._clock.seconds()
            self.runs.put(_run_key(run_id, ask.node_id), (session, now), now)

    def _check_room(self, session: NodeSession) -> None:
        if self._stopped:
            raise Unavailable("the gateway stops", retryable=True, retry_after_ms=1000)
        if len(self._pending) >= self._limits.node_pending_max:
            raise Unavailable("too many commands of nodes are waiting", retryable=True)
        asked = self._of_connection[session.connection.conn_id]
        if asked >= self._limits.node_pending_per_node:
            raise Unavailable("too many commands of this node are waiting", retryable=True)

    def _end_of(self, conn_id: str, how: Callable[[Invocation], End | None]) -> None:
        """End what one connection was asked, where ``how`` says how."""
        if not self._of_connection[conn_id]:
            return
        for pending in list(self._pending.values()):
            invocation = pending.invocation
            end = how(invocation) if invocation.conn_id == conn_id else None
            if end is not None:
                self._end(pending, ended(end, invocation.command), cancel=True)

    def _end(self, pending: _Pending, outcome: Outcome, *, cancel: bool = False) -> None:
        """End an invocation unless it has ended, and let go of it."""
        invocation = pending.invocation
        if not invocation.finish(outcome):
            return
        del self._pending[invocation.id], self._keys[invocation.key]
        self._of_connection[invocation.conn_id] -= 1
        if not self._of_connection[invocation.conn_id]:
            del self._of_connection[invocation.conn_id]
        now = self._clock.seconds()
        self.answers.put(
            invocation.key,
            Remembered(
                invocation.fingerprint, invocation.node_id, invocation.command, outcome, now
            ),
        )
        self._metrics.invocations_pending(len(self._pending))
        self._metrics.invocation_ended(outcome.end)
        self._log.info(
            "node invocation ended invocation={invocation} node={node} command={command} end={end}",
            invocation=invocation.id,
            node=invocation.node_id,
            command=invocation.command,
            end=str(outcome.end),
        )
        if cancel:
            self._cancel_at_node(invocation)
        if not self._pending:
            self._disarm()
        while pending.waiters:  # one may cancel another
            pending.waiters.popitem()[0].callback(outcome)

    def _cancel_at_node(self, invocation: Invocation) -> None:
        """Tell a node of version 4 that nobody waits any more; version 3 has no word for it."""
        session = self._nodes.of_connection(invocation.conn_id)
        if session is not None and invocation.protocol >= 4:
            payload = {"invokeId": invocation.id, "nodeId": invocation.node_id}
            session.connection.deliver_direct(Event("node.invoke.cancel", payload))

    def _arm(self, deadline: float) -> None:
        """Have the one timer stand at this deadline or before it."""
        delay = max(0.0, deadline - self._clock.seconds())
        if self._timer is None:
            self._timer = self._clock.callLater(delay, self._due)
        elif self._timer.getTime() > deadline:
            self._timer.reset(delay)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        self._timer = None
        self.sweep(self._clock.seconds())
        if self._pending:
            self._arm(min(p.invocation.deadline for p in self._pending.values()))


def _run_key(run_id: str, node_id: str) -> str:
    return f"{node_id}\0{run_id}"


def _check_same(fingerprint: str, ask: Ask) -> None:
    """Raise InvalidRequest where a key was used for something else."""
    if fingerprint != ask.fingerprint:
        raise InvalidRequest(
            "idempotency key was used for another invocation",
            details={"code": "IDEMPOTENCY_KEY_REUSED"},
        )
