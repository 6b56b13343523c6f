"""The client's side of the protocol as a machine without I/O and without a clock.

Requirements
    Answer ``connect.challenge`` with ``connect``, and say in a typed error why a handshake failed. Match
    responses to requests, also where one request is answered twice (first ``accepted``, later the
    outcome). Notice lost events and a silent gateway. Whatever ends the connection, every request that
    waits fails, exactly once.

Design
    Every input returns the actions it causes, in order; a driver carries them out. Inputs that depend
    on time are given it (``now``: seconds of any clock that never goes back), and :attr:`ClientCore.deadline`
    says when :meth:`ClientCore.time_passed` is due, so a driver needs one timer. The first cause of an
    end stays: after :class:`Lost`, inputs return nothing.

    A gateway that refuses answers first and closes then, and only together are the two the whole
    story, so the core waits :data:`REFUSAL_GRACE_S` for the close.

Rejected
    Validating events by schema, as older clients do: a field that a newer gateway adds would make
    frames vanish. What does not look like a frame at all is reported as :class:`Ignored`.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

from gateway.client.actions import (
    Accepted,
    Action,
    Answered,
    Close,
    Event,
    Failed,
    Gap,
    Hello,
    Ignored,
    Lost,
    Opened,
    Received,
    Send,
)
from gateway.client.errors import (
    CLOSE_ABNORMAL,
    ClientError,
    ConnectionLost,
    ConnectRefused,
    RequestFailed,
    RequestNotSent,
    RequestTimeout,
    UnexpectedAnswer,
)
from gateway.client.handshake import connect_params, is_count, parse_hello
from gateway.client.options import MAX_FRAME_BYTES, ClientOptions
from gateway.core import frames

REFUSAL_GRACE_S: Final = 2.0

CLOSE_NORMAL: Final = 1000
CLOSE_PROTOCOL_ERROR: Final = 1002
CLOSE_POLICY: Final = 1008
CLOSE_TOO_BIG: Final = 1009
CLOSE_TICK_TIMEOUT: Final = 4000

_NO_CLOSE_FRAME: Final = (None, 1005, CLOSE_ABNORMAL)


class _Phase(Enum):
    CHALLENGE = auto()
    HELLO = auto()
    REFUSED = auto()
    OPEN = auto()
    ENDED = auto()


@dataclass(slots=True)
class _Waiting:
    method: str
    expect_final: bool
    timeout: float


class ClientCore:
    """One connection to a gateway, from the challenge to its end."""

    def __init__(
        self, options: ClientOptions, now: float, ids: Iterator[int] | None = None
    ) -> None:
        """Begin; ``ids`` numbers the requests, where several connections share the numbers."""
        self._options = options
        self._ids = itertools.count(1) if ids is None else ids
        self._phase = _Phase.CHALLENGE
        self._handshake_deadline = now + options.handshake_timeout
        self._heard_at = now
        self._last_seq: int | None = None
        self._connect_id = ""
        self._waiting: dict[str, _Waiting] = {}
        self._timeouts: list[tuple[float, str]] = []
        self._hello: Hello | None = None
        self._refusal: ConnectRefused | None = None
        self._restart_ms: int | None = None
        self._error: ClientError | None = None

    @property
    def error(self) -> ClientError | None:
        """Why the connection ended, or ``None`` while it has not."""
        return self._error

    @property
    def open(self) -> bool:
        """Whether it takes requests."""
        return self._phase is _Phase.OPEN

    @property
    def deadline(self) -> float | None:
        """When :meth:`time_passed` has to be called, unless something else happens before."""
        if self._phase is _Phase.ENDED:
            return None
        if self._hello is None:
            return self._handshake_deadline
        while self._timeouts and self._timeouts[0][1] not in self._waiting:
            heapq.heappop(self._timeouts)
        silence = self._silence_deadline(self._hello)
        return min(silence, self._timeouts[0][0]) if self._timeouts else silence

    def _silence_deadline(self, hello: Hello) -> float:
        return self._heard_at + 2 * hello.tick_interval_s

    # What happens to the connection.

    def frame_received(self, data: str | bytes, now: float) -> list[Action]:
        """Take in one message."""
        if self._phase is _Phase.ENDED:
            return []
        raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
        if len(raw) > MAX_FRAME_BYTES:
            return self._end(ConnectionLost(CLOSE_TOO_BIG, "frame too large"), CLOSE_TOO_BIG)
        self._heard_at = now
        try:
            frame = frames.decode(raw)
        except frames.NotJson:
            return self._unreadable(raw)
        kind = frame.get("type") if isinstance(frame, dict) else None
        if kind == "event":
            return self._event(frame, now)
        if kind == "res":
            return self._response(frame, now)
        return [Ignored("neither an event nor a response")]

    def _unreadable(self, raw: bytes) -> list[Action]:
        """Fail the request whose answer can not be read, such as for a number that no double holds."""
        kind, _, request_id = frames.peek(raw)
        waiting = self._waiting.pop(request_id or "", None) if kind == "res" else None
        if waiting is None or request_id is None:
            return [Ignored("not JSON")]
        return [Failed(request_id, UnexpectedAnswer(waiting.method, "it can not be read", None))]

    def connection_lost(self, code: int | None, reason: str) -> list[Action]:
        """Take in the end of the connection; ``code`` is that of the close frame, if one came."""
        if self._phase is _Phase.ENDED:
            return []
        abnormal = code in _NO_CLOSE_FRAME
        if self._refusal is not None:
            seen = (None, None) if abnormal else (code, reason)
            return self._end(self._refusal.closed_with(*seen))
        if self._hello is None and not abnormal:
            text = (
                f"the gateway closed the connection during the handshake: {reason or 'no reason'}"
            )
            return self._end(ConnectRefused(None, f"{text} ({code})").closed_with(code, reason))
        end = CLOSE_ABNORMAL if code is None else code
        return self._end(ConnectionLost(end, reason, retry_after_ms=self._restart_ms))

    def give_up(self, error: ClientError) -> list[Action]:
        """Take in that there will be no connection, for a reason only the driver knows."""
        return [] if self._phase is _Phase.ENDED else self._end(error)

    def time_passed(self, now: float) -> list[Action]:
        """Do what is due; harmless when nothing is."""
        if self._phase is _Phase.ENDED:
            return []
        if self._hello is None:
            return self._handshake_overdue() if now >= self._handshake_deadline else []
        if now >= self._silence_deadline(self._hello):
            return self._end(ConnectionLost(CLOSE_TICK_TIMEOUT, "tick timeout"), CLOSE_TICK_TIMEOUT)
        actions: list[Action] = []
        while self._timeouts and self._timeouts[0][0] <= now:
            _, request_id = heapq.heappop(self._timeouts)
            if (waiting := self._waiting.pop(request_id, None)) is not None:
                error = RequestTimeout(waiting.method, waiting.timeout)
                actions.append(Failed(request_id, error))
        return actions

    def _handshake_overdue(self) -> list[Action]:
        if self._refusal is not None:
            return self._end(self._refusal, CLOSE_NORMAL)
        what = "challenge" if self._phase is _Phase.CHALLENGE else "answer"
        return self._end(ConnectionLost(CLOSE_POLICY, f"connect {what} timeout"), CLOSE_POLICY)

    # What the user of the connection wants.

    def request(
        self,
        method: str,
        params: Any,
        now: float,
        *,
        expect_final: bool = False,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> tuple[str, list[Action]]:
        """Send a request; return its id and the actions.

        ``expect_final`` waits for the second answer where the first only says ``accepted``.
        ``timeout`` is in seconds, ``math.inf`` for none; the default is that of the options, and
        none with ``expect_final``. With a ``request_id`` whoever gave it bounds how many requests
        wait. Raises RequestNotSent, or what ended the connection.
        """
        if self._error is not None:
            raise self._error
        if self._hello is None:
            raise RequestNotSent("not connected yet")
        if request_id is None:
            if len(self._waiting) >= self._options.max_requests:
                raise RequestNotSent(f"{len(self._waiting)} requests are waiting already")
            request_id = str(next(self._ids))
        frame = _encode(request_id, method, params)
        if len(frame) > self._hello.max_payload:
            limit = self._hello.max_payload
            raise RequestNotSent(f"{method}: {len(frame)} bytes, and the gateway takes {limit}")
        if timeout is None:
            timeout = math.inf if expect_final else self._options.request_timeout
        self._waiting[request_id] = _Waiting(method, expect_final, timeout)
        if timeout != math.inf:
            heapq.heappush(self._timeouts, (now + timeout, request_id))
        return request_id, [Send(frame)]

    def forget(self, request_id: str) -> None:
        """Stop waiting for an answer; should it come, it is dropped."""
        self._waiting.pop(request_id, None)

    def close(self, code: int = CLOSE_NORMAL, reason: str = "") -> list[Action]:
        """End the connection from this side."""
        if self._phase is _Phase.ENDED:
            return []
        return self._end(ConnectionLost(code, reason or "closed by this client"), code, reason)

    # Responses and events.

    def _response(self, frame: dict[str, Any], now: float) -> list[Action]:
        request_id, payload = frame.get("id"), frame.get("payload")
        if not isinstance(request_id, str):
            return [Ignored("a response without an id")]
        ok = frame.get("ok") is True
        if self._phase is _Phase.HELLO and request_id == self._connect_id:
            if ok:
                return self._welcome(payload)
            return self._refused(_request_failed("connect", frame.get("error"), payload), now)
        waiting = self._waiting.get(request_id)
        if waiting is None:  # forgotten, timed out, or the second answer that nobody wanted
            return []
        if not ok:
            del self._waiting[request_id]
            error = _request_failed(waiting.method, frame.get("error"), payload)
            return [Failed(request_id, error)]
        if waiting.expect_final and _status(payload) == "accepted":
            return [Accepted(request_id, payload)]
        del self._waiting[request_id]
        return [Answered(request_id, payload)]

    def _event(self, frame: dict[str, Any], now: float) -> list[Action]:
        name, payload, seq = frame.get("event"), frame.get("payload"), frame.get("seq")
        if not isinstance(name, str) or not name:
            return [Ignored("an event without a name")]
        if name == "connect.challenge":
            return self._challenged(payload) if self._phase is _Phase.CHALLENGE else []
        if seq is not None and not is_count(seq):
            return [Ignored(f"{name}: seq is no count")]
        if name == "shutdown" and isinstance(payload, Mapping):
            expected = payload.get("restartExpectedMs")
            self._restart_ms = expected if is_count(expected) else None
        actions: list[Action] = []
        if seq is not None:
            if self._last_seq is not None and seq > self._last_seq + 1:
                actions.append(Received(Gap(seq - self._last_seq - 1)))
            self._last_seq = max(seq, self._last_seq or 0)
        actions.append(Received(Event(name, payload, seq, frame.get("stateVersion"))))
        return actions

    # The handshake.

    def _challenged(self, payload: Any) -> list[Action]:
        challenge = payload if isinstance(payload, Mapping) else {}
        nonce, signed_at = challenge.get("nonce"), challenge.get("ts")
        if not isinstance(nonce, str) or not nonce.strip():
            text = "connect challenge missing nonce"
            return self._end(ConnectionLost(CLOSE_POLICY, text), CLOSE_POLICY)
        if self._options.device is not None and not is_count(signed_at):
            text = "connect challenge missing ts"
            return self._end(ConnectionLost(CLOSE_POLICY, text), CLOSE_POLICY)
        params = connect_params(self._options, nonce, signed_at)
        self._connect_id = str(next(self._ids))
        try:
            frame = _encode(self._connect_id, "connect", params)
        except RequestNotSent as error:  # a token that is no text, say
            return self._end(error, CLOSE_NORMAL)
        self._phase = _Phase.HELLO
        return [Send(frame)]

    def _welcome(self, payload: Any) -> list[Action]:
        hello = parse_hello(payload)
        options = self._options
        if not options.min_protocol <= hello.protocol <= options.max_protocol:
            text = f"protocol mismatch: the gateway chose version {hello.protocol}"
            refusal = ConnectRefused("PROTOCOL_MISMATCH", text, retryable=False)
            return self._end(refusal, CLOSE_PROTOCOL_ERROR, "protocol mismatch")
        self._hello = hello
        self._phase = _Phase.OPEN
        return [Opened(hello)]

    def _refused(self, error: RequestFailed, now: float) -> list[Action]:
        self._phase = _Phase.REFUSED
        self._refusal = ConnectRefused(
            error.code,
            error.message,
            details=error.details,
            retryable=error.retryable,
            retry_after_ms=error.retry_after_ms,
        )
        self._handshake_deadline = min(self._handshake_deadline, now + REFUSAL_GRACE_S)
        return []

    # The end.

    def _end(
        self, error: ClientError, close_code: int | None = None, close_reason: str | None = None
    ) -> list[Action]:
        self._phase = _Phase.ENDED
        self._error = error
        actions: list[Action] = [Failed(request_id, error) for request_id in self._waiting]
        self._waiting.clear()
        self._timeouts.clear()
        if close_code is not None:
            if close_reason is None:
                close_reason = error.reason if isinstance(error, ConnectionLost) else ""
            actions.append(Close(close_code, close_reason))
        actions.append(Lost(error))
        return actions


def _encode(request_id: str, method: str, params: Any) -> bytes:
    frame = {"type": "req", "id": request_id, "method": method}
    if params is not None:
        frame["params"] = params
    try:
        return frames.encode(frame)
    except frames.EncodeFailed as error:
        raise RequestNotSent(f"{method}: the params have no JSON form: {error}") from error


def _request_failed(method: str, error: Any, payload: Any) -> RequestFailed:
    shape = error if isinstance(error, Mapping) else {}
    code, message = shape.get("code"), shape.get("message")
    retryable, retry_after_ms = shape.get("retryable"), shape.get("retryAfterMs")
    return RequestFailed(
        method,
        code if isinstance(code, str) and code else "UNAVAILABLE",
        message if isinstance(message, str) and message else "the gateway gave no reason",
        details=shape.get("details"),
        retryable=retryable if isinstance(retryable, bool) else None,
        retry_after_ms=retry_after_ms if is_count(retry_after_ms) else None,
        payload=payload,
    )


def _status(payload: Any) -> Any:
    return payload.get("status") if isinstance(payload, Mapping) else None
