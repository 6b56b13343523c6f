"""A store that fails at its n-th commit, for every n of a conversation."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred

from gateway.errors import StoreError
from gateway.model import ModelUsage, RunState, Usage, UsageQuery
from gateway.store.store import SQLStore
from gateway.testing import FakeClock, result_of
from tests.app.harness import Call, Client, Gate
from tests.store.faults import Faults
from tests.store.harness import call_nothing
from tests.unmeasured import unmeasured

USED = ModelUsage(provider="p", model="m", output_tokens=1)

PATIENCE_S = 10
"""How long a request is tried again, and how long the store needs at most to work again."""


class Conversation:
    """Some messages to a gateway whose store fails once, its crash, and the gateway after it."""

    def __init__(self, directory: Path, failing_at: int, *, stored: bool) -> None:
        self.faults = Faults()
        self.clock = FakeClock()
        self.store = SQLStore(
            f"sqlite:///{directory / f'{failing_at}-{stored}.db'}",
            clock=self.clock,
            call_from_thread=call_nothing,
            threads=False,
            driver=self.faults.driver(),
        )
        self.store.open()
        self.store.startService()
        code = sqlite3.SQLITE_IOERR if stored else sqlite3.SQLITE_FULL
        start = self.faults.commits
        self.faults.stored_all_the_same = stored
        self.faults.fails = lambda number: code if number - start == failing_at else None
        self.gate = Gate(store=self.store, clock=self.clock)
        self.client = self.gate.client()
        self.accepted: dict[str, str] = {}
        self.ends: Counter[str] = Counter()
        self.calls: list[Call] = []

    def close(self) -> None:
        """Close the store."""
        self.faults.fails = lambda number: None
        result_of(self.store.stopService())

    def insist(self, method: str, **params: object) -> Call:
        """Make a request until it is taken, as a client does that was told to try again."""
        for _ in range(PATIENCE_S):
            call = self.client.call(method, params)
            self.calls.append(call)
            if call.frame["ok"]:
                break
            assert call.error["code"] == "UNAVAILABLE"
            self.clock.advance(1)
        assert call.frame["ok"], call.frame
        return call

    def send(self, run: str, key: str = "main") -> None:
        """Send a message, and know that it was accepted."""
        text = f"message of {run}"
        self.insist("chat.send", sessionKey=key, message=text, idempotencyKey=run)
        self.accepted[run] = text

    def answer(self, run: str) -> None:
        """Let the agent answer, as soon as it was asked."""
        for _ in range(PATIENCE_S):
            if run in self.gate.backend.live:
                break
            self.clock.advance(1)
        live = self.gate.live(run)
        live.sink.text(f"answer to {run}")
        live.sink.bind(f"thread of {run}")
        self.gate.turn()
        live.end(usage=Usage(by_model=(USED, USED)))
        self.clock.advance(0.2)

    def talk(self) -> None:
        """Ask, queue, change the session, answer, abort, and leave one going and one waiting."""
        self.send("r1")
        self.send("r2")
        self.insist("sessions.patch", key="main", label="a label")
        self.send("r3")
        self.answer("r1")
        self.answer("r2")
        self.insist("chat.abort", sessionKey="main", runId="r3")
        self.send("r4", "other")
        self.answer("r4")
        self.clock.pump([0.5] * 2 * PATIENCE_S)
        self.send("r5")
        self.send("r6")

    def crash(self) -> None:
        """Lose the process, and start another."""
        self.count_ends(self.client)
        self.gate = self.gate.restarted()
        self.client = self.gate.client()
        for _ in range(PATIENCE_S):
            recovering = Deferred.fromCoroutine(self.gate.runs.recover())
            try:
                result_of(recovering)
                break
            except StoreError:
                self.clock.advance(1)
        self.answer("r6")
        self.clock.pump([0.5] * 2 * PATIENCE_S)
        self.count_ends(self.client)

    def count_ends(self, client: Client) -> None:
        """Count the ends that a client was told of, without those of requests that were refused."""
        refused = Counter(
            frame["payload"]["runId"]
            for frame in client.frames
            if frame["event"] == "chat"
            and frame["payload"].get("errorMessage", "").startswith("the session could not be")
        )
        for run in self.accepted:
            states, phases = client.ends(run)
            assert len(states) == len(phases)
            self.ends[run] += len(states) - refused[run]

    def check(self) -> None:
        """Check that nothing was lost, doubled, or left open."""
        self.faults.fails = lambda number: None
        assert all(call.frames for call in self.calls)
        assert result_of(self.store.open_runs()) == ()
        wanted = dict.fromkeys(self.accepted, RunState.DONE)
        wanted |= {"r3": RunState.ABORTED, "r5": RunState.FAILED}
        stored = {run: result_of(self.store.get_run(run)) for run in self.accepted}
        found = {run: record for run, record in stored.items() if record is not None}
        assert {run: record.state for run, record in found.items()} == wanted
        assert self.ends == dict.fromkeys(self.accepted, 1)
        said = Counter(self.gate.messages() + self.gate.messages("agent:main:other"))
        for run, text in self.accepted.items():
            assert said["user", text] == 1
            assert said["assistant", f"answer to {run}"] == (wanted[run] is RunState.DONE)
            events = result_of(self.store.list_events(run, after_seq=0, limit=100))
            ends = [
                event.seq
                for event in events
                if event.stream == "lifecycle" and json.loads(event.data)["phase"] != "start"
            ]
            assert ends == [events[-1].seq] == [found[run].last_seq]
        used = UsageQuery(since_ms=0, until_ms=2**53, by=("run", "model"))
        assert {
            each.run_id: each.output_tokens for each in result_of(self.store.sum_usage(used))
        } == {run: 2 for run, state in wanted.items() if state is RunState.DONE}


@pytest.fixture
def conversations() -> Iterator[list[Conversation]]:
    """Close the stores of the conversations that are put in here."""
    made: list[Conversation] = []
    yield made
    for each in made:
        each.close()


@pytest.mark.parametrize("stored", [False, True], ids=["lost", "stored all the same"])
@unmeasured
def test_the_store_fails_at_each_commit(
    tmp_path: Path,
    conversations: list[Conversation],
    expected_failures: list[type[BaseException]],
    stored: bool,
) -> None:
    """Whichever commit fails, every request is answered, every run has one end, nothing is lost."""
    expected_failures.append(StoreError)
    number, commits = 0, 1
    while number <= commits:
        conversation = Conversation(tmp_path, number, stored=stored)
        conversations.append(conversation)
        conversation.talk()
        conversation.crash()
        if not number:
            commits = conversation.faults.commits
        conversation.check()
        number += 1

    assert commits > 20
