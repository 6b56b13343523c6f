"""A client over many connections, driven by hand: coming back, and ending."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest

from gateway.client.actions import Close, Disconnected, Send
from gateway.client.errors import (
    ConnectFailed,
    ConnectionLost,
    ConnectRefused,
    GaveUp,
)
from gateway.client.link import Link
from gateway.client.options import ClientOptions, parse_url
from gateway.client.retry import Reconnect
from gateway.client.testing import FakeGateway
from gateway.client.tokens import Credentials, MemoryTokens
from gateway.core.deviceproof import DeviceIdentity
from tests.client.bench import COMES_BACK, TARGET, Bench

ONCE = ClientOptions()


def refusing(code="INVALID_REQUEST", close=(1008, "no"), **more):
    """Return a handler of connect that refuses and closes."""

    def refuse(connection, frame):
        connection.refuse(frame, code, "no", **more)
        connection.close(*close)

    return refuse


# Coming back.


def test_one_connection_is_all_without_a_policy():
    """A client that is not to come back ends with its connection."""
    bench = Bench(options=ONCE)
    waiting = bench.call("health")

    bench.gateway.cut()
    bench.settle()

    assert bench.answers[waiting] == {"ok": True}
    assert isinstance(bench.lost, ConnectionLost)
    assert bench.link.error is bench.lost
    assert bench.link.deadline is None
    assert len(bench.dials) == 1


def test_a_client_comes_back():
    """After a lost connection the user is told, and told again when it is back."""
    bench = Bench()

    bench.gateway.cut()
    bench.settle()
    away, connected = bench.away(), bench.link.connected
    bench.after(0.5)

    (told,) = away
    assert isinstance(told.error, ConnectionLost)
    assert (told.retry_in_s, told.attempts) == (0.5, 1)
    assert not connected
    assert bench.link.connected
    assert [notice.hello.conn_id for notice in bench.back()] == ["c-2"]
    assert bench.opened == 1
    assert bench.dials == [0.0, 0.5]


def test_the_first_connection_may_take_several_attempts():
    """A gateway that is not there yet is waited for, too."""
    bench = Bench(reachable=lambda bench: bench.now >= 10)
    before = bench.opened

    bench.after(20)

    assert before == 0
    assert isinstance(bench.away()[0].error, ConnectFailed)
    assert bench.opened == 1
    assert bench.back() == []


def test_a_refusal_that_needs_a_person_is_final():
    """A refused credential ends everything at once, and says why."""
    bench = Bench(FakeGateway(token="t"))

    assert isinstance(bench.lost, ConnectRefused)
    assert bench.lost.detail_code == "AUTH_TOKEN_MISSING"
    bench.after(3600)
    assert len(bench.dials) == 1


def test_a_credential_that_was_revoked_ends_a_client():
    """A client whose credential no longer holds comes back once, and then ends with the refusal."""
    bench = Bench(FakeGateway(token=None))
    bench.gateway.token = "new"

    bench.gateway.close(4001, "gateway auth changed")
    bench.settle()
    bench.after(60)

    assert isinstance(bench.lost, ConnectRefused)
    assert len(bench.dials) == 2


def test_a_gateway_that_starts_is_waited_for():
    """A refusal that passes is tried again after the time the gateway names."""
    gateway = FakeGateway()
    connect = gateway.handlers["connect"]
    details = {"retryable": True, "retryAfterMs": 2000}
    gateway.handlers["connect"] = refusing("UNAVAILABLE", (1013, "gateway starting"), **details)
    bench = Bench(gateway)
    gateway.handlers["connect"] = connect

    bench.after(2.4)
    early = bench.opened
    bench.after(0.1)

    assert (early, bench.opened) == (0, 1)


def test_an_announced_restart_is_waited_for():
    """A shutdown that names the time of the return is believed."""
    bench = Bench()
    bench.gateway.broadcast("shutdown", {"reason": "restart", "restartExpectedMs": 5000})
    bench.gateway.close(1012, "service restart")
    bench.settle()

    (away,) = bench.away()

    assert isinstance(away.error, ConnectionLost)
    assert (away.error.code, away.retry_in_s) == (1012, 5.5)


def test_a_bounded_client_gives_up():
    """After the given number of attempts a client ends, and whoever waits is told."""
    policy = Reconnect(max_attempts=3, fraction=lambda: 1.0)
    bench = Bench(options=ClientOptions(reconnect=policy))
    bench.chat()
    bench.reachable = lambda _: False
    bench.gateway.cut()
    bench.settle()
    waiting = bench.call("health", timeout=math.inf)

    bench.after(60)

    assert isinstance(bench.lost, GaveUp)
    assert len(bench.dials) == 4
    assert bench.answers[waiting] is bench.lost
    assert bench.run_errors["run-1"] is bench.lost


def test_a_day_without_the_gateway():
    """24 hours of outage cost a bounded number of attempts; the client is back within the cap."""
    day = 24 * 3600.0
    policy = Reconnect(fraction=Random(7).random)
    bench = Bench(options=ClientOptions(reconnect=policy))
    bench.chat()
    bench.reachable = lambda _: bench.now >= day
    bench.gateway.cut()
    bench.settle()
    bench.run().say("still here")
    bench.does("finish")

    bench.until(day - 1e-6)
    attempts = len(bench.dials) - 1
    bench.until(day + policy.cap_s)

    assert 5_400 < attempts < 6_100
    assert bench.link.connected
    assert bench.told() == "still here"


def test_silence_brings_a_client_back():
    """A gateway that falls silent is left, and tried again."""
    bench = Bench()

    bench.after(61)

    (away,) = bench.away()
    assert isinstance(away.error, ConnectionLost)
    assert away.error.code == 4000
    assert len(bench.back()) == 1


def test_a_connection_that_never_opens_is_given_up():
    """A WebSocket that does not open in time counts as a failed attempt."""
    link = Link(COMES_BACK, TARGET, 0.0)
    link.start()

    early = link.time_passed(14.9)
    late: list[Any] = link.time_passed(15.0)

    assert early == []
    assert late[0] == Close(1000, "")
    assert isinstance(late[1].event, Disconnected)
    assert "timed out" in str(late[1].event.error)


def test_a_socket_lost_before_it_opened():
    """A socket that goes before the WebSocket opened is a failure to connect."""
    link = Link(ONCE, TARGET, 0.0)
    link.start()

    actions: list[Any] = link.connection_lost(None, "reset", 0.0)

    assert str(actions[0].error) == f"cannot connect to {TARGET.url}: reset"


# The end.


def test_closing_ends_everything():
    """Closing fails what waits, and nothing comes back."""
    bench = Bench()
    bench.gateway.handlers["health"] = lambda c, f: None
    waiting = bench.call("health")
    bench.chat()

    actions = bench.link.close(1000, "bye", bench.now)
    bench.apply(actions)
    bench.after(100)

    assert actions[0] == Close(1000, "bye")
    error = bench.lost
    assert isinstance(error, ConnectionLost)
    assert (error.code, error.reason) == (1000, "bye")
    assert bench.answers[waiting] is error
    assert bench.run_errors["run-1"] is error
    assert bench.link.close(1000, "", bench.now) == []
    assert bench.link.cancel(bench.now) == []
    assert bench.link.time_passed(bench.now) == []
    with pytest.raises(ConnectionLost):
        bench.call("health")
    with pytest.raises(ConnectionLost):
        bench.chat(run_id="run-2")


def test_closing_while_away():
    """A client that is closed while the connection is away does not come back."""
    bench = Bench()
    bench.gateway.cut()
    bench.settle()
    waiting = bench.call("health")

    actions = bench.link.close(1000, "", bench.now)
    bench.apply(actions)
    bench.after(100)

    assert not any(isinstance(action, Close) for action in actions)
    assert bench.answers[waiting] is bench.lost
    assert len(bench.dials) == 1


def test_cancelling_the_first_connection():
    """Whoever gives up connecting is told so."""
    link = Link(COMES_BACK, TARGET, 0.0)
    link.start()

    actions: list[Any] = link.cancel(1.0)
    close, lost = actions

    assert close == Close(1000, "")
    assert isinstance(lost.error, ConnectFailed)


# Device tokens.

DEVICE = DeviceIdentity.from_seed(bytes(32))
PRIVATE = parse_url("ws://127.0.0.1:18789")


def with_device(tokens=None, token=None):
    return ClientOptions(
        reconnect=Reconnect(fraction=lambda: 0.0),
        device=DEVICE,
        tokens=tokens,
        credentials=Credentials(token=token),
    )


def shown(bench):
    return [call.get("auth") for call in bench.gateway.calls("connect")]


def test_a_device_comes_back_with_its_token():
    """The token of the first hello is kept in the store, and shown by the next connection."""
    gateway, store = FakeGateway(), MemoryTokens()
    gateway.hello = {**gateway.hello, "auth": {"deviceToken": "dt-1"}}
    bench = Bench(gateway, with_device(store))

    bench.gateway.cut()
    bench.settle()
    bench.after(0)

    assert shown(bench) == [None, {"deviceToken": "dt-1"}]
    assert store.load(DEVICE.device_id, "operator") == "dt-1"


def test_a_device_token_instead_of_a_wrong_one():
    """Where the gateway offers it, a device comes back at once with its own token."""
    store = MemoryTokens()
    store.save(DEVICE.device_id, "operator", "dt-1")
    gateway = FakeGateway()
    connect = gateway.handlers["connect"]
    details = {"code": "AUTH_TOKEN_MISMATCH", "canRetryWithDeviceToken": True}

    def picky(connection, frame):
        if "token" in frame["params"]["auth"]:
            refusing(details=details)(connection, frame)
        else:
            connect(connection, frame)

    gateway.handlers["connect"] = picky
    bench = Bench(gateway, with_device(store, "old"), target=PRIVATE)

    bench.after(0)

    assert shown(bench) == [{"token": "old"}, {"deviceToken": "dt-1"}]
    assert bench.opened == 1


def test_frames_after_the_end_are_ignored():
    """What still comes on a connection that ended is for nobody."""
    bench = Bench()
    bench.apply(bench.link.close(1000, "", bench.now))

    actions = bench.link.frame_received(b'{"type":"event","event":"tick"}', bench.now)

    assert actions == []
    assert not any(isinstance(action, Send) for action in actions)
