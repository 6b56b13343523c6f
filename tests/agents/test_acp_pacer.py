"""How fast what an agent reports goes into a run, over all its streams."""

from __future__ import annotations

import random
from typing import Any, cast

import pytest

from gateway.agents.acp_pacer import BURST, CROWD, RATE, Pacer
from gateway.agents.acp_updates import TurnUpdates
from gateway.app.sink import Sink
from gateway.core.run import Run, RunOutput
from gateway.testing import FakeClock
from tests.agents.fakes import RecordingSink, run_request
from tests.app.harness import Gate


class Paced:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.sink = RecordingSink()
        self.errors: list[Exception] = []
        self.pacer = Pacer(self.sink, self.clock, self.errors.append)

    def report(self, name: str, **options: Any) -> None:
        self.pacer.report(lambda: (name, {}), **options)

    def use_up(self) -> None:
        """Take what may go out at once."""
        for _ in range(int(BURST)):
            self.report("first")
        self.sink.events.clear()

    @property
    def told(self) -> list[str]:
        return [stream for stream, _ in self.sink.events]


@pytest.fixture
def paced() -> Paced:
    return Paced()


def test_what_comes_seldom_goes_out_at_once(paced: Paced) -> None:
    """A few reports after a pause wait for nothing, and no call is left on the clock."""
    for name in "abc":
        paced.report(name)
    paced.pacer.text("d")

    assert (paced.told, paced.sink.said) == (["a", "b", "c"], "d")
    assert paced.clock.getDelayedCalls() == []


def test_the_rest_goes_out_at_the_rate_in_order(paced: Paced) -> None:
    """Beyond the burst each report waits for its token; text waits behind what came before it."""
    paced.use_up()
    paced.report("a")
    paced.pacer.text("hel")
    paced.pacer.text("lo")
    paced.report("b")
    assert paced.told == []

    paced.clock.advance(1 / RATE)
    assert (paced.told, paced.sink.said) == (["a"], "")
    paced.clock.advance(1 / RATE)
    assert (paced.told, paced.sink.parts) == (["a"], ["hello"])
    paced.clock.advance(1 / RATE)
    assert paced.told == ["a", "b"]
    assert paced.clock.getDelayedCalls() == []


def test_reports_of_one_key_are_one(paced: Paced) -> None:
    """What waits under a key is made when it goes out, once, and can be taken back."""
    paced.use_up()
    values = [1]
    for value in (2, 3):
        values[0] = value
        paced.pacer.report(lambda: ("k", {"value": values[0]}), key="k")
    paced.report("gone", key="g")
    paced.pacer.discard("g")
    paced.pacer.discard("never")
    paced.pacer.report(lambda: None, key="nothing")
    paced.clock.advance(1)

    assert paced.sink.events == [("k", {"value": 3})]


def test_a_report_that_is_not_ready_waits_unless_followed(paced: Paced) -> None:
    """``ready_at`` holds back the last report only."""
    paced.report("a", ready_at=paced.clock.seconds() + 5)
    assert paced.told == []
    paced.report("b")
    assert paced.told == ["a", "b"]
    paced.report("c", ready_at=paced.clock.seconds() + 5)
    paced.clock.advance(5)
    assert paced.told == ["a", "b", "c"]


def test_flush_and_close(paced: Paced) -> None:
    """A flush lets out all at once; after close nothing waits and nothing is taken."""
    paced.use_up()
    for _ in range(CROWD):
        assert not paced.pacer.crowded
        paced.report("a")
    assert paced.pacer.crowded
    paced.pacer.flush()
    assert len(paced.told) == CROWD

    paced.report("b")
    paced.pacer.close()
    paced.report("c")
    paced.pacer.text("d")
    assert (len(paced.pacer), len(paced.told), paced.sink.said) == (0, CROWD, "")
    assert paced.clock.getDelayedCalls() == []


def test_a_sink_that_raises_later_is_told(paced: Paced) -> None:
    """What the sink raises while nobody calls goes to ``on_error``, and the rest is forgotten."""
    paced.use_up()

    def refuse(_: str) -> None:
        raise ValueError("too long")

    paced.sink.on_text = refuse
    paced.pacer.text("x")
    paced.report("a")
    paced.clock.advance(1)

    assert [str(error) for error in paced.errors] == ["too long"]
    assert paced.told == []


STORMS = [
    ("agent_message_chunk",),
    ("agent_message_chunk", "agent_thought_chunk"),
    ("agent_message_chunk", "tool_call", "plan", "usage_update", "tool_call_update"),
    ("tool_call", "tool_call_update"),
]


@pytest.mark.parametrize("kinds", STORMS, ids=lambda kinds: "+".join(kinds))
def test_all_streams_together_are_at_most_20_events_a_second(kinds: tuple[str, ...]) -> None:
    """However fast an agent reports whatever, a run has few events in any second, and none is lost."""
    clock, outputs = FakeClock(), list[tuple[float, RunOutput]]()
    run = Run(run_request(), epoch="e", origin="chat", actor="a", fingerprint="f", accepted_at_ms=0)
    run.start(0)
    sink = Sink(
        run,
        clock=clock,
        store=cast(Any, None),
        interval_s=0.1,
        emit=lambda output: outputs.append((clock.seconds(), output)),
        overflow=pytest.fail,
        unfinished=tuple,
        kind="acp",
        summaries=cast(Any, None),
        questions=Gate().runs.questions,
    )
    updates = TurnUpdates(sink, clock, lambda error: pytest.fail(str(error)))
    chance = random.Random(7)
    begun = clock.seconds()
    content = {"type": "text", "text": "x"}
    for number in range(3000):
        update = {"sessionUpdate": chance.choice(kinds), "content": content, "entries": [number]}
        call = {"toolCallId": str(number // 4), "used": number}
        updates.update(update | call | ({"status": "completed"} if number % 4 == 3 else {}))
        clock.advance(0.002)
    ended = clock.seconds()

    times = [at for at, _ in outputs]
    for start in times:
        assert sum(start <= at < start + 1 for at in times) <= 20
    assert len(times) >= 8 * (ended - begun)
    updates.finish()
    sink.close()
    updates.close()
    assert clock.getDelayedCalls() == []
