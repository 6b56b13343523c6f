"""Voice transcripts that come more than once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.voice import (
    IDENTITY_RETENTION_MS,
    MAX_IDENTITIES,
    MAX_SESSIONS,
    SESSION_RETENTION_MS,
    WINDOW_MS,
    Fingerprint,
    FingerprintKind,
    TranscriptDedupe,
    fingerprint,
    is_interim,
)

VECTORS = json.loads((Path(__file__).parents[1] / "data" / "voice.json").read_text())


def text(words: str) -> Fingerprint:
    """Return the fingerprint of a transcript that has nothing but words."""
    return fingerprint({}, words)


def identity(event_id: str) -> Fingerprint:
    """Return the fingerprint of a transcript with a provider's event id."""
    return fingerprint({"eventId": event_id}, "yes")


def nobody(_session_key: str) -> bool:
    """Say that no session has a run going."""
    return False


@pytest.fixture
def dedupe() -> TranscriptDedupe:
    """Return a dedupe of the default size."""
    return TranscriptDedupe()


@pytest.mark.parametrize("case", VECTORS["fingerprints"], ids=lambda case: case["fingerprint"])
def test_vectors_of_fingerprints(case: dict[str, Any]) -> None:
    """Fingerprints are those of both versions; event ids and sequences are identities."""
    result = fingerprint(case["payload"], case["text"])

    assert result.key == case["fingerprint"]
    assert (result.kind is FingerprintKind.IDENTITY) is case["fingerprint"].startswith(
        ("event:", "call-seq:")
    )


def test_vectors_of_the_dedupe_sequence(dedupe: TranscriptDedupe) -> None:
    """Without an identity, what equals the last of its session in the window is dropped."""
    decisions = [
        dedupe.seen(
            step["sessionKey"], Fingerprint(FingerprintKind.TEXT, step["fingerprint"]), step["now"]
        )
        for step in VECTORS["dedupeSequence"]
    ]

    assert decisions == [step["dropped"] for step in VECTORS["dedupeSequence"]]
    assert VECTORS["windowMs"] == WINDOW_MS


def test_vectors_of_the_size_after_400_sessions(dedupe: TranscriptDedupe) -> None:
    """At most 200 sessions are held, also between sweeps."""
    for number in range(400):
        dedupe.seen(f"s{number}", text("hi"), 1_000)

    assert dedupe.sessions == VECTORS["maxSessions"] == MAX_SESSIONS
    assert VECTORS["mapSizeAfter400Keys"] == {"v3": dedupe.sessions, "v4": dedupe.sessions}


@pytest.mark.parametrize(
    "payload",
    [
        {"callId": "c", "seq": True},
        {"callId": "c", "seq": float("nan")},
        {"callId": "c", "seq": float("inf")},
        {"callId": "c", "seq": 10**5_000},
        {"callId": "\t", "seq": 1},
        {"eventId": ["e"], "ts": {}},
    ],
)
def test_what_is_no_id_and_no_number_counts_as_missing(payload: dict[str, object]) -> None:
    """A transcript with unusable ids and numbers is compared by its text."""
    assert fingerprint(payload, "hi") == Fingerprint(FingerprintKind.TEXT, "text:hi")


@given(
    payload=st.dictionaries(
        st.sampled_from(
            "eventId providerEventId transcriptId providerCallId callId sequence seq timestamp ts "
            "eventTimestamp".split()
        ),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text()),
    ),
    words=st.text(),
)
@settings(deadline=None)
def test_every_payload_has_a_fingerprint(payload: dict[str, object], words: str) -> None:
    """No payload makes the fingerprint raise, and resending it gives the same again."""
    first = fingerprint(payload, words)

    assert first == fingerprint(dict(payload), words)
    assert TranscriptDedupe().seen("s", first, 0) is False


def test_yes_said_twice_with_two_identities_is_two_turns(dedupe: TranscriptDedupe) -> None:
    """Two utterances with the same words and different identities both start a turn."""
    assert not dedupe.seen("s", identity("e1"), 0)
    assert not dedupe.seen("s", identity("e2"), 1)


@given(
    events=st.lists(st.integers(1, 5), min_size=1, max_size=20)
    .map(
        lambda resends: [f"e{number}" for number, times in enumerate(resends) for _ in range(times)]
    )
    .flatmap(st.permutations),
    gap_ms=st.integers(0, 2_000),
)
@settings(deadline=None)
def test_an_identity_resent_out_of_order_is_one_turn(events: list[str], gap_ms: int) -> None:
    """A provider that sends each event one to five times, out of order, gets one turn for each."""
    dedupe = TranscriptDedupe()

    accepted = [
        event
        for index, event in enumerate(events)
        if not dedupe.seen("s", identity(event), index * gap_ms)
    ]

    assert sorted(accepted) == sorted(set(events))


def test_an_identity_is_remembered_for_five_minutes_whatever_came_between(
    dedupe: TranscriptDedupe,
) -> None:
    """An identity is dropped until five minutes after it was accepted; drops renew nothing."""
    dedupe.seen("s", identity("e1"), 0)
    dedupe.seen("s", text("other"), 10)

    assert dedupe.seen("s", identity("e1"), 2_000)
    assert dedupe.seen("s", identity("e1"), IDENTITY_RETENTION_MS)
    assert not dedupe.seen("s", identity("e1"), IDENTITY_RETENTION_MS + 1)


def test_an_identity_belongs_to_its_session(dedupe: TranscriptDedupe) -> None:
    """The same event id in another session is another event."""
    dedupe.seen("s", identity("e1"), 0)

    assert not dedupe.seen("t", identity("e1"), 1)


def test_a_text_is_compared_with_the_last_transcript_only(dedupe: TranscriptDedupe) -> None:
    """The same words are a new turn once another transcript came between."""
    dedupe.seen("s", text("yes"), 0)
    dedupe.seen("s", identity("e1"), 10)

    assert not dedupe.seen("s", text("yes"), 20)


def test_a_call_with_a_time_is_no_identity(dedupe: TranscriptDedupe) -> None:
    """A call id with a timestamp is compared within the window only."""
    stamped = fingerprint({"callId": "c", "ts": 5}, "yes")
    dedupe.seen("s", stamped, 0)

    assert dedupe.seen("s", stamped, WINDOW_MS)
    assert not dedupe.seen("s", stamped, WINDOW_MS + 1)


def test_a_clock_that_steps_back_neither_lets_a_resend_through_nor_silences(
    dedupe: TranscriptDedupe,
) -> None:
    """A small step back still finds the duplicate; after a large one the words are new."""
    dedupe.seen("s", text("yes"), 1_000_000)

    assert dedupe.seen("s", text("yes"), 999_990)
    assert not dedupe.seen("s", text("yes"), 100)


def test_long_fingerprints_are_told_apart_and_kept_small(dedupe: TranscriptDedupe) -> None:
    """Texts that differ only at the end of 20,000 characters differ; neither is held whole."""
    long = "a" * 20_000

    first = dedupe.reserve("s", text(long), 0)

    assert first is not None
    assert len(first._transcript.key) < 100
    assert dedupe.seen("s", text(long), 1)
    assert not dedupe.seen("s", text(f"{long}b"), 2)
    assert not dedupe.seen("s", text(f"{long}\ud800"), 3)


def test_a_refused_transcript_does_not_cost_its_resend_the_turn(dedupe: TranscriptDedupe) -> None:
    """What was forgotten leaves no trace: a resend of it is new, with an identity and without."""
    for words in (identity("e1"), text("hi")):
        reservation = dedupe.reserve("s", words, 0)
        assert reservation is not None

        dedupe.forget(reservation)

        assert len(dedupe) == 0
        assert not dedupe.seen("s", words, 1)
        dedupe.sweep(IDENTITY_RETENTION_MS * 2, nobody)


def test_forgetting_brings_back_what_was_last_before(dedupe: TranscriptDedupe) -> None:
    """After a refused transcript the one before it is the last of its session again."""
    dedupe.seen("s", text("yes"), 0)
    reservation = dedupe.reserve("s", text("no"), 10)
    assert reservation is not None

    dedupe.forget(reservation)

    assert dedupe.seen("s", text("yes"), 20)


def test_forgetting_late_takes_back_the_identity_only(dedupe: TranscriptDedupe) -> None:
    """A transcript accepted since stays the last one; forgetting twice changes nothing."""
    reservation = dedupe.reserve("s", identity("e1"), 0)
    assert reservation is not None
    dedupe.seen("s", text("yes"), 10)

    dedupe.forget(reservation)
    dedupe.forget(reservation)

    assert dedupe.seen("s", text("yes"), 20)
    assert not dedupe.seen("s", identity("e1"), 30)


def test_a_reservation_shows_no_words(dedupe: TranscriptDedupe) -> None:
    """What people said does not get into a log by way of a representation."""
    dedupe.seen("s", text("secret words"), 0)

    reservation = dedupe.reserve("s", text("more secret words"), 1)

    assert reservation is not None
    assert "secret" not in repr(reservation)


def test_a_sweep_removes_all_that_expired(
    dedupe: TranscriptDedupe,
) -> None:
    """The pruner removes all expired transcripts even when the map is below its maximum."""
    dedupe.seen("old", identity("e1"), 0)
    dedupe.seen("old", identity("e2"), 1)
    dedupe.seen("new", identity("e3"), IDENTITY_RETENTION_MS)

    removed = dedupe.sweep(IDENTITY_RETENTION_MS + 2, nobody)

    assert removed == 3
    assert (dedupe.sessions, dedupe.identities) == (1, 1)
    assert dedupe.seen("new", identity("e3"), IDENTITY_RETENTION_MS + 3)


def test_a_sweep_keeps_what_has_not_expired(dedupe: TranscriptDedupe) -> None:
    """Last transcripts live three seconds and identities five minutes, both ends included."""
    dedupe.seen("s", identity("e1"), 0)

    assert dedupe.sweep(SESSION_RETENTION_MS, nobody) == 0
    assert dedupe.sweep(SESSION_RETENTION_MS + 1, nobody) == 1
    assert dedupe.sweep(IDENTITY_RETENTION_MS, nobody) == 0
    assert len(dedupe) == 1
    assert dedupe.sweep(IDENTITY_RETENTION_MS + 1, nobody) == 1
    assert len(dedupe) == 0


def test_a_full_map_expires_before_it_evicts() -> None:
    """Room for a session is made of expired entries first, also where those are not the oldest."""
    dedupe = TranscriptDedupe(max_sessions=2)
    dedupe.seen("late", text("hi"), SESSION_RETENTION_MS)
    dedupe.seen("early", text("hi"), 0)

    dedupe.seen("third", text("hi"), SESSION_RETENTION_MS + 1)

    assert dedupe.sessions == 2
    assert dedupe.seen("late", text("hi"), SESSION_RETENTION_MS + 1)


def test_eviction_takes_the_oldest_and_sessions_with_a_run_last() -> None:
    """Above the maximum the oldest session goes, one with a run going only as the last."""
    dedupe = TranscriptDedupe(max_sessions=2)

    def busy(session_key: str) -> bool:
        return session_key.startswith("busy")

    for session_key in ("busy-1", "idle-1", "idle-2", "busy-2", "busy-3"):
        dedupe.seen(session_key, text("hi"), 0, busy)

    # idle-1 and idle-2 made room; then busy-1, the oldest of those with a run.
    assert dedupe.seen("busy-2", text("hi"), 0, busy)
    assert dedupe.seen("busy-3", text("hi"), 0, busy)
    assert not dedupe.seen("busy-1", text("hi"), 0, busy)


def test_a_session_that_speaks_again_is_inserted_anew() -> None:
    """The order of eviction is that of the last accepted transcript."""
    dedupe = TranscriptDedupe(max_sessions=2)
    for session_key, words in (("a", "one"), ("b", "one"), ("a", "two"), ("c", "one")):
        dedupe.seen(session_key, text(words), 0)

    assert dedupe.seen("a", text("two"), 0)
    assert not dedupe.seen("b", text("one"), 0)


def test_identities_are_bounded_and_evicted_in_the_same_order() -> None:
    """Above the maximum the oldest identity goes, those of sessions with a run last."""
    dedupe = TranscriptDedupe(max_identities=2)

    def busy(session_key: str) -> bool:
        return session_key == "busy"

    dedupe.seen("busy", identity("e1"), 0, busy)
    dedupe.seen("idle", identity("e2"), 1, busy)
    dedupe.seen("idle", identity("e3"), 2, busy)

    assert dedupe.identities == 2
    assert dedupe.seen("busy", identity("e1"), 10_000, busy)
    assert dedupe.seen("idle", identity("e3"), 10_000, busy)
    assert not dedupe.seen("idle", identity("e2"), 10_000, busy)


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["seen", "forget", "sweep"]),
            st.integers(0, 6),
            st.integers(0, 6),
            st.booleans(),
            st.integers(-1_000, 200_000),
        ),
        max_size=60,
    )
)
@settings(deadline=None)
def test_no_history_exceeds_the_bounds(steps: list[tuple[str, int, int, bool, int]]) -> None:
    """After any mix of transcripts, refusals and sweeps the maps are within their bounds."""
    dedupe = TranscriptDedupe(max_sessions=3, max_identities=4)
    now_ms = 0
    for action, session, event, lasting, delay_ms in steps:
        now_ms += delay_ms
        if action == "sweep":
            dedupe.sweep(now_ms, f"s{session}".__eq__)
            assert dedupe.sweep(now_ms, nobody) == 0
            continue
        words = identity(f"e{event}") if lasting else text(f"t{event}")
        reservation = dedupe.reserve(f"s{session}", words, now_ms)
        if reservation is not None and action == "forget":
            dedupe.forget(reservation)
        elif reservation is not None:
            assert dedupe.seen(f"s{session}", words, now_ms)

        assert dedupe.sessions <= 3
        assert dedupe.identities <= 4
        assert len(dedupe) == dedupe.sessions + dedupe.identities


def test_the_default_bound_of_identities_holds_between_sweeps(dedupe: TranscriptDedupe) -> None:
    """At most 1,000 identities are remembered in all."""
    for number in range(MAX_IDENTITIES + 50):
        dedupe.seen("s", identity(f"e{number}"), number)

    assert dedupe.identities == MAX_IDENTITIES
    assert not dedupe.seen("s", identity("e0"), MAX_IDENTITIES + 50)


@pytest.mark.parametrize(
    ("payload", "key"),
    [
        ({"itemId": "i1", "timestamp": 5}, "item:i1"),
        ({"providerItemId": "p1", "itemId": "i1"}, "item:p1"),
        ({"messageId": " m1 "}, "item:m1"),
        ({"requestId": "r1", "callId": "c1", "ts": 5}, "request:r1"),
        ({"signedRequestId": "s1", "requestId": "r1"}, "request:s1"),
        ({"idempotencyKey": "k1"}, "request:k1"),
        ({"itemId": "i1", "requestId": "r1"}, "item:i1"),
        ({"itemId": "i1", "callId": "c1", "seq": 3}, "call-seq:c1:3"),
        ({"itemId": "i1", "eventId": "e1"}, "event:e1"),
    ],
)
def test_what_else_is_an_identity(payload: dict[str, object], key: str) -> None:
    """Items, messages and signed requests are identities, behind those that the protocol knows."""
    found = fingerprint(payload, "hi")

    assert (found.kind, found.key) == (FingerprintKind.IDENTITY, key)


ONE_UTTERANCE = (
    {"eventId": "e1", "itemId": "i1"},
    {"eventId": "e2", "itemId": "i1"},
    {"itemId": "i1"},
    {"eventId": "e3", "callId": "c", "seq": 4, "itemId": "i1"},
    {"eventId": "e1"},
)


@pytest.mark.parametrize("first", range(len(ONE_UTTERANCE) - 1))
def test_one_item_in_many_events(first: int) -> None:
    """An utterance that comes within two seconds under event ids of their own is one turn."""
    dedupe = TranscriptDedupe(max_identities=3)
    told = [ONE_UTTERANCE[first], *ONE_UTTERANCE[:4]]
    seen = [dedupe.seen("s", fingerprint(each, "hi"), n * 450) for n, each in enumerate(told)]

    assert seen == [False, True, True, True, True]
    assert not dedupe.seen("s", fingerprint({"eventId": "e9", "itemId": "i2"}, "hi"), 1900)
    assert dedupe.identities <= 3


def test_a_refusal_gives_back_every_identity(dedupe: TranscriptDedupe) -> None:
    """What was refused may come again under any of its names."""
    reservation = dedupe.reserve("s", fingerprint(ONE_UTTERANCE[0], "hi"), 0)
    assert reservation is not None
    dedupe.forget(reservation)

    assert len(dedupe) == 0
    assert not dedupe.seen("s", fingerprint(ONE_UTTERANCE[1], "hi"), 5000)


@pytest.mark.parametrize(
    ("payload", "interim"),
    [
        ({}, False),
        ({"final": True}, False),
        ({"final": False}, True),
        ({"isFinal": False}, True),
        ({"interim": True}, True),
        ({"partial": True, "final": True}, True),
        ({"final": None, "interim": "true"}, False),
    ],
)
def test_what_is_still_being_heard(payload: dict[str, object], interim: bool) -> None:
    """A transcript is interim if its provider says so with a boolean; nothing else counts."""
    assert is_interim(payload) is interim


def test_the_same_word_to_another_question_is_another_turn(dedupe: TranscriptDedupe) -> None:
    """Once an agent has answered, a text within the window is compared with nothing before it."""
    dedupe.seen("s", text("yes"), 0)
    dedupe.seen("t", text("yes"), 0)

    dedupe.answered("s")
    dedupe.answered("nobody spoke here")

    assert not dedupe.seen("s", text("yes"), 100)
    assert dedupe.seen("s", text("yes"), 200)
    assert dedupe.seen("t", text("yes"), 200)


def test_an_answer_makes_nobody_forget_an_identity_or_a_time(dedupe: TranscriptDedupe) -> None:
    """A resend with an identity, or with its time, is a resend also after the agent has answered."""
    for words in (
        identity("e1"),
        fingerprint({"ts": 5}, "yes"),
        fingerprint({"callId": "c", "ts": 5}, ""),
    ):
        dedupe.seen("s", words, 0)

        dedupe.answered("s")

        assert dedupe.seen("s", words, 100)


def test_a_refusal_after_an_answer_brings_no_earlier_text_back(dedupe: TranscriptDedupe) -> None:
    """What was said before the answer stays out of the comparison, also where a transcript is given back."""
    for words in (identity("e1"), fingerprint({"ts": 5}, "yes"), text("no")):
        dedupe.seen("s", text("yes"), 0)
        reservation = dedupe.reserve("s", words, 10)
        assert reservation is not None
        dedupe.answered("s")

        dedupe.forget(reservation)

        assert not dedupe.seen("s", text("yes"), 20)
        dedupe.answered("s")


IDENTITIES = st.sampled_from(
    [
        lambda n: {"eventId": f"e{n}"},
        lambda n: {"providerItemId": f"i{n}", "timestamp": 7},
        lambda n: {"callId": "c", "seq": n},
        lambda n: {"requestId": f"r{n}"},
    ]
)


@given(
    events=st.lists(
        st.tuples(st.sampled_from("ab"), IDENTITIES, st.integers(1, 5)), min_size=1, max_size=15
    )
    .map(
        lambda events: [
            (session, n, make(n))
            for n, (session, make, times) in enumerate(events)
            for _ in range(times)
        ]
    )
    .flatmap(st.permutations),
    data=st.data(),
)
@settings(deadline=None)
def test_every_utterance_is_one_turn(
    events: list[tuple[str, int, dict[str, Any]]], data: Any
) -> None:
    """Resent one to five times, in any order, with answers and clock jumps in between: each is one turn."""
    dedupe = TranscriptDedupe()
    accepted = []
    for session, number, payload in events:
        now_ms = data.draw(st.integers(0, IDENTITY_RETENTION_MS))
        if data.draw(st.booleans()):
            dedupe.answered(session)
        if not dedupe.seen(session, fingerprint(payload, "yes"), now_ms):
            accepted.append((session, number))

    assert sorted(accepted) == sorted({(session, number) for session, number, _ in events})


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from("ab"),
            st.sampled_from(["yes", "no", "answer"]),
            st.integers(-3_000, 3_000),
        ),
        max_size=40,
    )
)
@settings(deadline=None)
def test_texts_without_an_identity_are_compared_with_the_last_only(
    steps: list[tuple[str, str, int]],
) -> None:
    """Dropped is what equals the last text of its session, within the window, to the same question."""
    dedupe = TranscriptDedupe()
    last: dict[str, tuple[str, int]] = {}
    now_ms = 100_000
    for session, words, delay_ms in steps:
        now_ms += delay_ms
        if words == "answer":
            dedupe.answered(session)
            last.pop(session, None)
            continue
        before = last.get(session)
        repeat = before is not None and before[0] == words and abs(now_ms - before[1]) <= WINDOW_MS
        assert dedupe.seen(session, text(words), now_ms) is repeat
        if not repeat:
            last[session] = (words, now_ms)
