"""Whether a process that has work shows a sign of life."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred

from gateway.agents.vitality import Liveness
from gateway.testing import FakeClock, result_of


class Setup:
    """Ten seconds of silence are a hang; ``hangs`` counts them."""

    def __init__(self, timeout_s: float = 10) -> None:
        self.clock = FakeClock()
        self.hangs: list[float] = []
        self.liveness = Liveness(
            self.clock, timeout_s, lambda: self.hangs.append(self.clock.seconds())
        )


@pytest.fixture
def setup() -> Setup:
    return Setup()


def test_silence_with_work_is_a_hang(setup: Setup) -> None:
    """Silence counts from the beginning of the work, and is told once."""
    setup.clock.advance(100)
    setup.liveness.begin("one")

    setup.clock.advance(9.9)
    assert setup.hangs == []
    setup.clock.advance(0.1)
    setup.clock.advance(100)

    assert setup.hangs == [110]


def test_every_sign_gives_all_the_time_again(setup: Setup) -> None:
    """The bound is for silence, not for the work."""
    setup.liveness.begin("one")
    for _ in range(10):
        setup.clock.advance(9)
        setup.liveness.sign()

    setup.clock.advance(9.9)
    assert setup.hangs == []
    setup.clock.advance(0.1)
    assert setup.hangs == [100]


def test_silence_without_work_is_none(setup: Setup) -> None:
    """A process with nothing to do may be silent; nothing is pending then."""
    setup.liveness.begin("one")
    setup.liveness.begin("two")
    setup.liveness.end("one")
    assert len(setup.clock.getDelayedCalls()) == 1
    setup.liveness.end("two")

    assert setup.clock.getDelayedCalls() == []
    setup.clock.advance(100)
    assert setup.hangs == []


def test_more_work_is_no_sign_of_life(setup: Setup) -> None:
    """A process that is given more and more is not taken for alive by that."""
    setup.liveness.begin("one")
    setup.clock.advance(6)
    setup.liveness.begin("two")
    setup.clock.advance(4)

    assert setup.hangs == [10]


def test_who_waits_for_us_does_not_hang(setup: Setup) -> None:
    """While an operator is asked, time does not count; the answer gives all of it again."""
    setup.liveness.begin("one")
    setup.clock.advance(9)
    setup.liveness.pause("one")
    setup.liveness.pause("one")
    setup.clock.advance(1000)
    setup.liveness.unpause("one")
    setup.clock.advance(1000)
    assert setup.clock.getDelayedCalls() == []

    setup.liveness.unpause("one")
    setup.clock.advance(9.9)
    assert setup.hangs == []
    setup.clock.advance(0.1)
    assert setup.hangs == [2019]


def test_an_answer_of_ours_may_take_its_time(setup: Setup) -> None:
    """Until a Deferred answer fires, time does not count; its value, or failure, goes through."""
    assert setup.liveness.during("at once", "one") == "at once"
    setup.liveness.begin("one")
    good: Deferred[str] = Deferred()
    bad: Deferred[str] = Deferred()
    for answer in (good, bad):
        assert setup.liveness.during(answer, "one") is answer
    setup.clock.advance(1000)
    good.callback("yes")
    setup.clock.advance(1000)
    bad.errback(ValueError("no"))

    assert result_of(good) == "yes"
    with pytest.raises(ValueError, match="no"):
        result_of(bad)
    assert setup.hangs == []
    setup.clock.advance(10)
    assert setup.hangs == [2010]


def test_no_bound_is_no_timer() -> None:
    """A timeout of 0 waits for ever."""
    setup = Setup(0)
    setup.liveness.begin("one")

    assert setup.clock.getDelayedCalls() == []


def test_a_question_of_one_does_not_hide_the_hang_of_another(setup: Setup) -> None:
    """What an operator is asked in one session pauses that one: another's silence is seen all the same."""
    setup.liveness.begin("one")
    setup.liveness.pause("one")
    setup.clock.advance(1000)
    setup.liveness.begin("two")
    setup.clock.advance(9.9)
    assert setup.hangs == []
    setup.clock.advance(0.1)

    assert setup.hangs == [1010]


def test_an_answer_that_comes_after_the_work_changes_nothing(setup: Setup) -> None:
    """Work may end while it waits for an answer; what is asked for no work pauses none."""
    late: Deferred[str] = Deferred()
    setup.liveness.begin("one")
    setup.liveness.during(late, "one")
    setup.liveness.during(Deferred(), None)
    setup.liveness.end("one")
    setup.liveness.begin("two")
    setup.clock.advance(9)
    late.callback("yes")
    setup.liveness.pause("one")
    setup.clock.advance(1)

    assert setup.hangs == [10]
