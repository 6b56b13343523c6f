"""The wall clock is set a day forward or back under way: nothing hangs, nothing is done twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from gateway.app.periodic import Pruner
from gateway.testing import FakeClock, result_of
from tests.app.door import make_door
from tests.app.harness import Gate

DAY_S = 24 * 3600
Gates = Callable[..., Gate]
JUMPS = pytest.mark.parametrize("jump", [DAY_S, -DAY_S])


def swept(gate: Gate) -> None:
    """Do what the pruner does every minute."""
    Pruner(gate.clock, gate.wiring.registries).sweep()


@JUMPS
def test_a_key_is_remembered_for_its_time(gate: Gate, jump: int) -> None:
    """A repeat is the same run right after a jump, and its key is forgotten no sooner and no later."""
    client = gate.client()
    client.send("hello")
    gate.live().end()
    gate.clock.jump(jump)
    swept(gate)

    assert client.send("hello").payload == {"runId": "r1", "status": "ok"}
    assert gate.backend.started == ["r1"]
    gate.clock.advance(gate.services.limits.idempotency_ttl_s - 1)
    swept(gate)
    assert "r1" in gate.runs.window.claims
    gate.clock.advance(1)
    swept(gate)
    assert "r1" not in gate.runs.window.claims


@JUMPS
def test_a_run_that_goes_keeps_its_key(gate: Gate, jump: int) -> None:
    """A run under way is not started again by a repeat, and ends when its agent says so."""
    client = gate.client()
    client.send("hello")
    gate.clock.jump(jump)
    swept(gate)

    assert client.send("hello").payload["status"] == "in_flight"
    gate.live().sink.text("done")
    gate.live().end()
    assert client.ends() == (["final"], ["end"])
    assert gate.messages() == [("user", "hello"), ("assistant", "done")]


@JUMPS
def test_a_timeout_comes_when_it_should(gate: Gate, jump: int) -> None:
    """The time a run may take is not the wall clock's: it is neither cut short nor stretched."""
    client = gate.client()
    client.send("hello", timeoutMs=5_000)
    gate.clock.advance(2)
    gate.clock.jump(jump)
    gate.clock.advance(2.9)
    assert client.ends() == ([], [])
    gate.clock.advance(0.2)

    assert client.ends() == (["aborted"], ["end"])
    assert gate.live().cancelled


@JUMPS
def test_an_end_is_not_announced_with_the_answer(gate: Gate, jump: int) -> None:
    """The pause before a quick run's end is kept, and no longer, whatever the clock does in it."""
    gate.runs.end_delay_s = 0.1
    client = gate.client()
    client.send("hello")
    gate.clock.jump(jump)
    gate.live().end()
    gate.clock.advance(0.09)
    assert client.ends() == ([], [])
    gate.clock.advance(0.02)

    assert client.ends() == (["final"], ["end"])


@JUMPS
def test_a_repeated_transcript_is_one_turn(gate: Gate, jump: int) -> None:
    """A provider's resend is known after a jump; the same words later are another turn."""
    node = gate.node()

    def hear(**payload: Any) -> None:
        body = {"event": "voice.transcript", "payload": {"text": "light", **payload}}
        assert node.ok("node.event", body) == {"ok": True}

    hear(eventId="e1")
    gate.clock.jump(jump)
    hear(eventId="e1")
    assert len(gate.runs) == 1
    gate.clock.advance(2)
    hear()
    assert len(gate.runs) == 2
    gate.clock.advance(300)
    swept(gate)
    assert len(gate.services.voice) == 0


@JUMPS
def test_presence_lives_as_long_as_it_should(gate: Gate, jump: int) -> None:
    """Who is there stays, who left is listed for five minutes more, the last change being first."""
    staying, leaving = gate.client(), gate.client()
    presence = gate.services.presence
    for client in (staying, leaving):
        presence.joined(client.context.caller)
    gate.clock.jump(jump)
    presence.left(leaving.context.caller)

    reasons = [entry.reason for entry in presence.list()]
    assert reasons == ["self", "disconnect", "connect"]
    gate.clock.advance(299)
    assert len(presence.list()) == 3
    gate.clock.advance(1)
    assert [entry.reason for entry in presence.list()] == ["self", "connect"]


@JUMPS
def test_sessions_and_transcripts_stay_whole(gate: Gate, jump: int) -> None:
    """Sessions from before and after are all listed, and a transcript keeps the order it was written in."""
    client = gate.client()
    for number, key in enumerate(("main", "other", "main")):
        client.send(f"message {number}", key, run=f"r{number}")
        gate.live(f"r{number}").sink.text(f"answer {number}")
        gate.live(f"r{number}").end()
        gate.clock.jump(jump)
        gate.clock.advance(1)

    listed = client.ok("sessions.list")["sessions"]
    assert {row["key"] for row in listed} == {"agent:main:main", "agent:main:other"}
    said = ["message 0", "answer 0", "message 2", "answer 2"]
    assert [text for _, text in gate.messages()] == said
    newest = client.ok("sessions.describe", {"key": "main"})["session"]
    assert newest["updatedAt"] == gate.clock.now_ms() - 1000 - jump * 1000


@JUMPS
def test_a_restart_after_a_jump_runs_nothing_twice(gate: Gate, jump: int) -> None:
    """A repeat that comes after a jump and a restart is answered from the store."""
    client = gate.client()
    client.send("hello")
    gate.live().end()
    gate.clock.jump(jump)
    again = gate.restarted()
    assert result_of(Deferred.fromCoroutine(again.runs.recover())) == 0

    assert again.client().send("hello").payload == {"runId": "r1", "status": "ok"}
    assert again.backend.started == []


@JUMPS
def test_a_watch_does_not_stop(gate: Gate, jump: int) -> None:
    """What is done every so often goes on at its pace, and the time since the start is what it is."""
    ticks = gate.client()
    for beat in gate.wiring.beats:
        beat.startService()
    gate.clock.jump(jump)
    interval = gate.services.limits.tick_interval_s
    gate.clock.pump([1] * int(2 * interval))

    assert len(ticks.events("tick")) == 2
    for beat in gate.wiring.beats:
        beat.stopService()


@JUMPS
def test_the_challenge_tells_the_time(jump: int) -> None:
    """A proof is judged by the clock as it is: who signs with the time of the challenge comes in."""
    door = make_door()
    door.knock()
    door.clock.jump(jump)

    assert door.knock().principal.device_id == door.identity.device_id


def test_jump() -> None:
    """A jump moves the wall clock only: what was scheduled comes when it would have come."""
    clock = FakeClock()
    called: list[int] = []
    clock.callLater(10, called.append, 1)
    before = clock.seconds(), clock.now_ms()
    clock.jump(-DAY_S)
    clock.jump(0.5)

    assert (clock.seconds(), clock.now_ms()) == (before[0], before[1] - DAY_S * 1000 + 500)
    clock.advance(10)
    assert called == [1]


@JUMPS
def test_an_answer_serves_for_its_time(gate: Gate, jump: int) -> None:
    """A decision can be asked for for 15 seconds, and no longer where the clock is set back."""
    ui, asker = gate.client(client="openclaw-macos"), gate.client(3)
    asker.call("exec.approval.request", {"id": "a", "command": "ls"})
    ui.ok("exec.approval.resolve", {"id": "a", "decision": "allow-always"})
    gate.clock.jump(jump)
    gate.clock.advance(15)
    assert asker.ok("exec.approval.waitDecision", {"id": "a"})["decision"] == "allow-always"
    gate.clock.advance(1)

    error = asker.refused("exec.approval.waitDecision", {"id": "a"})
    assert error["message"] == "approval expired or not found"
