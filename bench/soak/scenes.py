"""What the clients of a soak do."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.soak.raw import RawClient, reset
from bench.soak.world import QUICK, World
from gateway.client import (
    Credentials,
    Event,
    Gap,
    Notice,
    Outcome,
    RequestFailed,
    RunEnded,
    RunLost,
)
from gateway.client.aio import Client
from gateway.client.chat import message_text
from gateway.core.deviceproof import DeviceIdentity

SESSIONS = 40
TALKERS = 10
NODES = 3
END_S = 60.0
"""Within which a run of a few words has to end."""
KEPT_S = 90.0
"""How long the ends of a run are counted."""
FOLLOW = "runs.follow"
ENDS = ("final", "aborted", "error")

Step = Callable[[World], Awaitable[None]]


class Scene:
    """One thing that a client does, from its connection to its end; played again and again."""

    def __init__(self, step: Step, name: str) -> None:
        self.play = step
        self.name = name

    async def leave(self, world: World) -> None:
        """Close what is open, when the load ends."""


class Resident(Scene):
    """A client that stays for some steps, and comes back by itself when its connection breaks."""

    def __init__(self, name: str, stays: tuple[int, int]) -> None:
        super().__init__(self._played, name)
        self._stays = stays
        self._left = 0
        self.client: Client | None = None

    async def join(self, world: World) -> Client:
        """Connect."""
        return await world.join(world.options(random.choice((3, 4)), reconnect=QUICK))

    async def step(self, world: World, client: Client) -> None:
        """Do one thing."""
        raise NotImplementedError

    async def _played(self, world: World) -> None:
        if self.client is None:
            self.client = await self.join(world)
            self._left = random.randint(*self._stays)
        await self.step(world, self.client)
        self._left -= 1
        if self._left <= 0:
            await self.leave(world)

    async def leave(self, world: World) -> None:
        """Close the connection."""
        client, self.client = self.client, None
        if client is not None:
            await client.close()


@dataclass(slots=True)
class _Seen:
    at: float
    ends: int = 0
    text: str = ""
    wanted: bool = False


class Observer:
    """A client that sees the ``chat`` events of everybody: each run has to end exactly once."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._runs: OrderedDict[str, _Seen] = OrderedDict()
        self._client: Client | None = None
        self.blind_until = 0.0
        """Events were missed up to then, so an end may have been among them."""

    async def start(self) -> None:
        """Connect, and listen from now on."""
        self._client = await self._world.join(self._world.options(3, reconnect=QUICK))
        self._client.on_event(self._heard)

    async def stop(self) -> None:
        """Check what is left, and leave."""
        self.check(everything=True)
        if self._client is not None:
            await self._client.close()

    def expect(self, run_id: str) -> None:
        """Note that a run has ended, as who started it was told."""
        self._seen(run_id).wanted = True

    def said(self, text: str) -> int:
        """Return how many runs have ended with this text."""
        return sum(1 for seen in self._runs.values() if seen.ends and seen.text == text)

    def check(self, *, everything: bool = False) -> None:
        """Look at the runs that were over long enough ago."""
        now = time.monotonic()
        while self._runs:
            run_id, seen = next(iter(self._runs.items()))
            if now - seen.at < KEPT_S and not everything:
                return
            del self._runs[run_id]
            if seen.ends > 1 or (seen.wanted and not seen.ends and self.blind_until < seen.at):
                self._world.fault(f"run {run_id} ended {seen.ends} times")

    def _seen(self, run_id: str) -> _Seen:
        return self._runs.setdefault(run_id, _Seen(time.monotonic()))

    def _heard(self, notice: Notice) -> None:
        match notice:
            case Event(name="chat", payload=payload) if payload["state"] in ENDS:
                seen = self._seen(payload["runId"])
                seen.ends += 1
                seen.text = message_text(payload.get("message")) or ""
                self._world.counts["ends seen"] += 1
            case Event():
                pass
            case _:
                # The observer itself is never cut; a gap is the gateway's, and is counted.
                self._world.counts["gaps"] += isinstance(notice, Gap)
                self.blind_until = time.monotonic()


class Talker(Resident):
    """An interactive client that comes back; its connection is cut now and then."""

    def __init__(self, observer: Observer, protocol: int) -> None:
        super().__init__("talker", (5, 60))
        self._observer = observer
        self._protocol = protocol

    async def join(self, world: World) -> Client:
        """Connect with one version of the protocol."""
        return await world.join(world.options(self._protocol, reconnect=QUICK))

    async def step(self, world: World, client: Client) -> None:
        """Say something, and compare the answer."""
        key = f"soak-{random.randrange(SESSIONS)}"
        async with asyncio.timeout(END_S):
            await _turn(world, self._observer, client, key, world.words())

    def cut(self, world: World) -> None:
        """Break the connection, whatever it is used for: by RST, or by FIN without a close frame."""
        transport = _transport(self.client)
        if transport is not None and not transport.is_closing():
            world.counts["cut"] += 1
            random.choice((reset, _close))(transport)


def _close(transport: Any) -> None:
    transport.close()


def _transport(client: Client | None) -> Any:
    """Return the asyncio transport that a client has at the moment, if it has one."""
    carrier = None if client is None else client._carrier
    websocket: Any = None if carrier is None else carrier._websocket
    bridged = getattr(getattr(websocket, "transport", None), "write", None)
    return getattr(bridged, "__self__", None)


async def _turn(world: World, observer: Observer, client: Client, key: str, text: str) -> None:
    """Play one turn of the echoing agent, and check it."""
    run = client.chat(text, key)
    told = ""
    try:
        async for event in run:
            if isinstance(event, RunEnded):
                break
            told = told + event.text if type(event).__name__ == "TextDelta" else event.text
        else:
            raise AssertionError("no end")
    except RunLost:
        if FOLLOW in client.hello.methods:
            raise
        world.counts["runs lost"] += 1  # a gateway without logs of runs can not do better
        return
    except RequestFailed as error:
        if "too many messages" not in str(error):
            raise
        world.counts["lane full"] += 1
        return
    observer.expect(run.run_id)
    world.counts["turns"] += 1
    right = event.outcome is Outcome.FINAL and event.text == told == text
    if not right and FOLLOW not in client.hello.methods and text.startswith(event.text):
        world.counts["answers cut short"] += 1  # without logs of runs, a cut may cost the rest
    elif not right:
        world.fault(f"run {run.run_id}: {event.outcome} {event.text!r} (told {told!r}) != {text!r}")


class Speaker(Resident):
    """A node that speaks; every third utterance comes twice."""

    def __init__(self, observer: Observer, number: int) -> None:
        super().__init__("speaker", (3, 20))
        self._observer = observer
        self._key = f"soak-voice-{number}"
        self._device = DeviceIdentity.from_seed(os.urandom(32))

    async def join(self, world: World) -> Client:
        """Connect as a node."""
        return await world.join(world.node_options(self._device))

    async def step(self, world: World, client: Client) -> None:
        """Say something; it has to be answered once."""
        text = world.words(3, 12)
        payload = {"text": text, "sessionKey": self._key, "eventId": f"e{world.number()}"}
        told = {"event": "voice.transcript", "payload": payload}
        for _ in range(random.choice((1, 1, 2))):
            await world.timed(client.call("node.event", told))
        deadline = time.monotonic() + END_S
        while not self._observer.said(text) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.3)
        if (times := self._observer.said(text)) != 1 and not self._observer.blind_until:
            world.fault(f"transcript {text!r} was answered {times} times")
        world.counts["transcripts"] += 1


async def job(world: World) -> None:
    """Do what a cron job does: connect, run an agent in a session of its own, look at it, leave."""
    async with await world.join() as client:
        key, text = f"soak-job-{world.number()}", world.words(2, 6)
        params = {
            "message": text,
            "sessionKey": key,
            "idempotencyKey": f"job-{world.number()}-{key}",
        }
        started: list[Any] = []
        answer = client.call("agent", params, expect_final=True, on_accepted=started.append)
        async with asyncio.timeout(END_S):
            final = await answer
            waited = await client.agent_wait(final["runId"], timeout_s=5)
        told = "".join(part.get("text") or "" for part in final["result"]["payloads"])
        if (final["status"], waited.status, told) != ("ok", "ok", text) or len(started) != 1:
            world.fault(f"job {key}: {final} {waited} {started}")
        await client.call("sessions.delete", {"key": key, "deleteTranscript": True})
        world.counts["jobs"] += 1


LOOKS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("health", {}),
    ("status", {}),
    ("sessions.list", {"limit": 20}),
    ("chat.history", {"sessionKey": "soak-1", "limit": 20}),
    ("node.list", {}),
    ("system-presence", {}),
    ("models.list", {}),
    ("agents.list", {}),
    ("logs.tail", {"limit": 20}),
    ("sessions.subscribe", {}),
    ("sessions.messages.subscribe", {"key": "soak-1"}),
    ("sessions.messages.unsubscribe", {"key": "soak-1"}),
)


async def look(world: World) -> None:
    """Come, look at this and that, and leave."""
    async with await world.join() as client:
        for method, params in random.sample(LOOKS, 4):
            await world.timed(client.call(method, params))


async def visit(world: World) -> None:
    """Come and go."""
    async with await world.join() as client:
        await world.timed(client.health())


class Watcher(Resident):
    """A client that follows all sessions for a long time and asks something now and then."""

    def __init__(self) -> None:
        super().__init__("watcher", (10, 50))

    async def join(self, world: World) -> Client:
        """Connect, and subscribe."""
        client = await super().join(world)
        await client.call("sessions.subscribe", {})
        return client

    async def step(self, world: World, client: Client) -> None:
        """Ask something."""
        await world.timed(client.call("sessions.list", {"limit": 5}))


async def stuck(world: World, observer: Observer) -> None:
    """Start a run that hangs, of the demo agent or of a worker process; abort it or let its time run out."""
    async with await world.join() as client:
        by_timeout = random.random() < 0.3
        agent = random.choice(("main", "worker"))
        text = "/deaf" if agent == "worker" and random.random() < 0.05 else "/hang"
        params = {"timeoutMs": 1000} if by_timeout else {}
        run = client.chat(text, f"agent:{agent}:soak-stuck-{random.randrange(5)}", params=params)
        reading = asyncio.ensure_future(run.result())
        await asyncio.sleep(random.uniform(0.2, 1.5))
        if not by_timeout and not (await run.abort())["aborted"]:
            await asyncio.wait([reading], timeout=2)  # it was refused, or has ended
            if not reading.done():
                world.fault(f"run {run.run_id} goes on, and its abort found nothing")
        async with asyncio.timeout(END_S):
            try:
                ended = await reading
            except RequestFailed:
                world.counts["lane full"] += 1
                return
        observer.expect(run.run_id)
        world.counts["stuck"] += 1
        if ended.outcome is Outcome.FINAL:
            world.fault(f"run {run.run_id} of {text} ended as if all was well")


async def failing(world: World, observer: Observer) -> None:
    """Start a run that fails."""
    async with await world.join() as client:
        run = client.chat("/error on purpose", f"soak-{random.randrange(SESSIONS)}")
        async with asyncio.timeout(END_S):
            ended = await run.result()
        observer.expect(run.run_id)
        world.counts["failed"] += 1
        if (ended.outcome, ended.error_message) != (Outcome.ERROR, "on purpose"):
            world.fault(f"run {run.run_id} of /error ended {ended.outcome} {ended.error_message}")


async def worker_turn(world: World, observer: Observer) -> None:
    """Use the agent that is a process; now and then it dies."""
    async with await world.join() as client:
        deadly = random.random() < 0.01
        text = random.choice(("/die 3", "/kill")) if deadly else world.words(2, 10)
        run = client.chat(text, f"agent:worker:soak-{random.randrange(10)}")
        async with asyncio.timeout(END_S):
            ended = await run.result()
        observer.expect(run.run_id)
        world.counts["worker deaths" if deadly else "worker turns"] += 1
        if ended.outcome is Outcome.ERROR:
            world.counts["worker errors"] += 1  # it had died, of this or of another turn
        elif deadly or ended.text.rstrip() != text:
            world.fault(f"run {run.run_id} of {text!r} ended {ended.outcome} {ended.text!r}")


async def vanish(world: World) -> None:
    """Go away at some point between the first packet and the middle of a run."""
    point = random.randrange(8)
    client = await RawClient.open(world.address)
    options = world.options(random.choice((3, 4)))
    try:
        async with asyncio.timeout(END_S):
            if point == 1:
                client.writer.write(client.request_head()[: random.randrange(1, 120)])
            elif point == 2:
                client.writer.write(client.request_head())
            elif point >= 3:
                challenge = await client.upgrade()
                if point == 4:
                    client.connect(options, challenge["nonce"])
                elif point == 5:
                    client.writer.write(os.urandom(200))
                elif point == 6:
                    wrong = world.options(credentials=Credentials(token="of nobody" * 4))
                    client.connect(wrong, challenge["nonce"])
                    await client.frame()
                elif point == 7:
                    client.connect(options, challenge["nonce"])
                    await client.frame()
                    key = f"vanish-{world.number()}-{os.urandom(8).hex()}"
                    params = {
                        "sessionKey": "soak-vanish",
                        "message": world.words(),
                        "idempotencyKey": key,
                    }
                    client.send("chat.send", params)
                    await asyncio.sleep(random.uniform(0, 0.3))
            await asyncio.sleep(0)
    finally:
        random.choice((client.reset, client.close))()
    world.counts["vanished"] += 1


async def deaf(world: World) -> None:
    """Shake hands and read nothing any more; some of them ask a lot, too. The gateway has to end it."""
    client = await RawClient.open(world.address)
    try:
        await client.hello(world.options(random.choice((3, 4))))
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        if random.random() < 0.5:
            for _ in range(200):
                client.send("chat.history", {"sessionKey": "soak-2", "limit": 50})
        ends = time.monotonic() + 150
        while time.monotonic() < ends and not world.stopping.is_set():
            client.writer.write(b"")
            await asyncio.sleep(1)
            if _reset_by_peer(client):
                world.counts["deaf, closed"] += 1
                return
        if not world.stopping.is_set():
            world.fault("a client that does not read was kept for 150 s")
    finally:
        client.reset()


def _reset_by_peer(client: RawClient) -> bool:
    """Whether the other side has ended the connection, without reading from it."""
    import select

    made = client.writer.transport.get_extra_info("socket")
    if client.writer.transport.is_closing() or made is None or made.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(made.fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))


def cast(world: World, observer: Observer) -> list[tuple[Scene, float]]:
    """Return every scene with the seconds from one to the next."""
    talkers = [Talker(observer, 3 + number % 2) for number in range(TALKERS)]

    async def cut(world: World) -> None:
        random.choice(talkers).cut(world)

    def scene(step: Any, *more: Any) -> Scene:
        return Scene(partial(_with, step, more), step.__name__)

    return [
        *((talker, 2.0) for talker in talkers),
        (scene(cut), 2.0),
        *((Speaker(observer, number), 5.0) for number in range(NODES)),
        (scene(job), 2.0),
        (scene(look), 1.0),
        *((scene(visit), 0.6) for _ in range(2)),
        *((Watcher(), 3.0) for _ in range(5)),
        *((scene(stuck, observer), 4.0) for _ in range(2)),
        (scene(failing, observer), 5.0),
        *((scene(worker_turn, observer), 2.5) for _ in range(2)),
        *((scene(vanish), 0.6) for _ in range(2)),
        *((scene(deaf), 10.0) for _ in range(3)),
    ]


async def _with(step: Any, more: tuple[Any, ...], world: World) -> None:
    await step(world, *more)
