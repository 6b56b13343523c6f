"""A gateway in memory without a network: connections that keep what they get, a backend on a string."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from jsonschema import Draft202012Validator
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from zope.interface import implementer

from gateway.app.context import Caller, Context
from gateway.config import Config, NodesConfig
from gateway.core.access import Peer
from gateway.core.events import Event
from gateway.core.frames import Request
from gateway.core.pairing import Ask, grant
from gateway.core.run import RunOutput
from gateway.errors import GatewayError
from gateway.interfaces import IAgentBackend, IConnection, IRunSink
from gateway.limits import LimitsConfig
from gateway.model import (
    ClientInfo,
    ModelInfo,
    NodeSurface,
    Pairing,
    Principal,
    Role,
    RunRequest,
    RunResult,
)
from gateway.testing import FakeClock, FakeEntropy, memory_gateway, memory_store, result_of
from gateway.wiring import Wiring
from tests.app.faults import FaultyStore

ADMIN = ("operator.admin",)
READ = ("operator.read",)
WRITE = ("operator.write",)
LOCAL = Peer("127.0.0.1")
REMOTE = Peer("192.0.2.7")
AGENT_KEYS = {3: {"sessionKey"}, 4: {"sessionKey", "agentId", "sessionId", "lane"}}
"""What an ``agent`` payload carries beside AgentEvent."""

DATA = Path(__file__).parents[1] / "data"


def vectors(name: str) -> Any:
    """Return the content of a file of test data."""
    return json.loads((DATA / f"{name}.json").read_text())


@cache
def _validators() -> dict[tuple[int, str], Draft202012Validator]:
    return {
        (int(version[1:]), name): Draft202012Validator(schema)
        for version, schemas in vectors("schemas").items()
        for name, schema in schemas.items()
    }


def assert_fits(protocol: int, schema: str, value: Any) -> None:
    """Assert that a value passes the schema of a protocol version, if that has one of this name."""
    assert any(name == schema for _, name in _validators()), f"there is no {schema}"
    validator = _validators().get((protocol, schema))
    if validator is not None:
        errors = [error.message for error in validator.iter_errors(value)]
        assert not errors, f"{schema} of version {protocol}: {errors} in {value}"


def assert_event_fits(protocol: int, frame: Mapping[str, Any]) -> None:
    """Assert that an event frame and its payload pass the schemas of a protocol version."""
    assert_fits(protocol, "EventFrame", frame)
    payload = frame["payload"]
    if frame["event"] == "chat":
        assert_fits(protocol, "ChatEvent", payload)
    elif frame["event"] == "agent":
        known = {k: v for k, v in payload.items() if k not in AGENT_KEYS[protocol]}
        assert_fits(protocol, "AgentEvent", known)
        assert payload["sessionKey"]


def make_caller(
    conn_id: str = "conn",
    protocol: int = 4,
    *,
    scopes: Iterable[str] = ADMIN,
    role: Role = Role.OPERATOR,
    caps: Iterable[str] = (),
    client: str = "test",
    mode: str = "ui",
    device_id: str | None = None,
    peer: Peer = LOCAL,
    commands: Iterable[str] = (),
    permissions: Mapping[str, bool] | None = None,
    path_env: str | None = None,
    user: str | None = None,
    auth_method: str = "token",
    surface: NodeSurface | None = None,
    **facts: Any,
) -> Caller:
    """Return an authenticated caller."""
    return Caller(
        conn_id=conn_id,
        protocol=protocol,
        principal=Principal(
            role=role,
            scopes=tuple(scopes),
            auth_method=auth_method,
            device_id=device_id,
            user=user,
        ),
        client=ClientInfo(
            **{"id": client, "version": "1.0", "platform": "linux", "mode": mode, **facts}
        ),
        peer=peer,
        caps=frozenset(caps),
        surface=surface
        or NodeSurface(
            caps=tuple(sorted(caps)),
            commands=tuple(sorted(commands)),
            permissions=tuple(sorted((permissions or {}).items())),
        ),
        path_env=path_env,
    )


@implementer(IConnection)
class FakeConnection:
    """Keeps what it is given; numbers its broadcast frames from 1."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.conn_id = caller.conn_id
        self.protocol = caller.protocol
        self.closed: tuple[Any, int, str] | None = None
        self.broken: Exception | None = None
        self.waiting = False
        self._seq = 0
        self._frames: list[dict[str, Any]] = []
        self._encoded: list[bytes] = []

    @property
    def frames(self) -> list[dict[str, Any]]:
        """Every frame so far; decoded when looked at, since most are not."""
        self._frames += map(msgspec.json.decode, self._encoded)
        self._encoded.clear()
        return self._frames

    def deliver(self, event: Event) -> None:
        if self.broken is not None:
            raise self.broken
        self._seq += 1
        self._encoded.append(event.encoded(self.protocol, self._seq))

    def deliver_direct(self, event: Event) -> None:
        if self.broken is not None:
            raise self.broken
        if event.parts(self.protocol) is None:
            return
        self._encoded.append(event.encoded(self.protocol, None))

    def close(self, cause: Any, code: int, reason: str, **details: Any) -> None:
        self.closed = self.closed or (cause, code, reason)


class Call:
    """One request: the response frames that have come, and what still works on it."""

    def __init__(self, client: Client, method: str, params: Any) -> None:
        self.frames: list[dict[str, Any]] = []
        self.errors: list[GatewayError | None] = []
        raw = msgspec.Raw(b"" if params is None else msgspec.json.encode(params))
        dispatcher = client.gate.wiring.edge.dispatcher
        self.working: Deferred[None] | None = dispatcher.handle(
            client.context, Request("id", method, raw), self._take
        )

    def _take(self, data: bytes, error: GatewayError | None) -> None:
        self.frames.append(msgspec.json.decode(data))
        self.errors.append(error)

    @property
    def frame(self) -> dict[str, Any]:
        """The last response."""
        assert self.frames, "no response yet"
        return self.frames[-1]

    @property
    def payload(self) -> Any:
        """The payload of the last response, which is no refusal."""
        assert self.frame["ok"], self.frame
        return self.frame["payload"]

    @property
    def error(self) -> dict[str, Any]:
        """The error of the last response."""
        assert not self.frame["ok"], self.frame
        error: dict[str, Any] = self.frame["error"]
        return error

    def cancel(self) -> None:
        """Do what the loss of the connection does."""
        assert self.working is not None
        self.working.cancel()


class Client:
    """A connection in the hub, and the requests made over it."""

    def __init__(self, gate: Gate, connection: FakeConnection) -> None:
        self.gate = gate
        self.connection = connection
        self.context: Context = gate.wiring.edge.dispatcher.context(connection.caller)

    @property
    def frames(self) -> list[dict[str, Any]]:
        """Every event frame so far."""
        return self.connection.frames

    def call(self, method: str, params: Any = None) -> Call:
        """Make a request."""
        return Call(self, method, params)

    def ok(self, method: str, params: Any = None) -> Any:
        """Make a request that is answered at once; return the payload."""
        return self.call(method, params).payload

    def refused(self, method: str, params: Any = None) -> dict[str, Any]:
        """Make a request that is refused at once; return the error."""
        return self.call(method, params).error

    def send(self, text: str, key: str = "main", run: str = "r1", **more: Any) -> Call:
        """Send a chat message."""
        params = {"sessionKey": key, "message": text, "idempotencyKey": run, **more}
        return self.call("chat.send", params)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the payloads of the events of one name."""
        return [frame["payload"] for frame in self.frames if frame["event"] == name]

    def ends(self, run: str = "r1") -> tuple[list[str], list[str]]:
        """Return the states of the terminal chat events, and the phases of the lifecycle's ends."""
        chats = [e["state"] for e in self.events("chat") if e["runId"] == run]
        phases = [
            e["data"]["phase"]
            for e in self.events("agent")
            if e["runId"] == run and e["stream"] == "lifecycle"
        ]
        return (
            [state for state in chats if state != "delta"],
            [phase for phase in phases if phase in ("end", "error")],
        )

    def leave(self) -> None:
        """Close the connection."""
        self.gate.wiring.edge.detach(self.connection)


class Live:
    """A run as its backend holds it."""

    def __init__(self, request: RunRequest, sink: IRunSink) -> None:
        self.request = request
        self.sink = sink
        self.cancelled = False
        self.done: Deferred[RunResult] = Deferred(self._cancel)

    def _cancel(self, _: Deferred[RunResult]) -> None:
        self.cancelled = True

    def end(self, **result: Any) -> None:
        """Return a result."""
        self.done.callback(RunResult(**result))


@implementer(IAgentBackend)
class ScriptedBackend(Service):
    """Runs wait in ``live`` for the test to go on; ``script`` decides otherwise what start() does."""

    reruns = True

    def __init__(self, script: Callable[[Live], Any] | None = None) -> None:
        self.models: tuple[ModelInfo, ...] = (
            ModelInfo(id="echo-1", name="Echo", provider="fake", context_window=1000),
        )
        self.script = script
        self.live: dict[str, Live] = {}
        self.started: list[str] = []

    def ready(self) -> bool:
        return True

    def start(self, request: RunRequest, sink: IRunSink) -> Any:
        live = Live(request, sink)
        self.started.append(request.run_id)
        self.live[request.run_id] = live
        return live.done if self.script is None else self.script(live)


class Gate:
    """A gateway with a scripted agent called main, and its clients."""

    def __init__(
        self,
        script: Callable[[Live], Any] | None = None,
        *,
        backend: Any = None,
        others: Iterable[str] = (),
        limits: Mapping[str, Any] | None = None,
        nodes: Mapping[str, Any] | None = None,
        on_restart: str = "interrupt",
        store: Any = None,
        clock: FakeClock | None = None,
        seed: str = "first",
    ) -> None:
        self.seed = seed
        self.clock = clock or FakeClock()
        self.backend: Any = backend or ScriptedBackend(script)
        backends = {"main": self.backend, **{name: ScriptedBackend() for name in others}}
        agents = {"main": {"backend": "scripted", "on_restart": on_restart}}
        config = Config(
            limits=LimitsConfig(**(limits or {})), nodes=NodesConfig(**(nodes or {})), agents=agents
        )
        if store is None:
            store = FaultyStore(memory_store(self.clock))
        self.store = store
        self.wiring: Wiring = memory_gateway(
            clock=self.clock,
            config=config,
            backends=backends,
            store=store,
            entropy=FakeEntropy(seed),
        )
        self.services = self.wiring.services
        self.runs = self.services.runs
        self.lost = 0
        """Run events that the test expects not to be stored."""
        self.outputs: list[RunOutput] = []
        self._clients = 0

    def restarted(self, **how: Any) -> Gate:
        """Return another gateway over the same store and clock, as after a restart.

        Of runs that go on the events that were not written yet are lost, as with a crash.
        """
        for run_id in self.runs._drives:
            self.runs.log.take(run_id)
        return Gate(store=self.store, clock=self.clock, seed=self.seed + ", again", **how)

    def record(self) -> list[RunOutput]:
        """Collect the outputs of all runs from now on."""
        self.runs.add_listener(self.outputs.append)
        return self.outputs

    def client(self, protocol: int = 4, **who: Any) -> Client:
        """Connect a client; it is an admin unless told otherwise."""
        self._clients += 1
        caller = make_caller(f"conn-{self._clients}", protocol, **who)
        connection = FakeConnection(caller)
        client = Client(self, connection)
        self.services.hub.add(connection)
        self.services.approvals.joined(caller)
        if caller.is_node:
            self.services.nodes.joined(connection)
        return client

    def node(self, protocol: int = 4, *, paired: bool = True, **who: Any) -> Client:
        """Connect a device of role node, which is paired as one unless told otherwise."""
        who = {"scopes": (), "mode": "node", "client": "node-host", "device_id": "n1"} | who
        if paired and who["device_id"] is not None:
            self.pair(who["device_id"])
        return self.client(protocol, role=Role.NODE, **who)

    def pair(self, device_id: str, *, via: str = "owner") -> None:
        """Pair a device as a node, unless it is one."""
        wanted = Ask(
            device_id=device_id,
            public_key="k",
            role="node",
            scopes=(),
            protocol=4,
            client_id="node-host",
            client_mode="node",
        )

        def change(pairing: Pairing) -> Pairing:
            if pairing.device is not None and "node" in pairing.device.roles:
                return pairing
            now_ms = self.clock.now_ms()
            return grant(pairing, wanted, roles=("node",), scopes=(), via=via, now_ms=now_ms)

        result_of(self.store.update_pairing(device_id, change))

    def live(self, run: str = "r1") -> Live:
        """Return a run as the backend holds it."""
        live: Live = self.backend.live[run]
        return live

    def messages(self, key: str = "agent:main:main") -> list[tuple[str, str]]:
        """Return the transcript of a session as (role, text)."""
        session = result_of(self.store.get_session(key))
        if session is None:
            return []
        listed = result_of(self.store.list_messages(session.session_id, limit=1000))
        return [(m.role, "".join(b.get("text", "") for b in m.content)) for m in listed]

    def turn(self) -> None:
        """Let one turn of the reactor pass."""
        self.clock.advance(0)

    def close(self) -> None:
        """Close the store, which nothing may have missed anything in."""
        self.turn()
        assert self.runs.log.lost == self.lost
        result_of(self.store.stopService())
