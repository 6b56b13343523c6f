"""A link and a fake gateway, joined without WebSocket, in a time that only the test moves."""

from __future__ import annotations

from typing import Any

from gateway.client.actions import (
    Answered,
    Close,
    Dial,
    Disconnected,
    Failed,
    Lost,
    Opened,
    Received,
    Reconnected,
    RunFailed,
    RunSaid,
    Send,
)
from gateway.client.link import Link
from gateway.client.options import ClientOptions, parse_url
from gateway.client.retry import Reconnect
from gateway.client.testing import FakeGateway
from tests.client.telling import Told

TARGET = parse_url("ws://gateway.test:18789")
COMES_BACK = ClientOptions(reconnect=Reconnect(fraction=lambda: 0.5))


class Peer:
    """Brings what the gateway sends to the link, in order, also what is sent while it reads."""

    def __init__(self, bench):
        self.bench = bench
        self.alive = True

    def send(self, text):
        self.bench.inbox.append((self, "frame", text))

    def close(self, code, reason):
        self.bench.inbox.append((self, code, reason))

    def cut(self):
        self.bench.inbox.append((self, None, "cut"))


class Bench:
    """A link that is driven by hand; ``transcript`` holds what each run told."""

    def __init__(self, gateway=None, options=COMES_BACK, reachable=lambda _: True, target=TARGET):
        self.gateway = gateway or FakeGateway()
        self.reachable = reachable
        self.now = 0.0
        self.inbox: list[Any] = []
        self.peer: Any = None
        self.connection: Any = None
        self.runs: dict[str, list[Any]] = {}
        self.run_errors: dict[str, Any] = {}
        self.answers: dict[str, Any] = {}
        self.notices: list[Any] = []
        self.opened = 0
        self.dials: list[float] = []
        self.lost: Any = None
        self.link = Link(options, target, self.now)
        self.apply(self.link.start())
        self.settle()

    # Carrying out.

    def apply(self, actions):
        for action in actions:
            match action:
                case Dial():
                    self.dial()
                case Send(frame):
                    if self.peer is not None and self.peer.alive:
                        self.gateway.received(self.connection, frame)
                case Close():
                    self.drop()
                case Opened():
                    self.opened += 1
                case Received(notice):
                    self.notices.append(notice)
                case RunSaid(run_id, events):
                    self.runs.setdefault(run_id, []).extend(events)
                case RunFailed(run_id, error):
                    assert run_id not in self.run_errors
                    self.run_errors[run_id] = error
                case Answered(request_id, payload):
                    assert request_id not in self.answers
                    self.answers[request_id] = payload
                case Failed(request_id, error):
                    assert request_id not in self.answers
                    self.answers[request_id] = error
                case Lost(error):
                    assert self.lost is None
                    self.lost = error

    def dial(self):
        self.dials.append(self.now)
        self.drop()
        if not self.reachable(self):
            self.apply(self.link.unreachable("connection refused", self.now))
            return
        self.peer = Peer(self)
        self.link.upgraded()
        self.connection = self.gateway.accept(self.peer)

    def drop(self):
        if self.peer is not None:
            self.peer.alive = False
            self.gateway.gone(self.connection)

    def settle(self):
        """Let everything arrive that is on its way."""
        while self.inbox:
            peer, kind, text = self.inbox.pop(0)
            if not peer.alive:
                continue
            if kind == "frame":
                self.apply(self.link.frame_received(text, self.now))
            else:
                peer.alive = False
                self.apply(self.link.connection_lost(kind, text, self.now))

    # What a test does.

    def until(self, now):
        """Let time pass, with what is due in it."""
        while self.link.deadline is not None and self.link.deadline <= now:
            self.now = max(self.now, self.link.deadline)
            self.apply(self.link.time_passed(self.now))
            self.settle()
        self.now = now
        self.settle()

    def after(self, seconds):
        self.until(self.now + seconds)

    def call(self, method, params=None, **more):
        request_id, actions = self.link.request(method, params, self.now, **more)
        self.apply(actions)
        self.settle()
        return request_id

    def chat(self, message="hi", run_id="run-1", session_key="main"):
        self.apply(self.link.chat(run_id, session_key, message, {}, self.now))
        self.settle()

    def follow(self, run_id="run-1", after=None):
        self.apply(self.link.follow(run_id, "main", after, self.now))
        self.settle()

    def run(self, run_id="run-1"):
        """The run at the gateway's end."""
        return self.gateway.runs[run_id]

    def says(self, *words, run_id="run-1"):
        for word in words:
            self.run(run_id).say(word)
            self.settle()

    def does(self, step, *arguments, run_id="run-1"):
        getattr(self.run(run_id), step)(*arguments)
        self.settle()

    # What came of it.

    def events(self, run_id="run-1"):
        return self.runs.get(run_id, [])

    def told(self, run_id="run-1"):
        """What the events of a run add up to; checks that nothing follows the end."""
        return Told(self.events(run_id)).text

    def end(self, run_id="run-1"):
        """The one end of a run, None if it goes on."""
        return Told(self.events(run_id)).end

    def away(self):
        return [notice for notice in self.notices if isinstance(notice, Disconnected)]

    def back(self):
        return [notice for notice in self.notices if isinstance(notice, Reconnected)]


def refuse(connection, frame):
    connection.refuse(frame, "UNAVAILABLE", "not now")


def blinked(bench, *words):
    """Lose the connection, let the run say something meanwhile, and come back."""
    bench.gateway.cut()
    bench.settle()
    bench.says(*words)
    bench.after(1)


def alive(bench, seconds):
    """Let time pass with ticks."""
    for _ in range(int(seconds / 20)):
        bench.after(20)
        bench.gateway.broadcast("tick", {})
        bench.settle()


def losing_the_answer(bench):
    """Have the gateway take the next message, and the connection end before it answers."""
    send = bench.gateway.handlers["chat.send"]

    def lose(connection, frame):
        bench.gateway.handlers["chat.send"] = send
        connection.cut()
        send(connection, frame)

    bench.gateway.handlers["chat.send"] = lose
    return bench
