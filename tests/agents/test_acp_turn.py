"""Turns of an agent: its own words beside ACP, more messages while it runs, summaries, late and odd ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.logger import LogEvent

from gateway.agents.acp_worker import UNKNOWN_KINDS
from gateway.errors import BackendErrorKind
from gateway.model import Attachment, Compaction, RunResult
from gateway.testing import result_of
from tests.agents.acp_setup import Setup, failure_of, initialized
from tests.agents.fakes import RecordingSink, run_request

OURS = initialized("history", "events", "steer", "compact")


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def test_an_agent_of_ours_reports_in_its_own_words(setup: Setup) -> None:
    """Events on the streams that are let through reach the run, others do not."""
    process = setup.turn(agent=OURS)
    data = {"phase": "model", "provider": "p", "model": "m"}

    for stream, told in (("lifecycle", data), ("assistant", {"delta": "x"}), ("notice", {"a": 1})):
        params = {"sessionId": "s1", "stream": stream, "data": told}
        process.send(method="_gateway/event", params=params)

    assert setup.sink.events == [("lifecycle", data), ("notice", {"a": 1})]


def test_another_agent_has_no_words_of_its_own(setup: Setup) -> None:
    """An agent that did not say that it reports events is not heard."""
    process = setup.turn()

    params = {"sessionId": "s1", "stream": "notice", "data": {}}
    process.send(method="_gateway/event", params=params)

    assert setup.sink.events == []


def test_a_summary_during_a_run_is_noted(setup: Setup) -> None:
    """What the agent shortened by itself goes to the transcript; what is no summary does not."""
    process = setup.turn(agent=OURS)

    for params in ({"summary": "we met", "keptMessages": 2, "tokensBefore": 9}, {"summary": 5}):
        process.send(method="_gateway/compacted", params={"sessionId": "s1"} | params)

    assert setup.sink.compactions == [
        Compaction(summary="we met", kept_messages=2, tokens_before=9)
    ]


def test_a_summary_that_can_not_be_noted(
    setup: Setup,
    logged_failures: list[LogEvent],
    expected_failures: list[type[BaseException]],
) -> None:
    """A store that refuses the note is logged, and the run goes on."""
    expected_failures.append(ValueError)
    process = setup.turn(agent=OURS)
    setup.sink.note = lambda _: fail(ValueError("x"))

    told = {"sessionId": "s1", "summary": "s", "keptMessages": 0}
    process.send(method="_gateway/compacted", params=told)
    process.answer(setup.prompt_id, {"stopReason": "end_turn"})

    assert isinstance(setup.ends[0], RunResult)
    assert len(logged_failures) == 1


def steer(setup: Setup, run_id: str = "run-1") -> Deferred[bool]:
    more = Attachment(mime_type="text/plain", data=b"x", file_name="a.txt")
    return setup.backend.steer(run_id, "and that", (more,))


@pytest.mark.parametrize(("answer", "taken"), [({"accepted": True}, True), ({}, False)])
def test_a_run_is_told_more(setup: Setup, answer: Any, taken: bool) -> None:
    """Another message goes to the session of the run, and the agent says whether it took it."""
    process = setup.turn(agent=OURS)

    told = steer(setup)
    (request,) = process.messages()
    process.answer(request["id"], answer)

    assert request["method"] == "_gateway/steer"
    assert request["params"] == {
        "sessionId": "s1",
        "prompt": [
            {"type": "text", "text": "and that"},
            {"type": "text", "text": "[a.txt: text/plain]\nx"},
        ],
    }
    assert result_of(told) is taken


def test_a_run_that_can_not_be_told_more(setup: Setup) -> None:
    """Another run, an agent without the extension, one that refuses or is silent: it was not taken."""
    assert result_of(steer(setup)) is False
    process = setup.turn(agent=OURS)
    assert result_of(steer(setup, "another")) is False

    refused, silent = steer(setup), steer(setup)
    request, _ = process.messages()
    process.send(id=request["id"], error={"code": -32603, "message": "too late"})
    assert result_of(refused) is False
    setup.clock.advance(10)
    assert result_of(silent) is False
    dying = steer(setup)
    setup.going.addErrback(lambda failure: None)
    process.end(signal=9)
    assert result_of(dying) is False


def test_another_agent_can_not_be_told_more(setup: Setup) -> None:
    """An agent of somebody else is never asked."""
    process = setup.turn()

    assert result_of(steer(setup)) is False
    assert process.messages() == []


def compact(setup: Setup, text: str = "") -> tuple[Deferred[Compaction | None], RecordingSink]:
    sink = RecordingSink()
    request = setup.with_bound(run_request(text), setup.sink)
    return setup.backend.compact(request, sink), sink


def test_a_conversation_is_shortened(setup: Setup) -> None:
    """The agent is asked for a summary in the session's turn, reports meanwhile, and gives it."""
    process = setup.turn(agent=OURS)
    shortened, sink = compact(setup, "keep the names")
    assert process.messages() == []
    process.answer(setup.prompt_id, {"stopReason": "end_turn"})

    (request,) = process.messages()
    assert request["method"] == "_gateway/compact"
    assert request["params"] == {"sessionId": "s1", "instructions": "keep the names"}
    event = {"sessionId": "s1", "stream": "compaction", "data": {"phase": "start"}}
    process.send(method="_gateway/event", params=event)
    process.answer(request["id"], {"summary": "s", "keptMessages": 1, "tokensAfter": 5})

    assert sink.events == [("compaction", {"phase": "start"})]
    assert result_of(shortened) == Compaction(summary="s", kept_messages=1, tokens_after=5)
    setup.run()
    setup.prompt()


def test_a_conversation_that_is_bound_no_more_is_begun_anew(setup: Setup) -> None:
    """A request without what was bound asks for a new conversation, though the old one is still open."""
    process = setup.turn(agent=OURS)
    process.answer(setup.prompt_id, {"stopReason": "end_turn"})

    setup.run(agent_session=None)
    prompt = setup.open("s2")

    assert prompt["params"]["sessionId"] == "s2"


def test_nothing_to_shorten(setup: Setup) -> None:
    """An empty answer means that there is nothing to shorten; a session not open yet is opened."""
    process = setup.start(OURS)
    shortened, sink = compact(setup)
    (new,) = process.messages()
    process.answer(new["id"], {"sessionId": "s1"})
    (request,) = process.messages()
    process.answer(request["id"], {})

    assert result_of(shortened) is None
    assert sink.bound


def test_shortening_can_be_cancelled(setup: Setup) -> None:
    """A cancelled summary is told to the agent, whose session is free when it has answered."""
    process = setup.start(OURS)
    shortened, sink = compact(setup)
    process.answer(process.messages()[0]["id"], {"sessionId": "s1"})
    (request,) = process.messages()

    shortened.cancel()

    with pytest.raises(CancelledError):
        result_of(shortened)
    assert process.messages()[0]["method"] == "session/cancel"
    process.send(id=request["id"], error={"code": -32603, "message": "cancelled"})
    setup.run(sink=sink)
    setup.prompt()


def test_an_agent_that_can_not_shorten(setup: Setup) -> None:
    """Whoever asks an agent without the extension is told that it can not."""
    setup.start()
    ends: list[Any] = []
    compact(setup)[0].addBoth(ends.append)

    assert "can not shorten" in failure_of(ends).message


def test_what_waits_is_told_at_the_end(setup: Setup) -> None:
    """Reports that waited for their turn are out before the run ends, and no call is left."""
    process = setup.turn()
    for number in range(40):
        process.update("s1", "tool_call", toolCallId=str(number))
        process.say("s1", "x")
    process.answer(setup.prompt_id, {"stopReason": "end_turn"})

    starts = [data for _, data in setup.sink.events if data.get("phase") == "start"]
    left_out = sum(data["count"] for stream, data in setup.sink.events if stream == "notice")
    assert len(starts) + left_out == 40
    assert setup.sink.said.count("x") == 40
    assert isinstance(setup.ends[0], RunResult)
    assert setup.clock.getDelayedCalls() == []


def test_a_failed_run_keeps_what_was_said(setup: Setup) -> None:
    """What was reported before the process died is shown before the failure."""
    process = setup.turn()
    for number in range(8):
        process.update("s1", "tool_call", toolCallId=str(number))
    process.say("s1", "almost")

    process.end(signal=9)

    assert setup.sink.said == "almost"
    assert failure_of(setup.ends).kind is BackendErrorKind.UNKNOWN


def test_a_sink_that_raises_later_fails_its_run(setup: Setup) -> None:
    """What a sink raises while waiting reports are told ends the run, and the agent is told."""
    process = setup.turn()

    def refuse(_: str) -> None:
        raise ValueError("too long")

    setup.sink.on_text = refuse
    for number in range(8):
        process.update("s1", "tool_call", toolCallId=str(number))
    process.say("s1", "x")
    setup.clock.advance(1)

    assert setup.ends[0].check(ValueError)
    assert process.messages()[0]["method"] == "session/cancel"
    process.answer(setup.prompt_id, {"stopReason": "cancelled"})
    assert setup.clock.getDelayedCalls() == []


def test_an_agent_that_does_not_read_is_killed(setup: Setup) -> None:
    """When too much waits for a process, it is killed and its runs end."""
    process = setup.turn()
    process.pipes[0].full = True
    process.pipes[0].write(b"")

    for number in range(12):
        content = "x" * 7_000_000
        (setup.root / "a").write_text(content)
        process.send(id=number, method="fs/read_text_file", params={"sessionId": "s1", "path": "a"})

    assert "does not read its input" in failure_of(setup.ends).message
    assert process.signals == ["SIGUSR1"]


def test_the_last_reports_that_can_not_be_told(
    setup: Setup,
    logged_failures: list[LogEvent],
    expected_failures: list[type[BaseException]],
) -> None:
    """A sink that refuses the last text of a run that is cancelled is logged, and the run ends once."""
    expected_failures.append(ValueError)
    process = setup.turn()

    def refuse(_: str) -> None:
        raise ValueError("too long")

    setup.sink.on_text = refuse
    for number in range(8):
        process.update("s1", "tool_call", toolCallId=str(number))
    process.say("s1", "x")
    setup.going.cancel()

    assert setup.ends[0].check(CancelledError)
    assert len(logged_failures) == 1
    process.answer(setup.prompt_id, {"stopReason": "cancelled"})
    assert setup.clock.getDelayedCalls() == []


def test_odd_messages_change_nothing(setup: Setup) -> None:
    """Unknown kinds, wrong types, strange sessions and answers nobody waits for are left out."""
    process = setup.turn()

    for number in range(UNKNOWN_KINDS + 10):
        process.update("s1", f"news-{number}")
    odd: list[Any] = [[], {"sessionId": 5}, {"sessionId": "s1"}, {"sessionId": "s1", "update": 5}]
    for params in odd:
        process.send(method="session/update", params=params)
        process.send(method="_gateway/event", params=params)
        process.send(method="_gateway/compacted", params=params)
    process.update("s9", "current_mode_update", currentModeId="x")
    process.send(id=999, result={})
    process.send(id=setup.prompt_id, result={"stopReason": "end_turn"})
    process.send(id=setup.prompt_id, result={"stopReason": "refusal"})

    assert setup.sink.events == []
    assert isinstance(setup.ends[0], RunResult)
    assert len(setup.ends) == 1
    process.say("s1", "too late")
    assert setup.sink.said == ""
