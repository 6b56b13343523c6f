"""Messages that come while a run of their session goes on: collected, or in its place."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from gateway.app.noting import NOTE_PAUSE_S
from gateway.app.stopping import stop_runs
from gateway.core.batch import SEPARATOR
from gateway.core.run import RunOutput
from gateway.errors import StoreError
from gateway.model import RunState
from gateway.testing import result_of
from tests.app.harness import Client, Gate, Live
from tests.app.test_recovery import crowd, recovered, state_of

Gates = Callable[..., Gate]


def ends_of(outputs: list[RunOutput]) -> dict[str, int]:
    """Return how many terminal events each run had."""
    return Counter(output.run.run_id for output in outputs if output.outcome is not None)


def end_data(client: Client, run: str) -> dict[str, Any]:
    """Return the data of the lifecycle event that ended a run."""
    found = [
        e["data"]
        for e in client.events("agent")
        if e["runId"] == run and e["data"].get("phase") in ("end", "error")
    ]
    assert len(found) == 1
    data: dict[str, Any] = found[0]
    return data


def chat_end(client: Client, run: str) -> dict[str, Any]:
    """Return the terminal chat event of a run."""
    found = [e for e in client.events("chat") if e["runId"] == run and e["state"] != "delta"]
    assert len(found) == 1
    event: dict[str, Any] = found[0]
    return event


# -- collect


def collecting(gate: Gate, *runs: str) -> Client:
    """Let r1 go and messages of mode collect wait behind it."""
    client = gate.client()
    client.send("one", run="r1")
    for run in runs:
        client.send(f"text of {run}", run=run, queueMode="collect")
    return client


def test_messages_that_are_collected(gate: Gate) -> None:
    """Messages of mode collect that wait are answered in one turn: the first one's, with the texts of all."""
    client = collecting(gate, "r2", "r3", "r4")
    before = list(gate.backend.started)

    gate.live("r1").end()

    assert before == ["r1"]
    assert gate.backend.started == ["r1", "r2"]
    texts = [f"text of {run}" for run in ("r2", "r3", "r4")]
    assert gate.live("r2").request.text == SEPARATOR.join(texts)
    assert [client.ends(run) for run in ("r3", "r4")] == [(["final"], ["end"])] * 2
    assert client.ends("r2") == ([], [])
    assert end_data(client, "r3")["collectedInto"] == "r2"
    final = chat_end(client, "r4")
    assert ("message" in final, final["stopReason"]) == (False, "collected")
    assert state_of(gate, "r3") == (RunState.DONE, "collected")
    gate.live("r2").sink.text("answer")
    gate.live("r2").end()
    assert gate.messages() == [
        ("user", "one"),
        *[("user", text) for text in texts],
        ("assistant", "answer"),
    ]
    assert len(gate.runs) == len(gate.runs.lanes) == 0


def test_attachments_of_collected_messages(gate: Gate) -> None:
    """The attachments of messages that are answered together are joined in their order."""
    client = gate.client()
    client.send("one", run="r1")
    for run, content in (("r2", "YQ=="), ("r3", "Yg==")):
        client.send("", run=run, queueMode="collect", attachments=[{"content": content}])

    gate.live("r1").end()

    request = gate.live("r2").request
    assert ([file.data for file in request.attachments], request.text) == ([b"a", b"b"], "")


def test_the_followers_see_each_collected_message(gate: Gate) -> None:
    """Who follows the session is told of each message once, in order, when the turn of all begins."""
    client = gate.client()
    client.ok("sessions.messages.subscribe", {"key": "main"})
    collecting(gate, "r2", "r3")
    gate.live("r1").end()

    told = [e["message"]["__openclaw"]["runId"] for e in client.events("session.message")]
    assert told == ["r1", "r2", "r3"]


def test_the_history_of_a_turn_that_answers_several(gate: Gate) -> None:
    """A backend finds none of the messages that it is asked now in the history before them."""
    collecting(gate, "r2", "r3")
    gate.live("r1").end()

    history = result_of(gate.live("r2").sink.history(10))

    assert [message.run_id for message in history] == ["r1"]


@pytest.mark.parametrize(
    "between",
    [
        {"queueMode": "followup"},
        {"queueMode": "collect", "thinking": "high"},
        {"queueMode": "collect", "originatingTo": "somebody else"},
        {"queueMode": "collect", "systemInputProvenance": {"kind": "inter_session"}},
    ],
)
def test_what_is_not_put_together(gate: Gate, between: dict[str, Any]) -> None:
    """A message asked under other conditions, or for another address, is a turn of its own, in its place."""
    client = collecting(gate, "r2")
    client.send("other", run="r3", **between)
    client.send("last", run="r4", queueMode="collect")

    for run in ("r1", "r2", "r3", "r4"):
        gate.live(run).end()

    assert gate.backend.started == ["r1", "r2", "r3", "r4"]
    assert gate.live("r2").request.text == "text of r2"


def test_another_persons_messages_are_not_put_together(gate: Gate) -> None:
    """Messages of two devices are never answered in one turn."""
    collecting(gate, "r2")
    gate.client(device_id="d2").send("mine", run="r3", queueMode="collect")

    gate.live("r1").end()

    assert gate.live("r2").request.text == "text of r2"


def test_too_much_for_one_turn(gate: Gate) -> None:
    """As many messages are put together as one request may hold; the others are the next turn."""
    client = gate.client()
    client.send("one", run="r1")
    files = [{"content": "YQ=="}] * 20
    for run in ("r2", "r3", "r4"):
        client.send(run, run=run, queueMode="collect", attachments=files)

    gate.live("r1").end()
    gate.live("r2").end()

    assert gate.backend.started == ["r1", "r2", "r3"]


def test_an_abort_before_the_turn(gate: Gate) -> None:
    """A message that is aborted while it waits is answered by nobody."""
    client = collecting(gate, "r2", "r3", "r4")
    client.ok("chat.abort", {"sessionKey": "main", "runId": "r3"})

    gate.live("r1").end()

    assert gate.live("r2").request.text == f"text of r2{SEPARATOR}text of r4"
    assert client.ends("r3") == (["aborted"], ["end"])


def test_an_abort_while_the_turn_is_noted(gate: Gate) -> None:
    """A message that is aborted while the store notes the turn is not part of it."""
    client = collecting(gate, "r2", "r3", "r4")
    gate.store.hanging.add("start_run")
    gate.live("r1").end()
    client.ok("chat.abort", {"sessionKey": "main", "runId": "r3"})
    (go,) = gate.store.held
    go()

    assert gate.live("r2").request.text == f"text of r2{SEPARATOR}text of r4"
    assert (client.ends("r3"), client.ends("r4")) == ((["aborted"], ["end"]), (["final"], ["end"]))


def test_an_abort_that_is_being_stored(gate: Gate) -> None:
    """A message whose abort is being stored is left out, and those behind it are answered with the turn."""
    client = collecting(gate, "r2", "r3", "r4")
    gate.store.hanging.add("finish_turn")
    client.ok("chat.abort", {"sessionKey": "main", "runId": "r3"})
    gate.live("r1").end()
    gate.store.held.pop()()

    assert gate.live("r2").request.text == f"text of r2{SEPARATOR}text of r4"
    gate.store.hanging.clear()
    while gate.store.held:
        gate.store.held.pop()()


def test_an_abort_of_the_turn(gate: Gate) -> None:
    """The end of a turn that answers several is its own; the others ended when it began."""
    client = collecting(gate, "r2", "r3")
    gate.live("r1").end()

    answer = client.ok("chat.abort", {"sessionKey": "main"})

    assert answer["runIds"] == ["r2"]
    assert [client.ends(run)[0] for run in ("r2", "r3")] == [["aborted"], ["final"]]


def test_a_listener_that_aborts_the_session_at_a_collected_end(gate: Gate) -> None:
    """A turn that is ended by who is told of the messages it took is not given to the backend."""
    collecting(gate, "r2", "r3")

    def abort(output: RunOutput) -> None:
        if output.run.run_id == "r3" and output.outcome is not None:
            gate.runs.abort("r2", "test")

    gate.clock.advance(1)
    gate.runs.add_listener(abort)
    gate.live("r1").end()

    assert gate.backend.started == ["r1"]
    assert state_of(gate, "r2") == (RunState.ABORTED, "test")


def test_a_repeat_of_a_collected_message(gate: Gate) -> None:
    """A repeat of a message that another run has answered is answered as done, and waits for nothing."""
    client = collecting(gate, "r2", "r3")
    gate.live("r1").end()

    repeat = client.send("text of r3", run="r3", queueMode="collect")
    waited = client.ok("agent.wait", {"runId": "r3"})

    assert repeat.payload == {"runId": "r3", "status": "ok"}
    assert (waited["status"], waited["stopReason"]) == ("ok", "collected")
    assert gate.backend.started == ["r1", "r2"]


def test_a_store_that_does_not_note_the_turn(gate: Gate) -> None:
    """While the store fails the messages wait; what came meanwhile is answered with them."""
    client = collecting(gate, "r2", "r3")
    gate.store.failing["start_run"] = StoreError("disk full")
    gate.live("r1").end()
    client.send("late", run="r4", queueMode="collect")
    waiting = [client.ends(run) for run in ("r2", "r3", "r4")]

    del gate.store.failing["start_run"]
    gate.clock.advance(NOTE_PAUSE_S)

    assert waiting == [([], [])] * 3
    texts = ("text of r2", "text of r3", "late")
    assert gate.live("r2").request.text == SEPARATOR.join(texts)


def test_a_store_that_does_not_take_the_end_of_a_collected_message(
    gate: Gate, expected_failures: list[type[BaseException]]
) -> None:
    """Who sent a message that was collected sees its one end whatever the store does."""
    expected_failures.append(StoreError)
    client = collecting(gate, "r2", "r3")
    gate.live("r1").end()
    client.send("four", run="r4", queueMode="collect")
    client.send("five", run="r5", queueMode="collect")
    gate.live("r2").end()
    gate.store.failing["finish_turn"] = StoreError("disk full")
    gate.live("r4").end()
    del gate.store.failing["finish_turn"]
    gate.clock.advance(10)

    assert {run: client.ends(run) for run in ("r2", "r3", "r4", "r5")} == {
        run: (["final"], ["end"]) for run in ("r2", "r3", "r4", "r5")
    }
    assert state_of(gate, "r5") == (RunState.DONE, "collected")


def test_what_is_collected_after_a_restart(gate: Gate) -> None:
    """Messages that wait with mode collect are put together by the next process as well."""
    collecting(gate, "r2", "r3")

    again = gate.restarted()
    client = again.client()
    recovered(again)

    assert again.backend.started == ["r2"]
    assert again.live("r2").request.text == f"text of r2{SEPARATOR}text of r3"
    assert client.ends("r3") == (["final"], ["end"])


def test_a_crash_between_the_turn_and_the_ends(gates: Gates) -> None:
    """A turn that is begun anew after a crash asks each message once, whatever ends were stored."""
    gate = gates(on_restart="rerun")
    collecting(gate, "r2", "r3")
    gate.store.hanging.add("finish_turn")
    gate.live("r1").sink.text("answer")
    held = gate.store.held
    gate.live("r1").end()
    held.pop()()
    request = gate.live("r2").request
    gate.store.hanging.clear()
    gate.store.held.clear()

    again = gate.restarted(on_restart="rerun")
    recovered(again)

    assert request.text == f"text of r2{SEPARATOR}text of r3"
    assert again.backend.started == ["r2"]
    assert again.live("r2").request.text == request.text
    history = result_of(again.live("r2").sink.history(10))
    assert [message.run_id for message in history] == ["r1", "r1"]
    again.live("r2").end()
    assert state_of(again, "r3") == (RunState.DONE, "collected")


def test_a_stop_leaves_what_is_to_be_collected(gate: Gate) -> None:
    """A stop of the gateway leaves messages that wait, whatever their mode, to the next start."""
    collecting(gate, "r2", "r3")
    result_of(Deferred.fromCoroutine(stop_runs(gate.runs, 1)))

    assert [state_of(gate, run)[0] for run in ("r1", "r2", "r3")] == [
        RunState.ABORTED,
        RunState.ACCEPTED,
        RunState.ACCEPTED,
    ]


# -- interrupt


def test_a_message_that_interrupts(gate: Gate) -> None:
    """A message of mode interrupt aborts the run that goes and is the next; what waits stays."""
    client = gate.client()
    crowd(gate)
    answer = client.send("now", run="now", queueMode="interrupt").payload

    assert answer["status"] == "started"
    assert gate.live("r1").cancelled
    assert (client.ends("r1"), end_data(client, "r1")["stopReason"]) == (
        (["aborted"], ["end"]),
        "interrupt",
    )
    for run in ("now", "r2", "r3"):
        gate.live(run).end()
    assert gate.backend.started == ["r1", "now", "r2", "r3"]


def test_an_interruption_of_nothing(gate: Gate) -> None:
    """Where no run goes a message of mode interrupt is an ordinary one."""
    gate.client().send("now", queueMode="interrupt")

    assert gate.backend.started == ["r1"]


def test_a_repeat_of_an_interruption(gate: Gate) -> None:
    """A repeat of a message that has interrupted aborts nothing more."""
    client = gate.client()
    client.send("one", run="r1")
    gate.store.hanging.add("finish_turn")
    client.send("two", run="r2", queueMode="interrupt")
    client.send("three", run="r3", queueMode="interrupt")
    assert client.send("two", run="r2", queueMode="interrupt").payload["status"] == "in_flight"
    gate.store.hanging.clear()
    gate.store.held.pop()()

    assert gate.backend.started == ["r1", "r3"]
    assert client.send("two", run="r2", queueMode="interrupt").payload["status"] == "in_flight"
    assert not gate.live("r3").cancelled


def test_an_interruption_that_the_store_refuses(gate: Gate) -> None:
    """A message that was not stored interrupts nothing."""
    client = gate.client()
    client.send("one", run="r1")
    gate.store.failing["accept_turn"] = StoreError("disk full")

    client.send("two", run="r2", queueMode="interrupt").error  # noqa: B018

    assert not gate.live("r1").cancelled
    assert gate.runs.lanes.runs("agent:main:main") == ("r1",)


def test_an_interruption_that_waits_for_the_store(gate: Gate) -> None:
    """A message that is the next by itself interrupts nothing, also while it waits for the store."""
    client = gate.client()
    client.send("one", run="r1")
    gate.store.hanging.add("accept_turn")
    client.send("two", run="r2", queueMode="interrupt")
    gate.live("r1").end()
    gate.store.failing["start_run"] = StoreError("disk full")
    gate.store.held.pop()()
    waiting = client.ends("r2")
    del gate.store.failing["start_run"]
    gate.clock.advance(NOTE_PAUSE_S)

    assert waiting == ([], [])
    assert gate.backend.started == ["r1", "r2"]


def test_an_interruption_of_a_full_lane(gates: Gates) -> None:
    """Who interrupts finds room in a full lane, once: the run that goes makes place."""
    gate = gates(limits={"lane_depth": 1})
    client = gate.client()
    crowd(gate, runs=2)
    gate.store.hanging.add("finish_turn")
    client.send("now", run="i1", queueMode="interrupt")

    refused = client.send("now", run="i2", queueMode="interrupt").error
    gate.store.hanging.clear()
    gate.store.held.pop()()

    assert refused["details"]["reason"] == "session-busy"
    assert gate.backend.started == ["r1", "i1"]


def test_an_interruption_while_the_gateway_stops(gate: Gate) -> None:
    """A message that is stored while the gateway stops aborts nothing; it is left to the next start."""
    client = gate.client()
    client.send("one", run="r1")
    gate.store.hanging.add("accept_turn")
    client.send("two", run="r2", queueMode="interrupt")
    gate.runs.refuse()
    gate.store.held.pop()()

    assert not gate.live("r1").cancelled
    assert state_of(gate, "r2") == (RunState.ACCEPTED, None)


def test_the_stop_command_ends_all_modes(gate: Gate) -> None:
    """A stop command ends what goes and everything that waits, whatever its mode."""
    client = collecting(gate, "r2", "r3")
    client.send("four", run="r4", queueMode="steer")

    answer = client.send("stop", run="s").payload

    assert sorted(answer["runIds"]) == ["r1", "r2", "r3", "r4"]
    assert gate.backend.started == ["r1"]


# -- any order


MODES = ("followup", "collect", "interrupt", "steer")
STEPS = st.one_of(
    st.tuples(st.just("send"), st.sampled_from(MODES), st.sampled_from(("a", "b"))),
    st.tuples(st.sampled_from(("end", "abort", "stop", "repeat")), st.integers(0, 9), st.just("")),
)


@settings(max_examples=60)
@given(steps=st.lists(STEPS, max_size=25))
def test_every_accepted_message_has_one_end_and_one_answer(steps: list[Any]) -> None:
    """In any order of sends, ends and aborts each run ends once, and its text is asked once at most."""
    gate = Gate(limits={"lane_depth": 4})
    outputs, client = gate.record(), gate.client()
    accepted: list[tuple[str, str]] = []
    asked: list[str] = []

    def keep(live: Live) -> Any:
        asked.extend(live.request.text.split(SEPARATOR))
        return live.done

    gate.backend.script = keep
    for number, (step, what, key) in enumerate(steps):
        live = [each for each in gate.backend.live.values() if not each.done.called]
        if step == "send":
            if client.send(f"t{number}", key=key, run=f"r{number}", queueMode=what).frame["ok"]:
                accepted.append((f"r{number}", key))
        elif step == "end" and live:
            live[what % len(live)].end()
        elif step == "stop":
            client.send("stop", key="ab"[what % 2], run=f"s{number}")
        elif accepted:
            run, key = accepted[what % len(accepted)]
            if step == "abort":
                client.ok("chat.abort", {"sessionKey": key, "runId": run})
            else:
                client.send(f"t{run[1:]}", key=key, run=run)
    for _ in range(60):
        gate.clock.advance(1)
        for each in list(gate.backend.live.values()):
            if not each.done.called:
                each.end()

    assert ends_of(outputs) == dict.fromkeys([run for run, _ in accepted], 1)
    assert len(asked) == len(set(asked))
    done = {o.run.run_id for o in outputs if o.outcome and o.outcome.state is RunState.DONE}
    assert done <= {f"r{text[1:]}" for text in asked}
    assert len(gate.runs) == len(gate.runs.lanes) == 0
    gate.close()


def test_the_stored_request_of_a_turn(gates: Gates) -> None:
    """What is kept to be run again holds the texts of all messages that are answered together."""
    gate = gates(on_restart="rerun")
    collecting(gate, "r2", "r3")
    gate.live("r1").end()

    record = result_of(gate.store.get_run("r2"))
    kept = json.loads(record.request_json)

    assert kept["text"] == f"text of r2{SEPARATOR}text of r3"
    assert kept["collected"] == ["r3"]
