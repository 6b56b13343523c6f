"""Reading the log of one run by position."""

from __future__ import annotations

import pytest

from gateway.client.chat import Outcome, RunEnded, TextDelta, TextReplaced
from gateway.client.tail import MAX_AHEAD, Need, RunTail, Step
from gateway.model import Position

EPOCH = "e-1"


def assistant(seq, delta, **more):
    return {"seq": seq, "stream": "assistant", "data": {"delta": delta, **more}, "ts": 1}


def live(event, epoch=EPOCH):
    return {"runId": "r", "epoch": epoch, **event}


def replay(*events, epoch=EPOCH):
    seq = events[-1]["seq"] if events else 0
    position = {"epoch": epoch, "seq": seq}
    return {"status": "replay", "epoch": epoch, "events": list(events), "next": position}


def gap(text, state="running", seq=9, epoch=EPOCH):
    return {
        "status": "gap",
        "epoch": epoch,
        "events": [],
        "next": {"epoch": epoch, "seq": seq},
        "snapshot": {"text": text, "state": state},
    }


def chat(text, seq, state="delta"):
    message = {"role": "assistant", "content": [{"type": "text", "text": text}]}
    return {"runId": "r", "seq": seq, "state": state, "message": message}


def reading(seq=0, epoch=EPOCH):
    """Return a tail that stands at a position and has asked for the log."""
    tail = RunTail(Position(epoch=epoch, seq=seq))
    tail.read_log()
    return tail


def test_a_replay_goes_on_after_the_position():
    """The events of a replay are told in order and move the position."""
    tail = reading(seq=2)

    step = tail.log_answer(replay(assistant(3, "a"), assistant(4, "b")))

    assert step == Step([TextDelta("a"), TextDelta("b")])
    assert tail.position == Position(epoch=EPOCH, seq=4)
    assert tail.after == {"after": {"epoch": EPOCH, "seq": 4}}


def test_events_before_the_answer_wait_for_it():
    """Live events that overtake the replay are joined to it, each once."""
    tail = reading()

    early = [tail.log_event(live(assistant(n, str(n)))) for n in (3, 2, 3)]
    step = tail.log_answer(replay(assistant(1, "1"), assistant(2, "2")))

    assert early == [Step([])] * 3
    assert step.events == [TextDelta("1"), TextDelta("2"), TextDelta("3")]
    assert tail.log_event(live(assistant(3, "3"))) == Step([])
    assert tail.log_event(live(assistant(4, "4"))) == Step([TextDelta("4")])


def test_up_to_date_changes_nothing():
    """A reader who has everything is told nothing, and follows from there."""
    tail = reading(seq=5)

    step = tail.log_answer({"status": "up-to-date", "epoch": EPOCH, "events": []})

    assert step == Step([])
    assert tail.log_event(live(assistant(6, "x"))) == Step([TextDelta("x")])


def test_chat_events_move_the_position():
    """Before the log is read, the whole texts of chat events tell how far the reader is."""
    tail = RunTail()
    tail.chat(chat("ab", 2))
    tail.epoch = EPOCH
    tail.read_log()

    assert tail.position == Position(epoch=EPOCH, seq=2)
    assert tail.chat(chat("abc", 3)) == []
    assert tail.log_answer(replay(assistant(3, "c"))).events == [TextDelta("c")]
    assert tail.log_event(live(assistant(4, "d"))).events == [TextDelta("d")]


def test_increments_alone_give_no_position():
    """After text that came without the whole of it, the log is read from its start."""
    tail = RunTail()
    tail.epoch = EPOCH
    told = tail.chat(chat("ab", 2))
    told += tail.chat({"runId": "r", "seq": 3, "state": "delta", "deltaText": "c"})
    tail.read_log()

    after = tail.after
    whole = replay(assistant(1, "a"), assistant(2, "b"), assistant(3, "c"), assistant(4, "d"))
    told += tail.log_answer(whole).events

    assert after == {}
    assert told == [TextDelta("ab"), TextDelta("c"), TextDelta("d")]
    assert tail.position == Position(epoch=EPOCH, seq=4)


def test_without_an_epoch_the_log_is_read_from_its_start():
    """Whoever knows no epoch asks for everything, and is told only what is new."""
    tail = RunTail()
    told = tail.chat(chat("ab", 2))
    tail.read_log()

    after = tail.after
    step = tail.log_answer(replay(assistant(1, "a"), assistant(2, "b"), assistant(3, "c")))

    assert after == {}
    assert told + step.events == [TextDelta("ab"), TextDelta("c")]


def test_another_text_from_the_start_replaces():
    """A log that says something else than what was told replaces it."""
    tail = RunTail()
    tail.chat(chat("abc", 3))
    tail.read_log()

    step = tail.log_answer(replay(assistant(1, "a"), assistant(2, "x")))

    assert step.events == [TextReplaced("ax")]


def test_a_shorter_answer_is_told_with_its_end():
    """A run that ends with less than was told says so before its end."""
    tail = RunTail()
    tail.chat(chat("abc", 3))
    tail.read_log()
    end = {"seq": 2, "stream": "lifecycle", "data": {"phase": "end"}}

    step = tail.log_answer(replay(assistant(1, "a"), end))

    assert step.events[0] == TextReplaced("a")
    assert isinstance(step.events[1], RunEnded)
    assert step.events[1].text == "a"


def test_a_gap_brings_a_snapshot():
    """What was evicted is made up for by the text so far, and the position jumps."""
    tail = reading(seq=1)
    tail.reader.replace("ab")

    step = tail.log_answer(gap("abcd"))

    assert step == Step([TextDelta("cd")])
    assert tail.position == Position(epoch=EPOCH, seq=9)
    assert tail.log_event(live(assistant(10, "e"))).events == [TextDelta("e")]


def test_another_epoch_replaces_the_text():
    """A run that began again in another epoch replaces what was told, and its early events count."""
    tail = reading(seq=7)
    tail.reader.replace("old")
    tail.log_event(live(assistant(3, "?"), epoch="stale"))
    tail.log_event(live(assistant(3, "w"), epoch="e-2"))

    step = tail.log_answer(gap("ne", epoch="e-2", seq=2))

    assert step == Step([TextReplaced("ne"), TextDelta("w")])
    assert tail.position == Position(epoch="e-2", seq=3)


@pytest.mark.parametrize(
    ("state", "outcome"),
    [("done", Outcome.FINAL), ("failed", Outcome.ERROR), ("aborted", Outcome.ABORTED)],
)
def test_a_snapshot_of_the_end(state, outcome):
    """Where the end itself was evicted, the snapshot says how, and the rest has to be asked for."""
    tail = reading()

    step = tail.log_answer(gap("all", state))
    (end,) = tail.end({"state": state, "error": "boom", "stopReason": "x"})

    assert step == Step([TextDelta("all")], Need.OUTCOME)
    assert isinstance(end, RunEnded)
    assert (end.outcome, end.text, end.error_message, end.stop_reason) == (
        outcome,
        "all",
        "boom",
        "x",
    )


@pytest.mark.parametrize(
    ("data", "outcome"),
    [
        ({"phase": "end", "aborted": False}, Outcome.FINAL),
        ({"phase": "end", "status": "cancelled", "aborted": True}, Outcome.ABORTED),
        ({"phase": "end", "status": "cancelled"}, Outcome.ABORTED),
        ({"phase": "error", "error": "boom"}, Outcome.ERROR),
    ],
)
def test_the_end_is_read_from_the_lifecycle(data, outcome):
    """The terminal lifecycle event ends the run, once; other phases do not."""
    tail = reading()
    start = {"seq": 1, "stream": "lifecycle", "data": {"phase": "start"}}
    tool = {"seq": 2, "stream": "tool", "data": {"phase": "start"}}
    end = {"seq": 3, "stream": "lifecycle", "data": data}

    step = tail.log_answer(replay(start, tool, end))
    again = tail.log_event(live({**end, "seq": 4}))

    (event,) = step.events
    assert isinstance(event, RunEnded)
    assert event.outcome is outcome
    assert event.error_message == data.get("error")
    assert again == Step([])


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"text": "whole", "delta": "e"}, [TextReplaced("whole")]),
        ({"text": "abc", "delta": "c"}, [TextDelta("c")]),
        ({"delta": "c"}, [TextDelta("c")]),
        ({"delta": "x", "replace": True}, [TextReplaced("x")]),
        ({"mediaUrls": []}, []),
        (None, []),
    ],
)
def test_both_shapes_of_text(data, told):
    """Text comes as an increment, as a rewriting, or whole with its increment."""
    tail = reading()
    tail.log_answer(replay(assistant(1, "ab")))

    step = tail.log_event(live({"seq": 2, "stream": "assistant", "data": data}))

    assert step.events == told


def test_a_hole_is_read_again():
    """A number that is missing is not read over: the log is asked for, and then all is in order."""
    tail = reading()
    tail.log_answer(replay(assistant(1, "1")))

    hole = tail.log_event(live(assistant(4, "4")))
    tail.read_log(anew=False)
    tail.log_event(live(assistant(5, "5")))
    mended = tail.log_answer(replay(assistant(2, "2"), assistant(3, "3")))

    assert hole == Step([], Need.LOG)
    assert mended == Step([TextDelta("2"), TextDelta("3"), TextDelta("4"), TextDelta("5")])


def test_a_hole_in_the_log_itself():
    """A hole that the log does not fill is told as such, not asked for over and over."""
    tail = reading()

    first = tail.log_answer(replay(assistant(1, "1"), assistant(3, "3")))
    tail.read_log(anew=False)
    second = tail.log_answer(replay(assistant(3, "3")))

    assert first == Step([TextDelta("1")], Need.LOG)
    assert second == Step([], Need.BROKEN_LOG)


def test_another_connection_may_try_again():
    """What one connection could not read the next one may."""
    tail = reading()
    tail.log_answer(replay(assistant(3, "3")))
    tail.read_log()

    assert tail.log_answer(replay(assistant(3, "3"))) == Step([], Need.LOG)


def test_a_change_of_epoch_on_the_way():
    """An event of another epoch is a hole: only an answer can say what goes before."""
    tail = reading()
    tail.log_answer(replay(assistant(1, "1")))

    step = tail.log_event(live(assistant(1, "x"), epoch="e-2"))
    tail.read_log(anew=False)

    assert step == Step([], Need.LOG)
    assert tail.log_answer(gap("x", epoch="e-2", seq=1)) == Step([TextReplaced("x")])


def test_too_much_ahead_is_read_again():
    """What does not fit while the log is being read shows as a hole afterwards."""
    tail = reading()
    for number in range(1, MAX_AHEAD + 3):
        tail.log_event(live(assistant(number, ".")))

    step = tail.log_answer(replay(assistant(1, "1")))

    assert step == Step([TextDelta("1")], Need.LOG)


@pytest.mark.parametrize(
    ("answer", "need"),
    [
        ({"status": "unknown", "events": []}, Need.UNKNOWN_RUN),
        (None, Need.OTHER_MEANS),
        ({"status": "replay"}, Need.OTHER_MEANS),
        ({"status": "replay", "epoch": "e-2", "events": []}, Need.OTHER_MEANS),
        ({"status": "gap", "epoch": EPOCH}, Need.OTHER_MEANS),
        ({"status": "gap", "epoch": EPOCH, "snapshot": {"text": ""}}, Need.OTHER_MEANS),
    ],
)
def test_answers_that_do_not_help(answer, need):
    """A run that is unknown is lost; an answer that makes no sense asks for other means."""
    assert reading(seq=1).log_answer(answer) == Step([], need)


@pytest.mark.parametrize("events", [None, {}, [None, 1, {}, {"seq": "1"}, {"seq": -1}]])
def test_nonsense_in_a_replay_is_skipped(events):
    """What is no event does no harm."""
    tail = reading(seq=1)

    assert tail.log_answer({"status": "replay", "epoch": EPOCH, "events": events}) == Step([])


@pytest.mark.parametrize("payload", [{}, {"epoch": EPOCH}, {"epoch": 1, "seq": 2}, {"seq": 2}])
def test_a_run_event_without_a_position_is_skipped(payload):
    """An event of the log that names no position counts for nothing."""
    tail = reading()
    tail.log_answer(replay())

    assert tail.log_event(payload) == Step([])


def test_chat_events_again():
    """A reader that goes back to chat events takes no notice of the log."""
    tail = reading()
    tail.read_chat()

    assert not tail.from_log
    assert tail.log_event(live(assistant(1, "1"))) == Step([])
    assert tail.chat(chat("a", 1)) == [TextDelta("a")]
