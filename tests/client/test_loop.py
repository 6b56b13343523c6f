"""What both event loops lend to a client, and that both lend the same."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from twisted.internet.defer import CancelledError

from gateway.client.aio import AsyncioLoop
from gateway.client.errors import RequestNotSent
from gateway.client.options import parse_url
from gateway.client.testing import FakeGateway
from gateway.client.twisted import TwistedLoop
from tests.client.rigs import AsyncioRig, TwistedRig

RIGS = pytest.mark.parametrize("rig_type", [TwistedRig, AsyncioRig], ids=["twisted", "asyncio"])
TARGET = parse_url("ws://gateway.test:1")


def loop_of(rig):
    nowhere: Any = None
    if isinstance(rig, TwistedRig):
        return TwistedLoop(rig.clock, TARGET, nowhere)
    return AsyncioLoop(rig.loop, TARGET, nowhere)


async def caught(awaitable):
    """Return what an awaitable gives, or the type of what it raises."""
    try:
        return await awaitable
    except BaseException as error:
        return type(error)


@RIGS
def test_time_and_timers(rig_type):
    """Timers are called when they are due, and not once they were cancelled."""

    async def probe():
        start, called = loop.now(), []
        loop.call_later(1.0, lambda: called.append(loop.now() - start))
        loop.call_later(0.5, lambda: called.append("never")).cancel()
        await rig.sleep(2)
        return called, loop.now() - start

    with rig_type(FakeGateway()) as rig:
        loop = loop_of(rig)

        assert rig.run(probe()) == ([1.0], 2.0)


@RIGS
def test_a_waiter_is_settled_once(rig_type):
    """What was settled first stays."""

    async def probe():
        given, failed = loop.waiter(), loop.waiter()
        given.resolve(1)
        given.resolve(2)
        given.reject(RequestNotSent("late"))
        failed.reject(RequestNotSent("x"))
        failed.reject(RequestNotSent("late"))
        failed.resolve(3)
        return await caught(given.awaitable), await caught(failed.awaitable)

    with rig_type(FakeGateway()) as rig:
        loop = loop_of(rig)

        assert rig.run(probe()) == (1, RequestNotSent)


@RIGS
def test_a_waiter_tells_that_it_was_cancelled(rig_type):
    """Who cancels the waiting is noticed, and a late result is for nobody."""

    async def probe():
        told = []
        waiter, silent = loop.waiter(lambda: told.append("cancelled")), loop.waiter()
        waiter.awaitable.cancel()
        silent.awaitable.cancel()
        outcomes = await caught(waiter.awaitable), await caught(silent.awaitable)
        waiter.resolve(1)
        await rig.sleep(0)
        return told, outcomes

    with rig_type(FakeGateway()) as rig:
        loop = loop_of(rig)
        told, outcomes = rig.run(probe())

    error = CancelledError if rig_type is TwistedRig else asyncio.CancelledError
    assert told == ["cancelled"]
    assert outcomes == (error, error)


@RIGS
def test_a_waiter_that_is_settled_was_not_cancelled(rig_type):
    """Nothing is told of a cancellation where there was none."""

    async def probe():
        told = []
        waiter = loop.waiter(lambda: told.append("cancelled"))
        waiter.resolve(1)
        await waiter.awaitable
        await rig.sleep(0)
        return told

    with rig_type(FakeGateway()) as rig:
        loop = loop_of(rig)

        assert rig.run(probe()) == []
