"""From a request frame to its response frames."""

from __future__ import annotations

from collections.abc import Callable
from inspect import isawaitable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.app.context import Caller, Context, Services
from gateway.core.frames import EncodeFailed, Request, error_response, response
from gateway.errors import GatewayError, StoreError, Unavailable
from gateway.interfaces import IEntropy
from gateway.metrics import Metrics
from gateway.rpc.table import MethodTable, TwoPhase

Reply = Callable[[bytes, GatewayError | None], None]
"""Takes a response frame, and the error it carries if it refuses."""


class Dispatcher:
    """Runs methods for callers and encodes what comes of it."""

    _log = Logger()

    def __init__(
        self, table: MethodTable, services: Services, entropy: IEntropy, metrics: Metrics
    ) -> None:
        self.table = table
        self._services = services
        self._entropy = entropy
        self._metrics = metrics

    def context(self, caller: Caller) -> Context:
        """Return what the handlers of one connection get; made once per connection."""
        return Context(caller, self._services)

    def waits(self, method: str) -> bool:
        """Whether a call of this method ends with its connection."""
        found = self.table.get(method)
        return found is not None and found.waits

    def handle(self, context: Context, request: Request, reply: Reply) -> Deferred[None] | None:
        """Answer a request: at once (None), or when the returned Deferred fires.

        ``reply`` is called once, or twice for an answer in two phases. The Deferred never fails.
        """
        started = self._services.clock.seconds()
        try:
            result = self.table.call(context, request)
            if isawaitable(result):
                later = self._later(context.caller, request, result, reply, started)
                return Deferred.fromCoroutine(later)
            reply(response(request.id, result), None)
            self._count(request, "ok", started)
        except Exception as error:
            self._fail(context.caller, request, error, reply, started)
        return None

    async def _later(
        self, caller: Caller, request: Request, result: Any, reply: Reply, started: float
    ) -> None:
        try:
            payload = await result
            if isinstance(payload, TwoPhase):
                reply(response(request.id, payload.accepted), None)
                payload = await payload.final
            reply(response(request.id, payload), None)
            self._count(request, "ok", started)
        except CancelledError:
            # The connection is gone; there is nobody to answer.
            self._count(request, "cancelled", started)
        except Exception as error:
            self._fail(caller, request, error, reply, started)

    def _count(self, request: Request, outcome: str, started: float) -> None:
        seconds = self._services.clock.seconds() - started
        self._metrics.request_done(self._label(request), outcome, seconds)

    def _fail(
        self, caller: Caller, request: Request, error: Exception, reply: Reply, started: float
    ) -> None:
        if not isinstance(error, GatewayError):
            error = self._unforeseen(request, error)
        shape = error.shape(caller.protocol)
        try:
            if error.payload is None:
                data = error_response(request.id, shape)
            else:
                data = error_response(request.id, shape, error.payload)
        except EncodeFailed as failed:
            error = self._unforeseen(request, failed)
            data = error_response(request.id, error.shape(caller.protocol))
        reply(data, error)
        self._count(request, error.code.value, started)

    def _unforeseen(self, request: Request, error: Exception) -> Unavailable:
        """Log what no handler meant to raise; the client gets a number to ask about, not the text."""
        correlation = self._entropy.uuid4()
        self._log.failure(
            "{method} failed correlation={correlation}",
            Failure(error),
            method=self._label(request),
            correlation=correlation,
        )
        if isinstance(error, StoreError):
            text = f"the store failed; try again (correlation {correlation})"
            return Unavailable(text, retryable=True, retry_after_ms=1000)
        return Unavailable(f"internal error (correlation {correlation})")

    def _label(self, request: Request) -> str:
        return request.method if self.table.get(request.method) is not None else "other"
