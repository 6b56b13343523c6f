"""Approvals: what agents and clients ask operators, who is told, and what becomes of it.

Requirements. Every question ends once, and everybody who was told of it is told of its end: an answer, its
time, the end of the run that asked, the stop of the gateway. None of them is left behind, and nobody can
fill the gateway with questions.

Design. A pending approval is in one map, bounded in all and by asker; one timer stands at the earliest
deadline. What has ended is in a bounded history, from which late askers and auditors read. A question of
an agent that reaches nobody waits for a while all the same, since somebody may come; a question of a
client ends at once then, as in the protocol. Who comes in time gives it the whole time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from gateway.app.context import Caller
from gateway.app.hub import Hub
from gateway.app.notices import Notices, viewer_of
from gateway.app.revocation import Meant
from gateway.core.approval import (
    MAX_QUESTION_CHARS,
    SCOPE,
    Approval,
    Asker,
    Question,
    Reason,
    Verdict,
    Viewer,
    by_prefix,
    visible_question,
)
from gateway.core.approvalshapes import snapshot, stream_data
from gateway.core.execpolicy import Outcome, Ruling
from gateway.core.registry import Registry
from gateway.errors import InvalidRequest, Unavailable
from gateway.interfaces import IClock, IEntropy
from gateway.limits import LimitsConfig
from gateway.metrics import Metrics
from gateway.model import Decision

READABLE_S: Final = 15.0
"""How long who waits for a decision may still ask for one that was made."""

HISTORY_TTL_S: Final = 86_400.0

MAX_REPLAYED: Final = 100
"""Pending approvals of a session that its new watcher is told of."""

_RULED: Final = {Outcome.DENY: Decision.DENY, Outcome.ALLOW: Decision.ALLOW_ONCE}

Tell = Callable[[dict[str, Any]], None]
"""Takes the data of an event on the stream ``approval`` of the run that asks."""


@dataclass(slots=True)
class _Pending:
    """An approval that waits, who waits for it, and where it is told."""

    approval: Approval
    timeout_s: float
    routed: bool
    """Whether anybody who may answer has been connected since it was asked."""
    tell: Tell | None
    waiters: list[Deferred[Approval]] = field(default_factory=list)


class Approvals:
    """All approvals; a Sweepable."""

    name = "approvals"
    _log = Logger()

    def __init__(
        self,
        *,
        clock: IClock,
        entropy: IEntropy,
        hub: Hub,
        limits: LimitsConfig,
        metrics: Metrics,
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._notices = Notices(clock, hub)
        self._limits = limits
        self._metrics = metrics
        self._pending: dict[str, _Pending] = {}
        self._asked: Counter[str] = Counter()
        """How many are pending by who asked."""
        self.history: Registry[Approval] = Registry(
            "approvals-ended", maximum=limits.approvals_history_max, ttl_s=HISTORY_TTL_S
        )
        """What has ended, the oldest first."""
        self._timer: IDelayedCall | None = None
        self._stopped = False

    def __len__(self) -> int:
        return len(self._pending)

    # -- asking

    def open(
        self,
        question: Question,
        asker: Asker,
        *,
        timeout_s: float,
        patience_s: float = 0.0,
        approval_id: str | None = None,
        tell: Tell | None = None,
        ruling: Ruling | None = None,
    ) -> Approval:
        """Ask operators, and return the approval; it has ended already if it reaches nobody.

        :param patience_s: how long it waits where it reaches nobody.
        :param approval_id: the id that the asker wants it to have.
        :param ruling: what the policy says; where it decides, nobody is asked or told.

        Raises InvalidRequest for what can not be shown or an id that is taken, and Unavailable.
        """
        self._check(question, asker, approval_id)
        approval = self._make(question, asker, timeout_s, approval_id)
        if ruling is not None and self._ruled(approval, ruling):
            return approval
        routed = self._notices.reaches_anybody(approval)
        if not routed and 0 < patience_s < timeout_s:
            approval.deadline = self._clock.seconds() + patience_s
            approval.expires_at_ms = approval.created_at_ms + round(patience_s * 1000)
        self._log.info(
            "approval asked approval={approval} run={run} session={session} agent={agent}",
            approval=approval.id,
            run=question.run_id,
            session=question.session_key,
            agent=question.agent_id,
            actor=asker.actor,
            routed=routed,
        )
        if not routed and not patience_s:
            approval.end(Reason.NO_ROUTE, approval.created_at_ms)
            self._remember(approval)
            return approval
        self._pending[approval.id] = _Pending(approval, timeout_s, routed, tell)
        self._asked[asker.actor] += 1
        self._changed()
        self._notices.requested(approval)
        if tell is not None:
            tell(stream_data(approval))
        return approval

    def wait(
        self, approval: Approval, *, taken_back: Callable[[], object] = lambda: None
    ) -> Deferred[Approval]:
        """Return an approval when it has ended; ``taken_back`` is called where that is cancelled."""
        pending = self._pending.get(approval.id)
        if pending is None or pending.approval is not approval:
            return succeed(approval)

        def cancelled(waiting: Deferred[Approval]) -> None:
            waiters.remove(waiting)
            taken_back()

        waiters, waiting = pending.waiters, Deferred[Approval](cancelled)
        waiters.append(waiting)
        return waiting

    # -- looking

    def visible(self, viewer: Viewer) -> list[Approval]:
        """Return the pending approvals that an operator may see, the oldest first."""
        return [approval for approval in self._approvals() if approval.visible_to(viewer)]

    def ended(self, viewer: Viewer) -> list[Approval]:
        """Return the approvals that have ended and that an operator may see, the newest first."""
        return [each for each in reversed(list(self.history)) if each.visible_to(viewer)]

    def get(self, approval_id: str) -> Approval | None:
        """Return an approval by its whole id, pending or not, whoever may see it."""
        pending = self._pending.get(approval_id)
        return self.history.get(approval_id) if pending is None else pending.approval

    def find(self, text: str, viewer: Viewer) -> Approval | None:
        """Return an approval by its id or, in version 4, by how that begins; pending ones first.

        Raises InvalidRequest where several begin so.
        """
        for approvals in (self.visible(viewer), self.ended(viewer)):
            known = {approval.id: approval for approval in approvals}
            found = by_prefix(known, text) if viewer.protocol >= 4 else [text]
            if len(found) > 1:
                raise InvalidRequest("ambiguous approval id prefix; use the full id")
            if found and found[0] in known:
                return known[found[0]]
        return None

    def readable(self, approval: Approval) -> bool:
        """Whether who waits for its decision may have it."""
        ended_at = approval.ended_at
        return ended_at is None or self._clock.seconds() - ended_at <= READABLE_S

    def replay(self, session_key: str, viewer: Viewer) -> dict[str, Any]:
        """Return ``SessionApprovalReplay``: the pending approvals of one session."""
        of_session = [
            approval
            for approval in self.visible(viewer)
            if approval.question.session == session_key
        ]
        return {
            "sessionKey": session_key,
            "updatedAtMs": self._clock.now_ms(),
            "approvals": [snapshot(approval) for approval in of_session[:MAX_REPLAYED]],
            "truncated": len(of_session) > MAX_REPLAYED,
        }

    # -- ending

    def resolve(self, approval: Approval, decision: Decision, caller: Caller) -> Verdict:
        """Answer a question for an operator; whether he may see it was checked before."""
        verdict = approval.resolve(
            decision,
            by=caller.client.display_name or caller.client.id,
            resolver=caller.principal.device_id or caller.client.id,
            now_ms=self._clock.now_ms(),
        )
        if verdict is Verdict.APPLIED:
            self._settle(approval)
        return verdict

    def end(self, approval: Approval, reason: Reason) -> bool:
        """End a question without an answer; return whether it was pending."""
        if not approval.end(reason, self._clock.now_ms()):
            return False
        self._settle(approval)
        return True

    def withdraw(self, actor: str, reason: Reason) -> None:
        """End what somebody still asks: there is nobody who waits for an answer any more."""
        if actor in self._asked:
            mine = (each for each in self._approvals() if each.asker.actor == actor)
            self._end_all(mine, reason)

    def end_of(self, meant: Meant) -> None:
        """End what was asked on rights that are gone; what was allowed on them serves no more."""
        for approval in (*self._approvals(), *self.history):
            principal = approval.asker.principal
            if principal is not None and meant(principal):
                self.end(approval, Reason.RUN_ABORTED)
                approval.used = True

    def policy_changed(self) -> None:
        """What the policy allowed where nobody answers is not allowed by the one that is in its place."""
        for approval in self._approvals():
            approval.unanswered = False

    def stop(self) -> None:
        """Withdraw everything, and take no more questions."""
        self._stopped = True
        self._end_all(self._approvals(), Reason.GATEWAY_RESTART)

    # -- what happens

    def joined(self, caller: Caller) -> None:
        """An operator has come: what waited for one may now wait as long as it is worth."""
        if SCOPE not in caller.scopes:
            return
        viewer = viewer_of(caller)
        for pending in self._pending.values():
            if pending.approval.reaches(viewer):
                self.seen(pending.approval)

    def seen(self, approval: Approval) -> None:
        """Somebody looks at a question: if nobody could answer it so far, it waits for its whole time."""
        pending = self._pending.get(approval.id)
        if pending is None or pending.routed:
            return
        pending.routed = True
        approval.extend(
            deadline=self._clock.seconds() + pending.timeout_s,
            expires_at_ms=self._clock.now_ms() + round(pending.timeout_s * 1000),
        )
        self._arm()

    def sweep(self, now: float) -> int:
        """Let expire what is due; return how many that were."""
        due = [p for p in self._pending.values() if p.approval.deadline <= now]
        for pending in due:
            approval = pending.approval
            if approval.unanswered:
                approval.rule(Decision.ALLOW_ONCE, self._clock.now_ms())
                self._settle(approval)
            else:
                self.end(approval, Reason.TIMEOUT if pending.routed else Reason.NO_ROUTE)
        return len(due)

    # -- inside

    def _approvals(self) -> list[Approval]:
        return [pending.approval for pending in self._pending.values()]

    def _check(self, question: Question, asker: Asker, approval_id: str | None) -> None:
        if question.size > MAX_QUESTION_CHARS:
            raise InvalidRequest(
                f"what is asked is longer than {MAX_QUESTION_CHARS} characters: it can not be shown"
            )
        if approval_id is not None:
            known = self.history.get(approval_id)
            if approval_id in self._pending or (known is not None and self.readable(known)):
                raise InvalidRequest("approval id already pending")
        if self._stopped:
            raise Unavailable("the gateway stops", retryable=True, retry_after_ms=1000)
        if len(self._pending) >= self._limits.approvals_max:
            raise Unavailable("too many approvals are pending", retryable=True)
        if self._asked[asker.actor] >= self._limits.approvals_per_asker:
            raise Unavailable("too many approvals of this asker are pending", retryable=True)

    def _make(
        self, question: Question, asker: Asker, timeout_s: float, approval_id: str | None
    ) -> Approval:
        now_ms = self._clock.now_ms()
        return Approval(
            id=approval_id or self._entropy.uuid4(),
            question=visible_question(question),
            asker=asker,
            created_at_ms=now_ms,
            expires_at_ms=now_ms + round(timeout_s * 1000),
            deadline=self._clock.seconds() + timeout_s,
        )

    def _ruled(self, approval: Approval, ruling: Ruling) -> bool:
        """Let the policy decide; return whether it does. What else it says is for runs alone."""
        if ruling.outcome is not Outcome.ASK:
            approval.rule(_RULED[ruling.outcome], approval.created_at_ms)
            self._remember(approval)
            return True
        if approval.asker.conn_id is None:
            approval.lasting, approval.unanswered = ruling.lasting, ruling.unanswered
        return False

    def _end_all(self, approvals: Iterable[Approval], reason: Reason) -> None:
        for approval in approvals:
            self.end(approval, reason)

    def _settle(self, approval: Approval) -> None:
        """An approval has ended: tell everybody, and let go of it."""
        pending = self._pending.pop(approval.id)
        actor = approval.asker.actor
        self._asked[actor] -= 1
        if not self._asked[actor]:
            del self._asked[actor]
        self._changed()
        self._remember(approval)
        self._notices.resolved(approval)
        if pending.tell is not None:
            pending.tell(stream_data(approval))
        while pending.waiters:  # one may cancel another
            pending.waiters.pop(0).callback(approval)

    def _remember(self, approval: Approval) -> None:
        approval.ended_at = self._clock.seconds()
        self.history.put(approval.id, approval, approval.ended_at)
        outcome = approval.decision or approval.reason
        self._metrics.approval_ended(str(outcome))
        self._log.info(
            "approval ended approval={approval} outcome={outcome}",
            approval=approval.id,
            outcome=str(outcome),
            run=approval.question.run_id,
            by=approval.resolved_by,
        )

    def _changed(self) -> None:
        self._metrics.approvals_pending(len(self._pending))
        self._arm()

    def _arm(self) -> None:
        """Set the one timer to the earliest deadline, or unset it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._pending:
            due = min(pending.approval.deadline for pending in self._pending.values())
            self._timer = self._clock.callLater(max(0.0, due - self._clock.seconds()), self._due)

    def _due(self) -> None:
        self._timer = None
        self.sweep(self._clock.seconds())
        self._arm()
