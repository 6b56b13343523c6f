"""What becomes of runs that their process did not live to end."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred

from gateway import model
from gateway.app import recovery
from gateway.app.drive import NOT_OURS, NOTE_PAUSE_S
from gateway.errors import StoreError, VersionConflict
from gateway.model import RunState
from gateway.testing import FakeClock, result_of
from tests.app.faults import Lines
from tests.app.harness import Gate, Live

Gates = Callable[..., Gate]
DAY_S = 86_400.0


def recovered(gate: Gate) -> int:
    """Do what the start of the gateway does."""
    count: int = result_of(Deferred.fromCoroutine(gate.runs.recover()))
    return count


def crowd(gate: Gate, *, runs: int = 3, key: str = "main") -> None:
    """Let one run go and others wait behind it."""
    for number in range(1, runs + 1):
        gate.client().send(f"message {number}", key=key, run=f"r{number}")


def state_of(gate: Gate, run: str) -> tuple[RunState, str | None]:
    """Return the stored state of a run and its stop reason."""
    record = result_of(gate.store.get_run(run))
    return record.state, record.stop_reason


# -- what the store knows before a crash


def test_the_store_knows_what_has_begun(gate: Gate) -> None:
    """A run that goes is stored as running before its backend is called, one that waits as accepted, with its request."""  # noqa: E501
    seen: list[RunState] = []

    def look(live: Live) -> Any:
        seen.append(result_of(gate.store.get_run(live.request.run_id)).state)
        return live.done

    gate.backend.script = look
    crowd(gate)
    waiting = result_of(gate.store.get_run("r2"))
    calls = len(gate.store.calls)
    gate.live("r1").end()

    assert seen == [RunState.RUNNING, RunState.RUNNING]
    assert waiting.state is RunState.ACCEPTED
    assert model.decode_request(waiting.request_json).text == "message 2"
    assert result_of(gate.store.get_run("r1")).request_json is None
    assert gate.store.calls[calls:].count("update_run") == 1


def test_a_run_that_goes_at_once_costs_no_further_write(gate: Gate) -> None:
    """In a free session a turn is two writes to the store beside its events, as if nothing could crash."""
    gate.client().send("hello")
    gate.live().end()

    writes = ("accept_turn", "update_run", "append_events", "finish_turn")
    assert [call for call in gate.store.calls if call in writes] == ["accept_turn", "finish_turn"]


# -- logs that were cut off


def test_a_log_goes_on_as_another(gate: Gate) -> None:
    """What a client saw beyond what was stored is not taken for the end that the next start gives."""
    gate.client().send("hello")
    gate.live().sink.text("stored ")
    gate.turn()
    gate.store.failing["append_events"] = StoreError("disk full")
    gate.live().sink.emit("tool", {"name": "one"})
    gate.turn()
    run = gate.runs.get("r1")
    assert run is not None
    seen = run.position
    gate.runs.log.take("r1")
    gate.store.failing.clear()

    again = gate.restarted()
    client = again.client()
    recovered(again)
    position = {"epoch": seen.epoch, "seq": seen.seq}
    cut_off = client.ok("runs.read", {"runId": "r1", "after": position})
    whole = client.ok("runs.read", {"runId": "r1"})

    assert seen.seq == 3
    assert cut_off["status"] == "gap"
    assert cut_off["snapshot"] == {"text": "stored ", "state": "failed"}
    assert cut_off["next"] == {"epoch": again.runs.epoch, "seq": 3}
    assert [(e["seq"], e["stream"]) for e in whole["events"]] == [
        (1, "lifecycle"),
        (2, "assistant"),
        (3, "lifecycle"),
    ]
    assert whole["epoch"] == again.runs.epoch
    assert result_of(again.store.list_events("r1", after_seq=0, limit=9, epoch=seen.epoch)) == ()


@pytest.mark.parametrize("seq", [0, 1, 2, 9])
def test_following_a_run_while_it_is_ended(gate: Gate, seq: int) -> None:
    """Who follows a run before the start-up has ended it learns of the end, wherever it stood."""
    gate.client().send("hello")
    gate.live().sink.text("stored ")
    gate.turn()
    epoch = gate.runs.epoch
    again = gate.restarted()
    client = again.client()
    after = {"epoch": epoch, "seq": seq}
    client.ok("runs.follow", {"runId": "r1", "after": after})
    recovered(again)
    again.clock.pump([0.5] * 6)

    last = client.events("run.event")[-1]
    assert (last["epoch"], last["seq"], last["data"]["phase"]) == (again.runs.epoch, 3, "error")
    assert not len(again.services.follows)


# -- messages that waited


def test_messages_that_waited_are_run_in_order(gate: Gate) -> None:
    """After a crash the messages that waited are run once each, in order, under their ids; the transcript has each once."""  # noqa: E501
    crowd(gate)
    gate.live("r1").sink.text("partial")
    gate.turn()

    again = gate.restarted()
    client = again.client()
    outputs = again.record()
    assert recovered(again) == 3
    first = list(again.backend.started)
    again.live("r2").sink.text("two")
    again.live("r2").end()
    again.live("r3").end()

    assert first == ["r2"]
    assert again.backend.started == ["r2", "r3"]
    assert again.live("r2").request.text == "message 2"
    session = result_of(again.store.get_session("agent:main:main"))
    assert again.live("r2").request.session_id == session.session_id
    assert state_of(again, "r1") == (RunState.FAILED, "interrupted")
    assert [state_of(again, run)[0] for run in ("r2", "r3")] == [RunState.DONE] * 2
    assert [client.ends(f"r{n}") for n in (1, 2, 3)] == [
        (["error"], ["error"]),
        (["final"], ["end"]),
        (["final"], ["end"]),
    ]
    assert again.messages() == [
        ("user", "message 1"),
        ("user", "message 2"),
        ("user", "message 3"),
        ("assistant", "two"),
    ]
    record = result_of(again.store.get_run("r2"))
    assert record.epoch == again.runs.epoch
    assert [o.seq for o in outputs if o.run.run_id == "r2"] == [1, 2, 3]
    assert recovered(again) == recovered(again.restarted()) == 0


def test_what_a_client_is_told_of_an_interrupted_run(gate: Gate) -> None:
    """Clients can tell an interrupted run by its stop reason: in its events, from agent.wait, and where the request is repeated."""  # noqa: E501
    gate.client().send("hello")
    again = gate.restarted()
    four, three = again.client(4), again.client(3)

    recovered(again)

    for client in (three, four):
        chat, life = client.events("chat")[-1], client.events("agent")[-1]
        assert (chat["state"], chat["stopReason"]) == ("error", "interrupted")
        assert (life["data"]["phase"], life["data"]["stopReason"]) == ("error", "interrupted")
    answer = four.ok("agent.wait", {"runId": "r1"})
    assert (answer["status"], answer["stopReason"]) == ("error", "interrupted")
    assert four.send("hello").error["details"] == {"reason": "interrupted"}


def test_requests_wait_for_the_recovery(gate: Gate) -> None:
    """What a client sends while the gateway looks for open runs comes after them, and a repeat meets the run it began."""  # noqa: E501
    crowd(gate)
    again = gate.restarted()
    client = again.client()
    again.store.hanging.add("open_runs")
    recovering = Deferred.fromCoroutine(again.runs.recover())
    fresh = client.send("message 4", run="r4")
    repeat = client.send("message 2", run="r2")
    other = client.send("something else", run="r3")
    answered = [*fresh.frames, *repeat.frames]

    again.store.release()
    result_of(recovering)

    assert answered == []
    assert fresh.payload["status"] == "started"
    assert repeat.payload["status"] == client.send("message 2", run="r2").payload["status"]
    assert repeat.payload["status"] == "in_flight"
    assert other.error["details"] == {"reason": "chat-request-conflict"}
    for run in ("r2", "r3", "r4"):
        again.live(run).end()
    assert again.backend.started == ["r2", "r3", "r4"]
    assert client.send("message 2", run="r2").payload["status"] == "ok"
    assert [text for _, text in again.messages()] == [f"message {n}" for n in range(1, 5)]


def test_a_store_that_fails_at_the_start(gate: Gate) -> None:
    """While the open runs can't be read new messages are refused, to be tried again; then all is as if it had worked."""  # noqa: E501
    crowd(gate)
    again = gate.restarted()
    client = again.client()
    again.store.hanging.add("open_runs")
    recovering = Deferred.fromCoroutine(again.runs.recover())
    early = client.send("message 4", run="r4")
    again.store.hanging.clear()
    again.store.failing["open_runs"] = StoreError("disk")
    with pytest.raises(StoreError):
        recovered(again)
    late = client.send("message 4", run="r4")
    again.store.failing.clear()

    recovering.cancel()
    recovering.addErrback(lambda _: None)
    assert recovered(again) == 3

    for refused in (early, late):
        assert refused.error["message"] == "the gateway is starting; try again"
        assert refused.error["retryable"]
    assert client.send("message 4", run="r4").payload["status"] == "started"
    assert again.backend.started == ["r2"]


def test_who_waits_for_a_run_of_before_the_crash(gate: Gate) -> None:
    """Who waits for a run while the gateway looks for it is told its one end."""
    crowd(gate, runs=2)
    again = gate.restarted()
    client = again.client()
    again.store.hanging.add("open_runs")
    recovering = Deferred.fromCoroutine(again.runs.recover())
    waits = [client.call("agent.wait", {"runId": run, "timeoutMs": 9_000}) for run in ("r1", "r2")]

    again.store.release()
    result_of(recovering)
    again.live("r2").end()

    assert [wait.payload["status"] for wait in waits] == ["error", "ok"]


@pytest.mark.parametrize(("jump_s", "runs"), [(DAY_S, []), (-DAY_S, ["r2"]), (0.0, ["r2"])])
def test_the_clock_jumps(gates: Gates, jump_s: float, runs: list[str]) -> None:
    """A message that waited longer than its time to live by the wall clock is not run; a clock that went back ages nothing."""  # noqa: E501
    clock = FakeClock()
    gate = gates(clock=clock)
    crowd(gate, runs=2)
    clock.jump(jump_s)

    again = gate.restarted()
    client = again.client()
    recovered(again)

    assert again.backend.started == runs
    assert state_of(again, "r1") == (RunState.FAILED, "interrupted")
    if not runs:
        assert state_of(again, "r2") == (RunState.FAILED, "expired")
        assert client.events("chat")[-1]["stopReason"] == "expired"
        assert client.ends("r2") == (["error"], ["error"])
        assert client.send("message 2", run="r2").error["details"] == {"reason": "expired"}


def test_a_message_that_waits_too_long(gates: Gates) -> None:
    """A message whose turn comes after its time to live is not run either, and the next one is, if it is younger."""  # noqa: E501
    gate = gates(limits={"queued_ttl_s": 60.0, "run_timeout_s": 600.0})
    client = gate.client()
    client.send("one", run="r1")
    client.send("two", run="r2")
    gate.clock.advance(40)
    client.send("three", run="r3")
    gate.clock.advance(30)
    gate.live("r1").end()

    assert gate.backend.started == ["r1", "r3"]
    assert client.ends("r2") == (["error"], ["error"])
    assert state_of(gate, "r2") == (RunState.FAILED, "expired")


def test_the_age_goes_on_after_a_restart(gates: Gates) -> None:
    """The time to live counts from the acceptance, whatever restarts there were."""
    gate = gates(limits={"queued_ttl_s": 60.0})
    crowd(gate)
    gate.clock.advance(40)
    again = gate.restarted(limits={"queued_ttl_s": 60.0})
    recovered(again)
    again.clock.advance(30)
    again.live("r2").end()

    assert again.backend.started == ["r2"]
    assert state_of(again, "r3") == (RunState.FAILED, "expired")


def test_an_agent_that_is_gone_after_the_restart(gates: Gates) -> None:
    """A message that waited for an agent that is not configured any more ends with an error that names it."""
    gate = gates(others=["other"])
    crowd(gate, runs=2, key="agent:other:main")

    again = gate.restarted()
    recovered(again)

    record = result_of(again.store.get_run("r2"))
    assert (record.state, record.stop_reason) == (RunState.FAILED, "interrupted")
    assert record.error == 'Agent "other" no longer exists in configuration'


def test_a_request_that_is_too_large(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message too large to be kept with its run is not run after a crash: it ends as interrupted."""
    monkeypatch.setattr(model.agents, "REQUEST_MAX_BYTES", 10)
    crowd(gate, runs=2)

    again = gate.restarted()
    recovered(again)

    assert again.backend.started == []
    assert state_of(again, "r2") == (RunState.FAILED, "interrupted")


def test_a_request_that_is_damaged(gate: Gate) -> None:
    """A stored request that can't be read keeps nobody from starting: its run ends as interrupted."""
    crowd(gate, runs=2)
    result_of(gate.store.update_run("r2", lambda run: replace(run, request_json=b"{")))

    again = gate.restarted()
    with Lines() as lines:
        recovered(again)

    assert state_of(again, "r2") == (RunState.FAILED, "interrupted")
    assert any(line.startswith("run r2: its request:") for line in lines.texts)


def test_more_runs_than_the_limits_allow(gates: Gates) -> None:
    """What was accepted is run although lanes and keys are full by now; new messages wait for room."""
    gate = gates()
    crowd(gate, runs=9)

    again = gate.restarted(limits={"lane_depth": 1, "idempotency_max": 2})
    client = again.client()
    recovered(again)
    refused = client.send("late", run="late").error
    for number in range(2, 10):
        again.live(f"r{number}").end()

    assert refused["retryable"]
    assert again.backend.started == [f"r{number}" for number in range(2, 10)]
    assert client.send("late", run="late").payload["status"] == "started"


def test_very_many_runs(gates: Gates, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many open runs are taken up in parts, between which the reactor turns, and ended a bounded number at once."""  # noqa: E501
    monkeypatch.setattr(recovery, "BREATH", 4)
    monkeypatch.setattr(recovery, "AT_ONCE", 3)
    gate = gates()
    for number in range(10):
        gate.client().send("one", key=f"s{number}", run=f"a{number}")
        gate.client().send("two", key=f"s{number}", run=f"b{number}")
    again = gate.restarted()

    recovering = Deferred.fromCoroutine(again.runs.recover())
    early = again.client().send("early", key="s0", run="early")
    before = (recovering.called, len(early.frames))
    for _ in range(10):
        again.turn()

    assert before == (False, 0)
    assert result_of(recovering) == 20
    assert sorted(again.backend.started) == [f"b{number}" for number in range(10)]
    assert early.payload["status"] == "started"
    assert {state_of(again, f"a{n}") for n in range(10)} == {(RunState.FAILED, "interrupted")}


# -- runs that had started


def test_a_run_is_run_again(gates: Gates) -> None:
    """Where the agent's table says so a run that was cut off is run again from its message; its log begins anew."""  # noqa: E501
    gate = gates(on_restart="rerun")
    crowd(gate, runs=2)
    gate.live("r1").sink.text("partial")
    gate.turn()

    again = gate.restarted(on_restart="rerun")
    recovered(again)
    again.live("r1").sink.text("whole")
    again.live("r1").end()

    assert again.backend.started == ["r1", "r2"]
    assert state_of(again, "r1") == (RunState.DONE, "stop")
    events = result_of(again.store.list_events("r1", after_seq=0, limit=10))
    assert {event.epoch for event in events} == {again.runs.epoch}
    assert [event.seq for event in events] == [1, 2, 3]
    assert json.loads(events[1].data) == {"delta": "whole"}
    assert again.messages()[-1] == ("assistant", "whole")


def test_a_run_is_run_again_once_only(gates: Gates) -> None:
    """A run that is cut off a second time ends as interrupted: no message can make a crash loop."""
    gate = gates(on_restart="rerun")
    crowd(gate, runs=2)
    second = gate.restarted(on_restart="rerun")
    recovered(second)
    third = second.restarted(on_restart="rerun")
    recovered(third)

    assert (gate.backend.started, second.backend.started) == (["r1"], ["r1"])
    assert third.backend.started == ["r2"]
    assert state_of(third, "r1") == (RunState.FAILED, "interrupted")


@pytest.mark.parametrize(("wait_s", "end"), [(0, "aborted"), (61, "failed")])
def test_a_rerun_that_ends_before_it_begins(gates: Gates, wait_s: float, end: str) -> None:
    """A run that is to be run again, and is aborted or too old before, is over for good: its end is stored at once."""  # noqa: E501
    how: dict[str, Any] = {"on_restart": "rerun", "limits": {"queued_ttl_s": 60.0}}
    gate = gates(**how)
    crowd(gate, runs=1)
    gate.live("r1").sink.text("partial")
    gate.turn()
    again = gate.restarted(**how)
    again.store.hanging.add("update_run")
    recovered(again)
    again.clock.advance(wait_s)
    if not wait_s:
        assert again.runs.abort("r1", "rpc")
    again.store.release()
    again.turn()
    third = again.restarted(**how)

    assert again.backend.started == []
    assert state_of(again, "r1")[0] == end
    assert len(again.runs.ends) == 0
    assert recovered(third) == 0
    log = third.client().ok("runs.read", {"runId": "r1"})
    assert [(e["seq"], e["stream"]) for e in log["events"]] == [(1, "lifecycle")]


def test_a_rerun_that_did_not_begin_counts_for_nothing(gates: Gates) -> None:
    """A crash before the second attempt began leaves the run its second attempt."""
    gate = gates(on_restart="rerun")
    crowd(gate, runs=1)
    second = gate.restarted(on_restart="rerun")
    second.store.hanging.add("update_run")
    recovered(second)
    second.store.hanging.clear()
    third = second.restarted(on_restart="rerun")
    recovered(third)

    assert second.backend.started == []
    assert third.backend.started == ["r1"]


def test_what_counts_is_the_table_at_the_restart(gates: Gates) -> None:
    """Whether a run is run again is decided by the configuration of the gateway that finds it."""
    gate = gates(on_restart="rerun")
    crowd(gate, runs=1)
    again = gate.restarted()
    recovered(again)

    assert again.backend.started == []
    assert state_of(again, "r1") == (RunState.FAILED, "interrupted")


def test_an_old_run_is_not_run_again(gates: Gates) -> None:
    """A run that was accepted longer ago than a message may wait is not run again; it ends as interrupted."""
    clock = FakeClock()
    gate = gates(on_restart="rerun", clock=clock)
    crowd(gate, runs=1)
    clock.jump(DAY_S)
    again = gate.restarted(on_restart="rerun")
    recovered(again)

    assert again.backend.started == []
    assert state_of(again, "r1") == (RunState.FAILED, "interrupted")


# -- the note that a run starts


def test_a_store_that_takes_no_note(gate: Gate) -> None:
    """A run whose start can't be noted waits, with one line in the log, and goes once the store works."""
    crowd(gate, runs=2)
    gate.store.failing["update_run"] = StoreError("disk full")
    with Lines() as lines:
        gate.live("r1").end()
        gate.clock.advance(NOTE_PAUSE_S)
    waiting = list(gate.backend.started)
    gate.client().send("message 3", run="r3")
    gate.store.failing.clear()
    gate.clock.advance(NOTE_PAUSE_S)

    assert lines.texts.count("run r2 waits for the store: disk full") == 1
    assert waiting == ["r1"]
    assert gate.backend.started == ["r1", "r2"]


def test_an_abort_while_the_store_takes_no_note(gate: Gate) -> None:
    """A run that waits for its note can be aborted, and then never goes."""
    client = gate.client()
    crowd(gate, runs=3)
    gate.store.hanging.add("update_run")
    gate.live("r1").end()
    assert gate.runs.abort("r2", "rpc")
    gate.store.release()
    gate.clock.advance(10)

    assert gate.backend.started == ["r1", "r3"]
    assert client.ends("r2") == (["aborted"], ["end"])


def test_a_note_that_takes_too_long(gates: Gates) -> None:
    """A run whose note the store took only after its time to live does not go."""
    gate = gates(limits={"queued_ttl_s": 60.0})
    crowd(gate, runs=2)
    gate.store.hanging.add("update_run")
    gate.live("r1").end()
    gate.clock.advance(61)
    gate.store.release()

    assert gate.backend.started == ["r1"]
    assert state_of(gate, "r2") == (RunState.FAILED, "expired")


@pytest.mark.parametrize("how", ["gone", "taken"])
def test_a_run_that_somebody_else_has(
    gate: Gate, how: str, expected_failures: list[type[BaseException]]
) -> None:
    """A run that another process has ended or taken is not run here, and ends here."""
    client = gate.client()
    crowd(gate, runs=2)
    if how == "taken":
        result_of(gate.store.update_run("r2", lambda run: replace(run, epoch="theirs")))
    else:
        gate.store.failing["update_run"] = VersionConflict("ended")
    gate.live("r1").end()

    assert gate.backend.started == ["r1"]
    assert client.ends("r2") == (["error"], ["error"])
    assert result_of(gate.store.get_run("r2")).error == NOT_OURS


def test_an_abort_during_the_recovery(gate: Gate) -> None:
    """A run that is aborted while its log is being read ends as aborted, once."""
    gate.client().send("hello")
    again = gate.restarted()
    client = again.client()
    again.store.hanging.add("event_span")
    recovering = Deferred.fromCoroutine(again.runs.recover())
    assert again.runs.abort("r1", "rpc")
    again.store.release()
    result_of(recovering)

    assert client.ends() == (["aborted"], ["end"])
    assert state_of(again, "r1") == (RunState.ABORTED, "rpc")


def test_a_log_that_can_not_be_read(gate: Gate) -> None:
    """Where a run's log can't be read the recovery fails, and goes on where it was when it is asked again."""
    gate.client().send("hello")
    again = gate.restarted()
    again.store.failing["event_span"] = StoreError("disk")
    with pytest.raises(StoreError):
        recovered(again)
    again.store.failing.clear()

    assert recovered(again) == 0
    assert state_of(again, "r1") == (RunState.FAILED, "interrupted")


def test_a_run_that_was_stored_although_the_store_said_no(
    gate: Gate, expected_failures: list[type[BaseException]]
) -> None:
    """A request that is repeated because the store failed after it had stored the run runs it, once."""
    expected_failures.append(StoreError)
    client = gate.client()
    accept_turn = gate.store.accept_turn

    def stored(*args: Any) -> Any:
        def refuse(_: Any) -> Any:
            raise StoreError("disk I/O error")

        return accept_turn(*args).addCallback(refuse)

    gate.store.accept_turn = stored
    refused = client.send("hello").error
    gate.store.accept_turn = accept_turn
    again = client.send("hello").payload
    gate.live().end()

    assert refused["retryable"]
    assert again["status"] == "started"
    assert gate.backend.started == ["r1"]
    assert gate.messages() == [("user", "hello")]
    assert client.send("hello").payload["status"] == "ok"


def test_another_session_under_the_key_of_an_interrupted_run(gate: Gate) -> None:
    """A request for another session leaves the run that it meets what it was: its end is told in its own session."""  # noqa: E501
    gate.client().send("hello")
    before = result_of(gate.store.get_run("r1"))
    again = gate.restarted()
    client = again.client()
    waiting = client.call("agent.wait", {"runId": "r1"})

    refused = client.send("other", key="kitchen").error
    record = result_of(gate.store.get_run("r1"))

    assert refused["details"] == {"reason": "chat-request-conflict"}
    assert record.state is RunState.FAILED
    assert record.session_key == before.session_key
    assert [e["sessionKey"] for e in client.events("chat")] == ["agent:main:main"]
    assert waiting.payload["status"] == "error"
    assert len(again.runs.lanes) == 0


def test_other_content_for_a_run_that_was_interrupted(gate: Gate) -> None:
    """Other content under the key of a run that nobody drives is refused, and that run ends."""
    gate.client().send("hello")
    client = gate.restarted().client()

    assert client.send("other").error["details"] == {"reason": "chat-request-conflict"}
    assert state_of(gate, "r1") == (RunState.FAILED, "interrupted")
    assert client.send("hello").error["details"] == {"reason": "interrupted"}
