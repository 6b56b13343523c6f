"""Runs across connections: what is asked after each handshake, and what the reader is told."""

from __future__ import annotations

import pytest

from gateway.client.chat import Outcome, TextDelta, TextReplaced
from gateway.client.errors import RunLost
from gateway.client.watch import RESUMED_AT_ONCE
from tests.client.bench import Bench, blinked, losing_the_answer, refuse


def test_a_run_goes_on_where_it_was():
    """After a broken connection the client names its position and misses nothing."""
    bench = Bench()
    bench.chat()
    bench.says("a ", "b ")

    blinked(bench, "c ", "d ")
    bench.says("e ")
    bench.does("finish")

    after = {"epoch": "epoch-1", "seq": 2}
    asked = [{"runs": [{"runId": "run-1", "after": after}], "sessions": []}]
    assert bench.gateway.calls("connection.resume") == asked
    words = ("a ", "b ", "c ", "d ", "e ")
    assert bench.events()[:-1] == [TextDelta(word) for word in words]
    assert bench.end().outcome is Outcome.FINAL
    assert bench.told() == "a b c d e "


def test_a_run_that_ended_meanwhile_ends():
    """An end that fell into the gap is told, with the text before it and its error."""
    bench = Bench()
    bench.chat()
    bench.gateway.cut()
    bench.says("a")
    bench.does("fail", "boom")

    bench.after(1)

    assert bench.told() == "a"
    assert (bench.end().outcome, bench.end().error_message) == (Outcome.ERROR, "boom")


def test_a_message_whose_answer_was_lost_is_sent_again():
    """The same message goes out under the same key, runs once, and nothing it said is lost."""
    bench = losing_the_answer(Bench())
    bench.chat()
    bench.says("a ")

    bench.after(1)
    bench.says("b ")
    bench.does("finish")

    assert len(bench.gateway.calls("chat.send")) == 2
    assert len(bench.gateway.runs) == 1
    assert bench.told() == "a b "
    assert bench.end().outcome is Outcome.FINAL


@pytest.mark.parametrize(
    ("step", "arguments", "outcome"),
    [
        ("finish", (), Outcome.FINAL),
        ("fail", ("x",), Outcome.ERROR),
        ("abort", (), Outcome.ABORTED),
    ],
)
def test_a_message_that_was_answered_and_over_before_it_was_sent_again(step, arguments, outcome):
    """Where the run ended before the message was repeated, it is read from its log."""
    bench = losing_the_answer(Bench())
    bench.chat()
    bench.says("a ")
    bench.does(step, *arguments)

    bench.after(1)

    assert bench.told() == "a "
    assert bench.end().outcome is outcome


def test_a_repeated_key_gives_the_whole_answer():
    """A message under the key of a run that is over gives what that run said."""
    bench = Bench()
    bench.chat()
    bench.says("a")
    bench.does("finish")
    bench.runs.clear()

    bench.chat()

    assert bench.told() == "a"
    assert bench.end().outcome is Outcome.FINAL


def test_a_run_of_another_epoch_replaces_what_was_told():
    """After a crash that began the run again, the snapshot stands for everything before."""
    bench = Bench()
    bench.chat()
    bench.says("a ", "b ")
    bench.gateway.cut()
    bench.run().begin_again("epoch-2")
    bench.says("x ")

    bench.after(1)
    bench.says("y ")
    bench.does("finish")

    assert TextReplaced("x ") in bench.events()
    assert bench.told() == "x y "


def test_an_end_that_was_evicted_is_described():
    """Where even the end is no longer kept, its error is asked for."""
    bench = Bench()
    bench.chat()
    bench.gateway.cut()
    bench.says("a", "b")
    bench.does("fail", "boom")
    bench.run().evict(3)

    bench.after(1)

    assert bench.told() == "ab"
    assert (bench.end().outcome, bench.end().error_message) == (Outcome.ERROR, "boom")


@pytest.mark.parametrize("described", [False, True])
def test_an_end_that_nobody_describes(described):
    """An evicted end without a description is told all the same."""
    bench = Bench()
    bench.chat()
    bench.gateway.cut()
    bench.says("a")
    bench.does("finish")
    bench.run().evict(2)
    if described:
        bench.gateway.handlers["runs.describe"] = refuse
    else:
        del bench.gateway.handlers["runs.describe"]

    bench.after(1)

    assert bench.told() == "a"
    assert bench.end().outcome is Outcome.FINAL


def test_an_evicted_end_is_described_by_the_next_connection():
    """Where the connection breaks before an end is described, the next one asks again."""
    bench = Bench()
    bench.chat()
    bench.gateway.cut()
    bench.says("a")
    bench.does("abort")
    bench.run().evict(2)
    bench.gateway.cut_next(3)

    bench.after(5)

    assert len(bench.gateway.calls("connection.resume")) == 2
    assert bench.told() == "a"
    assert bench.end().outcome is Outcome.ABORTED


def test_a_run_that_the_gateway_forgot():
    """A run that the gateway does not know any more is lost, and that is said."""
    bench = Bench()
    bench.chat()
    bench.gateway.runs.clear()

    blinked(bench)

    error = bench.run_errors["run-1"]
    assert isinstance(error, RunLost)
    assert str(error) == "run run-1: the gateway does not know it any more"
    assert error.why == "the gateway does not know it any more"


def test_a_log_with_a_hole_is_no_answer():
    """A hole that reading the log again does not fill ends the reading with an error."""
    bench = Bench()
    bench.chat()
    bench.gateway.cut()
    bench.says("a", "b", "c")
    del bench.run().log[1]

    bench.after(1)

    assert bench.told() == "a"
    assert "hole after 1" in str(bench.run_errors["run-1"])
    assert len(bench.gateway.calls("runs.follow")) == 1


def test_a_live_event_that_is_missing_is_read_from_the_log():
    """When a run.event never came, the log is read from the position on."""
    bench = Bench()
    bench.chat()
    blinked(bench)
    bench.connection.followed["run-1"] += 1
    bench.says("lost ")

    bench.says("seen ")

    assert bench.gateway.calls("runs.follow") == [
        {"runId": "run-1", "after": {"epoch": "epoch-1", "seq": 0}}
    ]
    assert bench.told() == "lost seen "


def test_a_live_event_may_overtake_the_answer():
    """What happens between the reading of the log and its answer comes ahead, and is not lost."""
    bench = Bench()
    bench.chat()

    def resume(connection, frame):
        answer = bench.run().read(frame["params"]["runs"][0]["after"], 500)
        connection.followed["run-1"] = bench.run().last_seq
        bench.run().say("live ")
        connection.answer(frame, {"runs": [answer]})

    bench.gateway.handlers["connection.resume"] = resume
    blinked(bench, "missed ")
    bench.says("after")

    assert bench.events() == [TextDelta(text) for text in ("missed ", "live ", "after")]
    assert bench.gateway.calls("runs.follow") == []


def test_many_runs_are_resumed_in_groups():
    """One request resumes a bounded number of runs; sessions go with the first."""
    bench = Bench()
    bench.call("sessions.messages.subscribe", {"key": "s"})
    count = RESUMED_AT_ONCE + 1
    for number in range(count):
        bench.chat(run_id=f"r{number}")

    bench.gateway.cut()
    bench.settle()
    for number in range(count):
        bench.says("x", run_id=f"r{number}")
    bench.after(1)

    sizes = [(len(c["runs"]), c["sessions"]) for c in bench.gateway.calls("connection.resume")]
    assert sizes == [(RESUMED_AT_ONCE, ["s"]), (1, [])]
    assert {bench.told(f"r{number}") for number in range(count)} == {"x"}


def test_sessions_alone_are_resumed():
    """Without runs, the subscriptions are restored."""
    bench = Bench()
    bench.call("sessions.messages.subscribe", {"key": "s"})

    blinked(bench)

    assert bench.gateway.calls("connection.resume") == [{"runs": [], "sessions": ["s"]}]


def test_all_sessions_are_followed_again():
    """A subscription to all sessions is made again on the next connection."""
    bench = Bench()
    bench.gateway.handlers["sessions.subscribe"] = lambda c, f: c.answer(f, {"subscribed": True})
    bench.call("sessions.subscribe", {"limit": 3})

    blinked(bench)

    assert bench.gateway.calls("sessions.subscribe") == [{"limit": 3}] * 2
    assert bench.gateway.calls("connection.resume") == []


def test_a_short_answer_to_a_resume():
    """A run that the answer leaves out is read by other means."""
    bench = Bench()
    bench.chat()
    bench.gateway.handlers["connection.resume"] = lambda c, f: c.answer(f, {"runs": []})

    blinked(bench, "a")
    bench.says("b")
    bench.does("finish")

    assert bench.told() == "ab"
    assert bench.gateway.calls("agent.wait") != []


@pytest.mark.parametrize("answer", [None, {"runs": None}])
def test_a_resume_that_is_refused(answer):
    """Where a resume is refused or makes no sense, chat events go on."""
    bench = Bench()
    bench.chat()
    bench.gateway.handlers["connection.resume"] = (
        refuse if answer is None else lambda c, f: c.answer(f, answer)
    )

    blinked(bench, "a")
    bench.says("b")
    bench.does("finish")

    assert bench.told() == "ab"
    assert bench.end().outcome is Outcome.FINAL


def test_a_run_that_is_dropped_while_it_is_resumed():
    """An answer for a run that nobody reads any more changes nothing."""
    answers = []
    bench = Bench()
    bench.chat()
    bench.chat(run_id="run-2")
    bench.gateway.handlers["connection.resume"] = lambda c, f: answers.append((c, f))
    blinked(bench)
    bench.apply(bench.link.drop("run-1", bench.now))

    for connection, frame in answers:
        connection.refuse(frame, "UNAVAILABLE", "no")
    bench.settle()
    bench.says("x", run_id="run-1")
    bench.says("y", run_id="run-2")

    assert bench.events("run-1") == []
    assert bench.told("run-2") == "y"


def test_an_answer_for_a_run_that_was_dropped():
    """An answer that comes too late is for nobody."""
    answers = []
    bench = Bench()
    bench.chat()
    resume = bench.gateway.handlers["connection.resume"]
    bench.gateway.handlers["connection.resume"] = lambda c, f: answers.append((c, f))
    blinked(bench, "a")
    bench.apply(bench.link.drop("run-1", bench.now))

    resume(*answers[0])
    bench.settle()

    assert bench.events() == []
