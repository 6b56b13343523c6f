"""The event table, the frames of events, and how deltas of a growing text are merged."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.access import KNOWN_SCOPES
from gateway.core.events import ADVERTISED, EVENTS, Delivery, Event, TextDelta, visible
from gateway.core.frames import EncodeFailed
from tests.core.schemas import VERSIONS, violations

FOR_NODES = {"connect.challenge", "health", "tick", "shutdown"}


def delta(text: str, offset: int, *, run_seq: int = 1, replace: bool = False) -> TextDelta:
    """Return a delta of a text whose payload shows everything of it."""
    return TextDelta(
        "chat",
        show,
        key=("chat", "r"),
        group="r",
        run_seq=run_seq,
        ts_ms=run_seq * 10,
        text=text,
        offset=offset,
        replace=replace,
    )


def show(protocol: int, piece: TextDelta) -> dict[str, Any]:
    """Build the payload of a delta."""
    return {"v": protocol, "delta": piece.delta, "text": piece.text, "replace": piece.replace}


def test_an_event_that_is_not_in_the_table_can_not_be_built() -> None:
    """The table fails closed: what nobody entered is sent to nobody."""
    with pytest.raises(KeyError):
        Event("plugin.approval.requested", {})


def asked_for(name: str) -> str:
    """Return the scope that an event asks for, as the protocol has it."""
    kinds = {"approval": "approvals", ".pair.": "pairing", "talk.": "talk"}
    found = [scope for part, scope in kinds.items() if part in name]
    return f"operator.{found[0] if found else 'read'}"


def test_who_sees_an_event_follows_from_its_scopes() -> None:
    """Nodes and operators without scopes see only what is for everybody."""
    for spec in EVENTS.values():
        everybody = spec.name in FOR_NODES
        assert visible(spec, (), operator=True) is everybody
        assert visible(spec, KNOWN_SCOPES, operator=False) is everybody
        direct = spec.name.startswith("node.invoke.")
        assert visible(spec, KNOWN_SCOPES, operator=True) is not direct
        for scope in KNOWN_SCOPES:
            wanted = everybody or scope == asked_for(spec.name)
            assert visible(spec, [scope], operator=True) is (wanted and not direct)
    assert tuple(sorted(EVENTS)) == ADVERTISED


def test_the_classes_of_the_table() -> None:
    """What must arrive, what a newer one stands for, and what may be lost."""
    classes = {
        delivery: {name for name, spec in EVENTS.items() if spec.delivery is delivery}
        for delivery in Delivery
    }
    assert classes[Delivery.LATEST] == {"tick", "health"}
    assert classes[Delivery.DROPPABLE] == {
        "presence",
        "sessions.changed",
        "session.tool",
        "session.operation",
        "config.changed",
        "device.pair.changed",
        "node.hostStats",
        "node.presence",
        "voicewake.changed",
        "voicewake.routing.changed",
        "talk.mode",
    }
    assert classes[Delivery.MUST] >= {"chat", "agent", "shutdown", "session.message"}


@pytest.mark.parametrize("protocol", VERSIONS)
@pytest.mark.parametrize("state", [None, {"presence": 3, "health": 1}])
def test_a_numbered_frame_has_the_order_of_keys_of_the_protocol(
    protocol: int, state: dict[str, int] | None
) -> None:
    """The number is spliced in between payload and state version, and nothing else changes."""
    event = Event("presence", {"a": [1, "}"]}, state_version=state)

    direct, numbered = event.encoded(protocol, None), event.encoded(protocol, 17)

    whole = {"type": "event", "event": "presence", "payload": {"a": [1, "}"]}, "seq": 17}
    whole |= {} if state is None else {"stateVersion": state}
    assert numbered == json.dumps(whole, separators=(",", ":")).encode()
    assert list(json.loads(numbered)) == list(whole)
    assert {**json.loads(direct), "seq": 17} == whole
    for data in (direct, numbered):
        assert violations("EventFrame", protocol, json.loads(data)) == []


def test_each_version_has_a_form_of_its_own() -> None:
    """A payload for version 3 differs, is the same by default, or is none at all."""
    same = Event("presence", {"a": 1})
    other = Event("presence", {"a": 1}, v3={})
    only_four = Event("presence", {"a": 1}, v3=None)
    only_three = Event("presence", None, v3={"b": 1})

    assert same.parts(3) is same.parts(4)
    assert json.loads(other.encoded(3, None))["payload"] == {}
    assert json.loads(other.encoded(4, None))["payload"] == {"a": 1}
    assert (only_four.parts(3), only_three.parts(4)) == (None, None)
    assert only_four.size(3) == 0
    with pytest.raises(AssertionError):
        only_four.encoded(3, 1)


def test_an_event_is_encoded_once() -> None:
    """The payload is looked at when the event is made, not when it is sent."""
    payload = {"n": 1}
    event = Event("presence", payload)
    payload["n"] = 2
    assert json.loads(event.encoded(4, 1))["payload"] == {"n": 1}
    with pytest.raises(EncodeFailed):
        Event("presence", object())
    with pytest.raises(EncodeFailed):
        Event("presence", {}, v3="\ud800")


def test_connections_at_one_number_share_a_frame() -> None:
    """A frame is made once per version and number."""
    event = Event("presence", {})
    made: list[bytes] = []

    def framer(data: bytes) -> bytes:
        made.append(data)
        return b"frame " + data

    frames = [event.framed(protocol, seq, framer) for protocol, seq in ((4, 1), (4, 1), (3, 1))]

    assert frames[0] is frames[1]
    assert frames[0] == frames[2] == b"frame " + event.encoded(4, 1)
    event.framed(4, 2, framer)
    event.framed(4, 1, framer)
    assert len(made) == 4


def test_the_size_of_a_frame_covers_it() -> None:
    """The size is the length of the numbered frame or a little more."""
    event = Event("presence", {"text": "x" * 1000}, state_version={"presence": 1, "health": 2})
    for protocol in VERSIONS:
        length = len(event.encoded(protocol, 12_345))
        assert length <= event.size(protocol) <= length + 24


@given(st.text(max_size=300), st.integers(0, 300))
def test_the_size_of_a_delta_is_estimated_until_it_is_encoded(text: str, offset: int) -> None:
    """The estimate counts text and delta; once there is a frame its length counts."""
    piece = delta(text, min(offset, len(text)))
    estimate = piece.size(4)

    length = len(piece.encoded(4, 1))

    assert length <= piece.size(4) <= length + 24
    assert estimate >= len(piece.text) + len(piece.delta)
    plain = json.dumps(text).strip('"') == text
    assert not plain or estimate >= length - 24


def test_events_of_class_latest_share_the_slot_of_their_name() -> None:
    """A tick stands for the tick before it; other events have a slot only if they are given one."""
    first, second = Event("tick", {"ts": 1}), Event("tick", {"ts": 2})

    assert first.key == second.key == "tick"
    assert first.merged_with(second) is second
    assert Event("presence", {}).key is None
    assert Event("health", {}, key="mine").key == "mine"
    assert Event("presence", {}, delivery=Delivery.MUST).delivery is Delivery.MUST


def test_a_delta_without_a_form_is_not_sent() -> None:
    """A builder that gives nothing for a version leaves that version without the event."""
    piece = TextDelta(
        "chat",
        lambda protocol, _piece: None if protocol < 4 else {},
        key="k",
        group="r",
        run_seq=1,
        ts_ms=1,
        text="a",
        offset=0,
    )
    assert piece.parts(3) is None
    assert piece.parts(4) is not None
    assert piece.size(3) == 0


@given(st.lists(st.text(max_size=5), min_size=1, max_size=8), st.data())
def test_merged_deltas_say_what_all_of_them_said(pieces: list[str], data: st.DataObject) -> None:
    """However neighbours are merged, the increments joined are the text, and the last number stays."""
    text, deltas = "", []
    for index, piece in enumerate(pieces, start=1):
        deltas.append(delta(text + piece, len(text), run_seq=index))
        text += piece
    groups: list[list[TextDelta]] = [[]]
    for piece_ in deltas:
        split: bool = data.draw(st.booleans())
        if split and groups[-1]:
            groups.append([])
        groups[-1].append(piece_)

    merged = []
    for group in groups:
        first, *others = group
        for other in others:
            first = as_delta(first.merged_with(other))
        merged.append(first)

    assert "".join(one.delta for one in merged) == text == merged[-1].text
    assert [one.run_seq for one in merged] == [group[-1].run_seq for group in groups]
    assert [one.ts_ms for one in merged] == [group[-1].ts_ms for group in groups]
    assert not any(one.replace for one in merged)
    assert {(one.key, one.group, one.delivery) for one in merged} == {
        (("chat", "r"), "r", Delivery.LATEST)
    }


def as_delta(event: Event) -> TextDelta:
    """Return an event that has to be a delta."""
    assert isinstance(event, TextDelta)
    return event


def test_a_rewrite_survives_every_merge() -> None:
    """After a merge with a rewritten text the whole text is new, whichever of the two was rewritten."""
    before = delta("old", 0)
    rewrite = delta("new", 3, run_seq=2, replace=True)
    after = delta("new text", 3, run_seq=3)

    assert rewrite.delta == "new"
    later = as_delta(as_delta(before.merged_with(rewrite)).merged_with(after))
    assert (later.replace, later.delta, later.run_seq) == (True, "new text", 3)
    assert json.loads(later.encoded(4, 1))["payload"]["replace"] is True
    assert as_delta(before.merged_with(rewrite)) is rewrite


def test_merging_leaves_the_shared_events_alone() -> None:
    """A merge for one slow client changes nothing for the others."""
    first, second = delta("a", 0), delta("ab", 1, run_seq=2)
    first.encoded(4, 1)

    first.merged_with(second)

    assert json.loads(first.encoded(4, 1))["payload"]["text"] == "a"
    assert json.loads(second.encoded(4, 2))["payload"]["delta"] == "b"
