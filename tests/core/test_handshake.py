"""The machine of one handshake."""

from __future__ import annotations

import sys

import pytest
from automat import NoTransition
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.core.handshake import Ask, Ignore, Pass, Queued, Refuse, new_handshake
from gateway.errors import CloseCause, CloseCode
from tests.core.door import (
    LOCAL,
    MAX_BYTES,
    MAX_QUEUED,
    NONCE,
    NOW_MS,
    POLICY,
    TOKEN,
    frame,
    knock,
    opened,
    params,
    signed,
)

CONNECT = frame(signed(params()))
DEEP = b"[" * 5_000 + b"]" * 5_000


def test_a_client_is_asked_about_queued_for_and_let_in() -> None:
    """After a sound connect request frames wait until the store has decided, then requests pass."""
    machine = opened()
    step = machine.receive(CONNECT, NOW_MS)
    assert isinstance(step, Ask)
    assert (step.frame_id, step.proven.client.id, machine.phase()) == ("c1", "cli", "pending")

    waiting = [f"frame {number}".encode() for number in range(MAX_QUEUED)]
    assert [machine.receive(data, NOW_MS) for data in waiting] == [Queued()] * MAX_QUEUED

    assert machine.admit() == waiting
    assert machine.phase() == "connected"
    assert machine.receive(b"anything", NOW_MS) == Pass()
    machine.refuse()
    assert machine.phase() == "connected"


@pytest.mark.parametrize(("more", "fits"), [(0, True), (1, False)])
def test_waiting_frames_have_room_together(more: int, fits: bool) -> None:
    """Frames that wait take no more than one may have, so that a slow decision costs no memory."""
    machine = opened()
    machine.receive(CONNECT, NOW_MS)
    half = b" " * (MAX_BYTES // 2)
    assert machine.receive(half, NOW_MS) == Queued()
    step = machine.receive(half + b" " * more, NOW_MS)
    assert (step == Queued()) is fits
    if not fits:
        assert isinstance(step, Refuse)
        assert step.refusal.cause is CloseCause.HANDSHAKE_OVERFLOW
        assert machine.phase() == "failed"


def test_the_sixteenth_waiting_frame_is_one_too_many() -> None:
    """A client that does not wait for its hello is refused, and nothing of it is kept."""
    machine = opened()
    machine.receive(CONNECT, NOW_MS)
    for _ in range(MAX_QUEUED):
        machine.receive(b"{}", NOW_MS)
    step = machine.receive(b"{}", NOW_MS)

    assert isinstance(step, Refuse)
    assert (step.refusal.cause, step.refusal.code) == (
        CloseCause.HANDSHAKE_OVERFLOW,
        CloseCode.POLICY,
    )
    assert step.refusal.close_reason == "too many pending handshake frames"
    assert step.refusal.error is None
    assert machine.phase() == "failed"
    assert machine.receive(b"{}", NOW_MS) == Ignore()
    with pytest.raises(NoTransition):
        machine.admit()


@pytest.mark.parametrize(
    "data",
    [
        b"hello",
        b"",
        b"\xff",
        DEEP,
        frame({"a": 1})[:-1],
        b'{"type":"req","id":"\\ud800"}',
        b'{"type":"req","id":"c1","method":"connect","params":{"computerUse":"\xff"}}',
        b'{"type":"req","id":"c1","method":"connect","params":' + DEEP + b"}",
    ],
    ids=range(8),
)
def test_a_first_frame_that_is_not_json_is_not_answered(data: bytes) -> None:
    """The connection is closed with 1000 and no reason, as if nothing had been said."""
    step = knock(data)
    assert isinstance(step, Refuse)
    assert (step.refusal.error, step.frame_id) == (None, None)
    assert (step.refusal.code, step.refusal.close_reason) == (CloseCode.NORMAL, "")


@pytest.mark.parametrize(
    "data", [b"[]", b"{}", b"null", b'{"type":"res","id":"c1","ok":true}', b'{"type":"req","id":7}']
)
def test_a_first_frame_that_is_no_request_is_not_answered(data: bytes) -> None:
    """The connection is closed with 1008, without an answer."""
    step = knock(data)
    assert isinstance(step, Refuse)
    assert (step.refusal.error, step.frame_id) == (None, None)
    assert (step.refusal.code, step.refusal.close_reason) == (
        CloseCode.POLICY,
        "invalid request frame",
    )


def test_another_first_request_is_answered_and_closed() -> None:
    """Whatever is asked before connect is refused under its id."""
    step = knock(frame({}, "health"))
    assert isinstance(step, Refuse)
    assert step.frame_id == "c1"
    assert step.refusal.error == {
        "code": "INVALID_REQUEST",
        "message": "invalid handshake: first request must be connect",
    }


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({}, CloseCause.INVALID_HANDSHAKE),
        (params(versions=(1, 2)), CloseCause.PROTOCOL_MISMATCH),
        (params(auth={"token": "wrong"}), CloseCause.UNAUTHORIZED),
    ],
)
def test_a_machine_that_refused_has_failed(fields: object, cause: CloseCause) -> None:
    """After a refusal nothing more is looked at, before the connection has even closed."""
    machine = opened()
    step = machine.receive(frame(fields), NOW_MS)
    assert isinstance(step, Refuse)
    assert (step.refusal.cause, step.frame_id) == (cause, "c1")
    assert machine.phase() == "failed"
    assert machine.receive(CONNECT, NOW_MS) == Ignore()
    machine.refuse()
    assert machine.receive(CONNECT, NOW_MS) == Ignore()


def test_a_number_beyond_reading_is_a_wrong_field() -> None:
    """A field of any type with a number that nothing can hold is refused with its place."""
    step = knock(frame(params())[:-2] + b',"computerUse":1e999}}')
    assert isinstance(step, Refuse)
    assert step.refusal.cause is CloseCause.INVALID_HANDSHAKE
    assert "at /computerUse: number out of range" in step.refusal.reason


def test_params_of_any_depth_are_refused() -> None:
    """From some depth on params can not be read, at whichever reading of them; none raises."""
    head = b'{"type":"req","id":"c1","method":"connect","params":{"computerUse":'
    codes = []
    for depth in range(1, sys.getrecursionlimit() + 50):
        step = knock(head + b"[" * depth + b"]" * depth + b"}}")
        assert isinstance(step, Refuse)
        codes.append(step.refusal.code)
    assert set(codes) == {CloseCode.POLICY, CloseCode.NORMAL}
    assert codes == sorted(codes, reverse=True)


def test_before_the_challenge_nothing_is_heard() -> None:
    """A client that speaks before it was challenged is ignored, and may still be challenged."""
    machine = new_handshake(lambda: POLICY, LOCAL, max_queued=MAX_QUEUED, max_bytes=MAX_BYTES)
    assert machine.receive(CONNECT, NOW_MS) == Ignore()
    assert machine.phase() == "pending"
    machine.challenge(NONCE)
    assert isinstance(machine.receive(CONNECT, NOW_MS), Ask)


def test_a_machine_can_be_refused_at_any_time() -> None:
    """A connection that is gone ends its handshake, however far it came."""
    fresh = new_handshake(lambda: POLICY, LOCAL, max_queued=MAX_QUEUED, max_bytes=MAX_BYTES)
    challenged, admitting = opened(), opened()
    admitting.receive(CONNECT, NOW_MS)
    admitting.receive(b"{}", NOW_MS)
    for machine in (fresh, challenged, admitting):
        assert machine.phase() == "pending"
        machine.refuse()
        assert machine.phase() == "failed"
        machine.refuse()


def test_a_machine_that_ended_keeps_no_frames() -> None:
    """What waited is let go of when the connection is gone."""
    machine, data = opened(), bytes(range(64))
    machine.receive(CONNECT, NOW_MS)
    before = sys.getrefcount(data)
    machine.receive(data, NOW_MS)
    assert sys.getrefcount(data) == before + 1
    machine.refuse()
    assert sys.getrefcount(data) == before


def test_the_nonce_of_another_connection_proves_nothing() -> None:
    """A recorded connect request is refused by a connection with its own challenge."""
    machine = new_handshake(lambda: POLICY, LOCAL, max_queued=MAX_QUEUED, max_bytes=MAX_BYTES)
    machine.challenge("another nonce")
    step = machine.receive(CONNECT, NOW_MS)
    assert isinstance(step, Refuse)
    assert step.refusal.cause is CloseCause.DEVICE_AUTH_INVALID


def test_no_secret_stands_in_a_representation() -> None:
    """Steps and refusals show neither the client's credential nor the gateway's."""
    steps = [knock(CONNECT), knock(frame(params(auth={"token": "canary"})))]
    assert TOKEN not in repr(steps)
    assert "canary" not in repr(steps)


class HandshakeModel(RuleBasedStateMachine):
    """Inputs in any order against what the states allow."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = new_handshake(lambda: POLICY, LOCAL, max_queued=2, max_bytes=MAX_BYTES)
        self.state = "fresh"
        self.queued: list[bytes] = []

    @precondition(lambda self: self.state == "fresh")
    @rule()
    def challenge(self) -> None:
        """The challenge was written."""
        self.machine.challenge(NONCE)
        self.state = "challenged"

    @rule(data=st.sampled_from([CONNECT, b"{}", b"hello", frame({}, "health")]))
    def receive(self, data: bytes) -> None:
        """A frame arrives."""
        step = self.machine.receive(data, NOW_MS)
        if self.state in ("fresh", "failed"):
            assert isinstance(step, Ignore)
        elif self.state == "connected":
            assert isinstance(step, Pass)
        elif self.state == "challenged":
            assert isinstance(step, Ask if data == CONNECT else Refuse)
            self.state = "admitting" if data == CONNECT else "failed"
        elif len(self.queued) < 2:
            assert isinstance(step, Queued)
            self.queued.append(data)
        else:
            assert isinstance(step, Refuse)
            self.state = "failed"

    @precondition(lambda self: self.state == "admitting")
    @rule()
    def admit(self) -> None:
        """The store let it in."""
        assert self.machine.admit() == self.queued
        self.state = "connected"

    @rule()
    def refuse(self) -> None:
        """The connection is refused or gone."""
        self.machine.refuse()
        if self.state != "connected":
            self.state = "failed"

    @invariant()
    def phase(self) -> None:
        """The phase is that of the state."""
        phases = {"connected": "connected", "failed": "failed"}
        assert self.machine.phase() == phases.get(self.state, "pending")


HandshakeModel.TestCase.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)
TestHandshakeModel = HandshakeModel.TestCase
