"""One side of a JSON-RPC conversation: requests as Deferreds, and what the other side asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.agents.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    MAX_LINE_BYTES,
    ErrorResult,
    Garbage,
    MessageReader,
    Notification,
    Received,
    Request,
    RequestId,
    Result,
    RpcError,
    encode_error,
    encode_notification,
    encode_request,
    encode_result,
)
from gateway.errors import BackendError
from gateway.interfaces import IClock

MAX_PENDING = 1000
"""Requests that may wait for an answer at once."""
MAX_SERVED = 100
"""Requests of the other side that may be in work at once."""
GARBAGE_LOGGED = 1000
"""Lines that are no messages, and are logged; of more only the number is known."""
MAX_GARBAGE = 100
"""Lines that are no messages, beyond those that as many messages made good."""


class TooMuchGarbage(Exception):
    """The other side does not speak JSON-RPC."""


class Conversation:
    """Sends requests and notifications through ``write``, hands on what is asked and told.

    ``on_request`` returns the answer, a Deferred of it, or raises RpcError; ``on_notification`` just gets
    it. What else these raise is logged: the other side is told that there was an error, and no more.
    Whoever cancels a request's Deferred is not told the late answer. :meth:`close` cancels what is in
    work for the other side.

    :ivar garbage: lines that were no messages, all in all.
    """

    def __init__(
        self,
        *,
        write: Callable[[bytes], None],
        on_request: Callable[[str, Any], Any],
        on_notification: Callable[[str, Any], None],
        clock: IClock,
        log: Logger,
    ) -> None:
        self._write = write
        self._on_request = on_request
        self._on_notification = on_notification
        self._clock = clock
        self._log = log
        self._reader = MessageReader()
        self._pending: dict[int, Deferred[Any]] = {}
        self._served: dict[RequestId, Deferred[Any]] = {}
        self._last_id = 0
        self._closed: BackendError | None = None
        self._garbage_level = 0
        self.garbage = 0

    @property
    def pending(self) -> int:
        """How many requests wait for an answer."""
        return len(self._pending)

    @property
    def served(self) -> int:
        """How many requests of the other side are in work."""
        return len(self._served)

    def request(self, method: str, params: Any, timeout_s: float | None = None) -> Deferred[Any]:
        """Ask; the Deferred gives the result.

        Fails with RpcError if the other side refuses, with TimeoutError after ``timeout_s`` seconds,
        with the error given to :meth:`close`, and with BackendError if too many requests wait or this
        one is too large.
        """
        if self._closed is not None:
            return fail(self._closed)
        if len(self._pending) >= MAX_PENDING:
            return fail(BackendError("the agent has too many requests to answer"))
        id_ = self._last_id + 1
        try:
            line = encode_request(id_, method, params)
        except (TypeError, ValueError) as error:
            return fail(BackendError(f"can not be sent to the agent: {error}"))
        if len(line) > MAX_LINE_BYTES:
            return fail(BackendError(f"{len(line)} bytes are too much for the agent"))
        self._last_id = id_
        answer: Deferred[Any] = Deferred(lambda _: self._forget(id_))
        self._pending[id_] = answer
        if timeout_s is not None:
            answer.addTimeout(timeout_s, self._clock)
        self._write(line)
        return answer

    def notify(self, method: str, params: Any) -> None:
        """Tell something."""
        if self._closed is None:
            self._write(encode_notification(method, params))

    def received(self, data: bytes) -> None:
        """Take bytes from the other side. Raises LineTooLong and TooMuchGarbage."""
        if self._closed is not None:
            return
        for message in self._reader.feed(data):
            if self._closed is None:
                self._handle(message)

    def close(self, error: BackendError) -> None:
        """Fail what waits, and all that is asked from now on, with ``error``."""
        if self._closed is None:
            self._closed = error
            waiting, self._pending = self._pending, {}
            served, self._served = self._served, {}
            for answer in served.values():
                answer.cancel()
            for answer in waiting.values():
                answer.errback(error)

    def _forget(self, id_: int) -> None:
        self._pending.pop(id_, None)

    def _handle(self, message: Received) -> None:
        if isinstance(message, Garbage):
            self._count(message)
            return
        self._garbage_level = max(0, self._garbage_level - 1)
        match message:
            case Request(id_, method, params):
                self._serve(id_, method, params)
            case Notification(method, params):
                try:
                    self._on_notification(method, params)
                except Exception:
                    self._log.failure("{method:.100} could not be handled", method=method)
            case Result(id_, value):
                self._resolve(id_, value)
            case ErrorResult(id_, error):
                self._resolve(id_, error)

    def _serve(self, id_: RequestId, method: str, params: Any) -> None:
        if id_ in self._served:
            self._refuse(id_, RpcError(INVALID_REQUEST, "a request with this id is in work"))
        elif len(self._served) >= MAX_SERVED:
            self._refuse(id_, RpcError(INTERNAL_ERROR, f"{MAX_SERVED} requests are in work"))
        else:
            answer: Deferred[Any] = maybeDeferred(self._on_request, method, params)
            self._served[id_] = answer
            answer.addCallback(self._answered, id_)
            answer.addErrback(self._not_served, id_, method)

            def forget(_: Any) -> None:
                if self._served.get(id_) is answer:
                    del self._served[id_]

            answer.addCallback(forget)

    def _answered(self, value: Any, id_: RequestId) -> None:
        if self._closed is None:
            self._write(encode_result(id_, value))

    def _not_served(self, failure: Failure, id_: RequestId, method: str) -> None:
        if self._closed is not None and failure.check(CancelledError):
            return
        if isinstance(failure.value, RpcError):
            self._refuse(id_, failure.value)
            return
        self._log.failure("{method:.100} could not be answered", failure=failure, method=method)
        self._refuse(id_, RpcError(INTERNAL_ERROR, "the gateway could not do it"))

    def _refuse(self, id_: RequestId, error: RpcError) -> None:
        if self._closed is None:
            self._write(encode_error(id_, error))

    def _resolve(self, id_: int | str | None, value: Any) -> None:
        answer = self._pending.pop(id_, None) if isinstance(id_, int) else None
        if answer is None:
            self._log.debug("an answer to request {id} that nobody waits for", id=id_)
        elif isinstance(value, RpcError):
            answer.errback(value)
        else:
            answer.callback(value)

    def _count(self, garbage: Garbage) -> None:
        self.garbage += 1
        self._garbage_level += 1
        if self.garbage <= GARBAGE_LOGGED:
            self._log.warn(
                "not a JSON-RPC message on standard output: {preview!r} ({size} bytes)",
                preview=garbage.preview.decode("utf-8", "replace"),
                size=garbage.size,
            )
        if self._garbage_level > MAX_GARBAGE:
            raise TooMuchGarbage(f"more than {MAX_GARBAGE} lines that are no messages")
