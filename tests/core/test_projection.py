"""How a run looks on the wire, held to the schemas of both versions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import projection
from gateway.core.events import Delivery, Event, TextDelta
from gateway.core.run import Run, RunOutcome, RunOutput
from gateway.errors import BackendErrorKind
from gateway.model import RunState, Usage
from tests.core.records import SESSION, make_run, started_run
from tests.core.schemas import VERSIONS, validator_cases, violations

NOW = 2_000


def payload(event: Event | None, protocol: int) -> Any:
    """Return the payload of an event; the frame and the payload fit the version's schemas."""
    assert event is not None
    frame = json.loads(event.encoded(protocol, 1))
    schema = {"agent": "AgentEvent", "chat": "ChatEvent"}[frame["event"]]
    assert violations("EventFrame", protocol, frame) == []
    assert violations(schema, protocol, frame["payload"]) == []
    return frame["payload"]


def flushed(run: Run) -> RunOutput:
    """Return the output of the collected text."""
    output = run.flush(NOW)
    assert output is not None
    return output


def ended(state: RunState, text: str = "", **how: Any) -> Event:
    """Return the terminal chat event of a run."""
    run = started_run()
    run.add_text(text)
    event = projection.chat_event(run.finish(state, NOW, **how)[-1])
    assert event is not None
    return event


@pytest.mark.parametrize("protocol", VERSIONS)
def test_a_recorded_chat_event_agrees_with_the_schema_of_these_tests(protocol: int) -> None:
    """The schemas give the recorded verdict on recorded chat events."""
    for label, value, valid in validator_cases("ChatEvent", protocol):
        assert (violations("ChatEvent", protocol, value) == []) is valid, label


@pytest.mark.parametrize("protocol", VERSIONS)
def test_an_agent_event_of_any_stream(protocol: int) -> None:
    """Data go out as they are stored, under the run's number; version 3 gets no more than it knows."""
    run = started_run()
    event = projection.agent_event(run.emit("tool", {"phase": "start", "args": {"a": 1}}, NOW)[0])

    expected = {
        "runId": "r1",
        "stream": "tool",
        "data": {"phase": "start", "args": {"a": 1}},
        "sessionKey": SESSION,
        "seq": 2,
        "ts": NOW,
    }
    expected |= {"agentId": "main", "sessionId": "s0"} if protocol == 4 else {}
    assert payload(event, protocol) == expected
    assert (event.delivery, event.group, event.spec.name) == (Delivery.MUST, "r1", "agent")


@pytest.mark.parametrize("protocol", VERSIONS)
def test_the_start_and_the_end_are_agent_events(protocol: int) -> None:
    """The lifecycle is shown to everybody who may see the run."""
    run = make_run()
    outputs = [run.start(NOW), *run.finish(RunState.DONE, NOW)]
    shown = [payload(projection.agent_event(output), protocol) for output in outputs]
    assert [one["data"]["phase"] for one in shown] == ["start", "end"]
    assert [one["seq"] for one in shown] == [1, 2]
    assert projection.chat_event(outputs[0]) is None


@pytest.mark.parametrize("protocol", VERSIONS)
def test_text_is_an_agent_event_and_a_chat_delta(protocol: int) -> None:
    """Both carry the text so far; the increment is the agent's delta and version 4's deltaText."""
    run = started_run()
    run.add_text("Hello")
    flushed(run)
    run.add_text(" you")
    output = flushed(run)
    agent, chat = projection.agent_event(output), projection.chat_event(output)
    assert isinstance(agent, TextDelta)
    assert isinstance(chat, TextDelta)

    told = payload(agent, protocol)
    assert told["data"] == {"text": "Hello you", "delta": " you"}
    named = {"agentId": "main", "sessionId": "s0"} if protocol == 4 else {}
    assert {name: told[name] for name in ("agentId", "sessionId") if name in told} == named
    assert (told["stream"], told["seq"], told["ts"]) == ("assistant", 3, NOW)
    shown = payload(chat, protocol)
    assert shown["message"] == {
        "role": "assistant",
        "content": [{"type": "text", "text": "Hello you"}],
        "timestamp": NOW,
    }
    assert (shown["state"], shown["seq"], shown["runId"]) == ("delta", 3, "r1")
    assert shown.get("deltaText") == (" you" if protocol == 4 else None)
    assert shown.get("agentId") == ("main" if protocol == 4 else None)
    assert "replace" not in shown
    assert agent.key != chat.key
    assert (agent.group, agent.delivery) == (chat.group, chat.delivery) == ("r1", Delivery.LATEST)


@pytest.mark.parametrize("protocol", VERSIONS)
def test_a_rewritten_text_says_so(protocol: int) -> None:
    """After a replacement the whole text is the increment, and version 4's chat is told."""
    run = started_run()
    run.add_text("old")
    flushed(run)
    run.replace_text("new")
    output = flushed(run)

    assert payload(projection.agent_event(output), protocol)["data"] == {
        "text": "new",
        "delta": "new",
        "replace": True,
    }
    shown = payload(projection.chat_event(output), protocol)
    assert shown.get("replace") == (True if protocol == 4 else None)
    assert shown.get("deltaText") == ("new" if protocol == 4 else None)


def test_a_delta_keeps_no_run_alive() -> None:
    """What waits in an outbox refers to the run's names, not to the run."""
    run = started_run()
    run.add_text("a")
    output = flushed(run)
    for event in (projection.agent_event(output), projection.chat_event(output)):
        assert isinstance(event, TextDelta)
        held = event.build._frame  # type: ignore[attr-defined]
        assert all(isinstance(part, str) for part in held)


@pytest.mark.parametrize("protocol", VERSIONS)
def test_a_final_carries_the_message(protocol: int) -> None:
    """A run that went well ends with the whole text, and in version 4 with its usage."""
    usage = Usage(input_tokens=3, output_tokens=4)
    shown = payload(ended(RunState.DONE, "bye", stop_reason="stop", usage=usage), protocol)

    assert shown["state"] == "final"
    assert shown["message"]["content"] == [{"type": "text", "text": "bye"}]
    if protocol == 4:
        assert shown["usage"] == {"input": 3, "output": 4, "totalTokens": 7}
        assert shown["stopReason"] == "stop"
        assert payload(ended(RunState.DONE), 4)["stopReason"] == "stop"
    else:
        assert "usage" not in shown
        assert "stopReason" not in shown
    assert payload(ended(RunState.DONE, stop_reason="length"), protocol)["stopReason"] == "length"


@pytest.mark.parametrize("protocol", VERSIONS)
@pytest.mark.parametrize("state", [RunState.DONE, RunState.ABORTED])
def test_without_text_there_is_no_message(protocol: int, state: RunState) -> None:
    """An end without any visible text has no message at all."""
    assert "message" not in payload(ended(state), protocol)


@pytest.mark.parametrize("protocol", VERSIONS)
def test_an_aborted_run_shows_what_it_had_said(protocol: int) -> None:
    """An abort names its reason and carries the partial text."""
    shown = payload(ended(RunState.ABORTED, "so far", stop_reason="rpc"), protocol)
    assert (shown["state"], shown["stopReason"]) == ("aborted", "rpc")
    assert shown["message"]["content"][0]["text"] == "so far"
    assert "stopReason" not in payload(ended(RunState.ABORTED), protocol)
    assert payload(ended(RunState.ABORTED, stop_reason="stop"), protocol)["stopReason"] == "stop"


@pytest.mark.parametrize("protocol", VERSIONS)
def test_an_error_has_a_message_and_in_version_4_a_kind(protocol: int) -> None:
    """A failure tells its text to both versions, what kind it is and its detail to version 4."""
    event = ended(
        RunState.FAILED,
        "some text",
        error="no quota",
        error_kind=BackendErrorKind.RATE_LIMIT,
        error_detail={"httpStatus": 429, "apiKey": "secret"},
    )
    shown = payload(event, protocol)

    assert (shown["state"], shown["errorMessage"]) == ("error", "no quota")
    assert shown.get("errorKind") == ("rate_limit" if protocol == 4 else None)
    assert shown.get("errorDetail") == ({"httpStatus": 429} if protocol == 4 else None)
    assert "message" not in shown
    bare = payload(ended(RunState.FAILED), protocol)
    assert bare["errorMessage"] == "failed"
    assert bare.get("errorKind") == ("unknown" if protocol == 4 else None)
    assert "errorDetail" not in bare


def test_a_detail_is_bounded_wherever_an_outcome_comes_from() -> None:
    """An outcome that no run made is still shown within the schema."""
    outcome = RunOutcome(
        run_id="r1",
        session_key=SESSION,
        session_id="s0",
        state=RunState.FAILED,
        started_at_ms=None,
        ended_at_ms=NOW,
        error="no",
        error_detail={"model": "m" * 1_000, "httpStatus": 5, "more": {}},
    )
    event = projection.chat_end("r1", SESSION, "main", 0, outcome, "")
    assert payload(event, 4)["errorDetail"] == {"model": "m" * 300}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)
DETAILS = ("provider", "model", "providerErrorType", "httpStatus", "failoverReason", "other")


@given(
    state=st.sampled_from([RunState.DONE, RunState.FAILED, RunState.ABORTED]),
    text=st.text(max_size=20),
    how=st.fixed_dictionaries(
        {},
        optional={
            "error": st.text(),
            "error_kind": st.sampled_from(BackendErrorKind) | st.text(),
            "error_detail": st.dictionaries(st.sampled_from(DETAILS), json_values),
            "stop_reason": st.text(),
            "usage": st.builds(Usage, input_tokens=st.integers(0), output_tokens=st.integers(0)),
        },
    ),
)
def test_every_end_fits_the_schemas(state: RunState, text: str, how: dict[str, Any]) -> None:
    """Whatever an agent gives at the end, chat and lifecycle are valid in both versions."""
    run = started_run()
    run.add_text(text)
    for output in run.finish(state, NOW, **how):
        for protocol in VERSIONS:
            payload(projection.agent_event(output), protocol)
            payload(projection.chat_event(output), protocol)


def test_followers_of_sessions_get_the_agent_payload_of_version_4() -> None:
    """A tool event for those who did not start the run has the same payload."""
    output = started_run().emit("tool", {"phase": "start"}, NOW)[0]
    event = Event("session.tool", projection.tool_payload(output))
    shown = json.loads(event.encoded(4, 1))["payload"]
    assert shown == payload(projection.agent_event(output), 4)
