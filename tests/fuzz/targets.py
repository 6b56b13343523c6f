"""What is done with an input: bytes, frames, handshakes, methods."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from gateway.model import Role
from gateway.rpc.families import build_table
from gateway.testing import TOKEN
from tests.fuzz.arena import Arena, arena
from tests.fuzz.shapes import encoded, params_of
from tests.fuzz.source import Source
from tests.net.gate import CLI, DEVICE, UI, Client
from tests.net.wire import Wire, masked, upgrade

NODE = {"id": "node-host", "version": "1.0", "platform": "linux", "mode": "node"}
BACKEND = {**CLI, "id": "gateway-client", "mode": "backend"}
METHODS = list(build_table())
COMMANDS = ["system.run", "system.notify", "system.which", "system.execApprovals.get"]
_STARTS = (".send", "agent", ".create", ".request", ".patch", ".invoke", ".event", ".approve")
STARTING = [m for m in METHODS if m.name.endswith((*_STARTS, ".setupCode", ".enqueue"))]
"""What makes something that other methods can be about."""
OF_NODES = [m for m in METHODS if m.role is not Role.OPERATOR]
MAX_STEPS = 40


def _join(world: Arena, source: Source) -> Client:
    """Let one in: an admin, one that may only read, or a device of role node."""
    who = source.below(3)
    protocol = 4 - source.below(2)
    client = world.open()
    if who == 2:
        client.connect(
            protocol, role="node", client=NODE, scopes=[], device=DEVICE, commands=COMMANDS
        )
    else:
        scopes = ["operator.admin"] if who == 0 else ["operator.read"]
        client.connect(protocol, scopes=scopes, client=CLI)
    return client


def fuzz_bytes(data: bytes) -> None:
    """Raw bytes, in any pieces: before the upgrade, before the hello, after it."""
    source = Source(data)
    with arena() as world:
        stage = source.below(3)
        if stage == 0:
            client = _halfway(world, source)
        elif stage == 1:
            client = world.open()
        else:
            client = _join(world, source)
        while not source.empty:
            if source.chance(40):
                client.wire.receive(masked(source.take(200), source.pick((1, 2, 0, 8, 9, 10))))
            piece = source.take(120)
            if piece:
                client.wire.receive(piece)


def _halfway(world: Arena, source: Source) -> Client:
    """Return a client of whose upgrade only a part was sent; what it is sent is not read."""
    client = world.open()
    world.lose(client)
    client.wire = wire = Wire()
    client.server = wire.connect(world.gate.wiring.factory.buildProtocol(wire.getPeer()))
    client._seen = 1 << 30
    world.clients.append(client)
    head = upgrade()
    wire.receive(head[: source.below(len(head) + 1)])
    return client


def fuzz_frames(data: bytes) -> None:
    """Frames with odd headers, fragments that mingle with control frames, any JSON inside."""
    source = Source(data)
    with arena() as world:
        client = _join(world, source) if source.chance(200) else world.open()
        for _ in range(MAX_STEPS):
            if source.empty:
                break
            payload = _message(source, world)
            fields: dict[str, Any] = {"opcode": source.pick((1, 1, 1, 2, 0, 8, 9, 10, 3, 11))}
            fields["fin"] = not source.chance(50)
            if source.chance(16):
                fields["rsv"] = source.below(8)
            if source.chance(16):
                fields["form"] = source.pick((7, 16, 64)) if len(payload) < 126 else 64
            if source.chance(12):
                fields["mask"] = None
            if source.chance(12):
                fields["length"] = source.pick((0, 1, 125, 126, 65_537, 1 << 40, (1 << 63) - 1))
                fields["form"] = 64
            if fields["opcode"] >= 8:
                payload = payload[:125]
            frame = masked(payload, **fields)
            cut = source.below(len(frame) + 1)
            client.wire.receive(frame[:cut])
            client.wire.receive(frame[cut:])
            if source.chance(30):
                world.gate.clock.advance(source.below(40))
            if source.chance(20):
                client.server.pauseProducing()
            if source.chance(40) and client.server.transport is not None:
                client.server.resumeProducing()
            world.learn(client)


def _message(source: Source, world: Arena) -> bytes:
    """Return what may be a request."""
    if source.chance(60):
        return source.take(200)
    frame: Any = {"type": "req", "id": "1", "method": source.pick(METHODS).name, "params": {}}
    if source.chance(100):
        frame[source.pick(("type", "id", "method", "params", "x"))] = source.value()
    text = encoded(frame)
    if source.chance(60):
        at = source.below(len(text))
        text = text[:at] + source.take(6) + text[at + source.below(4) :]
    return text


def fuzz_handshakes(data: bytes) -> None:
    """Connect requests that were right, of which some fields are changed before or after the signature."""
    source = Source(data)
    with arena() as world:
        for _ in range(1 + source.below(3)):
            headers = {}
            if source.chance(80):
                name = source.pick(
                    ("Origin", "X_Forwarded_For", "User_Agent", "Forwarded", "Cookie")
                )
                words = (
                    "null",
                    "http://localhost",
                    "https://evil.example",
                    "10.0.0.1",
                    "::1",
                    "a, b",
                )
                headers[name] = source.pick(words)
            host = source.pick(("127.0.0.1", "192.0.2.7", "::1", "::ffff:127.0.0.1", "2001:db8::1"))
            client = world.open(host, **headers)
            if " 101 " not in client.status:
                continue
            fields: dict[str, Any] = {
                "client": source.pick((CLI, UI, NODE, BACKEND)),
                "auth": source.pick(
                    ({"token": TOKEN}, {"token": "wrong"}, {}, {"password": TOKEN})
                ),
                "role": source.pick(("operator", "node")),
                "scopes": source.pick((["operator.admin"], ["operator.read"], [])),
            }
            raw = _catch(client, 4 - source.below(2), fields, signed=source.chance(200))
            _mutate(source, raw)
            client.raw(encoded(raw))
            if source.chance(120):
                for _ in range(source.below(20)):
                    client.request(source.pick(METHODS).name, source.value(1))
            world.learn(client)
            if source.chance(30):
                world.gate.clock.advance(source.below(20))


def _catch(client: Client, protocol: int, fields: dict[str, Any], *, signed: bool) -> Any:
    """Return the connect frame that a client would send, instead of sending it."""
    caught: list[Any] = []

    def keep(frame: bytes | str, **how: Any) -> None:
        caught.append(json.loads(frame))

    client.raw = keep  # type: ignore[method-assign,assignment]
    client.connect(protocol, device=DEVICE if signed else None, **fields)
    del client.raw
    return caught[0]


def _mutate(source: Source, frame: Any) -> None:
    """Change some fields, wherever they are."""
    for _ in range(source.below(4)):
        at = frame
        for _ in range(1 + source.below(3)):
            inner = [value for value in at.values() if isinstance(value, dict)]
            if not inner or source.chance(50):
                break
            at = source.pick(inner)
        name = source.pick([*at, "x"]) if at else source.text()
        match source.below(4):
            case 0:
                at[name] = source.value()
            case 1:
                at.pop(name, None)
            case 2:
                at[name] = [at.get(name)]
            case _:
                at[source.text()] = at.get(name)


def fuzz_methods(data: bytes) -> None:
    """Every method with params that nearly fit, by several connections at once; time passes, some leave."""
    source = Source(data)
    with arena() as world:
        crowd = [_join(world, source) for _ in range(1 + source.below(3))]
        for _ in range(MAX_STEPS):
            if source.empty:
                break
            client = source.pick(crowd)
            role = client.server.caller.principal.role if client.server.context else None
            method = source.pick(STARTING if source.chance(60) else METHODS)
            if role is Role.NODE and source.chance(180):
                method = source.pick(OF_NODES)
            params = params_of(source, method.params, world.known)
            if isinstance(params, dict):
                world.note(params)
            frame = {"type": "req", "id": "1", "method": method.name}
            client.raw(encoded(frame | {"params": params}))
            world.learn(client)
            if source.chance(40):
                world.gate.clock.advance(source.pick((0, 0.1, 1, 31, 400)))
            if source.chance(10):
                world.lose(client)
                crowd.remove(client)
                crowd.append(_join(world, source))


TARGETS: dict[str, Callable[[bytes], None]] = {
    "bytes": fuzz_bytes,
    "frames": fuzz_frames,
    "handshakes": fuzz_handshakes,
    "methods": fuzz_methods,
}
"""By name; each raises for an input that breaks what must hold."""
