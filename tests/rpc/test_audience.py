"""Nobody is sent what he may not see, and everybody what he may: any connections, any runs, any order.

The oracle is :data:`RULES`: one rule for each event of the table, written from what the protocol says and
not from how the hub goes about it. A new event takes one rule there, and an action that makes it happen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from twisted.internet.defer import Deferred

from gateway.core.events import Event
from gateway.errors import BackendError
from gateway.model import NodeSurface, Role
from gateway.testing import result_of
from tests.app.harness import Client, Gate
from tests.unmeasured import unmeasured

SPELLINGS = {
    "main": "agent:main:main",
    "agent:main:main": "agent:main:main",
    "Kitchen": "agent:main:kitchen",
    "agent:main:kitchen": "agent:main:kitchen",
    "agent:other:main": "agent:other:main",
}
"""Keys as clients write them, and as the gateway writes them in events."""
KEYS = st.sampled_from(sorted(SPELLINGS))
READERS = {"operator.read", "operator.write", "operator.admin"}
WRITERS = {"operator.write", "operator.admin"}
SCOPES: tuple[tuple[str, ...], ...] = (
    (),
    ("operator.read",),
    ("operator.write",),
    ("operator.admin",),
    ("operator.sessions.read", "operator.sessions.write", "operator.talk"),
    ("operator.approvals", "operator.pairing"),
    ("operator.Read", "read", "*"),
)
CAPS = ("session-scoped-events", "tool-events", "something-else")
CROWD: list[tuple[tuple[str, ...], frozenset[str]]] = [
    (scopes, frozenset(caps))
    for scopes in SCOPES[:5]
    for caps in ((), CAPS[:1], CAPS[1:2], CAPS[:2])
]


@dataclass
class Peer:
    """A connection as the oracle knows it."""

    client: Client
    operator: bool
    scopes: tuple[str, ...]
    caps: frozenset[str]
    here: bool = True
    follows: bool = False
    """It asked for the events of all sessions."""
    watched: set[str] = field(default_factory=set)
    """The sessions whose messages it asked for, by canonical key."""
    runs: set[str] = field(default_factory=set)
    """The runs that it follows."""

    @property
    def reads(self) -> bool:
        """Whether it holds operator.read, by itself or within another scope."""
        return self.operator and not READERS.isdisjoint(self.scopes)

    @property
    def talks(self) -> bool:
        """Whether it holds operator.talk, by itself or within another scope."""
        return not (WRITERS | {"operator.talk"}).isdisjoint(self.scopes)

    @property
    def four(self) -> bool:
        """Whether it speaks version 4."""
        return self.client.connection.protocol >= 4

    @property
    def writes(self) -> bool:
        """Whether it may start runs."""
        return self.operator and not WRITERS.isdisjoint(self.scopes)

    def wants(self, key: str) -> bool:
        """Whether it wants to hear of the runs of a session."""
        return "session-scoped-events" not in self.caps or key in self.watched


@dataclass(frozen=True)
class Happening:
    """Something that is told: the event's name, what it is about, and how to tell it from others."""

    event: str
    key: str = ""
    starter: Peer | None = field(default=None, hash=False, compare=False)
    mark: tuple[Any, ...] = ()


def _sees_tool(peer: Peer, what: Happening) -> str | None:
    """Tool events go to who started the run and asked for them; to others who follow, as session.tool."""
    if not (peer.reads and peer.wants(what.key)):
        return None
    if peer is what.starter and "tool-events" in peer.caps:
        return "agent"
    return "session.tool" if peer.follows else None


def _named(name: str, sees: Callable[[Peer, Happening], bool]) -> Callable[..., str | None]:
    return lambda peer, what: name if sees(peer, what) else None


RULES: dict[str, Callable[[Peer, Happening], str | None]] = {
    "tick": _named("tick", lambda peer, what: True),
    "health": _named("health", lambda peer, what: True),
    "shutdown": _named("shutdown", lambda peer, what: True),
    "presence": _named("presence", lambda peer, what: peer.reads),
    "agent": _named("agent", lambda peer, what: peer.reads and peer.wants(what.key)),
    "chat": _named("chat", lambda peer, what: peer.reads and peer.wants(what.key)),
    "tool": _sees_tool,
    "sessions.changed": _named("sessions.changed", lambda peer, what: peer.reads and peer.follows),
    "session.message": _named(
        "session.message",
        lambda peer, what: peer.reads and (peer.follows or what.key in peer.watched),
    ),
    "voicewake.changed": _named(
        "voicewake.changed", lambda peer, what: peer.reads or not peer.operator
    ),
    "talk.mode": _named("talk.mode", lambda peer, what: peer.operator and peer.talks),
    "node.presence": _named("node.presence", lambda peer, what: peer.reads and peer.four),
    "node.hostStats": _named("node.hostStats", lambda peer, what: peer.reads and peer.four),
    "run.event": _named("run.event", lambda peer, what: peer.reads and what.mark[0] in peer.runs),
}
"""For what happens: as which event a connection is told of it, if at all."""


def seen(frame: dict[str, Any]) -> tuple[Any, ...]:
    """Return what tells a frame from others, whatever the protocol version."""
    name, payload = frame["event"], frame["payload"]
    match name:
        case "agent" | "chat" | "session.tool":
            return name, payload["sessionKey"], payload["runId"], payload["seq"]
        case "run.event":
            return name, "", payload["runId"], payload["seq"]
        case "session.message":
            return name, payload["sessionKey"], payload["message"]["role"]
        case "sessions.changed":
            why = payload.get("reason") or payload.get("phase")
            return name, payload["sessionKey"], why
        case "health":
            return name, "", bool(payload["sessions"]["recent"])
    return name, ""


class Audience(RuleBasedStateMachine):
    """A gateway, its clients, and what each of them has to be told."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate(others=["other"], limits={"lane_depth": 1000})
        self.outputs = self.gate.record()
        self.peers: list[Peer] = []
        self.happened: list[Happening] = []
        self.stored: set[str] = set()
        self.starters: dict[str, Peer] = {}
        self.root = self.enter(4, True, ("operator.admin",), frozenset())

    def teardown(self) -> None:
        """End what still goes."""
        for key in set(SPELLINGS.values()):
            self.gate.runs.abort_session(key, "stop")
        self.gate.clock.advance(5)
        self.gate.close()

    def enter(
        self, protocol: int, operator: bool, scopes: tuple[str, ...], caps: frozenset[str]
    ) -> Peer:
        """Connect somebody."""
        # A node that offers nothing asks for no approval, of which operators would be told.
        make: Any = partial(self.gate.node, surface=NodeSurface())
        if operator:
            make = self.gate.client
        name = f"device-{len(self.peers)}"
        client = make(protocol, scopes=scopes, caps=caps, device_id=name)
        assert client.context.caller.principal.role is (Role.OPERATOR if operator else Role.NODE)
        peer = Peer(client, operator, scopes, caps)
        self.peers.append(peer)
        return peer

    def pick(self, number: int) -> Peer:
        """Return one of those who are here; the admin always is."""
        here = [peer for peer in self.peers if peer.here]
        return here[number % len(here)]

    def runs_now(self) -> list[str]:
        """Return the runs that their agents work on."""
        return [run for run in self.gate.backend.live if self.gate.runs.get(run) is not None]

    # -- who is there, and what they ask for

    @initialize(
        follows=st.lists(st.booleans(), min_size=len(CROWD), max_size=len(CROWD)),
        watched=st.lists(st.sets(KEYS), min_size=len(CROWD), max_size=len(CROWD)),
    )
    def gather(self, follows: list[bool], watched: list[set[str]]) -> None:
        """Begin with one of each kind; what they ask for differs."""
        for (scopes, caps), all_of_them, keys in zip(CROWD, follows, watched, strict=True):
            self.enter(3 + len(self.peers) % 2, True, scopes, caps)
            if all_of_them:
                self.subscribe(len(self.peers) - 1)
            for key in sorted(keys):
                self.watch(len(self.peers) - 1, key)
        for scopes in SCOPES:
            self.enter(3 + len(self.peers) % 2, False, scopes, frozenset())

    @precondition(lambda self: len(self.peers) < 50)
    @rule(
        protocol=st.sampled_from([3, 4]),
        operator=st.booleans(),
        scopes=st.sampled_from(SCOPES),
        caps=st.frozensets(st.sampled_from(CAPS)),
    )
    def join(
        self, protocol: int, operator: bool, scopes: tuple[str, ...], caps: frozenset[str]
    ) -> None:
        """Somebody connects."""
        self.enter(protocol, operator, scopes, caps)

    @rule(number=st.integers(1, 50))
    def leave(self, number: int) -> None:
        """Somebody but the admin goes."""
        peer = self.pick(number)
        if peer is not self.root:
            peer.client.leave()
            peer.here = False

    @rule(number=st.integers(0, 50))
    def subscribe(self, number: int) -> None:
        """Somebody asks for the events of all sessions."""
        peer = self.pick(number)
        call = peer.client.call("sessions.subscribe")
        assert call.frame["ok"] is peer.reads
        peer.follows = peer.follows or peer.reads

    @rule(number=st.integers(0, 50), key=KEYS)
    def watch(self, number: int, key: str) -> None:
        """Somebody asks for the messages of one session."""
        peer = self.pick(number)
        call = peer.client.call("sessions.messages.subscribe", {"key": key})
        assert call.frame["ok"] is peer.reads
        if peer.reads:
            peer.watched.add(SPELLINGS[key])

    @rule(number=st.integers(0, 50), key=KEYS)
    def unwatch(self, number: int, key: str) -> None:
        """Somebody asks for them no more."""
        peer = self.pick(number)
        peer.client.call("sessions.messages.unsubscribe", {"key": key})
        peer.watched.discard(SPELLINGS[key])

    # -- runs

    @rule(number=st.integers(0, 50), key=KEYS)
    def send(self, number: int, key: str) -> None:
        """Somebody sends a message, if he may."""
        peer = self.pick(number)
        run = f"run-{len(self.starters)}"
        if peer.writes:
            self.starters[run] = peer
        call = peer.client.send("hello", key, run)
        assert call.frame["ok"] is peer.writes
        if peer.writes:
            canonical = SPELLINGS[key]
            self.stored.add(canonical)
            self.happen("sessions.changed", canonical, "send")

    @rule(number=st.integers(0, 50), key=KEYS)
    def turn(self, number: int, key: str) -> None:
        """Somebody who may sends a message; an agent that is free uses a tool for it, and answers."""
        writers = [peer for peer in self.peers if peer.here and peer.writes]
        here = [peer for peer in self.peers if peer.here]
        self.send(here.index(writers[number % len(writers)]), key)
        live = self.gate.backend.live.get(f"run-{len(self.starters) - 1}")
        if live is not None:
            live.sink.emit("tool", {"phase": "start", "name": "look"})
            live.sink.text("done")
            live.end()

    @precondition(lambda self: self.runs_now())
    @rule(number=st.integers(0, 50), what=st.sampled_from(["text", "replace", "tool", "plan"]))
    def work(self, number: int, what: str) -> None:
        """An agent says something, or uses a tool."""
        runs = self.runs_now()
        sink = self.gate.live(runs[number % len(runs)]).sink
        if what == "text":
            sink.text("word ")
        elif what == "replace":
            sink.replace("anew ")
        else:
            sink.emit(what, {"phase": "start", "name": "look"})

    @precondition(lambda self: self.runs_now())
    @rule(number=st.integers(0, 50), well=st.booleans())
    def end(self, number: int, well: bool) -> None:
        """An agent is done, or fails."""
        runs = self.runs_now()
        live = self.gate.live(runs[number % len(runs)])
        if well:
            live.end()
        else:
            live.done.errback(BackendError("no"))

    @rule(key=KEYS)
    def abort(self, key: str) -> None:
        """All runs of a session are stopped."""
        self.root.client.ok("chat.abort", {"sessionKey": key})

    @rule(seconds=st.sampled_from([0.05, 0.1, 1]))
    def wait(self, seconds: float) -> None:
        """Time passes; collected text goes out."""
        self.gate.clock.advance(seconds)

    @rule(
        key=st.sampled_from(["main", "Kitchen"]),
        first=st.integers(0, 2),
        each=st.integers(1, 3),
        resumes=st.booleans(),
    )
    def follow(self, key: str, first: int, each: int, resumes: bool) -> None:
        """Some ask for the log of a run that goes on, or of one that begins now; some of them no more."""
        self.wait(1)  # what has ended makes room
        if not self.runs_now():
            self.send(0, key)
        self.everybody_is_told_what_he_may_see_and_nothing_else()
        run = self.runs_now()[-1]
        params = {"runId": run}
        here = [peer for peer in self.peers if peer.here]
        for peer in here[first::each]:
            if resumes:
                call = peer.client.call("connection.resume", {"runs": [params]})
            else:
                call = peer.client.call("runs.follow", params)
            assert call.frame["ok"] is peer.reads
            peer.runs.add(run)
        live = self.gate.live(run)
        live.sink.emit("tool", {"phase": "start", "name": "look"})
        self.everybody_is_told_what_he_may_see_and_nothing_else()
        for peer in here[:: each + 1]:
            call = peer.client.call("runs.unfollow", params)
            assert call.frame["ok"] is peer.reads
            peer.runs.discard(run)
        live.sink.emit("plan", {"phase": "start", "name": "look"})

    # -- sessions

    @rule(key=KEYS)
    def patch(self, key: str) -> None:
        """The admin changes a session."""
        self.root.client.ok("sessions.patch", {"key": key, "thinkingLevel": "high"})
        self.stored.add(SPELLINGS[key])
        self.happen("sessions.changed", SPELLINGS[key], "patch")

    @rule(key=KEYS)
    def reset(self, key: str) -> None:
        """The admin begins a session anew."""
        self.root.client.ok("sessions.reset", {"key": key})
        self.stored.add(SPELLINGS[key])
        self.happen("sessions.changed", SPELLINGS[key], "reset")

    @rule(key=st.just("Kitchen"))
    def delete(self, key: str) -> None:
        """The admin deletes a session."""
        canonical = SPELLINGS[key]
        answer = self.root.client.ok("sessions.delete", {"key": key})
        assert answer["deleted"] is (canonical in self.stored)
        if answer["deleted"]:
            self.happen("sessions.changed", canonical, "delete")
            self.stored.discard(canonical)

    @rule(key=KEYS)
    def inject(self, key: str) -> None:
        """The admin puts a message into a transcript."""
        canonical = SPELLINGS[key]
        call = self.root.client.call("chat.inject", {"sessionKey": key, "message": "note"})
        assert call.frame["ok"] is (canonical in self.stored)
        if call.frame["ok"]:
            self.happen("chat", canonical, f"inject-{call.payload['messageId']}", 0)
            self.happen("session.message", canonical, "assistant")

    # -- the gateway

    @rule()
    def beat(self) -> None:
        """The gateway tells of itself: tick, health, who is here."""
        self.gate.wiring.tick()
        self.happen("tick")
        result_of(Deferred.fromCoroutine(self.gate.services.health.refresh()))
        self.happen("health")
        self.gate.services.presence.publish(at_once=True)
        self.happen("presence")

    @rule()
    def wake_and_talk(self) -> None:
        """Somebody changes the wake words and the talk mode."""
        admin = self.gate.client()
        admin.ok("voicewake.set", {"triggers": ["hey"]})
        admin.ok("talk.mode", {"enabled": True})
        admin.leave()
        self.happen("voicewake.changed")
        self.happen("talk.mode")

    @rule()
    def report(self) -> None:
        """A node tells of its machine, and of somebody at it."""
        node = self.gate.node(device_id="reporter")
        for event, payload in (
            ("node.host.stats", {"cpuCount": 1, "memoryTotalBytes": 2, "memoryFreeBytes": 1}),
            ("node.presence.activity", {"idleSeconds": 1}),
        ):
            node.ok("node.event", {"event": event, "payload": payload})
        node.leave()
        self.gate.clock.advance(5)
        self.happen("node.hostStats")
        self.happen("node.presence")

    @rule()
    def shutdown(self) -> None:
        """The gateway says that it will stop."""
        self.gate.services.hub.broadcast(Event("shutdown", {"reason": "test"}))
        self.happen("shutdown")

    # -- what everybody has to be told

    def happen(self, event: str, key: str = "", *mark: Any) -> None:
        """Note what is told."""
        self.happened.append(Happening(event, key, None, mark))

    def note_runs(self) -> None:
        """Note what the runs made happen: the outputs of their logs, and what the store kept."""
        for output in self.outputs:
            run, key = output.run, output.run.session_key
            mark = (run.run_id, output.seq)
            if output.seq == 1:  # it starts, or ends without
                self.happen("session.message", key, "user")
            event = "tool" if output.stream == "tool" else "agent"
            self.happened.append(Happening(event, key, self.starters[run.run_id], mark))
            self.happen("run.event", "", *mark)
            if output.text is not None or output.outcome is not None:
                self.happen("chat", key, *mark)
            if output.outcome is not None:
                if run.text:
                    self.happen("session.message", key, "assistant")
                failed = output.outcome.state.value == "failed"
                self.happen("sessions.changed", key, "error" if failed else "end")
        self.outputs.clear()

    @invariant()
    def everybody_is_told_what_he_may_see_and_nothing_else(self) -> None:
        """Compare what came with what the rules say."""
        self.note_runs()
        for peer in self.peers:
            expected: Counter[tuple[Any, ...]] = Counter()
            for what in self.happened if peer.here else ():
                name = RULES[what.event](peer, what)
                if name == "health":
                    expected[name, "", peer.reads and bool(self.stored)] += 1
                elif name is not None:
                    expected[(name, what.key, *what.mark)] += 1
            got = Counter(map(seen, peer.client.frames))
            assert got == expected, (peer, got - expected, expected - got)
            peer.client.frames.clear()
        self.happened.clear()


# Without shrinking, which takes minutes here: what fails is printed as the steps that led to it.
Audience.TestCase.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, phases=[Phase.generate]
)
Audience.TestCase.runTest = unmeasured(  # type: ignore[method-assign]
    Audience.TestCase.runTest
)
TestAudience = Audience.TestCase
