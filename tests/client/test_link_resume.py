"""Nothing is lost and nothing doubled, wherever a connection breaks: properties of the whole client."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.client.chat import Outcome
from gateway.client.options import ClientOptions
from gateway.client.retry import Reconnect
from gateway.client.testing import FakeGateway
from tests.client.bench import Bench
from tests.unmeasured import unmeasured

FRAMES = 500
WORDS = [f"w{number} " for number in range(FRAMES)]
FIRST = 4
"""Messages before the first delta: challenge, hello, the answer to the message, the epoch."""


def spoken(cuts, words, logs=True):
    """Let a run say the words, a hundred a second, on connections that are cut."""
    bench = Bench(FakeGateway(cuts=cuts, logs=logs))
    bench.chat()
    while "run-1" not in bench.gateway.runs:  # cut before the message
        bench.after(1)
    for number, word in enumerate(words):
        bench.run().say(word)
        bench.settle()
        if number % 5 == 0:
            bench.after(0.05)
    bench.does("finish")
    bench.after(60)
    return bench


def check(bench, words):
    assert bench.told() == "".join(words)
    assert bench.end() is not None
    assert bench.end().outcome is Outcome.FINAL
    assert bench.run_errors == {}
    assert bench.lost is None
    assert len(bench.gateway.runs) == 1


@pytest.mark.parametrize("tens", range(0, FRAMES + FIRST + 1, 10))
@unmeasured
def test_a_cut_at_every_frame_of_a_run(tens):
    """A run of 500 frames, cut after each in turn, is told byte for byte, with one end."""
    for boundary in range(max(1, tens), tens + 10):
        bench = spoken([boundary], WORDS)

        check(bench, WORDS)
        assert len(bench.dials) == (2 if boundary <= FRAMES + FIRST + 1 else 1)


@pytest.mark.parametrize("logs", [True, False])
@pytest.mark.parametrize("first", range(1, 16))
@unmeasured
def test_a_cut_at_every_frame_of_two_connections(first, logs):
    """A second cut, at every frame of what comes after the first, does no harm either."""
    words = WORDS[:10]
    for second in range(1, 16):
        bench = spoken([first, second], words, logs)

        check(bench, words)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.sampled_from(["a", "bb ", "c\n", "é", ""])),
        st.tuples(st.just("rewrite"), st.sampled_from(["", "new ", "abb "])),
        st.tuples(st.just("tool"), st.just("read")),
        st.tuples(st.just("wait"), st.floats(0, 3)),
        st.tuples(st.just("cut"), st.none()),
        st.tuples(st.just("close"), st.sampled_from([1000, 1008, 1012, 1013, 4001])),
        st.tuples(st.just("evict"), st.integers(0, 3)),
        st.tuples(st.just("crash"), st.none()),
        st.tuples(st.just("garbage"), st.sampled_from([b"{", b"[]", b'{"type":"event"}'])),
        st.tuples(st.just("limit"), st.integers(1, 8)),
    ),
    max_size=25,
)


def play(bench, steps):
    """Do what the steps say to a gateway and its one run."""
    for number, (kind, value) in enumerate(steps):
        run = bench.run()
        match kind:
            case "wait":
                bench.after(value)
            case "cut":
                bench.gateway.cut()
            case "close":
                bench.gateway.close(value, "because")
            case "evict":
                run.evict(max(run.evicted_through, run.last_seq - value))
            case "crash":
                bench.gateway.cut()
                run.begin_again(f"after-{number}")
            case "garbage":
                for connection in bench.gateway.connections:
                    connection.raw(value)
            case "limit":
                bench.gateway.cut_next(value)
            case _:
                getattr(run, kind)(value)
        bench.settle()


@unmeasured
@settings(max_examples=150, deadline=None)
@given(
    STEPS,
    st.sampled_from(["finish", "fail", "abort"]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_whatever_happens_the_text_is_whole(steps, end, away, eager, seed):
    """In any order of cuts, crashes, evictions and nonsense, the text adds up and ends once."""
    policy = Reconnect(fraction=Random(seed).random)
    bench = Bench(FakeGateway(eager=eager), ClientOptions(reconnect=policy))
    bench.chat()
    play(bench, steps)
    if away:
        bench.gateway.cut()
    bench.does(end, *(["boom"] if end == "fail" else []))

    bench.after(120)

    assert bench.told() == bench.run().text
    outcomes = {"finish": Outcome.FINAL, "fail": Outcome.ERROR, "abort": Outcome.ABORTED}
    assert bench.end().outcome is outcomes[end]
    assert bench.end().error_message == ("boom" if end == "fail" else None)
    assert bench.run_errors == {}
    assert bench.lost is None


@unmeasured
@settings(max_examples=60, deadline=None)
@given(STEPS, st.booleans(), st.sampled_from([3, 4]), st.integers(0, 2**32))
def test_without_logs_the_text_is_whole_too(steps, away, protocol, seed):
    """On a gateway without logs the same holds for runs that end well."""
    policy = Reconnect(fraction=Random(seed).random)
    gateway = FakeGateway(logs=False, protocol=protocol)
    bench = Bench(gateway, ClientOptions(reconnect=policy))
    bench.chat()
    play(bench, [step for step in steps if step[0] not in ("rewrite", "crash", "evict")])
    if away:
        bench.gateway.cut()
    bench.does("finish")

    bench.after(120)

    assert bench.told() == bench.run().text
    assert bench.end().outcome is Outcome.FINAL
    assert bench.run_errors == {}
