"""The one record of a run: its numbers, its text, its one end."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.frames import EncodeFailed
from gateway.core.run import Run, RunOutcome, valid_text
from gateway.model import Position, RunState, Usage
from tests.core.records import SESSION, make_run, started_run

NOW = 2_000
ENDS = [RunState.DONE, RunState.FAILED, RunState.ABORTED]


def data(output: Any) -> Any:
    """Return the data of an output."""
    return json.loads(output.data)


def end(run: Run, state: RunState = RunState.DONE, **how: Any) -> RunOutcome:
    """End a run and return its outcome."""
    outcome = run.finish(state, NOW, **how)[-1].outcome
    assert outcome is not None
    return outcome


def test_an_accepted_run_has_said_nothing() -> None:
    """Before it starts a run has no number, no text and no end."""
    run = make_run(conn_id="c", tool_recipient=True)

    assert (run.run_id, run.session_key, run.session_id) == ("r1", SESSION, "s0")
    assert (run.seq, run.text, run.text_size, run.has_text) == (0, "", 0, False)
    assert run.position == Position(epoch="e1", seq=0)
    assert (run.conn_id, run.tool_recipient, run.waiters) == ("c", True, [])
    assert run.flush(NOW) is None
    record = run.record()
    assert (record.state, record.last_seq, record.ended_at_ms) == (RunState.ACCEPTED, 0, None)
    assert record.accepted_at_ms == 1_000


def test_a_run_starts_once() -> None:
    """The first event is the start of the lifecycle, number 1."""
    run = make_run()
    output = run.start(NOW)

    assert (output.seq, output.stream, data(output)) == (
        1,
        "lifecycle",
        {"phase": "start", "startedAt": NOW},
    )
    assert (run.state, run.started_at_ms) == (RunState.RUNNING, NOW)
    assert (output.run, output.outcome, output.text) == (run, None, None)
    with pytest.raises(AssertionError):
        run.start(NOW)


def test_text_is_collected_until_it_is_flushed() -> None:
    """Pieces become one event with the text so far and where it is new."""
    run = started_run()
    for piece in ("He", "", "llo"):
        run.add_text(piece)
    assert run.has_text
    first = run.flush(NOW)
    run.add_text(" you")
    second = run.flush(NOW + 1)

    assert first is not None
    assert second is not None
    assert (first.seq, first.stream, first.text, first.offset) == (2, "assistant", "Hello", 0)
    assert data(first) == {"delta": "Hello"}
    assert (second.seq, second.text, second.offset, second.replace) == (3, "Hello you", 5, False)
    assert data(second) == {"delta": " you"}
    assert (run.text, run.text_size, run.has_text) == ("Hello you", 9, False)
    assert run.flush(NOW) is None


def test_a_rewrite_throws_the_text_away() -> None:
    """After a replacement the event carries the whole text, also an empty one."""
    run = started_run()
    run.add_text("wrong")
    run.flush(NOW)
    run.add_text("er")
    run.replace_text("right")
    run.add_text("!")
    output = run.flush(NOW)

    assert output is not None
    assert (output.text, output.offset, output.replace) == ("right!", 0, True)
    assert data(output) == {"delta": "right!", "replace": True}
    assert run.text_size == 6
    run.replace_text("")
    emptied = run.flush(NOW)
    assert emptied is not None
    assert (emptied.text, data(emptied)) == ("", {"delta": "", "replace": True})
    run.add_text("x")
    after = run.flush(NOW)
    assert after is not None
    assert (after.offset, after.replace) == (0, False)


def test_another_event_flushes_the_text_before_it() -> None:
    """Order is kept: the text that came first has the lower number."""
    run = started_run()
    run.add_text("let me look")
    outputs = run.emit("tool", {"phase": "start"}, NOW)
    alone = run.emit("tool", {"phase": "result"}, NOW)

    assert [(o.seq, o.stream) for o in outputs] == [(2, "assistant"), (3, "tool")]
    assert [(o.seq, data(o)) for o in alone] == [(4, {"phase": "result"})]
    assert outputs[1].text is None


@pytest.mark.parametrize(
    ("stream", "value"),
    [
        ("tool", {"a": object()}),
        ("tool", {"a": "\ud800"}),
        ("tool", ["no object"]),
        ("tool", "no object"),
        ("tool", None),
        ("", {}),
        (None, {}),
        (["x"], {}),
        ("\ud800", {}),
    ],
)
def test_what_can_not_be_encoded_takes_no_number(stream: Any, value: Any) -> None:
    """A value without a JSON form is refused before anything of the run changes."""
    run = started_run()
    run.add_text("before")
    with pytest.raises(EncodeFailed):
        run.emit(stream, value, NOW)

    assert (run.seq, run.has_text) == (1, True)
    assert [o.seq for o in run.emit("tool", {}, NOW)] == [2, 3]


@pytest.mark.parametrize(
    ("stream", "phase"),
    [("assistant", "x"), ("lifecycle", "start"), ("lifecycle", "end"), ("lifecycle", "error")],
)
def test_an_agent_does_not_say_what_the_run_says(stream: str, phase: str) -> None:
    """Start, end and text of a run come from the record only; other phases may be told."""
    run = started_run()
    with pytest.raises(ValueError, match="only the run itself"):
        run.emit(stream, {"phase": phase}, NOW)
    assert run.seq == 1
    assert len(run.emit("lifecycle", {"phase": "model", "model": "m"}, NOW)) == 1
    assert len(run.emit("tool", {"phase": "end"}, NOW)) == 1


@pytest.mark.parametrize("state", ENDS)
def test_a_run_ends_once(state: RunState) -> None:
    """The first end counts; nothing follows it."""
    run = started_run()
    run.add_text("bye")
    outputs = run.finish(state, NOW, stop_reason="s")

    assert [(o.seq, o.stream) for o in outputs] == [(2, "assistant"), (3, "lifecycle")]
    assert [o.outcome is None for o in outputs] == [True, False]
    assert (run.state, run.state.terminal, run.ended_at_ms) == (state, True, NOW)
    for later in ENDS:
        assert run.finish(later, NOW + 1) == []
    run.add_text("late")
    assert run.flush(NOW) is None
    assert run.emit("tool", {}, NOW) == []
    assert run.seq == 3
    assert run.text == "bye"


def test_a_run_ends_in_a_terminal_state_only() -> None:
    """Running is no end."""
    with pytest.raises(AssertionError):
        started_run().finish(RunState.RUNNING, NOW)


@pytest.mark.parametrize(
    ("state", "how", "expected"),
    [
        (
            RunState.DONE,
            {"stop_reason": "stop"},
            {"phase": "end", "aborted": False, "stopReason": "stop"},
        ),
        (RunState.DONE, {}, {"phase": "end", "aborted": False}),
        (RunState.FAILED, {"error": "no"}, {"phase": "error", "error": "no"}),
        (RunState.FAILED, {}, {"phase": "error", "error": "failed"}),
        (
            RunState.ABORTED,
            {"stop_reason": "rpc"},
            {"phase": "end", "status": "cancelled", "aborted": True, "stopReason": "rpc"},
        ),
    ],
)
def test_the_last_event_of_the_lifecycle(
    state: RunState, how: dict[str, Any], expected: dict[str, Any]
) -> None:
    """The end is told in the phases of the protocol."""
    last = started_run().finish(state, NOW, **how)[-1]
    assert data(last) == {**expected, "startedAt": 1_010, "endedAt": NOW}


def test_a_run_that_never_started_has_no_start() -> None:
    """A run may end as soon as it was accepted."""
    run = make_run()
    last = run.finish(RunState.ABORTED, NOW)[-1]
    assert last.seq == 1
    assert "startedAt" not in data(last)
    assert last.outcome is not None
    assert last.outcome.started_at_ms is None


def test_an_outcome_says_how_it_ended() -> None:
    """What outlives the record: state, times, cause, use of tokens and model."""
    run = started_run()
    run.session_id = "s1"
    usage = Usage(input_tokens=3, output_tokens=4)
    outcome = end(run, stop_reason="length", usage=usage, provider="p", model="m")

    assert outcome == RunOutcome(
        run_id="r1",
        session_key=SESSION,
        session_id="s1",
        state=RunState.DONE,
        started_at_ms=1_010,
        ended_at_ms=NOW,
        stop_reason="length",
        usage=usage,
        provider="p",
        model="m",
    )
    record = run.record(outcome)
    assert (record.state, record.last_seq, record.stop_reason) == (RunState.DONE, 2, "length")
    assert (record.started_at_ms, record.ended_at_ms, record.error) == (1_010, NOW, None)


@pytest.mark.parametrize(
    "how",
    [
        {"stop_reason": object()},
        {"stop_reason": 5},
        {"stop_reason": "\ud800"},
        {"usage": {"inputTokens": "many"}},
        {"usage": Usage(input_tokens="3")},  # type: ignore[arg-type]
        {"provider": b"\xff" * 3, "model": ["m"]},
        {"model": 1.5},
    ],
)
def test_a_result_that_is_no_result_does_not_end_the_run(how: dict[str, Any]) -> None:
    """What can't be encoded or has the wrong type is refused, and the run can still end otherwise."""
    run = started_run()
    run.add_text("so far")
    with pytest.raises(EncodeFailed):
        run.finish(RunState.DONE, NOW, **how)

    assert (run.state, run.seq) == (RunState.RUNNING, 1)
    assert [o.seq for o in run.finish(RunState.FAILED, NOW, error="no result")] == [2, 3]


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("plain ü 😀", "plain ü 😀"),
        ("\ud83d\ude00", "😀"),
        ("a\ud83db", "a\ufffdb"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("end\ud800", "end\ufffd"),
    ],
)
def test_lone_surrogates_are_replaced(text: str, valid: str) -> None:
    """A pair is a character, a half of one is the replacement character; nothing else changes."""
    assert valid_text(text) == valid
    run = started_run()
    run.add_text(text)
    output = run.flush(NOW)
    assert output is not None
    assert (output.text, run.text_size) == (valid, len(valid))
    run.replace_text(text)
    assert run.text_size == len(valid)


def test_the_store_keeps_what_the_listeners_got() -> None:
    """An output's record has its number, stream, data and time under the run's epoch."""
    output = started_run().emit("plan", {"steps": []}, NOW)[0]
    record = output.record()
    assert (record.run_id, record.epoch, record.seq) == ("r1", "e1", 2)
    assert (record.stream, record.data, record.ts_ms) == ("plan", b'{"steps":[]}', NOW)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("text"), st.text(max_size=3)),
        st.tuples(st.just("replace"), st.text(max_size=3)),
        st.tuples(st.just("flush"), st.none()),
        st.tuples(st.just("emit"), st.sampled_from(["tool", "thinking"])),
        st.tuples(st.just("bad"), st.none()),
        st.tuples(st.just("finish"), st.sampled_from(ENDS)),
    ),
    max_size=30,
)


@given(steps)
def test_numbers_rise_by_one_from_one_over_all_streams(sequence: list[tuple[str, Any]]) -> None:
    """Whatever happens, the events are 1, 2, 3 ..., the deltas make the text, and there is one end."""
    run = make_run()
    outputs = [run.start(NOW)]
    for what, value in sequence:
        if what == "text":
            run.add_text(value)
        elif what == "replace":
            run.replace_text(value)
        elif what == "flush":
            outputs += [output] if (output := run.flush(NOW)) else []
        elif what == "emit":
            outputs += run.emit(value, {"a": 1}, NOW)
        elif what == "bad":
            with pytest.raises(EncodeFailed):
                run.emit("tool", {"a": object()}, NOW)
        else:
            outputs += run.finish(value, NOW)
    outputs += run.finish(RunState.DONE, NOW)

    assert [output.seq for output in outputs] == list(range(1, len(outputs) + 1))
    assert run.seq == len(outputs)
    assert [output.outcome is not None for output in outputs].count(True) == 1
    assert outputs[-1].outcome is not None
    text = ""
    for output in outputs:
        if output.stream == "assistant":
            said = data(output)
            text = said["delta"] if said.get("replace") else text + said["delta"]
            assert output.text == text
            assert text[output.offset :] == said["delta"]
    assert run.text == text
