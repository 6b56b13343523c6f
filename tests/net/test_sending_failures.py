"""Sends that fail: told once, never swallowed, and nobody else is hurt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.error import ConnectionLost
from twisted.logger import LogEvent
from twisted.python.failure import Failure

from gateway.core.events import Event, TextDelta
from gateway.core.frames import EncodeFailed
from tests.net.gate import Client, Gate, boom, closings
from tests.net.wire import Wire, close_frame, masked, upgrade

HEALTH = b'{"type":"req","id":"h","method":"health"}'


def failing(client: Client) -> None:
    """Let every write fail from now on."""

    def fail(data: bytes) -> None:
        raise OSError("broken pipe")

    client.wire.write = fail  # type: ignore[method-assign]


def failed_sends(log: list[LogEvent]) -> list[str]:
    """Return the connections whose sends failed, once for each line."""
    return [e["conn"] for e in log if str(e.get("log_format", "")).startswith("send failed")]


def test_a_send_failure_closes_once(gate: Gate, log: list[LogEvent]) -> None:
    """A send failure is logged once with the connection id, recorded as `send-error`, and closes the connection; a second error on the same socket changes nothing and raises nothing."""  # noqa: E501
    client = gate.join()
    failing(client)
    gate.wiring.tick()
    gate.wiring.tick()
    client.server.on_error(Failure(OSError("again")))
    client.wire.lose(ConnectionLost("reset"))
    assert failed_sends(log) == [client.server.conn_id]
    (line,) = closings(log)
    assert line["cause"] == "send-error"
    assert ("abort",) in client.wire.log


@pytest.mark.parametrize(
    "data",
    [masked(HEALTH), masked(HEALTH * 2), masked(b"", 9), close_frame(), b"\x81\x01x"],
    ids=["answer", "refusal", "pong", "close", "violation"],
)
def test_an_answer_that_can_not_be_sent(gate: Gate, log: list[LogEvent], data: bytes) -> None:
    """Whatever is sent while a read is handled: where that fails, it is a send error like any other."""
    client = gate.join()
    failing(client)
    client.wire.receive(data)
    assert ("abort",) in client.wire.log
    client.wire.lose()
    (line,) = closings(log)
    assert "send-error" in (line["cause"], line.get("alsoCause"))
    assert len(failed_sends(log)) == (line["cause"] == "send-error")


def test_a_handshake_that_can_not_be_answered(gate: Gate, log: list[LogEvent]) -> None:
    """A socket that fails with the first byte we write ends as a send error, before connect."""
    client = gate.open()
    failing(client)
    client.connect()
    client.wire.lose()
    assert [line["cause"] for line in closings(log)] == ["send-error"]


def test_an_upgrade_that_can_not_be_answered(gate: Gate, log: list[LogEvent]) -> None:
    """A socket that fails with the response to the upgrade never has a handshake or a deadline."""
    wire = Wire()
    wire.connect(gate.wiring.factory.buildProtocol(wire.getPeer()))
    wire._appSendBuffer = [b"rest"]  # type: ignore[attr-defined]  # so that nothing is joined
    wire.write = boom  # type: ignore[method-assign]
    wire.receive(upgrade())
    assert len(gate.wiring.edge.deadlines) == 0
    wire.lose()
    assert [line["cause"] for line in closings(log)] == ["send-error"]


def test_a_close_that_can_not_be_sent(gate: Gate, log: list[LogEvent]) -> None:
    """Where the close frame itself can not be written the socket is cut at once, under the first cause."""
    client = gate.join()
    failing(client)
    gate.clock.advance(1)
    client.server.expire()
    assert client.wire.log[-1] == ("abort",)
    client.wire.lose()
    (line,) = closings(log)
    assert (line["cause"], line["alsoCause"]) == ("handshake-timeout", "send-error")


def test_one_failing_socket_does_not_hurt_the_others(gate: Gate) -> None:
    """A broadcast reaches everybody else when the send to one of them fails."""
    first, second, third = (gate.join() for _ in range(3))
    failing(second)
    gate.wiring.tick()
    assert [m["seq"] for c in (first, third) for m in c.received()] == [1, 1]
    assert len(gate.wiring.services.hub) == 2


def delta(build: Callable[..., Any], text: str = "ab") -> TextDelta:
    """Return a piece of text of the run r."""
    return TextDelta("agent", build, key="k", group="r", run_seq=1, ts_ms=1, text=text, offset=0)


def unencodable(protocol: int, event: TextDelta) -> Any:
    """Make a payload that has no JSON form once it was merged."""
    return {"text": event.text} if event.text == "ab" else object()


def test_what_can_not_be_encoded_when_it_leaves(
    gate: Gate, log: list[LogEvent], expected_failures: list[type[BaseException]]
) -> None:
    """A waiting event that turns out to have no JSON form ends the connection instead of being lost."""
    expected_failures.append(EncodeFailed)
    client = gate.join()
    client.server.pauseProducing()
    client.server.deliver(delta(unencodable))
    client.server.deliver(delta(unencodable, "abcd"))
    client.server.resumeProducing()
    assert client.closed() == (1011, "internal error")
    client.wire.lose()
    assert (closings(log)[0]["cause"], closings(log)[0]["error"]) == (
        "internal-error",
        "EncodeFailed",
    )


@pytest.mark.parametrize("how", ["deliver", "deliver_direct"])
def test_a_delivery_that_fails_is_not_swallowed(
    gate: Gate, how: str, expected_failures: list[type[BaseException]]
) -> None:
    """An event that can not be made into a frame ends the connection; the caller's loop goes on."""
    expected_failures.append(ZeroDivisionError)
    client = gate.join()
    getattr(client.server, how)(delta(boom))
    assert client.closed() == (1011, "internal error")


def test_an_event_without_a_form_is_not_sent(gate: Gate) -> None:
    """A direct event that has no form in the connection's version is left out."""
    client = gate.join(3)
    client.server.deliver_direct(Event("tick", {"ts": 1}, v3=None))
    assert client.frames() == []
