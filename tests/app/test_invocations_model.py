"""An invocation ends once, whatever happens in whatever order; and nothing of it stays."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.app.invocations import _Pending
from gateway.core.invocation import Invocation
from gateway.model import NodeSurface
from tests.app.asking import COMMANDS, asked, cancelled, invoke, live_node
from tests.app.harness import Call, Client, Gate

PICK = st.integers(0, 1 << 16)
CODES = {"OK", "BAD", "TIMEOUT", "NODE_DISCONNECTED", "CANCELLED", "PAIRING_CHANGED"}


@dataclass(eq=False)
class Expected:
    """An invocation as it should be."""

    node: Client
    id: str
    key: str
    deadline: float
    command: str
    calls: list[Call] = field(default_factory=list)
    end: str | None = None
    seq: int = 0


def end_of(call: Call) -> str | None:
    """Return how a call was answered; None if it was not yet."""
    if not call.frames:
        return None
    frame = call.frame
    if frame["ok"]:
        return "OK"
    details = frame["error"].get("details", {})
    code = details.get("nodeError", {}).get("code") or details["code"]
    return str(code)


class Ends(RuleBasedStateMachine):
    """Asks, answers, and everything that comes between them."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate(limits={"node_pending_per_node": 8})
        self.clients = [self.gate.client(3), self.gate.client(4)]
        self.nodes: list[Client] = []
        self.invocations: list[Expected] = []
        self.gone: list[Call] = []

    # -- the model

    @property
    def going(self) -> list[Expected]:
        return [each for each in self.invocations if each.end is None]

    def finish(self, each: Expected, end: str) -> None:
        assert each.end is None
        each.end = end

    def pick(self, which: int, things: list[Any]) -> Any:
        return things[which % len(things)]

    # -- what happens

    @rule(protocol=st.sampled_from([3, 4]))
    def a_node_comes(self, protocol: int) -> None:
        if len(self.nodes) < 4:
            self.nodes.append(live_node(self.gate, protocol))

    @rule(who=st.integers(0, 1), seconds=st.integers(0, 40), command=st.sampled_from(COMMANDS))
    def ask(self, who: int, seconds: int, command: str) -> None:
        key = f"k{len(self.invocations)}"
        call = invoke(self.clients[who], command, key=key, timeoutMs=seconds * 1000)
        if not self.nodes:
            assert not call.frame["ok"]
            return
        node = self.nodes[-1]
        if call.frames:
            live = self.gate.services.nodes.connected[0].live.commands
            busy = sum(each.node is node for each in self.going)
            assert command not in live or busy == 8
            return
        deadline = self.gate.clock.seconds() + seconds
        request = asked(node)[-1]
        each = Expected(node, request["id"], key, deadline, command, [call])
        self.invocations.append(each)

    @precondition(lambda self: self.invocations)
    @rule(which=PICK, who=st.integers(0, 1))
    def ask_again(self, which: int, who: int) -> None:
        each = self.pick(which, self.invocations)
        each.calls.append(invoke(self.clients[who], each.command, key=each.key))

    @precondition(lambda self: self.invocations)
    @rule(which=PICK, ok=st.booleans())
    def answer(self, which: int, ok: bool) -> None:
        each = self.pick(which, self.invocations)
        if each.node not in self.nodes:
            return
        params = {"id": each.id, "nodeId": "n1", "ok": ok}
        params |= {"payload": each.key} if ok else {"error": {"code": "BAD"}}
        taken = each.node.ok("node.invoke.result", params)
        assert taken.get("ignored", False) is (each.end is not None)
        if each.end is None:
            self.finish(each, "OK" if ok else "BAD")

    @precondition(lambda self: self.invocations and self.nodes)
    @rule(which=PICK, other=PICK)
    def answer_of_a_stranger(self, which: int, other: int) -> None:
        each, node = self.pick(which, self.invocations), self.pick(other, self.nodes)
        if node is not each.node:
            params = {"id": each.id, "nodeId": "n1", "ok": True, "payload": "forged"}
            assert node.ok("node.invoke.result", params)["ignored"]

    @precondition(lambda self: self.invocations)
    @rule(which=PICK, skip=st.integers(0, 1))
    def progress(self, which: int, skip: int) -> None:
        each = self.pick(which, self.invocations)
        if each.node not in self.nodes:
            return
        params = {"invokeId": each.id, "nodeId": "n1", "seq": each.seq + skip, "chunk": "x"}
        ignored = each.node.ok("node.invoke.progress", params)["ignored"]
        assert ignored is (each.end is not None or bool(skip))
        each.seq += not ignored

    @precondition(lambda self: self.nodes)
    @rule(which=PICK)
    def a_node_goes(self, which: int) -> None:
        node = self.pick(which, self.nodes)
        self.nodes.remove(node)
        node.leave()
        if node.connection.caller.conn_id:
            for each in self.going:
                if each.node is node:
                    self.finish(each, "NODE_DISCONNECTED")
        # The newest that is left is not asked again: its place was taken once.
        if self.gate.services.nodes.session("n1") is None:
            for older in self.nodes:
                older.leave()
                for each in self.going:
                    if each.node is older:
                        self.finish(each, "NODE_DISCONNECTED")
            self.nodes.clear()

    @precondition(lambda self: self.nodes)
    @rule(commands=st.sets(st.sampled_from(COMMANDS)))
    def what_is_live_changes(self, commands: set[str]) -> None:
        node = self.nodes[-1]
        surface = NodeSurface(commands=tuple(sorted(commands)))
        self.gate.services.nodes.set_live("n1", node.connection.conn_id, surface)
        for each in self.going:
            if each.node is node and each.command not in commands:
                self.finish(each, "PAIRING_CHANGED")

    @precondition(lambda self: self.going)
    @rule(which=PICK)
    def who_asks_goes(self, which: int) -> None:
        each = self.pick(which, self.going)
        call = each.calls.pop()
        call.cancel()
        self.gone.append(call)
        if not each.calls:
            self.finish(each, "CANCELLED")

    @rule(seconds=st.integers(0, 20))
    def time_passes(self, seconds: int) -> None:
        self.gate.clock.advance(seconds)
        for each in self.going:
            if each.deadline <= self.gate.clock.seconds():
                self.finish(each, "TIMEOUT")

    # -- what holds

    @invariant()
    def every_call_is_answered_once(self) -> None:
        for each in self.invocations:
            for call in each.calls:
                assert len(call.frames) == (each.end is not None)
                assert end_of(call) == each.end
                if each.end == "OK":
                    assert call.payload["payload"] == each.key
        assert not any(call.frames for call in self.gone)

    @invariant()
    def nothing_else_is_held(self) -> None:
        invocations = self.gate.services.invocations
        assert {pending.invocation.id for pending in invocations._pending.values()} == {
            each.id for each in self.going
        }
        assert (invocations._timer is not None) == bool(self.going)
        assert sum(invocations._of_connection.values()) == len(self.going)
        assert len(invocations._keys) == len(self.going)

    @invariant()
    def nodes_hear_of_what_ended_without_them(self) -> None:
        told = {"TIMEOUT", "CANCELLED", "PAIRING_CHANGED"}
        for node in self.nodes:
            ended = {e.id for e in self.invocations if e.node is node and e.end in told}
            version_4 = node.connection.protocol == 4
            assert set(cancelled(node)) == (ended if version_4 else set())

    def teardown(self) -> None:
        self.gate.services.invocations.stop()
        for each in self.going:
            self.finish(each, "GATEWAY_RESTARTING")
        self.every_call_is_answered_once()
        self.nothing_else_is_held()
        for node in self.nodes:
            node.leave()
        self.gate.close()


Ends.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestEnds = Ends.TestCase


def alive() -> int:
    """Return how many objects of invocations are alive."""
    gc.collect()
    return sum(isinstance(thing, Invocation | _Pending) for thing in gc.get_objects())


def test_nothing_of_an_invocation_stays() -> None:
    """After 1,000 invocations that end in every way nothing of them is held but their bounded answers, and those go too."""  # noqa: E501
    before = alive()
    gate = Gate(limits={"idempotency_max": 100, "idempotency_ttl_s": 60.0})
    invocations, client = gate.services.invocations, gate.client()
    for number in range(250):
        node = live_node(gate, 3 + number % 2)
        calls = [invoke(client, key=f"k{number}-{each}") for each in range(4)]
        requests = asked(node)
        node.ok("node.invoke.result", {"id": requests[0]["id"], "nodeId": "n1", "ok": True})
        calls[1].cancel()
        if number % 5 == 0:
            gate.clock.advance(30)
        node.leave()
        assert [len(call.frames) for call in calls] == [1, 0, 1, 1]
    held = (len(invocations), len(invocations._keys), len(invocations._of_connection))
    kept = len(invocations.answers)
    del calls
    gate.clock.advance(60)
    for registry in gate.wiring.registries:
        registry.sweep(gate.clock.seconds())

    assert held == (0, 0, 0)
    assert kept == 100
    assert (len(invocations.answers), invocations.answers.bytes) == (0, 0)
    assert gate.clock.getDelayedCalls() == []
    assert alive() == before
    gate.close()
