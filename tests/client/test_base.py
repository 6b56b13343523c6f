"""What a user of a client sees, on both drivers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from twisted.internet.defer import CancelledError

from gateway.client import (
    ClientOptions,
    Disconnected,
    Event,
    Outcome,
    Position,
    Reconnect,
    Reconnected,
    RequestFailed,
    RequestNotSent,
    RequestTimeout,
    RunEnded,
    TextDelta,
)

BACK = ClientOptions(reconnect=Reconnect(fraction=lambda: 0.5))
ONCE = ClientOptions()


def answering(run):
    run.say("a ")
    run.say("b")
    run.finish()


def test_a_client_is_a_context(rig):
    """Leaving the context closes the client, with a close frame."""

    async def probe():
        async with await rig.connect(ONCE) as client:
            hello, connected = client.hello, client.connected
            health = await client.health()
        return hello.conn_id, connected, client.connected, health.ok

    assert rig.run(probe()) == ("c-1", True, False, True)
    assert rig.closes == [(1000, None)]


def test_a_run_is_iterated(rig):
    """A run gives its text and one end; the result is the end."""
    rig.gateway.on_send = answering

    async def probe():
        async with await rig.connect(ONCE) as client:
            events = [event async for event in client.chat("hi")]
            result = await client.chat("hi").result()
            return events, result

    events, result = rig.run(probe())
    *deltas, end = events
    assert all(isinstance(delta, TextDelta) for delta in deltas)
    assert "".join(delta.text for delta in deltas) == "a b"
    assert isinstance(end, RunEnded)
    assert (result.outcome, result.text) == (Outcome.FINAL, "a b")


def test_a_run_is_aborted(rig):
    """An abort is answered, and the end comes as an event."""

    async def probe():
        async with await rig.connect(ONCE) as client:
            run = client.chat("hi")
            await rig.sleep(0.1)
            answer = await run.abort()
            return answer["aborted"], (await run.result()).outcome

    assert rig.run(probe()) == (True, Outcome.ABORTED)


def test_a_run_is_read_no_further(rig):
    """A run that is closed ends its iteration, goes on at the gateway, and can be read again."""

    async def probe():
        async with await rig.connect(BACK) as client:
            run = client.chat("hi", idempotency_key="k")
            await rig.sleep(0.1)
            rig.gateway.runs["k"].say("a ")
            await rig.sleep(0.1)
            first, position = await run.__anext__(), run.position
            run.close()
            run.close()
            rest = [event async for event in run]
            rig.gateway.runs["k"].say("b ")
            again = client.follow("k", after=position)
            await rig.sleep(0.1)
            rig.gateway.runs["k"].finish()
            return first, position, rest, [event async for event in again][:-1], run.position

    assert rig.run(probe()) == (
        TextDelta("a "),
        Position(epoch="epoch-1", seq=1),
        [],
        [TextDelta("b ")],
        None,
    )


def test_the_end_is_read_once(rig):
    """Whoever asks for the result after the end is told of the mistake."""
    rig.gateway.on_send = answering

    async def probe():
        async with await rig.connect(ONCE) as client:
            run = client.chat("hi")
            await run.result()
            with pytest.raises(RuntimeError):
                await run.result()

    rig.run(probe())


def test_one_key_is_read_once(rig):
    """A second run under a key that is being read is refused here."""

    async def probe():
        async with await rig.connect(ONCE) as client:
            client.chat("hi", idempotency_key="k")
            with pytest.raises(RequestNotSent):
                await client.chat("hi", idempotency_key="k").result()

    rig.run(probe())


def test_calls_settle(rig):
    """A call gives its payload, or raises what went wrong."""
    rig.gateway.handlers["slow"] = lambda connection, frame: None

    async def probe():
        async with await rig.connect(ONCE) as client:
            payload = await client.call("health")
            with pytest.raises(RequestFailed):
                await client.call("nope")
            with pytest.raises(RequestTimeout):
                await client.call("slow", timeout=3)
            with pytest.raises(RequestNotSent):
                await client.call("health", {"x": object()})
            return payload

    assert rig.run(probe()) == {"ok": True}


def test_a_call_is_answered_twice(rig):
    """The first answer goes to on_accepted, the second is the result; a callback that raises is logged."""
    accepted: list[Any] = []

    def agent(connection, frame):
        connection.answer(frame, {"status": "accepted"})
        connection.answer(frame, {"status": "ok"})

    rig.gateway.handlers["agent"] = agent

    async def probe():
        async with await rig.connect(ONCE) as client:
            first = await client.call("agent", expect_final=True, on_accepted=accepted.append)
            second = await client.call("agent", expect_final=True)
            return first, second

    assert rig.run(probe()) == ({"status": "ok"}, {"status": "ok"})
    assert accepted == [{"status": "accepted"}]


def test_a_call_is_cancelled(rig):
    """Cancelling a call ends the waiting, and its late answer is for nobody."""
    frames = []
    rig.gateway.handlers["slow"] = lambda connection, frame: frames.append((connection, frame))

    async def probe():
        async with await rig.connect(ONCE) as client:
            call = client.call("slow")
            await rig.sleep(0.1)
            call.cancel()
            with pytest.raises((CancelledError, asyncio.CancelledError)):
                await call
            await rig.sleep(0.1)
            connection, frame = frames[0]
            connection.answer(frame, {})
            return (await client.health()).ok

    assert rig.run(probe())


def test_listeners_and_iterators_hear_the_same(rig):
    """Events, losses and returns are told to listeners and to iterators alike."""
    heard: list[Any] = []

    async def probe():
        client = await rig.connect(BACK)
        remove = client.on_event(heard.append)
        feed, closed = client.events(), client.events()
        closed.close()
        rig.gateway.broadcast("tick", 1)
        await rig.sleep(0.1)
        rig.gateway.cut()
        await rig.sleep(1)
        remove()
        remove()
        rig.gateway.broadcast("tick", 2)
        await rig.sleep(0.1)
        feed.close()
        seen = [notice async for notice in feed]
        assert [notice async for notice in closed] == []
        await client.close()
        return seen

    seen = rig.run(probe())
    kinds = [type(notice) for notice in seen]
    assert kinds == [Event, Disconnected, Reconnected, Event]
    assert heard == seen[:3]
