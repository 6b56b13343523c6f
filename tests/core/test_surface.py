"""What a node may do: never more than what it declares and an operator approved."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec.structs import replace

from gateway.core.access import ADMIN, WRITE
from gateway.core.nodecommands import needs_admin
from gateway.core.surface import (
    HARMLESS,
    NOTHING,
    PAIRING,
    REQUEST_TTL_MS,
    Declared,
    UnknownRequest,
    approve,
    approve_scopes,
    covered,
    current,
    declare,
    live,
    of_pairing,
    open_request,
    reject,
    remove,
)
from gateway.model import NodeRecord, NodeSurface, SurfaceRequest

CAMERA = NodeSurface(caps=("camera",), commands=("camera.list",))
SHELL = NodeSurface(caps=("system",), commands=("system.run", "system.which"))
EMPTY = NodeRecord(node_id="n1")

surfaces = st.builds(
    NodeSurface,
    caps=st.lists(st.sampled_from("abc"), unique=True).map(tuple),
    commands=st.lists(
        st.sampled_from(["camera.list", "location.get", "system.run", "x.y"]), unique=True
    ).map(tuple),
    permissions=st.dictionaries(st.sampled_from("pq"), st.booleans()).map(
        lambda held: tuple(sorted(held.items()))
    ),
)


def asked(
    surface: NodeSurface, request_id: str = "r1", now_ms: int = 0, **more: Any
) -> SurfaceRequest:
    """Return the request that a declaration would make."""
    return SurfaceRequest(
        request_id=request_id,
        surface=surface,
        requested_at_ms=now_ms,
        expires_at_ms=now_ms + REQUEST_TTL_MS,
        **more,
    )


def declared(
    record: NodeRecord,
    surface: NodeSurface,
    request_id: str = "r1",
    *,
    now_ms: int = 0,
    pairing_ms: int | None = 1,
    trusting: bool = False,
) -> Declared:
    """Declare a surface."""
    return declare(
        record,
        asked(surface, request_id, now_ms),
        pairing_ms=pairing_ms,
        now_ms=now_ms,
        trusting=trusting,
    )


def offers(surface: NodeSurface) -> set[tuple[str, str]]:
    """Return what a surface offers, one by one."""
    return {
        *(("cap", each) for each in surface.caps),
        *(("command", each) for each in surface.commands),
        *(("permission", each) for each, held in surface.permissions if held),
    }


def test_nothing_declared_needs_no_approval() -> None:
    """A node that offers nothing asks nothing."""
    outcome = declared(EMPTY, NOTHING)

    assert (outcome.live, outcome.created, outcome.superseded) == (NOTHING, None, None)
    assert outcome.record.request is None


def test_something_new_waits_and_is_live_once_approved() -> None:
    """What is declared first waits for an operator; approved, it is live, and so is less of it later."""
    waiting = declared(EMPTY, SHELL)
    assert waiting.created is not None
    assert waiting.live == NOTHING

    record = approve(waiting.record, "r1", now_ms=5)

    assert (record.approved, record.approved_at_ms, record.generation) == (SHELL, 5, 1)
    assert declared(record, SHELL, "r2").live == SHELL
    less = NodeSurface(commands=("system.which",))
    again = declared(record, less, "r2")
    assert (again.live, again.created) == (less, None)
    assert again.record == record


def test_an_addition_waits_and_the_rest_stays_live() -> None:
    """Of a declaration with something new, what was approved before is live meanwhile."""
    record = approve(declared(EMPTY, CAMERA).record, "r1", now_ms=0)
    both = NodeSurface(caps=("camera",), commands=("camera.list", "system.run"))

    outcome = declared(record, both, "r2")

    assert outcome.live == CAMERA
    assert outcome.created is not None
    assert outcome.created.surface == both
    assert approve(outcome.record, "r2", now_ms=0).approved == both


def test_the_same_surface_keeps_its_request_and_another_one_supersedes_it() -> None:
    """A node has one request: it stays as long as the same is asked, and something else ends it."""
    first = declared(EMPTY, SHELL)
    same = declared(first.record, replace(SHELL, commands=SHELL.commands[::-1]), "r2", now_ms=9)
    other = declared(same.record, CAMERA, "r3", now_ms=9)
    none = declared(other.record, NOTHING, "r4", now_ms=9)

    assert (same.created, same.superseded) == (None, None)
    assert same.record.request == first.created
    assert other.superseded == first.created
    assert other.created is not None
    assert none.superseded == other.created
    assert none.record.request is None


def test_a_request_expires() -> None:
    """After five minutes a request can not be approved, nor when the clock was set far back."""
    record = declared(EMPTY, SHELL, now_ms=100_000).record

    for now_ms in (100_000 + REQUEST_TTL_MS, 39_999):
        assert open_request(record, now_ms) is None
        assert current(record, now_ms).request is None
        with pytest.raises(UnknownRequest):
            approve(record, "r1", now_ms=now_ms)
        with pytest.raises(UnknownRequest):
            reject(record, "r1", now_ms=now_ms)
        again = declared(record, SHELL, "r2", now_ms=now_ms)
        assert again.created is not None
        assert again.superseded is None
    assert current(record, 100_001) is record
    assert current(EMPTY, 0) is EMPTY
    with pytest.raises(UnknownRequest):
        approve(record, "r2", now_ms=100_000)


def test_what_was_rejected_is_asked_again_only_by_the_node() -> None:
    """A rejection ends the request and leaves what was approved."""
    record = approve(declared(EMPTY, CAMERA).record, "r1", now_ms=0)
    waiting = declared(record, SHELL, "r2").record

    assert reject(waiting, "r2", now_ms=0) == record


def test_version_3_declares_once_and_asks_for_more() -> None:
    """A node of version 3 is live with what it declares first; what it adds later has to be approved."""
    first = declared(EMPTY, SHELL, trusting=True)
    more = NodeSurface(commands=(*SHELL.commands, "camera.snap"))
    later = declared(first.record, more, "r2", trusting=True)

    assert (first.live, first.created) == (SHELL, None)
    assert later.live.commands == SHELL.commands
    assert later.created is not None


def test_coming_back_as_version_3_is_no_approval() -> None:
    """A node that waits, or was rejected, is not live by speaking the older version."""
    waiting = declared(EMPTY, SHELL).record
    rejected = reject(waiting, "r1", now_ms=0)

    for record in (waiting, rejected):
        assert declared(record, SHELL, "r2", trusting=True).live == NOTHING


def test_decisions_are_of_one_pairing() -> None:
    """A device that was paired anew since, or is paired no more, has nothing approved."""
    record = approve(declared(EMPTY, SHELL).record, "r1", now_ms=0)

    anew = declared(record, SHELL, "r2", pairing_ms=2)
    unpaired = declared(record, SHELL, "r2", pairing_ms=None)
    trusted = declared(record, SHELL, "r2", pairing_ms=2, trusting=True)

    assert (anew.live, anew.record.generation) == (NOTHING, 2)
    assert anew.created is not None
    assert (unpaired.live, unpaired.created) == (NOTHING, None)
    assert trusted.live == SHELL
    assert of_pairing(record, 1) is record
    assert of_pairing(EMPTY, None) is EMPTY
    stray = replace(EMPTY, approved=SHELL)
    assert of_pairing(stray, 1).approved is None


def test_a_request_of_another_pairing_is_void() -> None:
    """An operator can not approve what was asked before the device was paired anew."""
    waiting = declared(EMPTY, SHELL).record

    assert of_pairing(waiting, 2).request is None


def test_the_legacy_request_approves_no_surface() -> None:
    """What version 3's own pairing asks waits beside nothing else, and approving it makes nothing live."""
    legacy = replace(EMPTY, request=asked(SHELL, "old", legacy=True))

    quiet = declared(legacy, NOTHING)
    louder = declared(legacy, SHELL)

    assert quiet.record.request == legacy.request
    assert louder.superseded == legacy.request
    assert approve(legacy, "old", now_ms=0) == EMPTY
    assert of_pairing(replace(legacy, pairing_ms=1), 2).request == legacy.request


def test_removed_is_nothing_but_a_generation() -> None:
    """Of a removed node only its generation is kept, so that no call of before counts."""
    record = approve(declared(EMPTY, SHELL).record, "r1", now_ms=0)

    assert remove(record) == NodeRecord(node_id="n1", generation=2)


@pytest.mark.parametrize(
    ("commands", "scopes"),
    [
        ((), (PAIRING,)),
        (("camera.list", "location.get"), (PAIRING, WRITE)),
        (("system.run",), (PAIRING, ADMIN)),
        (("system.which", "camera.list"), (PAIRING, ADMIN)),
        (("browser.proxy",), (PAIRING, ADMIN)),
        (("never.heard.of",), (PAIRING, ADMIN)),
        (("System.Notify",), (PAIRING, ADMIN)),
    ],
)
def test_scopes_of_an_approval(commands: tuple[str, ...], scopes: tuple[str, ...]) -> None:
    """It takes an admin for every command that is not known to be harmless."""
    assert approve_scopes(NodeSurface(caps=("system",), commands=commands)) == scopes


def test_nothing_harmless_needs_an_admin() -> None:
    """No command that only an admin may use can be approved by anybody else."""
    assert not any(needs_admin(command) for command in HARMLESS)


def test_permissions() -> None:
    """A permission is live where it was approved; one that is not held needs no approval."""
    held = NodeSurface(permissions=(("p", True), ("q", False)))
    record = approve(declared(EMPTY, held).record, "r1", now_ms=0)

    assert live(record, held) == held
    lost = NodeSurface(permissions=(("p", False), ("q", False)))
    assert (live(record, lost), covered(record, lost)) == (lost, True)
    more = NodeSurface(permissions=(("p", True), ("q", True), ("r", False)))
    assert live(record, more).permissions == (("p", True),)
    assert not covered(record, more)


@given(surfaces, surfaces)
def test_live_is_within_both(approved: NodeSurface, offered: NodeSurface) -> None:
    """What is live was declared and approved, and nothing of both is left out."""
    record = replace(EMPTY, approved=approved)

    assert offers(live(record, offered)) == offers(approved) & offers(offered)
    assert covered(record, offered) is (offers(offered) <= offers(approved))


class Approval(RuleBasedStateMachine):
    """A node that comes and goes, and operators that decide."""

    def __init__(self) -> None:
        super().__init__()
        self.record = EMPTY
        self.now_ms = 1_000_000
        self.pairing_ms: int | None = 1
        self.count = 0
        self.seen: dict[str, SurfaceRequest] = {}
        self.granted: NodeSurface = NOTHING
        """What somebody decided about for this pairing."""
        self.first = True
        self.live = NOTHING
        self.declared = NOTHING

    def moved(self, record: NodeRecord) -> None:
        """Take the next record: its generation never falls, and rises with what is approved."""
        assert record.generation >= self.record.generation
        if record.approved != self.record.approved:
            assert record.generation > self.record.generation
        self.record = record

    @rule(surface=surfaces, trusting=st.booleans())
    def join(self, surface: NodeSurface, trusting: bool) -> None:
        """The node connects."""
        self.count += 1
        before = open_request(of_pairing(self.record, self.pairing_ms), self.now_ms)
        outcome = declared(
            self.record,
            surface,
            f"r{self.count}",
            now_ms=self.now_ms,
            pairing_ms=self.pairing_ms,
            trusting=trusting,
        )
        self.moved(outcome.record)
        if self.pairing_ms is not None and self.first:
            self.first = False
            if trusting:
                self.granted = surface
        if outcome.created is not None:
            self.seen[outcome.created.request_id] = outcome.created
            assert outcome.superseded == before
        self.declared, self.live = surface, outcome.live

    @rule(back=st.integers(0, 3))
    def approve(self, back: int) -> None:
        """An operator approves a request, of now or of before."""
        request_id = f"r{self.count - back}"
        record = of_pairing(self.record, self.pairing_ms)
        waiting = open_request(record, self.now_ms)
        try:
            changed = approve(record, request_id, now_ms=self.now_ms)
        except UnknownRequest:
            assert waiting is None or waiting.request_id != request_id
            return
        assert waiting is not None
        assert self.now_ms < waiting.expires_at_ms
        self.granted = self.seen[request_id].surface
        self.moved(changed)
        self.live = live(changed, self.declared)

    @rule()
    def reject(self) -> None:
        """An operator rejects what waits."""
        if open_request(self.record, self.now_ms) is not None:
            assert self.record.request is not None
            self.moved(reject(self.record, self.record.request.request_id, now_ms=self.now_ms))

    @rule(repaired=st.booleans())
    def removed(self, repaired: bool) -> None:
        """The node is removed, and perhaps paired again."""
        self.moved(remove(self.record))
        self.granted, self.live, self.first = NOTHING, NOTHING, True
        self.pairing_ms = self.now_ms + self.count if repaired else None

    @rule()
    def repaired(self) -> None:
        """The device is paired anew, without a word to whoever keeps the record."""
        self.now_ms += 1
        self.pairing_ms = self.now_ms + 10**9
        self.granted, self.live, self.first = NOTHING, NOTHING, True

    @rule(ms=st.integers(0, REQUEST_TTL_MS))
    def wait(self, ms: int) -> None:
        """Time passes."""
        self.now_ms += ms

    @invariant()
    def nothing_is_live_that_was_not_approved(self) -> None:
        """What is live is declared, and was decided about for this pairing."""
        assert offers(self.live) <= offers(self.declared)
        assert offers(self.live) <= offers(self.granted)


Approval.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestApproval = Approval.TestCase
