"""An approval: a question that an operator answers, from its asking to its one end.

Requirements. An approval ends once, whoever comes first: an operator, its time, whoever asked. What was
decided stays decided. Nobody decides what he may not see, and nobody is shown a text that reads as
something else than what is asked.

States::

    pending --resolve---> decided      an operator answered
            --rule------> decided      the policy of exec approvals did
            --expire----> expired      nobody did in time
            --withdraw--> withdrawn    who asked no longer waits
            --no_route--> no-route     nobody was there who could have
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from gateway.core.run import valid_text
from gateway.model import Decision, ExecAllowlistEntry, Principal

SCOPE: Final = "operator.approvals"

MAX_QUESTION_CHARS: Final = 32_768
"""Characters of all texts of a question: what is longer can not be shown, so it is not asked."""

MAX_ID_CHARS: Final = 128

POLICY: Final = "exec policy"
"""Who has decided where the policy did."""

ALL_DECISIONS: Final = (Decision.ALLOW_ONCE, Decision.ALLOW_ALWAYS, Decision.DENY)
ONCE_OR_NOT: Final = (Decision.ALLOW_ONCE, Decision.DENY)

_CAPABLE_CLIENTS: Final = frozenset(
    {"openclaw-control-ui", "openclaw-macos", "openclaw-ios", "openclaw-android"}
)
_CAPABLE_CAPS: Final = frozenset({"approvals", "exec-approvals"})
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"})
_BLANK: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Letters, marks and signs that are not seen either (Unicode's default ignorables, the blank Braille)."""
_STYLES: Final = "\ufe0e\ufe0f"
"""After a sign these say how it is drawn; after anything else they are not seen."""
_VISIBLE_CONTROLS: Final = "\n\t"


class ApprovalState(StrEnum):
    """Where an approval is."""

    PENDING = "pending"
    DECIDED = "decided"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"
    NO_ROUTE = "no-route"


class Reason(StrEnum):
    """Why an approval ended (the protocol's words)."""

    USER = "user"
    POLICY = "policy"
    """The policy of exec approvals; clients are told ``user``, since the protocol has no word for it."""
    TIMEOUT = "timeout"
    NO_ROUTE = "no-route"
    RUN_ABORTED = "run-aborted"
    GATEWAY_RESTART = "gateway-restart"


class Verdict(StrEnum):
    """What became of an attempt to decide."""

    APPLIED = "applied"
    REPEATED = "repeated"
    """It was decided like that before."""
    CONFLICT = "conflict"
    """It has ended otherwise."""
    NOT_ALLOWED = "not-allowed"
    """This question can not be answered like that."""


_STATES: Final = {
    Reason.USER: ApprovalState.DECIDED,
    Reason.POLICY: ApprovalState.DECIDED,
    Reason.TIMEOUT: ApprovalState.EXPIRED,
    Reason.NO_ROUTE: ApprovalState.NO_ROUTE,
    Reason.RUN_ABORTED: ApprovalState.WITHDRAWN,
    Reason.GATEWAY_RESTART: ApprovalState.WITHDRAWN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked; :func:`visible_question` makes its texts fit to be shown."""

    command: str
    argv: tuple[str, ...] = ()
    preview: str | None = None
    warning: str | None = None
    cwd: str | None = None
    host: str | None = None
    security: str | None = None
    ask: str | None = None
    agent_id: str | None = None
    session_key: str | None = None
    """The session as the asker calls it."""
    watched_key: str | None = None
    """The canonical key of that session, for those who follow it; None where it is the same."""
    node_id: str | None = None
    resolved_path: str | None = None
    run_id: str | None = None
    tool_call_id: str | None = None
    decisions: tuple[Decision, ...] = ALL_DECISIONS
    """What can be answered."""

    @property
    def session(self) -> str | None:
        """The canonical key of the session that it belongs to."""
        return self.watched_key or self.session_key

    @property
    def size(self) -> int:
        """Characters of all its texts."""
        texts = (getattr(self, name) for name in _TEXTS)
        return sum(map(len, self.argv)) + len(self.argv) + sum(len(text or "") for text in texts)


_TEXTS: Final = tuple(name for name in Question.__slots__ if name not in ("argv", "decisions"))
_IDS: Final = ("agent_id", "session_key", "watched_key", "run_id")
_SHOWN: Final = tuple(name for name in _TEXTS if name not in _IDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Who asked: a client over its connection, or a run (then without any of these)."""

    actor: str
    """Whose share of the questions it is."""
    conn_id: str | None = None
    device_id: str | None = None
    principal: Principal | None = None
    """On whose rights a client asks."""
    protocol: int = 3
    reviewers: frozenset[str] = frozenset()
    """Devices that were named to answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewer:
    """A connected operator who holds the scope of approvals."""

    conn_id: str
    device_id: str | None
    protocol: int
    client_id: str
    caps: frozenset[str] = frozenset()
    admin: bool = False

    @property
    def capable(self) -> bool:
        """Whether its client shows questions: those of version 3 all do, those of version 4 say so."""
        return (
            self.protocol < 4
            or self.client_id in _CAPABLE_CLIENTS
            or not self.caps.isdisjoint(_CAPABLE_CAPS)
        )


@dataclass(slots=True, kw_only=True)
class Approval:
    """One question and what became of it. Times ending in ``_ms`` are of the wall clock."""

    id: str
    question: Question
    asker: Asker
    created_at_ms: int
    expires_at_ms: int
    deadline: float
    """When it expires, on the clock that never goes back."""
    state: ApprovalState = field(default=ApprovalState.PENDING, init=False)
    decision: Decision | None = field(default=None, init=False)
    reason: Reason | None = field(default=None, init=False)
    resolved_by: str | None = field(default=None, init=False)
    """The name of who decided."""
    resolver: str | None = field(default=None, init=False)
    """The device, or else the client, of who decided."""
    resolved_at_ms: int | None = field(default=None, init=False)
    ended_at: float | None = field(default=None, init=False)
    """When it ended, on the clock that never goes back."""
    used: bool = field(default=False, init=False)
    """Whether an answer for once has served."""
    lasting: ExecAllowlistEntry | None = None
    """The entry of the policy that allow-always makes; None where it is the asker's own affair."""
    unanswered: bool = False
    """Whether the policy allows it where nobody answers."""

    @property
    def pending(self) -> bool:
        """Whether it waits for an answer."""
        return self.state is ApprovalState.PENDING

    def resolve(self, decision: Decision, *, by: str, resolver: str, now_ms: int) -> Verdict:
        """Answer it; the first answer counts."""
        if not self.pending:
            return Verdict.REPEATED if decision is self.decision else Verdict.CONFLICT
        if decision not in self.question.decisions:
            return Verdict.NOT_ALLOWED
        self.decision, self.resolved_by, self.resolver = decision, by, resolver
        self.end(Reason.USER, now_ms)
        return Verdict.APPLIED

    def rule(self, decision: Decision, now_ms: int) -> bool:
        """Answer it by the policy; return whether it was pending."""
        if self.pending:
            self.decision, self.resolved_by = decision, POLICY
        return self.end(Reason.POLICY, now_ms)

    def end(self, reason: Reason, now_ms: int) -> bool:
        """End it for a reason other than an answer; return whether it was pending."""
        if not self.pending:
            return False
        self.state, self.reason, self.resolved_at_ms = _STATES[reason], reason, now_ms
        return True

    def extend(self, *, deadline: float, expires_at_ms: int) -> None:
        """Give it more time; it never gets less."""
        if self.pending and deadline > self.deadline:
            self.deadline, self.expires_at_ms = deadline, expires_at_ms

    def visible_to(self, viewer: Viewer) -> bool:
        """Whether an operator may see and answer it.

        What a client of version 4 asks is for admins, for its own device and connection, and for the
        devices that it names; anything else is for all.
        """
        asker = self.asker
        if asker.protocol < 4 or viewer.admin or viewer.conn_id == asker.conn_id:
            return True
        device = viewer.device_id
        return device is not None and (device == asker.device_id or device in asker.reviewers)

    def reaches(self, viewer: Viewer) -> bool:
        """Whether an operator is told of it; in version 4 who asks is not: it has its answer."""
        own = self.asker.protocol >= 4 and viewer.conn_id == self.asker.conn_id
        return viewer.capable and not own and self.visible_to(viewer)


def visible_text(text: str) -> str:
    """Return a text in which nothing is hidden.

    Characters that are not seen, or that turn the order of others around, stand as their code points in hex.
    """
    if text.isascii() and text.isprintable():
        return text
    text = valid_text(text)
    return "".join(map(_shown, text, " " + text))


def visible_question(question: Question) -> Question:
    """Return a question whose texts are all visible; a command that is blank is called so."""
    shown: dict[str, Any] = {
        name: visible_text(value)
        for name in _SHOWN
        if (value := getattr(question, name)) is not None
    }
    if not shown["command"].strip():
        shown["command"] = "(no command)"
    return replace(question, argv=tuple(map(visible_text, question.argv)), **shown)


def by_prefix(ids: Iterable[str], prefix: str) -> list[str]:
    """Return the id that is meant, or all that begin so."""
    found = [each for each in ids if each.startswith(prefix)]
    return [prefix] if prefix in found else found


def _shown(char: str, before: str) -> str:
    if char in _STYLES and unicodedata.category(before) == "So":
        return char
    unseen = unicodedata.category(char) in _INVISIBLE or _BLANK.match(char)
    if char in _VISIBLE_CONTROLS or not unseen:
        return char
    return f"\\u{{{ord(char):X}}}"
