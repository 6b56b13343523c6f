"""A fake gateway for tests of clients: it keeps the protocol, keeps logs of runs, and breaks on demand.

::

    gateway = FakeGateway()
    run = gateway.runs["key"]       # made by a client's chat.send
    run.say("hello ")
    gateway.cut()                   # every connection, without a close frame
    run.finish()

It does no I/O and knows no time: a :class:`Peer` carries its messages, as those of
:func:`gateway.client.testserver.server_factory` do over WebSocket. A test changes what a method does by
putting another handler into ``handlers``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from gateway.client.fakerun import FakeRun, Frame
from gateway.core import frames

DEFAULT_LIMIT: Final = 500

Handler = Callable[["FakeConnection", Frame], None]


class Peer(Protocol):
    """The transport of one connection, from the gateway's side."""

    def send(self, text: bytes) -> None:
        """Send one message."""

    def close(self, code: int, reason: str) -> None:
        """Send a close frame and end the connection."""

    def cut(self) -> None:
        """End the connection without one."""


class FakeConnection:
    """One connection; ``limit`` is after how many messages it is cut, ``None`` for never."""

    def __init__(self, gateway: FakeGateway, peer: Peer, number: int, limit: int | None) -> None:
        self.conn_id = f"c-{number}"
        self.followed: dict[str, int] = {}
        self.sent = 0
        self.seq = 0
        self._gateway = gateway
        self.peer = peer
        self._limit = limit

    @property
    def open(self) -> bool:
        """Whether it still takes messages."""
        return self in self._gateway.connections

    def raw(self, text: bytes) -> None:
        """Send one message as it is."""
        if not self.open:
            return
        self.sent += 1
        self.peer.send(text)
        if self.sent == self._limit:
            self.cut()

    def event(self, name: str, payload: Any = None, *, numbered: bool = True) -> None:
        """Send an event."""
        frame: Frame = {"type": "event", "event": name, "payload": payload}
        if numbered:
            self.seq += 1
            frame["seq"] = self.seq
        self.raw(frames.encode(frame))

    def answer(self, request: Frame, payload: Any = None) -> None:
        """Answer a request."""
        frame = {"type": "res", "id": request["id"], "ok": True, "payload": payload}
        self.raw(frames.encode(frame))

    def refuse(self, request: Frame, code: str, message: str, **more: Any) -> None:
        """Answer a request with an error; ``more`` are details, retryable, retryAfterMs."""
        error = {"code": code, "message": message, **more}
        frame = {"type": "res", "id": request["id"], "ok": False, "error": error}
        self.raw(frames.encode(frame))

    def close(self, code: int, reason: str) -> None:
        """End it with a close frame."""
        if self.open:
            self._gateway.gone(self)
            self.peer.close(code, reason)

    def cut(self) -> None:
        """End it without one."""
        if self.open:
            self._gateway.gone(self)
            self.peer.cut()


class FakeGateway:
    """A gateway of its tests.

    ``cuts`` gives, connection by connection, after how many messages each is cut. Without ``logs`` it
    keeps no logs of runs, as OpenClaw's own gateways. An ``eager`` one sends what a follower has not
    got ahead of the answer, and again in it. ``on_send`` is called with each new run.
    """

    def __init__(
        self,
        *,
        token: str | None = None,
        logs: bool = True,
        eager: bool = False,
        protocol: int = 4,
        cuts: Iterable[int | None] = (),
        on_send: Callable[[FakeRun], None] = lambda run: None,
    ) -> None:
        self.token = token
        self.protocol = protocol
        self.eager = eager
        self.epoch = "epoch-1"
        self.http_status: int | None = None
        """The status that upgrades are refused with, ``None`` to take them."""
        self.challenge: Frame | None = {"nonce": "n-1", "ts": 1_700_000_000_000}
        self.hello: Frame = {"policy": {"tickIntervalMs": 30_000, "maxPayload": 26_214_400}}
        self.connections: list[FakeConnection] = []
        self.accepted = 0
        self.runs: dict[str, FakeRun] = {}
        self.history: list[Frame] = []
        self.requests: list[Frame] = []
        self.on_send = on_send
        self._cuts: deque[int | None] = deque(cuts)
        self._waiting: list[tuple[FakeConnection, Frame]] = []
        self.handlers: dict[str, Handler] = {
            "connect": self._connect,
            "health": lambda connection, frame: connection.answer(frame, {"ok": True}),
            "chat.send": self._send,
            "chat.abort": self._abort,
            "chat.history": self._history,
            "agent.wait": self._wait,
            "sessions.messages.subscribe": self._subscribe,
        }
        if logs:
            self.handlers |= {
                "runs.read": self._read,
                "runs.follow": self._follow,
                "runs.unfollow": self._unfollow,
                "runs.describe": self._describe,
                "connection.resume": self._resume,
            }

    def calls(self, method: str) -> list[Any]:
        """Return the params of the calls of a method so far."""
        return [frame.get("params") for frame in self.requests if frame["method"] == method]

    # What a transport tells.

    def accept(self, peer: Peer) -> FakeConnection:
        """Take in a new connection."""
        self.accepted += 1
        limit = self._cuts.popleft() if self._cuts else None
        connection = FakeConnection(self, peer, self.accepted, limit)
        self.connections.append(connection)
        if self.challenge is not None:
            connection.event("connect.challenge", self.challenge, numbered=False)
        return connection

    def received(self, connection: FakeConnection, text: bytes) -> None:
        """Take in one message of a client."""
        frame = frames.decode(text)
        self.requests.append(frame)
        handler = self.handlers.get(frame["method"])
        if handler is None:
            connection.refuse(frame, "INVALID_REQUEST", f"unknown method: {frame['method']}")
        else:
            handler(connection, frame)

    def gone(self, connection: FakeConnection) -> None:
        """Take in that a connection ended."""
        if connection in self.connections:
            self.connections.remove(connection)

    # What a test does.

    def broadcast(self, name: str, payload: Any = None) -> None:
        """Send an event to every connection."""
        for connection in list(self.connections):
            connection.event(name, payload)

    def close(self, code: int, reason: str) -> None:
        """End every connection with a close frame."""
        for connection in list(self.connections):
            connection.close(code, reason)

    def cut(self) -> None:
        """End every connection without one."""
        for connection in list(self.connections):
            connection.cut()

    def cut_next(self, limit: int | None) -> None:
        """Cut one more of the connections to come, after so many messages."""
        self._cuts.append(limit)

    # What runs tell.

    def logged(self, run: FakeRun) -> None:
        """Send every follower of a run what is new."""
        for connection in list(self.connections):
            self.carry_on(connection, run)

    def carry_on(self, connection: FakeConnection, run: FakeRun) -> None:
        """Send a follower what it has not got."""
        position = connection.followed.get(run.run_id, run.last_seq)
        for event in run.after(position):
            connection.followed[run.run_id] = event["seq"]
            payload = {"runId": run.run_id, "epoch": run.epoch, **event}
            connection.event("run.event", payload, numbered=False)

    def ended(self, run: FakeRun) -> None:
        """Answer those who wait for the end of a run."""
        if run.text:
            self._note(run, "assistant", run.text)
        waiting, self._waiting = self._waiting, []
        for connection, frame in waiting:
            self._wait(connection, frame)

    # Methods.

    def _connect(self, connection: FakeConnection, frame: Frame) -> None:
        given = frame["params"].get("auth", {}).get("token")
        if self.token is not None and given != self.token:
            which = "MISSING" if given is None else "MISMATCH"
            message = f"unauthorized: gateway token {which.lower()}"
            details = {"code": f"AUTH_TOKEN_{which}"}
            connection.refuse(frame, "INVALID_REQUEST", message, details=details)
            connection.close(1008, message)
            return
        features = {"methods": sorted(set(self.handlers) - {"connect"}), "events": ["chat"]}
        server = {"version": "1.2.3", "connId": connection.conn_id}
        hello = {"type": "hello-ok", "protocol": self.protocol, "server": server}
        connection.answer(frame, {**hello, "features": features, **self.hello})

    def _send(self, connection: FakeConnection, frame: Frame) -> None:
        params = frame["params"]
        run_id = params["idempotencyKey"]
        run = self.runs.get(run_id)
        if run is not None:
            if run.state == "failed":
                payload = {"runId": run_id, "status": "error", "summary": run.error}
                error = {"code": "UNAVAILABLE", "message": run.error}
                answer = {"type": "res", "id": frame["id"], "ok": False}
                whole = {**answer, "error": error, "payload": payload}
                connection.raw(frames.encode(whole))
                return
            status = {"running": "in_flight", "aborted": "timeout"}.get(run.state, "ok")
            connection.answer(frame, {"runId": run_id, "status": status})
            return
        key, text = params["sessionKey"], params["message"]
        run = self.runs[run_id] = FakeRun(self, run_id, key, text, self.epoch)
        self._note(run, "user", run.message)
        connection.answer(frame, {"runId": run_id, "status": "started"})
        self.on_send(run)

    def _note(self, run: FakeRun, role: str, text: str) -> None:
        message: Frame = {"role": role, "content": [{"type": "text", "text": text}]}
        if self.protocol >= 4:
            message["__openclaw"] = {"runId": run.run_id}
        self.history.append(message)

    def _abort(self, connection: FakeConnection, frame: Frame) -> None:
        run = self.runs[frame["params"]["runId"]]
        connection.answer(frame, {"ok": True, "aborted": True, "runIds": [run.run_id]})
        run.abort()

    def _history(self, connection: FakeConnection, frame: Frame) -> None:
        key = frame["params"]["sessionKey"]
        connection.answer(frame, {"sessionKey": key, "messages": self.history})

    def _wait(self, connection: FakeConnection, frame: Frame) -> None:
        run = self.runs.get(frame["params"]["runId"])
        if run is None or run.state == "running":
            self._waiting.append((connection, frame))  # whoever waits minds the time
            return
        status = {"done": "ok", "failed": "error"}.get(run.state, "timeout")
        answer = {"runId": run.run_id, "status": status, "endedAt": 1_700_000_000_000}
        connection.answer(frame, {**answer, "error": run.error})

    def _subscribe(self, connection: FakeConnection, frame: Frame) -> None:
        connection.answer(frame, {"subscribed": True, "key": frame["params"]["key"]})

    def _read(self, connection: FakeConnection, frame: Frame) -> None:
        connection.answer(frame, self._log_of(frame["params"], DEFAULT_LIMIT))

    def _follow(self, connection: FakeConnection, frame: Frame) -> None:
        (answer,) = self._take_up(connection, [frame["params"]])
        connection.answer(frame, answer)
        self._carry_on_all(connection, [answer])

    def _resume(self, connection: FakeConnection, frame: Frame) -> None:
        answers = self._take_up(connection, frame["params"].get("runs", []))
        payload = {"runs": answers, "sessions": frame["params"].get("sessions", [])}
        connection.answer(frame, payload)
        self._carry_on_all(connection, answers)

    def _take_up(self, connection: FakeConnection, asked: list[Frame]) -> list[Frame]:
        answers = [self._log_of(params, DEFAULT_LIMIT) for params in asked]
        for params, answer in zip(asked, answers, strict=True):
            if self.eager and "next" in answer:
                connection.followed[params["runId"]] = params.get("after", {}).get("seq", 0)
                self.carry_on(connection, self.runs[params["runId"]])
        return answers

    def _carry_on_all(self, connection: FakeConnection, answers: list[Frame]) -> None:
        for answer in answers:
            if "next" in answer:
                connection.followed[answer["runId"]] = answer["next"]["seq"]
                self.carry_on(connection, self.runs[answer["runId"]])

    def _log_of(self, params: Frame, limit: int) -> Frame:
        run = self.runs.get(params["runId"])
        if run is None:
            return {"runId": params["runId"], "status": "unknown", "events": []}
        return run.read(params.get("after"), params.get("limit", limit))

    def _unfollow(self, connection: FakeConnection, frame: Frame) -> None:
        followed = connection.followed.pop(frame["params"]["runId"], None)
        connection.answer(frame, {"ok": True, "followed": followed is not None})

    def _describe(self, connection: FakeConnection, frame: Frame) -> None:
        connection.answer(frame, {"run": self.runs[frame["params"]["runId"]].describe()})
