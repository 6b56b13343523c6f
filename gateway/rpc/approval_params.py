"""The params of approvals."""

from __future__ import annotations

import shlex
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from gateway.core.execcommand import Command, texts_of
from gateway.core.params import SINCE_4, NonEmpty, Params, Positive, given
from gateway.model import Decision

Kind = Literal["exec", "plugin", "system-agent"]
Text = str | None | UnsetType
ApprovalId = Annotated[str, msgspec.Meta(min_length=1, pattern=r"^(?!\.{1,2}$)")]
GrantDays = Annotated[int, msgspec.Meta(ge=1, le=3650)]


class ExecApprovalRequestParams(Params, frozen=True):
    """What is to be run, where, for whom, and how long an answer may take."""

    id: NonEmpty | UnsetType = UNSET
    command: NonEmpty | UnsetType = UNSET
    command_argv: Annotated[list[str] | UnsetType, SINCE_4] = UNSET
    command_spans: Annotated[list[dict[str, int]] | UnsetType, SINCE_4] = UNSET
    system_run_plan: Annotated[dict[str, Any] | UnsetType | None, SINCE_4] = UNSET
    env: Annotated[dict[str, str] | UnsetType, SINCE_4] = UNSET
    cwd: Text = UNSET
    node_id: NonEmpty | UnsetType | None = UNSET
    host: Text = UNSET
    security: Text = UNSET
    ask: Text = UNSET
    warning_text: Annotated[Text, SINCE_4] = UNSET
    unavailable_decisions: Annotated[
        Annotated[list[Literal["allow-always"]], msgspec.Meta(min_length=1, max_length=1)]
        | UnsetType,
        SINCE_4,
    ] = UNSET
    scope: Annotated[dict[str, Any] | UnsetType, SINCE_4] = UNSET
    agent_id: Text = UNSET
    resolved_path: Text = UNSET
    session_key: Text = UNSET
    session_id: Annotated[Text, SINCE_4] = UNSET
    run_id: Annotated[Text, SINCE_4] = UNSET
    tool_call_id: Annotated[Text, SINCE_4] = UNSET
    turn_source_channel: Annotated[Text, SINCE_4] = UNSET
    turn_source_to: Annotated[Text, SINCE_4] = UNSET
    turn_source_account_id: Annotated[Text, SINCE_4] = UNSET
    turn_source_thread_id: Annotated[str | int | float | UnsetType | None, SINCE_4] = UNSET
    approval_reviewer_device_ids: Annotated[list[NonEmpty] | UnsetType, SINCE_4] = UNSET
    deliver_to_approval_clients_only: Annotated[bool | UnsetType, SINCE_4] = UNSET
    require_delivery_route: Annotated[bool | UnsetType, SINCE_4] = UNSET
    suppress_delivery: Annotated[bool | UnsetType, SINCE_4] = UNSET
    timeout_ms: Positive | UnsetType = UNSET
    two_phase: bool | UnsetType = UNSET

    def violation(self, protocol: int) -> str | None:
        """Return what version 3 asks beyond the types."""
        if protocol < 4 and self.command is UNSET:
            return "at root: must have required property 'command'"
        return None

    @property
    def argv(self) -> tuple[str, ...]:
        """The words that would be run, where they are given: those of the plan, which a node goes by."""
        planned = (given(self.system_run_plan, None) or {}).get("argv")
        if isinstance(planned, list) and planned and all(isinstance(w, str) for w in planned):
            return tuple(planned)
        return tuple(given(self.command_argv, []))

    @property
    def shown_command(self) -> str | None:
        """The command as text; the words themselves where the text means something else."""
        text, argv = self._text, self.argv
        if argv and text not in texts_of(argv):
            return shlex.join(argv)
        return text

    @property
    def judged_command(self) -> Command | None:
        """What would be run; None where that is not certain: with an environment, or a plan that differs."""
        argv, plan = self.argv, given(self.system_run_plan, None)
        if given(self.env, None):
            return None
        if plan is not None:
            if not argv or plan.get("argv") != list(argv):
                return None
            if self.command_argv is not UNSET and tuple(self.command_argv) != argv:
                return None
        text = self._text or ""
        return Command(text=text, argv=argv, resolved=given(self.resolved_path, None))

    @property
    def _text(self) -> str | None:
        """The command as it is given as text."""
        if self.command is not UNSET:
            return self.command
        text = (given(self.system_run_plan, None) or {}).get("commandText")
        return text if isinstance(text, str) and text else None


class ExecApprovalIdParams(Params, frozen=True):
    """Which approval; in version 4 the beginning of its id is enough."""

    id: NonEmpty


class Reviewer(Params, frozen=True):
    """On whose behalf a channel decides."""

    channel: NonEmpty
    account_id: NonEmpty
    sender_id: NonEmpty


class ExecApprovalResolveParams(Params, frozen=True):
    """Which approval, and the decision: allow-once, allow-always or deny."""

    id: NonEmpty
    decision: NonEmpty
    grant_expires_in_days: Annotated[GrantDays | UnsetType, SINCE_4] = UNSET
    reviewer: Annotated[Reviewer | UnsetType, SINCE_4] = UNSET


class ApprovalGetParams(Params, frozen=True):
    """Which approval; the beginning of its id is enough."""

    id: ApprovalId


class ApprovalResolveParams(Params, frozen=True):
    """Which approval, and the decision."""

    id: ApprovalId
    kind: Kind
    decision: Decision
    grant_expires_in_days: GrantDays | UnsetType = UNSET
    reviewer: Reviewer | UnsetType = UNSET


class ApprovalHistoryParams(Params, frozen=True):
    """Which page of what has ended."""

    cursor: Annotated[str, msgspec.Meta(min_length=1, max_length=512)] | UnsetType = UNSET
    kind: Kind | UnsetType = UNSET
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] | UnsetType = UNSET
