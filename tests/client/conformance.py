"""What every driver of the client has to make of a gateway that breaks, repeats or babbles.

Each case is a script that the fake gateway plays while a run of the words one to five is being read, and
what a user of the client sees of it: the same for every driver. The refusals of the handshake are in
``refusals``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gateway.client import (
    ClientError,
    Disconnected,
    Event,
    Gap,
    Reconnected,
)
from gateway.client.options import MAX_FRAME_BYTES
from tests.client.refusals import COMES_BACK, shown
from tests.client.rigs import Rig
from tests.client.telling import Told

WORDS = ("one ", "two ", "three ", "four ", "five ")
STEP_S = 0.1
KEY = "run-1"

Action = Callable[[Rig], None]


@dataclass(frozen=True)
class Disturbance:
    """What happens before each of the words, and what is seen of it."""

    name: str
    before: dict[int, Action]
    """By the number of the word; 6 is before the end."""
    seen: list[str]
    """Notices, in order."""
    text: str | None = "".join(WORDS)
    end: str | None = "final"
    error: str | None = None
    dials: int = 2


def cut(rig: Rig) -> None:
    rig.gateway.cut()


def close(code: int, reason: str) -> Action:
    return lambda rig: rig.gateway.close(code, reason)


def raw(*messages: bytes) -> Action:
    def send(rig: Rig) -> None:
        for connection in list(rig.gateway.connections):
            for message in messages:
                connection.raw(message)

    return send


def octets(data: bytes) -> Action:
    """Write bytes below the WebSocket."""

    def write(rig: Rig) -> None:
        for connection in list(rig.gateway.connections):
            websocket: Any = connection.peer
            websocket.transport.write(data)

    return write


def both(*actions: Action) -> Action:
    def act(rig: Rig) -> None:
        for action in actions:
            action(rig)

    return act


def restart(rig: Rig) -> None:
    payload = {"reason": "service restart", "restartExpectedMs": 2000}
    rig.gateway.broadcast("shutdown", payload)
    rig.gateway.close(1012, "service restart")


def skip(rig: Rig) -> None:
    for connection in rig.gateway.connections:
        connection.seq += 2


def repeat(rig: Rig) -> None:
    """Send again what the log has, out of order, as events of both kinds."""
    run = rig.gateway.runs[KEY]
    for event in reversed(run.log):
        payload = {"runId": KEY, "epoch": run.epoch, **event}
        rig.gateway.broadcast("run.event", payload)
    block = {"type": "text", "text": run.text}
    message = {"role": "assistant", "content": [block]}
    payload = {"runId": KEY, "seq": run.last_seq, "state": "delta", "message": message}
    rig.gateway.broadcast("chat", payload)


def lose_event(rig: Rig) -> None:
    """Have the next live event of the log not sent."""
    for connection in rig.gateway.connections:
        connection.followed[KEY] += 1


def forget(rig: Rig) -> None:
    rig.gateway.cut()
    del rig.gateway.runs[KEY]


def evict(rig: Rig) -> None:
    rig.gateway.cut()
    run = rig.gateway.runs[KEY]
    run.say("(gone) ")
    run.evict(run.last_seq)


def begin_again(rig: Rig) -> None:
    rig.gateway.cut()
    rig.gateway.runs[KEY].begin_again("epoch-2")
    rig.gateway.runs[KEY].say("anew ")


def answer_all(rig: Rig) -> None:
    """Answer every request so far once more, and some that never were."""
    for connection in rig.gateway.connections:
        for frame in [*rig.gateway.requests, {"id": "999"}]:
            connection.answer(frame, {"runId": KEY, "status": "ok", "late": True})
            connection.refuse(frame, "UNAVAILABLE", "late")


def refuse_resume(rig: Rig) -> None:
    handlers = rig.gateway.handlers
    handlers["connection.resume"] = lambda c, f: c.refuse(f, "INVALID_REQUEST", "no")


def fail_upgrades(rig: Rig) -> None:
    """Refuse the next upgrade by HTTP."""
    rig.gateway.cut()
    rig.gateway.http_status = 503


def heal(rig: Rig) -> None:
    rig.gateway.http_status = None
    rig.reachable = True


def vanish(rig: Rig) -> None:
    rig.gateway.cut()
    rig.reachable = False


BACK = ["lost ConnectionLost 1006", "back"]
OVERSIZED = b"\x81\x7f" + (MAX_FRAME_BYTES + 1).to_bytes(8, "big")
MASKED = b"\x81\x81mask\x00"

DISTURBANCES = (
    Disturbance("none", {}, [], dials=1),
    *(Disturbance(f"cut before word {n}", {n: cut}, BACK) for n in range(1, 7)),
    Disturbance("cut before every word", dict.fromkeys(range(1, 7), cut), BACK * 3, dials=4),
    Disturbance("restart", {3: restart}, ["event shutdown", "lost ConnectionLost 1012", "back"]),
    Disturbance("1012", {3: close(1012, "service restart")}, ["lost ConnectionLost 1012", "back"]),
    Disturbance("1013", {3: close(1013, "suspended")}, ["lost ConnectionLost 1013", "back"]),
    Disturbance("slow", {3: close(1008, "slow consumer")}, ["lost ConnectionLost 1008", "back"]),
    Disturbance("revoked", {3: close(4001, "changed")}, ["lost ConnectionLost 4001", "back"]),
    Disturbance("no reason", {3: close(1000, "")}, ["lost ConnectionLost 1000", "back"]),
    Disturbance("oversized", {3: octets(OVERSIZED)}, ["lost ConnectionLost 1009", "back"]),
    Disturbance("masked", {3: octets(MASKED)}, ["lost ConnectionLost 1002", "back"]),
    Disturbance("half a message", {3: both(octets(b"\x81\x7e\x01\x00{"), cut)}, BACK),
    Disturbance("bad text", {3: octets(b"\x81\x02\xff\xfe")}, ["lost ConnectionLost 1007", "back"]),
    Disturbance("gap in seq", {3: skip}, ["gap 2"], dials=1),
    Disturbance(
        "garbage",
        {3: raw(b"{", b"[]", b"null", b'{"type":"x"}', b'{"type":"event"}', b'{"type":"res"}')},
        [],
        dials=1,
    ),
    Disturbance(
        "events that make no sense",
        {
            3: raw(
                b'{"type":"event","event":"chat","payload":{"runId":"run-1","state":1}}',
                b'{"type":"event","event":"chat","payload":[]}',
                b'{"type":"event","event":"run.event","payload":{"runId":"run-1","seq":1}}',
                b'{"type":"event","event":"tick","seq":-1}',
                b'{"type":"event","event":"connect.challenge","payload":{"nonce":"again"}}',
            )
        },
        [],
        dials=1,
    ),
    Disturbance("late and double answers", {3: answer_all}, [], dials=1),
    Disturbance("everything twice", {3: both(repeat, repeat)}, [], dials=1),
    Disturbance("cut, then everything twice", {2: cut, 5: repeat}, BACK),
    Disturbance("a live event is missing", {2: cut, 5: lose_event}, BACK),
    Disturbance("no resume", {1: refuse_resume, 3: cut}, BACK),
    Disturbance(
        "evicted", {3: evict}, BACK, text="one two (gone) three four five ", end="final", dials=2
    ),
    Disturbance("another epoch", {3: begin_again}, BACK, text="anew three four five "),
    Disturbance("forgotten", {3: forget}, BACK, text="one two ", end=None, error="RunLost"),
    Disturbance(
        "upgrade refused",
        {3: fail_upgrades, 5: heal},
        [
            "lost ConnectionLost 1006",
            "lost ConnectFailed WebSocket connection upgrade failed [503]: refused by the test",
            "back",
        ],
        dials=3,
    ),
    Disturbance(
        "unreachable",
        {3: vanish, 5: heal},
        ["lost ConnectionLost 1006", "lost ConnectFailed connection refused", "back"],
        dials=3,
    ),
)


async def be_disturbed(rig: Rig, disturbance: Disturbance) -> dict[str, Any]:
    """Read the run, and tell what was seen."""
    client = await rig.connect(COMES_BACK)
    notices: list[Any] = []
    client.on_event(notices.append)
    run = client.chat("hi", idempotency_key=KEY)
    await rig.sleep(STEP_S)
    gateway_run = rig.gateway.runs[KEY]
    for number, word in enumerate([*WORDS, None], 1):
        if action := disturbance.before.get(number):
            action(rig)
        # Long enough to be back from a first loss, so that words fall both into and after it.
        await rig.sleep(0.4 if number % 2 else 0.2)
        if word is not None:
            gateway_run.say(word)
        else:
            gateway_run.finish()
        await rig.sleep(STEP_S)
    await rig.sleep(10)
    text, end, error = await read(run)
    health = await client.health()
    await client.close()
    return {
        "seen": [line for notice in notices if (line := noticed(notice))],
        "text": text,
        "end": end,
        "error": error,
        "ok": health.ok,
        "dials": rig.dials,
        "messages": len(rig.gateway.calls("chat.send")),
    }


async def read(run: Any) -> tuple[str, str | None, str | None]:
    """Return the text, the end and the error of a run; an end is the last that comes."""
    told, error = Told(), None
    try:
        async for event in run:
            told.add(event)
    except ClientError as raised:
        error = shown(raised)
    end = None if told.end is None else told.end.outcome.value
    return told.text, end, error


def noticed(notice: Any) -> str | None:
    """Name what a listener heard, but for the events of runs."""
    match notice:
        case Disconnected(error=error):
            return f"lost {shown(error)}"
        case Reconnected():
            return "back"
        case Gap(missed):
            return f"gap {missed}"
        case Event(name=name) if name not in ("chat", "run.event", "tick"):
            return f"event {name}"
    return None
