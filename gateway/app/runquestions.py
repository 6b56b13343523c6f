"""What runs ask operators before they do something."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from gateway.app.approvals import Approvals, Tell
from gateway.app.policies import Policies
from gateway.core.approval import ALL_DECISIONS, ONCE_OR_NOT, Asker, Question, Reason
from gateway.core.execcommand import Command
from gateway.core.run import Run
from gateway.errors import GatewayError, StoreError
from gateway.limits import LimitsConfig
from gateway.model import ApprovalRequest, Decision


class RunQuestions:
    """Judges the questions of runs by the policy, and puts to operators what it leaves open."""

    _log = Logger()

    def __init__(self, approvals: Approvals, policies: Policies, limits: LimitsConfig) -> None:
        self._approvals = approvals
        self._policies = policies
        self._limits = limits

    def ask(self, run: Run, request: ApprovalRequest, tell: Tell) -> Deferred[Decision | None]:
        """Ask for a run; None if it can not be asked, ends, or is not answered in time.

        Cancel the Deferred to take the question back.
        """
        return Deferred.fromCoroutine(self._ask(run, request, tell))

    async def _ask(self, run: Run, request: ApprovalRequest, tell: Tell) -> Decision | None:
        approvals, limit_s = self._approvals, self._limits.approval_timeout_s
        wanted, agent_id = request.timeout_s, run.request.agent_id
        try:
            ruling = await self._policies.of_run(agent_id, _command(request))
            if run.ended_at_ms is not None:
                return None
            approval = approvals.open(
                _question(run, request),
                Asker(actor=_actor_of(run.run_id)),
                timeout_s=limit_s if wanted is None else max(0.0, min(wanted, limit_s)),
                patience_s=self._limits.approval_no_route_s,
                tell=tell,
                ruling=ruling,
            )
        except (GatewayError, StoreError) as error:
            self._log.warn("approval not asked run={run}: {error}", run=run.run_id, error=error)
            return None
        ended = await approvals.wait(
            approval, taken_back=lambda: approvals.end(approval, Reason.RUN_ABORTED)
        )
        return ended.decision

    def run_ended(self, run_id: str) -> None:
        """Withdraw what a run still asks: it waits for no answer any more."""
        self._approvals.withdraw(_actor_of(run_id), Reason.RUN_ABORTED)

    def stop(self) -> None:
        """Withdraw everything that is asked, and take no more questions."""
        self._approvals.stop()


def _question(run: Run, request: ApprovalRequest) -> Question:
    return Question(
        command=request.command,
        argv=request.argv,
        cwd=request.cwd,
        agent_id=run.request.agent_id,
        session_key=run.session_key,
        run_id=run.run_id,
        tool_call_id=request.tool_call_id,
        decisions=ALL_DECISIONS if request.always else ONCE_OR_NOT,
    )


def _command(request: ApprovalRequest) -> Command | None:
    """Return what would be run, as far as that is certain."""
    if not request.certain:
        return None
    if len(request.argv) == 1 and request.command == request.argv[0]:
        return Command(text=request.command)  # a line for a shell
    return Command(text=request.command, argv=request.argv)


def _actor_of(run_id: str) -> str:
    return f"run:{run_id}"
