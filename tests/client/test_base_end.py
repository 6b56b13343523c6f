"""How a client begins and ends, on both drivers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.client import (
    ClientOptions,
    ConnectFailed,
    ConnectionLost,
    Credentials,
    Disconnected,
    InvalidUrl,
    Reconnect,
)
from gateway.client import aio as aio_driver
from gateway.client import twisted as twisted_driver
from gateway.client.carrier import Carrier
from tests.client.rigs import TwistedRig

BACK = ClientOptions(reconnect=Reconnect(fraction=lambda: 0.5))
ONCE = ClientOptions()


def test_iterators_end_with_the_client(rig):
    """Closing ends an iteration; losing the connection for good raises, also for those that come later."""

    async def probe():
        closed = await rig.connect(ONCE)
        feed = closed.events()
        await closed.close()
        ended = [notice async for notice in feed]
        lost = await rig.connect(ONCE)
        waiting, run = lost.events(), lost.chat("hi")
        rig.gateway.cut()
        outcomes = [ended]
        for iteration in (waiting, run, lost.events(), lost.chat("more")):
            with pytest.raises(ConnectionLost):
                outcomes.append([item async for item in iteration])
        outcomes.append((await lost.when_closed()).code)
        return outcomes

    assert rig.run(probe()) == [[], 1006]


def test_what_waits_fails_when_the_client_is_closed(rig):
    """Closing fails calls and runs with what closed them; closing again does nothing."""
    rig.gateway.handlers["slow"] = lambda connection, frame: None

    async def probe():
        client = await rig.connect(BACK)
        call, run = client.call("slow"), client.chat("hi")
        await rig.sleep(0.1)
        await client.close(1000, "bye")
        await client.close()
        for waiting in (call, run.result(), client.call("health")):
            with pytest.raises(ConnectionLost) as raised:
                await waiting
            assert raised.value.reason == "bye"

    rig.run(probe())
    assert rig.closes == [(1000, "bye")]


def test_closing_while_away(rig):
    """A client that is closed while the connection is away leaves nothing behind."""

    async def probe():
        client = await rig.connect(BACK)
        rig.reachable = False
        rig.gateway.cut()
        await rig.sleep(5)
        await client.close()
        rig.reachable = True
        await rig.sleep(100)

    rig.run(probe())
    assert len(rig.closes) == 1


def test_a_listener_may_close_the_client(rig):
    """A listener that closes the client while it comes back is obeyed at once."""

    async def probe():
        client = await rig.connect(BACK)
        call = client.call("slow", resend=True, timeout=0.3)
        client.on_event(lambda n: client.close() if isinstance(n, Disconnected) else None)
        await rig.sleep(0.1)
        rig.gateway.cut()
        await rig.sleep(50)
        with pytest.raises(ConnectionLost):
            await call

    rig.gateway.handlers["slow"] = lambda connection, frame: None
    rig.run(probe())
    assert rig.dials == 1


def test_closing_in_the_moment_of_the_next_attempt(rig):
    """A callback that closes the client just as it would dial again prevents it."""

    async def probe():
        client = await rig.connect(BACK)
        client.on_event(lambda n: calls.append(client.call("health", timeout=0.5)))
        rig.gateway.cut()
        await rig.sleep(0.1)
        if isinstance(rig, TwistedRig):
            calls[0].addErrback(lambda failure: client.close() and None)
        else:
            calls[0].add_done_callback(lambda done: done.exception() and client.close())
        await rig.sleep(50)
        await client.close()

    calls = []
    rig.run(probe())
    assert rig.dials == 1


def test_only_the_current_connection_is_listened_to(rig):
    """What another connection says, an earlier one that lingers, is for nobody."""
    heard: list[Any] = []

    async def probe():
        async with await rig.connect(BACK) as client:
            client.on_event(heard.append)
            loop: Any = None
            earlier = Carrier(loop, client, 1.0)
            client.upgraded(earlier)
            client.frame_received(earlier, b'{"type":"event","event":"tick"}')
            client.ended(earlier, 1006, "")
            client.gone(earlier)
            return (await client.health()).ok

    assert rig.run(probe())
    assert heard == []


def test_an_iterator_is_closed_after_the_client(rig):
    """An iterator may be closed when the client is gone already."""

    async def probe():
        client = await rig.connect(ONCE)
        feed = client.events()
        rig.gateway.cut()
        await client.when_closed()
        feed.close()

    rig.run(probe())


def test_reading_one_run_may_close_another(rig):
    """A reader that closes another run in the moment when both go on is obeyed at once."""

    async def probe():
        client = await rig.connect(BACK)
        first, second = (client.chat("hi", idempotency_key=key) for key in "ab")
        await rig.sleep(0.1)
        rig.gateway.cut()
        for key in "ab":
            rig.gateway.runs[key].say("x")
        async for _ in first:
            second.close()
            break
        rest = [event async for event in second]
        await client.close()
        return len(rest)

    assert rig.run(probe()) <= 1


def test_one_lost_run_may_close_another(rig):
    """A reader that closes another run when its own is lost does no harm."""

    async def probe():
        client = await rig.connect(ONCE)
        first, second = (client.chat("hi", idempotency_key=key) for key in "ab")
        await rig.sleep(0.1)
        rig.gateway.cut()
        with pytest.raises(ConnectionLost):
            await first.result()
        second.close()

    rig.run(probe())


@pytest.mark.parametrize("challenge", [None, {"nonce": " "}])
def test_a_gateway_that_does_not_challenge(rig, challenge):
    """A gateway that says nothing, or nothing that makes sense, is left and tried again."""
    rig.gateway.challenge = challenge

    async def probe():
        with pytest.raises(ConnectionLost) as raised:
            await rig.connect(ONCE)
        rig.gateway.challenge = {"nonce": "n", "ts": 1}
        await (await rig.connect(BACK)).close()
        return raised.value.code

    assert rig.run(probe()) == 1008


def test_a_bad_address(rig):
    """An address that is none fails as such."""

    async def probe():
        with pytest.raises(InvalidUrl):
            await rig.connect_to("http://localhost:1", ONCE)

    rig.run(probe())


def test_no_gateway(rig):
    """Where nobody listens, connecting fails at once for a client that connects once."""
    rig.reachable = False

    async def probe():
        with pytest.raises(ConnectFailed, match="connection refused"):
            await rig.connect(ONCE)

    rig.run(probe())


def test_connecting_is_given_up(rig):
    """Who cancels connecting ends it, whether or not there is a connection already."""
    rig.gateway.handlers["connect"] = lambda connection, frame: None

    async def probe():
        waiting = rig.begin(BACK)
        await rig.sleep(0.5)
        waiting.cancel()
        with pytest.raises((ConnectFailed, asyncio.CancelledError)):
            await waiting
        await rig.sleep(2)

    rig.run(probe())
    assert [code for code, _ in rig.closes] == [1000]


def test_credentials_are_sent(rig):
    """The shared token goes out with the handshake."""
    rig.gateway.token = "t"

    async def probe():
        await (await rig.connect(ClientOptions(credentials=Credentials(token="t")))).close()

    rig.run(probe())
    assert rig.gateway.calls("connect")[0]["auth"] == {"token": "t"}


def test_the_asyncio_client_is_a_client():
    """Both drivers' clients have the same methods."""
    names = {name for name in dir(twisted_driver.Client) if not name.startswith("_")}

    assert names == {name for name in dir(aio_driver.Client) if not name.startswith("_")}
