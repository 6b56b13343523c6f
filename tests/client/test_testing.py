"""The fake gateway as tests of clients use it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.client.testing import FakeGateway


class Peer:
    def __init__(self):
        self.got = []

    def send(self, text):
        self.got.append(json.loads(text))

    def close(self, code, reason):
        self.got.append((code, reason))

    def cut(self):
        self.got.append("cut")


class Caller:
    """A connection that has shaken hands."""

    def __init__(self, gateway=None, **connect):
        self.gateway = gateway or FakeGateway()
        self.peer = Peer()
        self.connection = self.gateway.accept(self.peer)
        self.ids = 0
        self.call("connect", **connect)

    def call(self, method, **params):
        self.ids += 1
        frame = {"type": "req", "id": str(self.ids), "method": method, "params": params}
        self.gateway.received(self.connection, json.dumps(frame).encode())
        return self.answer(self.ids)

    def answer(self, number):
        found = [f for f in self.peer.got if isinstance(f, dict) and f.get("id") == str(number)]
        return found[-1] if found else None

    def send(self, key="r"):
        return self.call("chat.send", sessionKey="main", message="hi", idempotencyKey=key)

    def events(self, name):
        return [f for f in self.peer.got if isinstance(f, dict) and f.get("event") == name]


def test_a_handshake():
    """The challenge comes first, then the hello with the methods that are served."""
    caller = Caller()

    assert caller.peer.got[0]["event"] == "connect.challenge"
    assert "seq" not in caller.peer.got[0]
    hello = caller.answer(1)["payload"]
    assert hello["protocol"] == 4
    assert "connection.resume" in hello["features"]["methods"]
    assert "connect" not in hello["features"]["methods"]


def test_a_gateway_can_be_silent():
    """Without a challenge nothing is said."""
    gateway = FakeGateway()
    gateway.challenge = None
    peer = Peer()

    gateway.accept(peer)

    assert peer.got == []


@pytest.mark.parametrize(("auth", "which"), [({}, "MISSING"), ({"token": "x"}, "MISMATCH")])
def test_a_wrong_token(auth, which):
    """A wrong token is refused as by a gateway, and the connection closed."""
    caller = Caller(FakeGateway(token="t"), auth=auth)

    assert caller.answer(1)["error"]["details"] == {"code": f"AUTH_TOKEN_{which}"}
    assert caller.peer.got[-1][0] == 1008
    assert caller.gateway.connections == []
    caller.connection.close(1000, "")
    caller.connection.cut()
    caller.connection.event("tick")
    assert caller.peer.got[-1][0] == 1008


def test_a_right_token():
    """The right token is taken."""
    assert Caller(FakeGateway(token="t"), auth={"token": "t"}).answer(1)["ok"]


def test_cuts_are_counted_per_connection():
    """Each connection is cut after as many messages as it was given, or never."""
    gateway = FakeGateway(cuts=[1, None])
    gateway.cut_next(2)

    ends = [Caller(gateway).peer.got[-1] == "cut" for _ in range(4)]

    assert ends == [True, False, True, False]
    assert gateway.accepted == 4


def test_events_are_numbered_and_run_events_are_not():
    """Broadcasts count per connection; what a follower gets does not."""
    caller = Caller()
    caller.send()
    caller.call("runs.follow", runId="r")
    caller.gateway.runs["r"].say("a")

    assert [f["seq"] for f in caller.events("chat")] == [1]
    assert [("seq" in f, f["payload"]["seq"]) for f in caller.events("run.event")] == [(False, 1)]


def test_closing_and_cutting_everything():
    """All connections end with a close frame, or without."""
    gateway = FakeGateway()
    first, second = Caller(gateway), Caller(gateway)
    gateway.close(1012, "restart")
    third = Caller(gateway)
    gateway.cut()
    gateway.gone(third.connection)

    ends = [caller.peer.got[-1] for caller in (first, second, third)]
    assert ends == [(1012, "restart"), (1012, "restart"), "cut"]


def test_a_message_runs_once():
    """A key gives one run: started, in flight, and how it ended."""
    made: list[Any] = []
    caller = Caller(FakeGateway(on_send=made.append))

    started, again = caller.send(), caller.send()
    caller.gateway.runs["r"].finish()
    over = caller.send()
    for key, step, arguments in (("f", "fail", ("x",)), ("a", "abort", ())):
        caller.send(key)
        getattr(caller.gateway.runs[key], step)(*arguments)
    failed, aborted = caller.send("f"), caller.send("a")

    assert [a["payload"]["status"] for a in (started, again, over, aborted)] == [
        "started",
        "in_flight",
        "ok",
        "timeout",
    ]
    assert (failed["ok"], failed["error"]["message"]) == (False, "x")
    assert failed["payload"]["status"] == "error"
    assert [run.run_id for run in made] == ["r", "f", "a"]


def test_waiting_for_a_run():
    """A wait is answered when the run ends, at once if it has, and not for an unknown run."""
    caller = Caller()
    caller.send()
    open_wait = caller.call("agent.wait", runId="r")
    unknown = caller.call("agent.wait", runId="x")
    number = caller.ids - 1

    caller.gateway.runs["r"].fail("boom")

    assert (open_wait, unknown) == (None, None)
    assert caller.answer(number)["payload"]["status"] == "error"
    assert caller.answer(number)["payload"]["error"] == "boom"
    assert caller.call("agent.wait", runId="r")["payload"]["status"] == "error"


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_history(protocol):
    """A history has question and answer; version 4 names their run."""
    caller = Caller(FakeGateway(protocol=protocol))
    caller.send()
    caller.gateway.runs["r"].say("yes")
    caller.gateway.runs["r"].finish()

    messages = caller.call("chat.history", sessionKey="main")["payload"]["messages"]

    assert [message["role"] for message in messages] == ["user", "assistant"]
    assert all(("__openclaw" in message) is (protocol == 4) for message in messages)


def test_aborting():
    """An abort ends the run and is answered."""
    caller = Caller()
    caller.send()

    answer = caller.call("chat.abort", sessionKey="main", runId="r")

    assert answer["payload"]["runIds"] == ["r"]
    assert caller.gateway.runs["r"].state == "aborted"


def test_reading_following_and_unfollowing():
    """A log is read in pages, followed, and no more."""
    caller = Caller()
    caller.send()
    run = caller.gateway.runs["r"]
    run.say("a")
    run.say("b")

    page = caller.call("runs.read", runId="r", limit=1)["payload"]
    caller.call("runs.follow", runId="r", after={"epoch": "epoch-1", "seq": 1})
    run.say("c")
    followed = caller.call("runs.unfollow", runId="r")["payload"]["followed"]
    again = caller.call("runs.unfollow", runId="r")["payload"]["followed"]
    run.say("d")

    assert len(page["events"]) == 1
    assert [f["payload"]["seq"] for f in caller.events("run.event")] == [3]
    assert (followed, again) == (True, False)
    assert caller.call("runs.describe", runId="r")["payload"]["run"]["lastSeq"] == 4


def test_resuming():
    """A resume answers for each run, known or not, and names the sessions."""
    caller = Caller()
    caller.send()
    caller.gateway.runs["r"].say("a")

    asked = [{"runId": "r"}, {"runId": "x"}]
    answer = caller.call("connection.resume", runs=asked, sessions=["s"])["payload"]
    caller.gateway.runs["r"].say("b")

    assert [run["status"] for run in answer["runs"]] == ["replay", "unknown"]
    assert answer["sessions"] == ["s"]
    assert [f["payload"]["seq"] for f in caller.events("run.event")] == [2]
    assert caller.call("connection.resume")["payload"] == {"runs": [], "sessions": []}


def test_an_eager_gateway():
    """An eager gateway sends the events ahead of the answer that has them too."""
    caller = Caller(FakeGateway(eager=True))
    caller.send()
    caller.gateway.runs["r"].say("a")

    answer = caller.call("runs.follow", runId="r")

    order = [f.get("event") or f["type"] for f in caller.peer.got[-2:]]
    assert order == ["run.event", "res"]
    assert len(answer["payload"]["events"]) == 1
    assert len(caller.events("run.event")) == 1


def test_without_logs():
    """A gateway without logs does not serve their methods."""
    caller = Caller(FakeGateway(logs=False))

    assert caller.call("runs.read", runId="r")["error"]["message"] == "unknown method: runs.read"


def test_calls_are_remembered():
    """A test can look up what a client asked."""
    caller = Caller()
    caller.call("sessions.messages.subscribe", key="k")
    caller.call("health")

    assert caller.gateway.calls("sessions.messages.subscribe") == [{"key": "k"}]
    assert len(caller.gateway.requests) == 3
