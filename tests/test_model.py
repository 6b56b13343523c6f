"""The records of the domain."""

from __future__ import annotations

import msgspec
import pytest

from gateway.model import Message, Position, Principal, Role, RunState, Session


def test_a_principal_acts_under_a_stable_name() -> None:
    """Who acts is the device, or else the shared credential."""
    shared = Principal(role=Role.OPERATOR, scopes=(), auth_method="token")
    device = Principal(role=Role.NODE, scopes=(), auth_method="token", device_id="d1")
    assert (shared.actor, device.actor) == ("shared:token", "d1")


def test_three_states_of_a_run_are_terminal() -> None:
    """A run that is done, failed or aborted gives no further event."""
    assert [state for state in RunState if state.terminal] == [
        RunState.DONE,
        RunState.FAILED,
        RunState.ABORTED,
    ]


def test_records_are_camel_case_without_defaults() -> None:
    """On the wire names are camelCase and what has its default is left out."""
    message = Message(message_id="m", role="user", content=[], timestamp_ms=1, run_id="r")
    text = msgspec.json.encode(message)
    assert text == b'{"messageId":"m","role":"user","content":[],"timestampMs":1,"runId":"r"}'
    assert msgspec.json.decode(text, type=Message) == message


def test_records_do_not_change() -> None:
    """A record is replaced, never altered; defaults are not shared."""
    position = Position(epoch="e", seq=1)
    with pytest.raises(AttributeError):
        position.seq = 2  # type: ignore[misc]
    facts = {"session_id": "s", "agent_id": "a", "created_at_ms": 0, "updated_at_ms": 0}
    first, second = Session(key="a", **facts), Session(key="b", **facts)  # type: ignore[arg-type]
    assert first.settings == second.settings == {}
    assert first.settings is not second.settings
