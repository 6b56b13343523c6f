"""The runs that a client reads, across its connections: what to ask after each handshake. No I/O.

Requirements
    A run that is being read goes on when the connection comes back, without a missing or doubled
    word, and ends once. A message whose answer was lost is sent again, under the same key, and runs once.

Design
    A run is read from ``chat`` events while its first connection lasts. Its epoch is asked for at the
    start, so that a later connection can name a position; without one the log is read from its
    beginning, and what was told is skipped. On the next connection ``connection.resume`` answers for
    all runs at once, and ``run.event`` carries on. Where a gateway keeps no log, ``chat`` events carry
    the whole text anyway, and ``agent.wait`` with ``chat.history`` tells of a run that has ended meanwhile.

    Three connections in a row that end while they resume are taken as caused by it: the next three ask
    run by run and for little at once, and after them one does without logs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from gateway.client.actions import Ask, Event, Hello, RunFailed, RunSaid, Steps
from gateway.client.chat import Outcome, RunEvent, ended_by
from gateway.client.errors import (
    ClientError,
    RequestFailed,
    RequestNotSent,
    RequestTimeout,
    RunLost,
)
from gateway.client.handshake import mapping
from gateway.client.inquiry import answer_in, outcome_in
from gateway.client.options import ClientOptions
from gateway.client.subscriptions import Subscriptions
from gateway.client.tail import Need, RunTail, Step
from gateway.model import Position

MAX_FAILED_RESUMES: Final = 3
MAX_FAILED_FOLLOWS: Final = 6
CAREFUL_LIMIT: Final = 25
"""Events in an answer, where larger ones may be what breaks the connection."""
RESUMED_AT_ONCE: Final = 50
"""Runs in one ``connection.resume``: its answer holds up to 500 events of each."""

WAIT_MS: Final = 30_000
WAIT_ANSWER_S: Final = 45.0
SILENCE_S: Final = 600.0
"""How long a run may show no sign of life, where its gateway can not tell whether it knows it."""

HISTORY_LIMIT: Final = 200
HISTORY_CHARS: Final = 500_000


@dataclass(slots=True)
class _Watched:
    run_id: str
    session_key: str
    message: str | None
    tail: RunTail = field(default_factory=RunTail)
    sent: bool = False
    """Whether the gateway has answered for it."""
    cut: bool = False
    """Whether a connection was lost before it did."""
    heard_at: float = 0.0


class Watch:
    """All runs that are being read, and what is subscribed to."""

    def __init__(self, options: ClientOptions) -> None:
        self._comes_back = options.reconnect is not None
        self._limit = options.max_requests
        self._runs: dict[str, _Watched] = {}
        self._hello: Hello | None = None
        self._resuming: set[str] = set()
        """Runs that this connection has not taken up yet."""
        self._failed_resumes = 0
        self.subscriptions = Subscriptions()

    # What the user wants.

    def chat(self, run_id: str, session_key: str, message: str, params: Mapping[str, Any]) -> Steps:
        """Send a message and read the run that answers it. Raises RequestNotSent."""
        run = self._enter(_Watched(run_id, session_key, message))
        named = {"sessionKey": session_key, "message": message, "idempotencyKey": run_id}
        sent = {**params, **named}
        return [
            Ask(
                "chat.send",
                sent,
                self._for(run, self._started),
                self._for(run, self._refused),
                resend=True,
            )
        ]

    def follow(self, run_id: str, session_key: str, after: Position | None, now: float) -> Steps:
        """Read a run that is there already. Raises RequestNotSent."""
        run = self._enter(_Watched(run_id, session_key, None, RunTail(after), sent=True))
        return [] if self._hello is None else self._catch_up(run, now)

    def drop(self, run_id: str) -> Steps:
        """Read a run no more."""
        run = self._runs.pop(run_id, None)
        self._resuming.discard(run_id)
        if run is None or not run.tail.from_log or not self._offers("runs.unfollow"):
            return []
        return [Ask("runs.unfollow", {"runId": run_id}, _ignore, _ignore)]

    def position(self, run_id: str) -> Position | None:
        """How far the log of a run was read; ``None`` where that is not known."""
        run = self._runs.get(run_id)
        return None if run is None else run.tail.position

    # What happens to the connection.

    def opened(self, hello: Hello, now: float) -> Steps:
        """Take in that a handshake is done; ask for what the last connection listened to."""
        self._hello = hello
        runs = [run for run in self._runs.values() if run.sent]
        steps: Steps = []
        if self.subscriptions.every is not None:
            steps.append(Ask("sessions.subscribe", self.subscriptions.every, _ignore, _ignore))
        keys = self.subscriptions.sessions
        if self._offers("connection.resume") and self._failed_resumes < MAX_FAILED_RESUMES:
            return [*steps, *self._resume(runs, keys)]
        for key in keys:
            steps.append(Ask("sessions.messages.subscribe", {"key": key}, _ignore, _ignore))
        careful = self._failed_resumes < MAX_FAILED_FOLLOWS
        if not careful:
            self._failed_resumes = 0
        for run in runs:
            steps += self._catch_up(run, now, CAREFUL_LIMIT) if careful else self._inquire(run, now)
        return steps

    def lost(self) -> None:
        """Take in that the connection ended; another follows."""
        self._hello = None
        self._failed_resumes += bool(self._resuming)
        self._resuming.clear()
        for run in self._runs.values():
            run.cut = run.cut or not run.sent

    def ended(self, error: ClientError) -> Steps:
        """Take in that no connection follows."""
        runs, self._runs = self._runs, {}
        return [RunFailed(run_id, error) for run_id in runs]

    def event(self, event: Event, now: float) -> Steps:
        """Take in an event of the gateway."""
        if event.name not in ("chat", "run.event") or not isinstance(event.payload, Mapping):
            return []
        run = self._runs.get(str(event.payload.get("runId")))
        if run is None:
            return []
        run.heard_at = now
        if event.name == "chat":
            return self._said(run, run.tail.chat(event.payload))
        return self._stepped(run, run.tail.log_event(event.payload), now)

    # A message on its way.

    def _started(self, run: _Watched, payload: Any, now: float) -> Steps:
        run.sent = True
        answer = payload if isinstance(payload, Mapping) else {}
        over = ended_by(answer) is not None
        if "runId" in answer and (run.cut or (over and self._comes_back)):
            return self._catch_up(run, now)  # what it said until now went to nobody
        if over:
            return self._said(run, run.tail.reader.answer(answer))
        if not self._comes_back or not self._offers("runs.read"):
            return []
        params = {"runId": run.run_id, "limit": 1}
        return [Ask("runs.read", params, self._for(run, self._placed), _ignore)]

    def _placed(self, run: _Watched, payload: Any, _now: float) -> Steps:
        epoch = payload.get("epoch") if isinstance(payload, Mapping) else None
        if isinstance(epoch, str) and run.tail.epoch is None:
            run.tail.epoch = epoch
        return []

    def _refused(self, run: _Watched, error: ClientError, now: float) -> Steps:
        ran = isinstance(error, RequestFailed) and isinstance(error.payload, Mapping)
        if ran and run.cut:  # it was sent twice, and failed in between
            run.sent = True
            return self._catch_up(run, now)
        return self._fail(run, error)

    # The log of a run.

    def _resume(self, runs: list[_Watched], keys: list[str]) -> Steps:
        groups = [runs[n : n + RESUMED_AT_ONCE] for n in range(0, len(runs), RESUMED_AT_ONCE)]
        steps: Steps = []
        for group in groups or ([[]] if keys else []):
            for run in group:
                self._resuming.add(run.run_id)
                run.tail.read_log()
            asked = [{"runId": run.run_id, **run.tail.after} for run in group]
            steps.append(
                Ask(
                    "connection.resume",
                    {"runs": asked, "sessions": keys},
                    partial(self._resumed, group),
                    partial(self._unresumed, group),
                )
            )
            keys = []
        return steps

    def _resumed(self, group: list[_Watched], payload: Any, now: float) -> Steps:
        answers = payload.get("runs") if isinstance(payload, Mapping) else None
        listed = answers if isinstance(answers, list) else []
        steps: Steps = []
        for run, answer in zip(group, [*listed, *[None] * len(group)], strict=False):
            if self._runs.get(run.run_id) is run:
                steps += self._answered(run, answer, now)
        return steps

    def _unresumed(self, group: list[_Watched], _error: ClientError, now: float) -> Steps:
        steps: Steps = []
        for run in group:
            if self._runs.get(run.run_id) is run:
                steps += self._inquire(run, now)
        return steps

    def _catch_up(self, run: _Watched, now: float, limit: int | None = None) -> Steps:
        """Read a run from its log, from the position on."""
        if not self._offers("runs.follow"):
            return self._inquire(run, now)
        self._resuming.add(run.run_id)
        run.tail.read_log()
        return [self._follow(run, {} if limit is None else {"limit": limit})]

    def _follow(self, run: _Watched, limit: dict[str, int]) -> Ask:
        return Ask(
            "runs.follow",
            {"runId": run.run_id, **run.tail.after, **limit},
            self._for(run, self._answered),
            self._for(run, lambda run, _error, now: self._inquire(run, now)),
        )

    def _answered(self, run: _Watched, answer: Any, now: float) -> Steps:
        self._taken_up(run)
        return self._stepped(run, run.tail.log_answer(answer), now)

    def _taken_up(self, run: _Watched) -> None:
        self._resuming.discard(run.run_id)
        if not self._resuming:
            self._failed_resumes = 0

    def _stepped(self, run: _Watched, step: Step, now: float) -> Steps:
        said = self._said(run, step.events)
        match step.need:
            case Need.NOTHING:
                return said
            case Need.LOG:
                run.tail.read_log(anew=False)
                return [*said, self._follow(run, {})]
            case Need.OTHER_MEANS:
                return [*said, *self._inquire(run, now)]
            case Need.UNKNOWN_RUN:
                return [*said, *self._lose(run, "the gateway does not know it any more")]
            case Need.BROKEN_LOG:
                return [*said, *self._lose(run, f"its log has a hole after {run.tail.seq}")]
        describe = self._for(run, self._described)
        if not self._offers("runs.describe"):
            return [*said, *describe({}, now)]
        return [*said, Ask("runs.describe", {"runId": run.run_id}, describe, describe)]

    def _described(self, run: _Watched, payload: Any, _now: float) -> Steps:
        described = mapping(payload, "run") if isinstance(payload, Mapping) else {}
        return self._said(run, run.tail.end(described))

    # A gateway without logs.

    def _inquire(self, run: _Watched, now: float) -> Steps:
        """Go on by ``chat`` events, and find out whether the run has ended meanwhile."""
        self._taken_up(run)
        run.tail.read_chat()
        run.heard_at = now
        return [self._wait(run)]

    def _wait(self, run: _Watched) -> Ask:
        params = {"runId": run.run_id, "timeoutMs": WAIT_MS}
        waited = self._for(run, self._waited)
        return Ask("agent.wait", params, waited, waited, timeout=WAIT_ANSWER_S)

    def _waited(self, run: _Watched, payload: Any, now: float) -> Steps:
        outcome = outcome_in(payload)
        if outcome is Outcome.ERROR:
            return self._said(run, run.tail.reader.end(outcome, payload))
        refused = isinstance(payload, ClientError) and not isinstance(payload, RequestTimeout)
        if outcome is None and not refused and now - run.heard_at < SILENCE_S:
            return [self._wait(run)]
        params: dict[str, Any] = {"sessionKey": run.session_key, "limit": HISTORY_LIMIT}
        if self._hello is not None and self._hello.protocol >= 4:
            params["maxChars"] = HISTORY_CHARS
        end = payload if outcome is not None else {}

        def found(run: _Watched, history: Any, _now: float) -> Steps:
            return self._concluded(run, outcome, end, history)

        concluded = self._for(run, found)
        return [Ask("chat.history", params, concluded, concluded)]

    def _concluded(
        self, run: _Watched, outcome: Outcome | None, end: Mapping[str, Any], history: Any
    ) -> Steps:
        reader = run.tail.reader
        answer = answer_in(history, run.run_id, run.message)
        if outcome is None and answer is None:
            return self._lose(run, "the gateway does not tell what became of it")
        longer = answer is not None and len(answer) > len(reader.text)
        told = reader.replace(answer) if longer and answer is not None else []
        return self._said(run, [*told, *reader.end(outcome or Outcome.FINAL, end)])

    # Inside.

    def _offers(self, method: str) -> bool:
        return self._hello is not None and method in self._hello.methods

    def _enter(self, run: _Watched) -> _Watched:
        if run.run_id in self._runs or len(self._runs) >= self._limit:
            raise RequestNotSent("that run, or too many of them, are being read already")
        self._runs[run.run_id] = run
        return run

    def _for(
        self, run: _Watched, function: Callable[[_Watched, Any, float], Steps]
    ) -> Callable[[Any, float], Steps]:
        """Return a continuation that does nothing once the run is read no more."""

        def continuation(payload: Any, now: float) -> Steps:
            return function(run, payload, now) if self._runs.get(run.run_id) is run else []

        return continuation

    def _said(self, run: _Watched, events: list[RunEvent]) -> Steps:
        if run.tail.reader.ended:
            self._runs.pop(run.run_id, None)
        return [RunSaid(run.run_id, events)] if events else []

    def _lose(self, run: _Watched, why: str) -> Steps:
        return self._fail(run, RunLost(run.run_id, why))

    def _fail(self, run: _Watched, error: ClientError) -> Steps:
        self._runs.pop(run.run_id, None)
        return [RunFailed(run.run_id, error)]


def _ignore(_payload: Any, _now: float) -> Steps:
    return []
