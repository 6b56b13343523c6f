"""From a request to its responses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred, succeed

from gateway.app.context import Context
from gateway.core.access import READ
from gateway.errors import GatewayError, InvalidRequest, StoreError, Unavailable, VersionConflict
from gateway.rpc.dispatch import Dispatcher
from gateway.rpc.table import MethodTable, TwoPhase
from tests.app.harness import Call, Client, Gate, assert_fits

Handler = Callable[[Context], Any]


class Rig:
    """A client of a gateway with one method, ``m``."""

    def __init__(self, gate: Gate, handler: Handler, *, waits: bool = False) -> None:
        def documented(context: Context) -> Any:
            """Do what the test says."""
            return handler(context)

        table = MethodTable()
        table.method("m", scope=READ, waits=waits)(documented)
        edge = gate.wiring.edge
        edge.dispatcher = Dispatcher(table, gate.services, edge.entropy, gate.wiring.metrics)
        self.gate = gate
        self.client: Client = gate.client()

    def call(self, method: str = "m") -> Call:
        """Make a request."""
        call = self.client.call(method)
        for frame in call.frames:
            assert_fits(4, "ResponseFrame", frame)
        return call

    def counted(self, outcome: str, method: str = "m") -> int:
        """Return how many requests are counted with an outcome."""
        labels = f'method="{method}",outcome="{outcome}"'
        lines = self.gate.wiring.metrics.render().decode().splitlines()
        found = [line for line in lines if labels in line]
        return int(float(found[0].split()[-1])) if found else 0


@pytest.fixture
def rig(gate: Gate) -> Callable[..., Rig]:
    """Make a gateway with one method."""
    gate.wiring.metrics._methods = frozenset({"m"})

    def make(handler: Handler, **how: Any) -> Rig:
        return Rig(gate, handler, **how)

    return make


async def later(value: Any) -> Any:
    """Return a value as a coroutine does, or raise it."""
    if isinstance(value, Exception):
        raise value
    return value


@pytest.mark.parametrize(
    "handler",
    [lambda context: {"a": 1}, lambda context: later({"a": 1}), lambda context: succeed({"a": 1})],
    ids=["at once", "a coroutine", "a Deferred"],
)
def test_an_answer(rig: Callable[..., Rig], handler: Handler) -> None:
    """A handler may answer at once, by a coroutine or by a Deferred."""
    made = rig(handler)
    call = made.call()

    assert call.frames == [{"type": "res", "id": "id", "ok": True, "payload": {"a": 1}}]
    assert call.errors == [None]
    assert made.counted("ok") == 1


def test_an_answer_that_takes_its_time(rig: Callable[..., Rig]) -> None:
    """An answer comes when there is one, and the time it took is measured."""
    answer: Deferred[str] = Deferred()
    made = rig(lambda context: answer)
    call = made.call()
    before = list(call.frames)
    made.gate.clock.advance(2)
    answer.callback("done")

    assert before == []
    assert call.payload == "done"
    assert b"gateway_request_seconds_sum 2.0" in made.gate.wiring.metrics.render()


def test_an_answer_in_two_phases(rig: Callable[..., Rig]) -> None:
    """An answer in two phases is two responses of one id, and counts once."""
    final: Deferred[str] = Deferred()
    made = rig(lambda context: later(TwoPhase("accepted", final)))
    call = made.call()
    first = call.payload
    final.callback("final")

    assert (first, call.payload, len(call.frames)) == ("accepted", "final", 2)
    assert made.counted("ok") == 1


def test_a_final_that_fails(rig: Callable[..., Rig]) -> None:
    """The second response of two may be a refusal."""
    final = later(InvalidRequest("no"))
    call = rig(lambda context: later(TwoPhase("accepted", final))).call()

    assert [frame["ok"] for frame in call.frames] == [True, False]


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_refusal(rig: Callable[..., Rig], asynchronous: bool) -> None:
    """A typed error is answered with its code, and whoever answers is told which it was."""
    error = Unavailable("later", details={"a": 1}, retryable=True, retry_after_ms=5)

    def handler(context: Context) -> Any:
        if asynchronous:
            return later(error)
        raise error

    made = rig(handler)
    call = made.call()

    assert call.error == {
        "code": "UNAVAILABLE",
        "message": "later",
        "details": {"a": 1},
        "retryable": True,
        "retryAfterMs": 5,
    }
    assert call.errors == [error]
    assert made.counted("UNAVAILABLE") == 1


def test_a_refusal_with_a_payload(rig: Callable[..., Rig]) -> None:
    """A refusal may carry a payload beside its error."""
    error = InvalidRequest("no")
    error.payload = {"runId": "r"}

    assert rig(lambda context: later(error)).call().frame == {
        "type": "res",
        "id": "id",
        "ok": False,
        "payload": {"runId": "r"},
        "error": {"code": "INVALID_REQUEST", "message": "no"},
    }


def unencodable(context: Context) -> Any:
    return object()


def refuses_unencodably(context: Context) -> Any:
    raise InvalidRequest("no", details={"a": object()})


def breaks(context: Context) -> Any:
    raise ZeroDivisionError("a secret")


@pytest.mark.parametrize(
    "handler",
    [
        breaks,
        unencodable,
        refuses_unencodably,
        lambda context: later(ZeroDivisionError("a secret")),
        lambda context: later(object()),
    ],
    ids=["raises", "no JSON", "no JSON in a refusal", "raises later", "no JSON later"],
)
def test_what_nobody_meant_to_raise(
    rig: Callable[..., Rig],
    handler: Handler,
    expected_failures: list[type[BaseException]],
    logged_failures: list[Any],
) -> None:
    """A bug is logged whole under a number that the client gets, without its text."""
    expected_failures.append(Exception)
    call = rig(handler).call()

    ((event,), error) = logged_failures, call.error
    assert error["code"] == "UNAVAILABLE"
    assert error["message"] == f"internal error (correlation {event['correlation']})"
    assert event["method"] == "m"
    assert "secret" not in str(call.frame)


@pytest.mark.parametrize("error", [StoreError("/a/path"), VersionConflict("lost")])
def test_a_store_that_fails(
    rig: Callable[..., Rig], error: Exception, expected_failures: list[type[BaseException]]
) -> None:
    """Where the store fails the client may try again, and does not learn what it said."""
    expected_failures.append(StoreError)
    answer = rig(lambda context: later(error)).call().error

    assert answer["message"].startswith("the store failed; try again (correlation ")
    assert (answer["retryable"], answer["retryAfterMs"]) == (True, 1000)


def test_a_client_that_is_gone(rig: Callable[..., Rig]) -> None:
    """A request whose connection is gone is not answered; it is counted as such."""
    made = rig(lambda context: Deferred())
    call = made.call()
    call.cancel()

    assert call.frames == []
    assert made.counted("cancelled") == 1


def test_labels_are_the_methods_there_are(rig: Callable[..., Rig]) -> None:
    """Requests for methods that do not exist are counted together."""
    made = rig(lambda context: None)
    for name in ("nope", "none such"):
        made.call(name)

    assert made.counted("INVALID_REQUEST", "other") == 2


def test_calls_that_end_with_their_connection(rig: Callable[..., Rig]) -> None:
    """It is known of a method whether its calls end with their connection."""
    made = rig(lambda context: None, waits=True)
    dispatcher = made.gate.wiring.edge.dispatcher

    assert dispatcher.waits("m")
    assert not dispatcher.waits("nope")


def test_raw_payloads(rig: Callable[..., Rig]) -> None:
    """A payload that is encoded already is sent as it is."""
    assert rig(lambda context: msgspec.Raw(b'{"a": 1}')).call().payload == {"a": 1}


def test_every_error_has_a_shape() -> None:
    """Each class of error has its code in both versions."""
    assert GatewayError("m").shape(4) == {"code": "UNAVAILABLE", "message": "m"}
