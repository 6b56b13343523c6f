"""Runs whose logs are read: started, told what to say, ended, evicted."""

from __future__ import annotations

from typing import Any

from gateway.model import Retention
from gateway.testing import result_of
from tests.app.harness import Client, Gate


def after(gate: Gate, seq: int, epoch: str | None = None) -> dict[str, Any]:
    """Return a position as params."""
    return {"after": {"epoch": epoch or gate.runs.epoch, "seq": seq}}


def begin(gate: Gate, run: str = "r1", key: str = "main") -> Client:
    """Start a run; return the client that did."""
    client = gate.client()
    client.send("hello", key=key, run=run)
    gate.turn()
    return client


def say(gate: Gate, *words: str, run: str = "r1") -> None:
    """Let a run make one event of each word."""
    for word in words:
        gate.live(run).sink.text(word)
        gate.clock.advance(0.2)


def finish(gate: Gate, run: str = "r1") -> None:
    gate.live(run).end()
    gate.turn()


def settle(gate: Gate, seconds: float = 0) -> None:
    """Let everything happen that is due."""
    for _ in range(12):
        gate.clock.advance(seconds)


def seqs(items: list[dict[str, Any]]) -> list[int]:
    return [item["seq"] for item in items]


def told(client: Client, run: str = "r1") -> list[int]:
    """Return the numbers of the ``run.event`` events of a run."""
    return seqs([each for each in client.events("run.event") if each["runId"] == run])


def words_of(items: list[dict[str, Any]]) -> str:
    return "".join(i["data"]["delta"] for i in items if i["stream"] == "assistant")


def evict(gate: Gate, keep: int) -> None:
    """Remove the oldest events of ended runs until so many bytes are left."""
    result_of(gate.store.apply_retention(Retention(log_bytes=keep)))
