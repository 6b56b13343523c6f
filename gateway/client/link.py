"""A client over many connections: comes back, sends again, goes on reading. No I/O and no clock.

Requirements
    One connection or many, whoever uses the client sees the same: a request settles exactly once, a run
    ends exactly once, and where no connection will follow everything is told why.

Design
    One :class:`~gateway.client.core.ClientCore` per connection; what it says is passed on, but for its
    end, which :class:`~gateway.client.retry.Backoff` judges. Requests made while the connection is away
    wait for the next one, within their time. A request that was under way when the connection broke
    fails, since it may have had its effect; only what may safely be repeated is sent again. The numbers
    of requests go on across connections, so that an answer can not meet the wrong question.

    Without a policy to reconnect, the first end is the end of all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gateway.client.actions import (
    Action,
    Answered,
    Ask,
    Close,
    Dial,
    Disconnected,
    Event,
    Failed,
    Hello,
    Lost,
    Opened,
    Received,
    Reconnected,
    Steps,
)
from gateway.client.calls import Call
from gateway.client.core import CLOSE_NORMAL, ClientCore
from gateway.client.errors import (
    ClientError,
    ConnectFailed,
    ConnectionLost,
    RequestNotSent,
)
from gateway.client.options import ClientOptions, Target
from gateway.client.retry import Backoff
from gateway.client.tokens import Keyring
from gateway.client.watch import Watch
from gateway.model import Position


class Link:
    """The client's side of its connections to one gateway."""

    def __init__(self, options: ClientOptions, target: Target, now: float) -> None:
        self._options = options
        self._target = target
        self._ids = itertools.count(1)
        self._calls: dict[str, Call] = {}
        self._queue: list[str] = []
        self._watch = Watch(options)
        self._backoff = Backoff(options.reconnect)
        self._keyring = Keyring(
            options.credentials,
            device_id=None if options.device is None else options.device.device_id,
            role=options.role.value,
            store=options.tokens,
            private=target.private,
        )
        self._hello: Hello | None = None
        self._error: ClientError | None = None
        self._upgraded = False
        self._redial_at: float | None = None
        self._core = self._new_core(now)

    @property
    def error(self) -> ClientError | None:
        """Why it is all over, or ``None`` while it is not."""
        return self._error

    @property
    def hello(self) -> Hello | None:
        """What the gateway told last; ``None`` before it did."""
        return self._hello

    @property
    def connected(self) -> bool:
        """Whether there is a connection that requests can take."""
        return self._core.open

    @property
    def deadline(self) -> float | None:
        """When :meth:`time_passed` has to be called, unless something else happens before."""
        if self._error is not None:
            return None
        due = self._core.deadline if self._redial_at is None else self._redial_at
        assert due is not None
        return min([due, *(self._calls[request_id].give_up_at for request_id in self._queue)])

    def position(self, run_id: str) -> Position | None:
        """How far the log of a run was read."""
        return self._watch.position(run_id)

    # What happens to the connection.

    def start(self) -> list[Action]:
        """Begin; called once."""
        return [Dial(0)]

    def upgraded(self) -> None:
        """Take in that the WebSocket is open."""
        self._upgraded = True

    def frame_received(self, data: str | bytes, now: float) -> list[Action]:
        """Take in one message."""
        return self._relay(self._core.frame_received(data, now), now)

    def connection_lost(self, code: int | None, reason: str, now: float) -> list[Action]:
        """Take in the end of the connection."""
        if self._upgraded:
            return self._relay(self._core.connection_lost(code, reason), now)
        return self.unreachable(reason, now)

    def unreachable(self, why: str, now: float) -> list[Action]:
        """Take in that no connection came about."""
        error = ConnectFailed(self._target.url, why)
        return self._relay(self._core.give_up(error), now)

    def time_passed(self, now: float) -> list[Action]:
        """Do what is due; harmless when nothing is."""
        if self._error is not None:
            return []
        actions: list[Action] = []
        for request_id in [i for i in self._queue if self._calls[i].give_up_at <= now]:
            actions += self._fail(request_id, self._calls[request_id].overdue(), now)
        if self._redial_at is not None:
            if now >= self._redial_at:
                actions += self._redial(now)
            return actions
        due = self._core.deadline
        if not self._upgraded and due is not None and now >= due:
            return [*actions, Close(CLOSE_NORMAL, ""), *self.unreachable("timed out", now)]
        return [*actions, *self._relay(self._core.time_passed(now), now)]

    # What the user wants.

    def request(
        self,
        method: str,
        params: Any,
        now: float,
        *,
        expect_final: bool = False,
        timeout: float | None = None,
        resend: bool = False,
    ) -> tuple[str, list[Action]]:
        """Send a request, now or when the connection is back; return its id and the actions.

        As :meth:`ClientCore.request`; with ``resend`` it is sent again on the next connection where
        one breaks before the answer.
        """
        if self._error is not None:
            raise self._error
        if self._hello is None:
            raise RequestNotSent("not connected yet")
        if len(self._calls) >= self._options.max_requests:
            raise RequestNotSent(f"{len(self._calls)} requests are waiting already")
        if timeout is None:
            timeout = math.inf if expect_final else self._options.request_timeout
        call = Call(method, params, expect_final, timeout, now + timeout, resend)
        return self._take(call, now)

    def forget(self, request_id: str) -> None:
        """Stop waiting for an answer; should it come, it is dropped."""
        if self._calls.pop(request_id, None) is not None:
            if request_id in self._queue:
                self._queue.remove(request_id)
            self._core.forget(request_id)

    def chat(
        self,
        run_id: str,
        session_key: str,
        message: str,
        params: Mapping[str, Any],
        now: float,
    ) -> list[Action]:
        """Send a message and read the run that answers it. Raises RequestNotSent."""
        return self._entered(self._watch.chat(run_id, session_key, message, params), run_id, now)

    def follow(
        self, run_id: str, session_key: str, after: Position | None, now: float
    ) -> list[Action]:
        """Read a run that is there already, after a position. Raises RequestNotSent."""
        return self._entered(self._watch.follow(run_id, session_key, after, now), run_id, now)

    def drop(self, run_id: str, now: float) -> list[Action]:
        """Read a run no more; it goes on."""
        return self._carry_out(self._watch.drop(run_id), now)

    def close(self, code: int, reason: str, now: float) -> list[Action]:
        """End it all from this side."""
        if self._error is not None:
            return []
        return self._stop(
            ConnectionLost(code, reason or "closed by this client"), code, reason, now
        )

    def cancel(self, now: float) -> list[Action]:
        """End it all before there was a connection."""
        if self._error is not None:
            return []
        return self._stop(ConnectFailed(self._target.url, "cancelled"), CLOSE_NORMAL, "", now)

    # Requests.

    def _entered(self, steps: Steps, run_id: str, now: float) -> list[Action]:
        if self._error is None:
            return self._carry_out(steps, now)
        self._watch.drop(run_id)
        raise self._error

    def _take(self, call: Call, now: float) -> tuple[str, list[Action]]:
        request_id = str(next(self._ids))
        self._calls[request_id] = call
        if not self.connected:
            self._queue.append(request_id)
            return request_id, []
        try:
            return request_id, self._send(request_id, call, now)
        except RequestNotSent:
            del self._calls[request_id]
            raise

    def _send(self, request_id: str, call: Call, now: float) -> list[Action]:
        _, actions = self._core.request(
            call.method,
            call.params,
            now,
            expect_final=call.expect_final,
            timeout=call.sending(now),
            request_id=request_id,
        )
        return actions

    def _ask(self, ask: Ask, now: float) -> list[Action]:
        timeout = ask.timeout or self._options.request_timeout
        call = Call(
            ask.method, ask.params, False, timeout, math.inf, ask.resend, ask.answered, ask.failed
        )
        try:
            return self._take(call, now)[1]
        except RequestNotSent as error:
            return self._carry_out(ask.failed(error, now), now)

    def _flush(self, now: float) -> list[Action]:
        queue, self._queue = self._queue, []
        logs = self._hello is not None and "connection.resume" in self._hello.methods
        actions: list[Action] = []
        for request_id in queue:
            call = self._calls[request_id]
            if call.broken_off is not None and not call.repeatable(now, logs=logs):
                actions += self._fail(request_id, call.broken_off, now)
                continue
            try:
                actions += self._send(request_id, call, now)
            except RequestNotSent as error:
                actions += self._fail(request_id, error, now)
        return actions

    def _fail(self, request_id: str, error: ClientError, now: float) -> list[Action]:
        call = self._calls.pop(request_id)
        if request_id in self._queue:
            self._queue.remove(request_id)
        if call.failed is None:
            return [Failed(request_id, error)]
        return self._carry_out(call.failed(error, now), now)

    def _broken_off(self, request_id: str, error: ClientError, now: float) -> list[Action]:
        """Keep a request for the next connection, if it may be sent twice."""
        call = self._calls[request_id]
        if call.resend:
            call.broken_off = error
            self._queue.append(request_id)
            return []
        if call.failed is not None:
            del self._calls[request_id]  # the next connection asks anew
            return []
        return self._fail(request_id, error, now)

    # What a connection says.

    def _relay(self, actions: list[Action], now: float) -> list[Action]:
        passed: list[Action] = []
        for action in actions:
            passed += self._passed(action, now)
        return passed

    def _passed(self, action: Action, now: float) -> list[Action]:
        match action:
            case Opened(hello):
                return self._opened(hello, now)
            case Received(Event() as event):
                return [*self._carry_out(self._watch.event(event, now), now), action]
            case Answered(request_id, payload):
                return self._answered(request_id, payload, now)
            case Failed(request_id, error):
                if self._core.error is not None:
                    return self._broken_off(request_id, error, now)
                return self._fail(request_id, error, now)
            case Lost(error):
                return self._lost(error, now)
        return [action]

    def _opened(self, hello: Hello, now: float) -> list[Action]:
        again, self._hello = self._hello is not None, hello
        self._backoff.opened(now)
        self._keyring.welcomed(hello.device_token)
        steps = self._carry_out(self._watch.opened(hello, now), now)
        told: Action = Received(Reconnected(hello)) if again else Opened(hello)
        return [told, *steps, *self._flush(now)]

    def _answered(self, request_id: str, payload: Any, now: float) -> list[Action]:
        call = self._calls.pop(request_id)
        if call.answered is not None:
            return self._carry_out(call.answered(payload, now), now)
        self._watch.subscriptions.granted(call.method, call.params)
        return [Answered(request_id, payload)]

    def _lost(self, error: ClientError, now: float) -> list[Action]:
        at_once = self._options.reconnect is not None and self._keyring.refused(error)
        wait = 0.0 if at_once else self._backoff.next_wait(error, now)
        if isinstance(wait, ClientError):
            return self._end(wait, now)
        self._watch.lost()
        self._redial_at = now + wait
        return [Received(Disconnected(error, wait, self._backoff.attempts))]

    def _redial(self, now: float) -> list[Action]:
        self._redial_at = None
        self._upgraded = False
        self._core = self._new_core(now)
        return [Dial(self._backoff.attempts)]

    def _new_core(self, now: float) -> ClientCore:
        options = replace(self._options, credentials=self._keyring.credentials())
        return ClientCore(options, now, self._ids)

    def _stop(self, error: ClientError, code: int, reason: str, now: float) -> list[Action]:
        ended = self._core.close(code, reason)
        closing = [action for action in ended if isinstance(action, Close)]
        return [*closing, *self._end(error, now)]

    def _end(self, error: ClientError, now: float) -> list[Action]:
        self._error = error
        self._redial_at = None
        runs = self._carry_out(self._watch.ended(error), now)
        calls, self._calls, self._queue = self._calls, {}, []
        waiting: list[Action] = [
            Failed(request_id, error) for request_id, call in calls.items() if call.failed is None
        ]
        return [*waiting, *runs, Lost(error)]

    def _carry_out(self, steps: Steps, now: float) -> list[Action]:
        """Send what the watch asks for."""
        actions: list[Action] = []
        for step in steps:
            actions += self._ask(step, now) if isinstance(step, Ask) else [step]
        return actions
