"""Runs across connections to a gateway that keeps no logs of them."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.client.actions import Hello
from gateway.client.chat import Outcome
from gateway.client.errors import ConnectionLost, RunLost
from gateway.client.options import ClientOptions
from gateway.client.testing import FakeGateway
from gateway.client.watch import SILENCE_S, WAIT_ANSWER_S, Watch
from tests.client.bench import Bench, alive, blinked, losing_the_answer, refuse


def without_logs(**more):
    return Bench(FakeGateway(logs=False, **more))


@pytest.mark.parametrize("protocol", [3, 4])
def test_chat_events_carry_on_without_logs(protocol):
    """Where a gateway keeps no logs, the next chat event has the whole text."""
    bench = without_logs(protocol=protocol)
    bench.chat()
    bench.says("a ")

    blinked(bench, "b ")
    bench.says("c ")
    bench.does("finish")

    assert bench.told() == "a b c "
    assert bench.end().outcome is Outcome.FINAL


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("step", ["finish", "abort"])
def test_an_end_in_the_gap_is_found_without_logs(protocol, step):
    """A run that ended meanwhile is asked for, and its answer read from the history."""
    bench = without_logs(protocol=protocol)
    bench.chat()
    bench.says("a ")
    bench.gateway.cut()
    bench.says("b ")
    bench.does(step)

    bench.after(1)

    assert bench.told() == "a b "
    assert bench.end().outcome is (Outcome.FINAL if step == "finish" else Outcome.ABORTED)
    history = bench.gateway.calls("chat.history")[0]
    assert history["sessionKey"] == "main"
    assert ("maxChars" in history) is (protocol == 4)


def test_an_error_in_the_gap_is_found_without_logs():
    """A run that failed meanwhile ends with its error and the text that was told."""
    bench = without_logs()
    bench.chat()
    bench.says("a ")
    bench.gateway.cut()
    bench.does("fail", "boom")

    bench.after(1)

    assert bench.told() == "a "
    assert (bench.end().outcome, bench.end().error_message) == (Outcome.ERROR, "boom")


def test_a_message_is_sent_again_without_logs():
    """Without logs too, a repeated message gives the answer of the run that it started."""
    bench = losing_the_answer(without_logs())
    bench.chat()
    bench.says("a ")
    bench.does("finish")

    bench.after(1)

    assert len(bench.gateway.calls("chat.send")) == 2
    assert bench.told() == "a "
    assert bench.end().outcome is Outcome.FINAL


@pytest.mark.parametrize("away_s", [200, 300])
def test_a_message_is_not_sent_again_for_ever(away_s):
    """Where the gateway may have forgotten the key, the message is not repeated."""
    bench = losing_the_answer(without_logs())
    bench.chat()
    bench.reachable = lambda _: bench.now > away_s

    bench.after(away_s + 40)

    if away_s < 240:
        assert len(bench.gateway.calls("chat.send")) == 2
        assert bench.run_errors == {}
    else:
        assert len(bench.gateway.calls("chat.send")) == 1
        assert isinstance(bench.run_errors["run-1"], ConnectionLost)


def test_a_run_that_goes_on_is_waited_for():
    """While a run goes on, its end is asked for again and again."""
    bench = without_logs()
    bench.chat()
    blinked(bench)

    for _ in range(40):
        bench.after(29)
        bench.gateway.broadcast("tick", {})
        bench.says("x")
    bench.does("finish")

    assert len(bench.gateway.calls("agent.wait")) > 3
    assert bench.told() == "x" * 40


def test_a_run_without_a_sign_of_life_is_lost():
    """A run that says nothing and that nobody knows of is given up after a while."""
    bench = without_logs()
    bench.chat()
    bench.gateway.runs.clear()
    blinked(bench)

    alive(bench, SILENCE_S - WAIT_ANSWER_S)
    before = dict(bench.run_errors)
    alive(bench, 3 * WAIT_ANSWER_S)

    assert before == {}
    assert "does not tell what became of it" in str(bench.run_errors["run-1"])


@pytest.mark.parametrize("answered", [True, False])
def test_a_gateway_that_can_not_be_asked(answered):
    """Where waiting is refused, the history decides at once."""
    bench = without_logs()
    bench.gateway.handlers["agent.wait"] = refuse
    bench.chat()
    bench.gateway.cut()
    bench.says("a")
    if answered:
        bench.does("finish")

    bench.after(1)

    if answered:
        assert (bench.told(), bench.end().outcome) == ("a", Outcome.FINAL)
    else:
        assert isinstance(bench.run_errors["run-1"], RunLost)


def test_a_history_that_is_cut_does_not_shorten_the_answer():
    """A history shorter than what was told, or none, leaves the text as it is."""
    histories: list[Any] = [None, {"messages": []}]
    for history in histories:
        bench = without_logs()
        bench.gateway.handlers["chat.history"] = lambda c, f, history=history: c.answer(f, history)
        bench.chat()
        bench.says("abc")
        bench.gateway.cut()
        bench.does("finish")

        bench.after(1)

        assert (bench.told(), bench.end().outcome) == ("abc", Outcome.FINAL)


def test_sessions_are_subscribed_again_without_resume():
    """Where there is no resume, each session is subscribed to again."""
    bench = without_logs()
    for key in ("a", "b"):
        bench.call("sessions.messages.subscribe", {"key": key})

    blinked(bench)

    keys = [call["key"] for call in bench.gateway.calls("sessions.messages.subscribe")]
    assert keys == ["a", "b", "a", "b"]


def test_following_without_logs():
    """Without logs a run is followed by its chat events."""
    bench = without_logs()
    bench.chat(run_id="run-1")
    bench.apply(bench.link.drop("run-1", bench.now))
    bench.follow()

    bench.says("a")
    bench.does("finish")

    assert bench.told() == "a"


def test_a_watch_without_a_connection_asks_nothing():
    """Before there was a connection, following only takes note."""
    watch = Watch(ClientOptions())

    assert watch.follow("r", "main", None, 0.0) == []
    hello = Hello(4, "", "c", (), (), None, None, 30.0, 1000, {})
    steps: list[Any] = watch.opened(hello, 0.0)
    assert [step.method for step in steps] == ["agent.wait"]
