"""Runs across connections: resumes that fail, runs that are followed, messages that start none."""

from __future__ import annotations

import pytest

from gateway.client.chat import Outcome
from gateway.client.errors import ConnectionLost, RequestFailed, RequestNotSent
from gateway.client.options import ClientOptions
from gateway.model import Position
from tests.client.bench import Bench, alive, blinked


def test_resuming_that_breaks_the_connection_is_done_with_care():
    """After three connections that ended while they resumed, runs are asked for one by one."""
    bench = Bench()
    bench.call("sessions.messages.subscribe", {"key": "s"})
    bench.chat()
    bench.gateway.handlers["connection.resume"] = lambda c, f: c.cut()
    bench.gateway.cut()
    bench.says("a")

    bench.after(20)
    bench.says("b")
    bench.does("finish")

    assert len(bench.gateway.calls("connection.resume")) == 3
    (careful,) = bench.gateway.calls("runs.follow")
    assert careful["limit"] == 25
    assert len(bench.gateway.calls("sessions.messages.subscribe")) == 2
    assert bench.told() == "ab"
    assert bench.end().outcome is Outcome.FINAL


def test_a_log_that_breaks_the_connection_is_given_up():
    """Where a log can not be read at all, its run is read without, after some attempts."""
    bench = Bench()
    bench.chat()
    bench.chat(run_id="run-2")
    bench.gateway.handlers["connection.resume"] = lambda c, f: c.cut()
    follow = bench.gateway.handlers["runs.follow"]

    def picky(connection, frame):
        connection.cut() if frame["params"]["runId"] == "run-2" else follow(connection, frame)

    bench.gateway.handlers["runs.follow"] = picky
    bench.gateway.cut()
    bench.says("a")
    bench.says("b", run_id="run-2")

    alive(bench, 200)
    for run_id in ("run-1", "run-2"):
        bench.says("!", run_id=run_id)
        bench.does("finish", run_id=run_id)

    assert len(bench.gateway.calls("connection.resume")) == 3
    assert (bench.told("run-1"), bench.told("run-2")) == ("a!", "b!")
    assert bench.end("run-2").outcome is Outcome.FINAL


def test_a_run_that_is_dropped_does_not_count_as_failed():
    """A connection that ends while it takes up only what nobody reads any more broke nothing."""
    bench = Bench()
    bench.gateway.handlers["connection.resume"] = lambda c, f: None
    for number in range(4):
        bench.chat(run_id=f"r{number}")
        blinked(bench)
        bench.after(8)
        bench.apply(bench.link.drop(f"r{number}", bench.now))

    assert len(bench.gateway.calls("connection.resume")) == 4
    assert bench.gateway.calls("runs.follow") == []


def test_a_run_that_is_read_no_more_is_unfollowed():
    """A run that is read from its log is unfollowed when it is dropped; then its name is free again."""
    bench = Bench()
    bench.chat()
    bench.apply(bench.link.drop("run-1", bench.now))
    silent = bench.gateway.calls("runs.unfollow")
    bench.follow()

    bench.apply(bench.link.drop("run-1", bench.now))
    bench.apply(bench.link.drop("run-1", bench.now))
    bench.says("a")

    assert silent == []
    assert bench.gateway.calls("runs.unfollow") == [{"runId": "run-1"}]
    assert bench.events() == []


def test_a_run_is_followed_from_a_position():
    """Following a run begins after the position given, and knows how far it is."""
    bench = Bench()
    bench.chat()
    bench.says("a ", "b ")
    position = bench.link.position("run-1")
    bench.apply(bench.link.drop("run-1", bench.now))
    bench.says("c ")
    bench.runs.clear()

    bench.follow(after=position)
    here = bench.link.position("run-1")
    bench.does("finish")

    assert position == Position(epoch="epoch-1", seq=2)
    assert here == Position(epoch="epoch-1", seq=3)
    assert bench.link.position("run-1") is None
    assert bench.told() == "c "


def test_a_follower_starts_as_soon_as_there_is_a_connection():
    """A run that is followed while the connection is away is asked for when it is back."""
    bench = Bench()
    bench.chat(run_id="other")
    bench.gateway.cut()
    bench.settle()
    bench.gateway.runs["run-1"] = bench.gateway.runs["other"]
    bench.follow()

    bench.after(1)

    runs = bench.gateway.calls("connection.resume")[0]["runs"]
    assert {"runId": "run-1"} in runs


def test_the_epoch_is_asked_for_at_the_start():
    """A client that comes back learns the epoch with one small request; any other needs none."""
    coming_back, once = Bench(), Bench(options=ClientOptions())

    coming_back.chat()
    once.chat()

    assert coming_back.gateway.calls("runs.read") == [{"runId": "run-1", "limit": 1}]
    assert once.gateway.calls("runs.read") == []


@pytest.mark.parametrize("payload", [None, {"status": "unknown"}])
def test_an_epoch_that_is_not_told(payload):
    """Without an epoch the log is read from its start, and nothing is told twice."""
    bench = Bench()
    bench.gateway.handlers["runs.read"] = lambda c, f: c.answer(f, payload)
    bench.chat()
    bench.says("a")

    blinked(bench, "b")

    assert bench.gateway.calls("connection.resume")[0]["runs"] == [{"runId": "run-1"}]
    assert bench.told() == "ab"


def test_a_command_starts_no_run():
    """A stop command is over with its answer."""
    bench = Bench()
    bench.gateway.handlers["chat.send"] = lambda c, f: c.answer(f, {"ok": True, "runIds": []})

    bench.chat("/stop")

    assert bench.end().outcome is Outcome.FINAL


@pytest.mark.parametrize("payload", [None, [], "x"])
def test_an_answer_of_no_shape_is_an_end(payload):
    """An answer that names no run is the end of the conversation."""
    bench = Bench()
    bench.gateway.handlers["chat.send"] = lambda c, f: c.answer(f, payload)

    bench.chat()

    assert bench.end().outcome is Outcome.FINAL


def test_a_refused_message_is_an_error():
    """A message that the gateway refuses starts nothing and says why, also with a payload."""
    bench = Bench(options=ClientOptions())
    bench.chat()
    bench.does("fail", "boom")
    bench.chat()

    error = bench.run_errors["run-1"]
    assert isinstance(error, RequestFailed)
    assert error.message == "boom"


def test_one_key_is_read_once():
    """A run that is being read can not be read twice, and the number of runs is bounded."""
    bench = Bench(options=ClientOptions(max_requests=2))
    bench.chat()

    with pytest.raises(RequestNotSent):
        bench.chat()
    bench.chat(run_id="run-2")
    with pytest.raises(RequestNotSent):
        bench.chat(run_id="run-3")


def test_events_of_no_concern_are_skipped():
    """Events of other runs, of other names, and without a payload tell nothing."""
    bench = Bench()
    bench.chat()

    for name, payload in (("tick", {}), ("chat", None), ("chat", {"runId": "x"}), ("run.event", 1)):
        bench.gateway.broadcast(name, payload)
    bench.settle()

    assert bench.events() == []


def test_everything_ends_with_the_last_connection():
    """Where no connection follows, every run is told why."""
    bench = Bench(options=ClientOptions())
    bench.chat()
    bench.chat(run_id="run-2")

    bench.gateway.cut()
    bench.settle()

    assert set(bench.run_errors) == {"run-1", "run-2"}
    assert all(isinstance(error, ConnectionLost) for error in bench.run_errors.values())
