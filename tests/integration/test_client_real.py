"""The client library, with both drivers, against the gateway itself on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_twisted
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater

from gateway.client import (
    OPERATOR_SCOPES,
    ClientOptions,
    ConnectionLost,
    ConnectRefused,
    Credentials,
    Disconnected,
    MemoryTokens,
    Outcome,
    Reconnect,
    Reconnected,
    RequestFailed,
    RunEnded,
    aio,
    client_info,
    twisted,
)
from gateway.config import load
from gateway.core.deviceproof import DeviceIdentity
from gateway.runtime import SystemClock, SystemEntropy
from gateway.service import GatewayService, make_gateway
from gateway.statedir import StateDirectory
from tests.client.telling import Told
from tests.integration.daemon import free_port, soon

pytestmark = pytest.mark.integration

reactor: Any = installed_reactor
REPLY = " ".join(f"word{n}" for n in range(40))
COMES_BACK = Reconnect(first_s=0.1)


class Served:
    """A gateway in the test's own process, that can be restarted on its port and state directory."""

    def __init__(self, directory: Path) -> None:
        self.state = StateDirectory(directory / "state")
        self.port = free_port()
        self.url = f"ws://127.0.0.1:{self.port}"
        self.gateway: Any = None
        self.whole: Any = None

    async def start(self) -> None:
        """Start it, and wait until it is ready."""
        self.gateway = GatewayService(
            loaded=load(None, {}),
            listen_specs=[f"127.0.0.1:{self.port}"],
            state=self.state,
            token_file=None,
            environ={},
            reactor=reactor,
            clock=SystemClock(reactor),
            entropy=SystemEntropy(),
        )
        self.whole = make_gateway(self.gateway)
        self.whole.privilegedStartService()
        self.whole.startService()
        await soon(reactor, self.gateway.started)

    async def stop(self) -> None:
        """Stop it as SIGTERM does."""
        await self.whole.stopService()

    def options(self, **more: Any) -> ClientOptions:
        """Return how a client of it connects."""
        token = (self.state.path / "token").read_text().strip()
        return ClientOptions(credentials=Credentials(token=token), **more)

    def cut(self) -> None:
        """Cut every connection, without a close frame."""
        for connection in self.gateway.services.hub.connections:
            connection.transport.abortConnection()


class Driver(NamedTuple):
    """One of the two drivers, and what a coroutine of its user and the gateway's own may await."""

    connect: Callable[[str, ClientOptions], Awaitable[Any]]
    run: Callable[[Coroutine[Any, Any, Any]], Deferred[Any]]
    """Run a coroutine of the user's."""
    sleep: Callable[[float], Awaitable[Any]]
    on_gateway: Callable[[Coroutine[Any, Any, Any]], Awaitable[Any]]
    """Run a coroutine of the gateway's from one of the user's."""


def loop() -> asyncio.AbstractEventLoop:
    """Return the loop that the reactor is built on."""
    found: asyncio.AbstractEventLoop = reactor._asyncioEventloop
    return found


DRIVERS = {
    "twisted": Driver(
        lambda url, options: twisted.connect(reactor, url, options),
        ensureDeferred,
        lambda seconds: deferLater(reactor, seconds, lambda: None),
        ensureDeferred,
    ),
    "asyncio": Driver(
        aio.connect,
        lambda coroutine: Deferred.fromFuture(loop().create_task(coroutine)),
        asyncio.sleep,
        lambda coroutine: ensureDeferred(coroutine).asFuture(loop()),
    ),
}


@pytest.fixture(params=sorted(DRIVERS))
def driver(request: pytest.FixtureRequest) -> Driver:
    """Both drivers, one after the other."""
    return DRIVERS[request.param]


async def serving(
    directory: Path, scenario: Callable[[Served], Coroutine[Any, Any, None]], driver: Driver
) -> None:
    """Run a scenario of a client's user on a gateway."""
    served = Served(directory)
    await served.start()
    try:
        await driver.run(scenario(served))
    finally:
        await served.stop()


async def read(run: Any) -> tuple[str, RunEnded]:
    """Read a run to its end; return the text as its events add up to, and the end."""
    told = Told()
    async for event in run:
        told.add(event)
    assert told.end is not None
    return told.text, told.end


@pytest_twisted.ensureDeferred
async def test_a_device_talks(tmp_path: Path, driver: Driver) -> None:
    """A device proves itself, calls, reads a run word by word, and comes back with its own token alone."""

    async def scenario(served: Served) -> None:
        tokens, identity = MemoryTokens(), DeviceIdentity.from_seed(b"7" * 32)
        program = client_info("test", "ui")
        options = served.options(
            client=program, device=identity, tokens=tokens, scopes=OPERATOR_SCOPES
        )
        async with await driver.connect(served.url, options) as client:
            assert client.hello.protocol == 4
            assert set(client.hello.scopes or ()) == set(OPERATOR_SCOPES)
            assert (await client.health()).ok
            text, end = await read(client.chat("/tokens 40"))
            assert (text, end.outcome) == (REPLY, Outcome.FINAL)
            with pytest.raises(RequestFailed) as caught:
                await client.call("sessions.patch", {"key": "main", "nonsense": 1})
            assert caught.value.code == "INVALID_REQUEST"
            stopped = client.chat("/hang")
            await driver.sleep(0.05)
            await stopped.abort()
            assert (await stopped.result()).outcome is Outcome.ABORTED

        bare = ClientOptions(client=program, device=identity, tokens=tokens)
        async with await driver.connect(served.url, bare) as again:
            assert (await again.chat_history()).messages
        with pytest.raises(ConnectRefused) as refused:
            await driver.connect(served.url, ClientOptions(credentials=Credentials(token="wrong")))
        assert refused.value.detail_code == "AUTH_TOKEN_MISMATCH"

    await serving(tmp_path, scenario, driver)


@pytest_twisted.ensureDeferred
async def test_a_run_outlives_its_connections(tmp_path: Path, driver: Driver) -> None:
    """A run that is read over three cut connections gives every word once, in order, and one end."""

    async def scenario(served: Served) -> None:
        options = served.options(reconnect=COMES_BACK)
        async with await driver.connect(served.url, options) as client:
            back: list[Any] = []
            client.on_event(
                lambda notice: back.append(notice) if isinstance(notice, Reconnected) else None
            )
            run = client.chat("/tokens 40", idempotency_key="run-1")
            reading = read(run)
            for _ in range(3):
                await driver.sleep(0.15)
                served.cut()
            text, end = await reading
            assert (text, end.outcome) == (REPLY, Outcome.FINAL)
            assert back
            history = await client.chat_history()
            assert len(history.messages) == 2

    await serving(tmp_path, scenario, driver)


@pytest_twisted.ensureDeferred
async def test_a_client_outlives_a_restart(tmp_path: Path, driver: Driver) -> None:
    """A client comes back by itself after the gateway restarted, and goes on where it was."""

    async def scenario(served: Served) -> None:
        async with await driver.connect(served.url, served.options(reconnect=COMES_BACK)) as client:
            notices: list[Any] = []
            client.on_event(notices.append)
            first = client.hello.conn_id
            await client.chat("before").result()
            await driver.on_gateway(served.stop())
            await driver.sleep(0.05)
            assert not client.connected
            waiting = client.chat("after")
            await driver.on_gateway(served.start())
            assert (await waiting.result()).text == "after"

            away = [notice for notice in notices if isinstance(notice, Disconnected)]
            assert isinstance(away[0].error, ConnectionLost)
            assert (away[0].error.code, away[0].attempts) == (1012, 1)
            assert [notice.attempts for notice in away] == list(range(1, len(away) + 1))
            assert client.hello.conn_id != first
            said = [str(message) for message in (await client.chat_history()).messages]
            assert len(said) == 4

    await serving(tmp_path, scenario, driver)


@pytest_twisted.ensureDeferred
async def test_a_client_that_does_not_come_back(tmp_path: Path, driver: Driver) -> None:
    """Without a policy a client ends with its connection, and tells why."""

    async def scenario(served: Served) -> None:
        client = await driver.connect(served.url, served.options())
        run = client.chat("/hang")
        await driver.sleep(0.05)
        served.cut()
        with pytest.raises(ConnectionLost) as caught:
            await run.result()
        assert caught.value.code == 1006
        assert (await client.when_closed()) is not None
        with pytest.raises(ConnectionLost):
            await client.health()

    await serving(tmp_path, scenario, driver)
