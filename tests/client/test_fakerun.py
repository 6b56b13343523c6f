"""The runs of the fake gateway: logs as the contract has them."""

from __future__ import annotations

import pytest

from gateway.client.fakerun import FakeRun


class Audience:
    def __init__(self):
        self.shown = []

    def logged(self, run):
        self.shown.append(run.last_seq)

    def broadcast(self, name, payload=None):
        self.shown.append((name, payload["state"], payload["seq"]))

    def ended(self, run):
        self.shown.append("ended")


def run_of(*words):
    run = FakeRun(Audience(), "r", "main", "hi", "e-1")
    for word in words:
        run.say(word)
    return run


def at(seq, epoch="e-1"):
    return {"epoch": epoch, "seq": seq}


def test_a_run_is_a_log():
    """Every event takes the next number, of all streams, and is shown."""
    run = run_of("a")
    run.tool("read")
    run.rewrite("b")
    run.finish()

    assert [(e["seq"], e["stream"]) for e in run.log] == [
        (1, "assistant"),
        (2, "tool"),
        (3, "assistant"),
        (4, "lifecycle"),
    ]
    assert run.log[2]["data"] == {"delta": "b", "replace": True}
    assert run.text == "b"
    assert run._audience.shown == [
        1,
        ("chat", "delta", 1),
        2,
        3,
        ("chat", "delta", 3),
        4,
        ("chat", "final", 4),
        "ended",
    ]


@pytest.mark.parametrize(
    ("after", "status", "events", "reached"),
    [
        (None, "replay", 3, 3),
        (at(1), "replay", 2, 3),
        (at(3), "up-to-date", 0, 3),
        (at(4), "gap", 0, 3),
        (at(1, "e-0"), "gap", 0, 3),
    ],
)
def test_what_a_reader_is_owed(after, status, events, reached):
    """A position is up to date, behind by some events, or no place in this log."""
    answer = run_of("a", "b", "c").read(after, 500)

    assert (answer["status"], len(answer["events"]), answer["next"]) == (
        status,
        events,
        at(reached),
    )
    if status == "gap":
        assert answer["snapshot"] == {"text": "abc", "state": "running"}


def test_a_page_is_bounded():
    """A replay gives as many events as asked for, and where to go on."""
    answer = run_of("a", "b", "c").read(None, 2)

    assert [event["seq"] for event in answer["events"]] == [1, 2]
    assert answer["next"] == at(2)


def test_what_was_evicted_is_a_gap():
    """A position before what is kept is a gap; one at its edge is not."""
    run = run_of("a", "b", "c")
    run.evict(2)

    assert run.read(at(1), 500)["status"] == "gap"
    assert run.read(at(1), 500)["evictedThrough"] == 2
    assert [event["seq"] for event in run.read(at(2), 500)["events"]] == [3]


@pytest.mark.parametrize(
    ("step", "arguments", "state"),
    [("finish", (), "done"), ("fail", ("x",), "failed"), ("abort", (), "aborted")],
)
def test_ends(step, arguments, state):
    """A run ends in one of three states, which it describes."""
    run = run_of("a")
    getattr(run, step)(*arguments)

    assert run.describe()["state"] == state
    assert run.describe()["error"] == ("x" if step == "fail" else None)


def test_beginning_again():
    """A run that begins again has an empty log in another epoch."""
    run = run_of("a", "b")

    run.begin_again("e-2")
    run.say("x")

    assert run.read(at(1), 500)["status"] == "gap"
    assert (run.text, run.last_seq, run.epoch) == ("x", 1, "e-2")
