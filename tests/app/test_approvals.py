"""An agent asks, an operator answers; nothing that was asked is left behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from gateway.app.approvals import MAX_REPLAYED
from gateway.app.notices import viewer_of
from gateway.app.stopping import stop_runs
from gateway.core.approval import MAX_QUESTION_CHARS, Approval, Asker, Question, Reason
from gateway.errors import Unavailable
from gateway.model import ApprovalRequest, Decision
from gateway.testing import result_of
from tests.app.harness import Client, Gate, assert_fits

UI: dict[str, Any] = {"client": "openclaw-control-ui"}
PLAIN: dict[str, Any] = {"client": "cli"}
MAIN = "agent:main:main"
WAITS_S = 1800
NOBODY_S = 60


def asked(gate: Gate, run: str = "r1", **what: Any) -> Deferred[Decision | None]:
    """Let a run ask."""
    return gate.live(run).sink.ask(ApprovalRequest(**{"command": "ls", **what}))


def the_one(gate: Gate) -> Approval:
    """Return the only pending approval."""
    (approval,) = gate.services.approvals._pending.values()
    return approval.approval


def steps(client: Client, run: str = "r1") -> list[tuple[str, str]]:
    """Return what a run said on its stream of approvals."""
    return [
        (event["data"]["phase"], event["data"]["status"])
        for event in client.events("agent")
        if event["stream"] == "approval" and event["runId"] == run
    ]


def told(client: Client) -> tuple[int, int]:
    """Return how many questions, and how many ends of questions, a client was told of."""
    return (
        len(client.events("exec.approval.requested")),
        len(client.events("exec.approval.resolved")),
    )


def assert_nothing_left(gate: Gate, timers: int = 0) -> None:
    """Assert that no question, share or timer is left."""
    approvals = gate.services.approvals
    assert len(approvals) == 0
    assert not approvals._asked
    assert approvals._timer is None
    gate.turn()
    assert len(gate.clock.getDelayedCalls()) == timers


@pytest.fixture
def ui(gate: Gate) -> Client:
    """Return an operator's client that shows questions, and has started a run."""
    client = gate.client(**UI)
    client.send("hello")
    return client


@pytest.mark.parametrize("decision", list(Decision))
def test_an_answer(gate: Gate, ui: Client, decision: Decision) -> None:
    """The answer of an operator reaches the agent, and everybody who was told hears of it once."""
    answer = asked(gate, tool_call_id="t1", argv=("ls", "-l"), cwd="/tmp")
    (event,) = ui.events("exec.approval.requested")
    assert event["request"]["runId"] == "r1"
    assert event["request"]["sessionKey"] == MAIN
    assert event["request"]["commandArgv"] == ["ls", "-l"]
    assert not answer.called

    assert ui.ok("exec.approval.resolve", {"id": event["id"], "decision": decision.value}) == {
        "ok": True
    }

    assert result_of(answer) is decision
    (end,) = ui.events("exec.approval.resolved")
    assert (end["decision"], end["resolvedBy"], end["reason"]) == (decision, UI["client"], "user")
    status = "denied" if decision is Decision.DENY else "approved"
    assert steps(ui) == [("requested", "pending"), ("resolved", status)]
    assert_nothing_left(gate, timers=1)  # the run's timeout


def test_nobody_answers(gate: Gate, ui: Client) -> None:
    """A question that somebody could answer expires after its time."""
    ui.send("hello", key="other", run="r2", timeoutMs=3_600_000)
    answer = asked(gate, "r2")
    gate.clock.advance(WAITS_S - 1)
    assert not answer.called
    gate.clock.advance(1)

    assert result_of(answer) is None
    assert told(ui) == (1, 1)
    assert ui.events("exec.approval.resolved")[0]["decision"] is None
    assert steps(ui, "r2") == [("requested", "pending"), ("resolved", "unavailable")]
    assert_nothing_left(gate, timers=1)


def test_the_agent_waits_less(gate: Gate, ui: Client) -> None:
    """An agent may wait for less than the gateway does, and for nothing at all."""
    answer = asked(gate, timeout_s=5)
    gate.clock.advance(5)
    assert result_of(answer) is None
    at_once = asked(gate, timeout_s=-1)
    gate.turn()
    assert result_of(at_once) is None
    assert_nothing_left(gate, timers=1)


def test_nobody_is_there(gate: Gate) -> None:
    """Without a client that could answer, a question waits a minute, and then nobody was there."""
    plain = gate.client(**PLAIN)
    plain.send("hello")
    answer = asked(gate)
    gate.clock.advance(NOBODY_S - 1)
    assert not answer.called
    gate.clock.advance(1)

    assert result_of(answer) is None
    assert told(plain) == (0, 0)
    (ended,) = gate.services.approvals.ended(viewer_of(plain.context.caller))
    assert ended.reason is Reason.NO_ROUTE
    assert_nothing_left(gate, timers=1)


def test_who_was_not_there_can_answer_all_the_same(gate: Gate) -> None:
    """A plain client sees what waits, and answers it."""
    plain = gate.client(**PLAIN)
    plain.send("hello")
    answer = asked(gate)
    (row,) = plain.ok("exec.approval.list")
    plain.ok("exec.approval.resolve", {"id": row["id"], "decision": "allow-once"})
    assert result_of(answer) is Decision.ALLOW_ONCE


@pytest.mark.parametrize(
    ("who", "waits"),
    [
        ({"protocol": 4, "caps": ["approvals"]}, True),
        ({"protocol": 3}, True),
        ({"protocol": 4}, False),
        ({"protocol": 3, "scopes": ["operator.write"]}, False),
    ],
)
def test_who_comes_in_time(gate: Gate, who: dict[str, Any], waits: bool) -> None:
    """If somebody who could answer comes within the minute, the question gets its whole time."""
    gate.client().send("hello", timeoutMs=3_600_000)
    answer = asked(gate)
    gate.clock.advance(NOBODY_S - 1)
    gate.client(**who)
    gate.client(**who)
    expires_at_ms = gate.clock.now_ms() + WAITS_S * 1000
    assert (the_one(gate).expires_at_ms == expires_at_ms) is waits
    gate.clock.advance(WAITS_S - 1)
    assert answer.called is not waits
    gate.clock.advance(1)
    assert result_of(answer) is None


def test_the_run_is_aborted(gate: Gate, ui: Client) -> None:
    """The end of a run withdraws what it asks: the agent is answered, and dialogs are closed."""
    answers = [asked(gate), asked(gate)]
    ui.ok("chat.abort", {"sessionKey": "main", "runId": "r1"})

    assert [result_of(answer) for answer in answers] == [None, None]
    assert told(ui) == (2, 2)
    assert {event["reason"] for event in ui.events("exec.approval.resolved")} == {"run-aborted"}
    assert result_of(asked(gate)) is None
    assert told(ui) == (2, 2)
    assert_nothing_left(gate)


def test_an_agent_that_ends_with_its_question(gate: Gate, ui: Client) -> None:
    """An agent whose work fails because its question was withdrawn ends nothing twice."""
    asked(gate).addCallback(lambda _: gate.live().done.errback(ZeroDivisionError()))
    ui.ok("chat.abort", {"sessionKey": "main", "runId": "r1"})
    assert ui.ends() == (["aborted"], ["end"])


def test_the_run_ends(gate: Gate, ui: Client) -> None:
    """A run that ends without waiting for its answer leaves no question, and others keep theirs."""
    ui.send("hello", key="other", run="r2")
    answer, other = asked(gate), asked(gate, "r2")
    gate.live().end()
    assert result_of(answer) is None
    assert not other.called
    assert told(ui) == (2, 1)
    gate.live("r2").end()
    sink: Any = gate.live("r2").sink
    sink.close()  # a second time
    assert_nothing_left(gate)


def test_the_run_takes_too_long(gate: Gate) -> None:
    """A question does not stop the clock of its run."""
    client = gate.client(**UI)
    client.send("hello", timeoutMs=30_000)
    answer = asked(gate)
    gate.clock.advance(30)
    assert result_of(answer) is None
    assert client.ends() == (["aborted"], ["end"])
    assert_nothing_left(gate)


def test_the_agent_takes_it_back(gate: Gate, ui: Client) -> None:
    """An agent that cancels withdraws its question."""
    answer = asked(gate)
    answer.cancel()
    failure: list[Any] = []
    answer.addErrback(failure.append)
    assert failure[0].check(CancelledError)
    assert told(ui) == (1, 1)
    assert steps(ui) == [("requested", "pending"), ("resolved", "unavailable")]
    assert_nothing_left(gate, timers=1)


def test_one_who_is_told_cancels_another(gate: Gate, ui: Client) -> None:
    """What somebody who is told of the end does can not keep the others from being told."""
    answer = asked(gate)
    approvals, question = gate.services.approvals, the_one(gate)
    waiting = [approvals.wait(question) for _ in range(3)]
    waiting[0].addCallback(lambda _: waiting[1].cancel())
    cancelled: list[Any] = []
    waiting[1].addErrback(cancelled.append)
    assert approvals.end(question, Reason.TIMEOUT)
    assert not approvals.end(question, Reason.RUN_ABORTED)
    assert result_of(answer) is None
    assert cancelled
    assert result_of(waiting[2]).reason is Reason.TIMEOUT


def test_a_stop(gate: Gate, ui: Client) -> None:
    """A stop of the gateway withdraws what is asked, by agents and by clients, and takes no more."""
    other = gate.client(**UI)
    call = other.call("exec.approval.request", {"command": "ls"})
    answer = asked(gate)
    gate.live().done.addErrback(lambda _: None)
    stopping = Deferred.fromCoroutine(stop_runs(gate.runs, 1.0))
    result_of(stopping)

    assert result_of(answer) is None
    assert call.payload["decision"] is None
    reasons = {event["reason"] for event in ui.events("exec.approval.resolved")}
    assert reasons == {"run-aborted", "gateway-restart"}
    assert other.refused("exec.approval.request", {"command": "ls"})["code"] == "UNAVAILABLE"
    assert_nothing_left(gate)


def test_one_timer(gate: Gate, ui: Client) -> None:
    """However many questions wait, one timer does, and each expires at its own time."""
    before = len(gate.clock.getDelayedCalls())
    answers = [asked(gate, timeout_s=seconds) for seconds in (30, 10, 20)]
    assert len(gate.clock.getDelayedCalls()) == before + 1
    gate.clock.advance(10)
    assert [answer.called for answer in answers] == [False, True, False]
    gate.clock.advance(10)
    assert [answer.called for answer in answers] == [False, True, True]
    assert gate.services.approvals.sweep(gate.clock.seconds() + 10) == 1
    assert answers[0].called
    assert_nothing_left(gate, timers=1)


def test_too_many(gates: Callable[..., Gate]) -> None:
    """A run that asks too much, or asks when too much is asked, is answered None at once."""
    gate = gates(limits={"approvals_per_asker": 2, "approvals_max": 3})
    client = gate.client(**UI)
    client.send("hello")
    client.send("hello", key="other", run="r2")
    first = [asked(gate), asked(gate)]
    assert result_of(asked(gate)) is None
    assert not asked(gate, "r2").called
    assert result_of(asked(gate, "r2")) is None
    assert told(client) == (3, 0)
    gate.live().end()
    assert all(answer.called for answer in first)
    assert not asked(gate, "r2").called


def test_what_can_not_be_shown_is_not_asked(gate: Gate, ui: Client) -> None:
    """A command that is too long to be read by a person is not run."""
    assert result_of(asked(gate, command="x" * (MAX_QUESTION_CHARS + 1))) is None
    assert told(ui) == (0, 0)


def test_what_is_hidden_is_shown(gate: Gate, ui: Client) -> None:
    """Whoever decides sees characters that a terminal would hide; half characters harm nobody."""
    asked(gate, command="rm \u202etxt", argv=("\ud800",), tool_call_id="\ud800")
    (event,) = ui.events("exec.approval.requested")
    assert event["request"]["command"] == "rm \\u{202E}txt"
    assert steps(ui) == [("requested", "pending")]


def test_an_agent_that_can_not_remember(gate: Gate, ui: Client) -> None:
    """Where allow-always is not offered, it is no answer."""
    answer = asked(gate, always=False)
    (row,) = ui.ok("exec.approval.list")
    assert row["request"]["allowedDecisions"] == ["allow-once", "deny"]
    error = ui.refused("exec.approval.resolve", {"id": row["id"], "decision": "allow-always"})
    assert error["details"] == {"reason": "APPROVAL_ALLOW_ALWAYS_UNAVAILABLE"}
    assert not answer.called


def test_a_session_that_the_asker_calls_by_another_name(gate: Gate) -> None:
    """Who watches a session is told of what a client asks for it, whatever the client calls it."""
    watcher = gate.client()
    wish = {"key": "agent:main:main", "includeApprovals": True}
    watcher.ok("sessions.messages.subscribe", wish)

    params = {"command": "ls", "sessionKey": "Main", "twoPhase": True}
    gate.client(3).call("exec.approval.request", params)
    replay = gate.client().ok("sessions.messages.subscribe", wish)["approvalReplay"]

    (event,) = watcher.events("session.approval")
    assert (event["phase"], event["sessionKey"]) == ("pending", "agent:main:main")
    assert [each["status"] for each in replay["approvals"]] == ["pending"]


def test_who_watches_a_session(gate: Gate, ui: Client) -> None:
    """Who watches a session with its approvals is told of them: what waits, then what happens."""
    asked(gate)
    watcher, other = gate.client(**PLAIN), gate.client(**PLAIN)
    three, reader = gate.client(3), gate.client(scopes=["operator.read"])
    wish = {"key": "main", "includeApprovals": True}
    replay = watcher.ok("sessions.messages.subscribe", wish)["approvalReplay"]
    assert "approvalReplay" not in other.ok("sessions.messages.subscribe", {"key": "main"})
    assert "approvalReplay" not in three.ok("sessions.messages.subscribe", wish)
    assert "approvalReplay" not in reader.ok("sessions.messages.subscribe", wish)
    assert_fits(4, "SessionApprovalReplay", replay)
    assert [each["status"] for each in replay["approvals"]] == ["pending"]

    asked(gate)
    gate.live().end()

    events = watcher.events("session.approval")
    assert [(e["phase"], e["approval"]["status"]) for e in events] == [
        ("pending", "pending"),
        ("terminal", "cancelled"),
        ("terminal", "cancelled"),
    ]
    for event in events:
        assert_fits(4, "SessionApprovalEvent", event)
    assert [c.events("session.approval") for c in (other, three, reader)] == [[], [], []]


def test_who_watches_no_more(gate: Gate, ui: Client) -> None:
    """Who ends its watching, or leaves, is told nothing."""
    watcher, leaver = gate.client(**PLAIN), gate.client(**PLAIN)
    for client in (watcher, leaver):
        for key in ("main", "other"):
            client.ok("sessions.messages.subscribe", {"key": key, "includeApprovals": True})
    hub = gate.services.hub
    assert len(hub.approval_watchers(MAIN)) == 2
    leaver.leave()
    for key in ("main", "other"):
        watcher.ok("sessions.messages.unsubscribe", {"key": key})
    assert hub.approval_watchers(MAIN) == []
    assert not hub._with_approvals
    asked(gate)
    assert watcher.events("session.approval") == []


def test_a_long_replay(gates: Callable[..., Gate]) -> None:
    """What is replayed is bounded, and says so."""
    gate = gates(limits={"approvals_per_asker": 1000})
    client = gate.client(**UI)
    client.send("hello")
    client.send("hello", key="other", run="r2")
    for _ in range(MAX_REPLAYED + 1):
        asked(gate)
    asked(gate, "r2")
    wish = {"includeApprovals": True}
    replay = client.ok("sessions.messages.subscribe", {"key": "main", **wish})["approvalReplay"]
    assert (len(replay["approvals"]), replay["truncated"]) == (MAX_REPLAYED, True)
    replay = client.ok("sessions.messages.subscribe", {"key": "other", **wish})["approvalReplay"]
    assert (len(replay["approvals"]), replay["truncated"]) == (1, False)
    gate.live().end()
    gate.live("r2").end()
    assert_nothing_left(gate)


def test_the_metrics(gate: Gate, ui: Client) -> None:
    """Ends are counted by outcome, and what waits is a gauge."""
    asked(gate)
    asked(gate)
    row = ui.ok("exec.approval.list")[0]
    metrics = gate.wiring.metrics
    assert b"gateway_approvals_pending 2.0" in metrics.render()
    ui.ok("exec.approval.resolve", {"id": row["id"], "decision": "deny"})
    gate.live().end()
    text = metrics.render()
    assert b"gateway_approvals_pending 0.0" in text
    assert b'gateway_approvals_total{outcome="deny"} 1.0' in text
    assert b'gateway_approvals_total{outcome="run-aborted"} 1.0' in text


def test_the_history_is_bounded(gates: Callable[..., Gate]) -> None:
    """Of what has ended the newest are remembered."""
    gate = gates(limits={"approvals_history_max": 2})
    approvals = gate.services.approvals
    for number in range(3):
        approvals.open(
            Question(command="ls"), Asker(actor="x"), timeout_s=1, approval_id=f"a{number}"
        )
    assert [approval.id for approval in approvals.history] == ["a1", "a2"]
    assert_nothing_left(gate)


def test_a_question_of_no_session(gate: Gate) -> None:
    """A question that belongs to no session is asked of operators alone."""
    client = gate.client(3)
    approvals = gate.services.approvals
    approvals.open(Question(command="ls"), Asker(actor="x"), timeout_s=1)
    assert told(client) == (1, 0)
    approvals.stop()
    with pytest.raises(Unavailable):
        approvals.open(Question(command="ls"), Asker(actor="x"), timeout_s=1)
    assert told(client) == (1, 1)
