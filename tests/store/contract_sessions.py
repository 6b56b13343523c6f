"""The part of the contract about sessions and transcripts; see :mod:`contract`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from msgspec import structs

from gateway.errors import StoreError
from gateway.interfaces import IStore
from gateway.model import Session, SessionQuery

from .harness import (
    KEY,
    NOW,
    a_message,
    a_session,
    putting,
    setting,
)

Wait = Callable[[Any], Any]


class SessionContract:
    """Sessions: stored whole, changed by compare-and-set, listed by page."""

    def test_missing_session_is_none(self, store: IStore, wait: Wait) -> None:
        """A session that was never stored is None, by key and by id."""
        assert wait(store.get_session(KEY)) is None
        assert wait(store.get_session_by_id("no such id")) is None

    def test_session_comes_back_whole(self, store: IStore, wait: Wait) -> None:
        """Every field of a session is kept, and only the version is set by the store."""
        session = a_session(
            lifecycle_revision="r1",
            label="Größe",
            settings={"thinkingLevel": "high", "nested": [1, None, {"a": "\x00ü"}]},
            system_sent=True,
            aborted_last_run=True,
            input_tokens=1,
            output_tokens=2,
            total_tokens=2**40,
            context_tokens=9,
            compactions=2,
            agent_session="acp:x",
            parent_key="agent:main:parent",
            last_channel="voice",
            created_via="node",
            last_message_preview="bye",
            first_message_preview="hi",
        )

        returned = wait(store.update_session(KEY, putting(session)))

        assert returned == structs.replace(session, version=1)
        assert wait(store.get_session(KEY)) == returned
        assert wait(store.get_session_by_id(session.session_id)) == returned

    def test_change_that_appends(self, store: IStore, wait: Wait) -> None:
        """Messages that come with a change are stored with it, and not without it."""
        wait(store.update_session(KEY, setting(session_id="s"), append=[a_message("one")]))
        wait(store.update_session(KEY, lambda current: None, append=[a_message("two")]))

        (message,) = wait(store.list_messages("s", limit=9))

        assert (message.seq, message.message_id) == (1, "m one")
        assert wait(store.get_session(KEY)).last_message_preview is None

    def test_change_sees_what_is_stored(self, store: IStore, wait: Wait) -> None:
        """A change is given the stored session, and the version rises by one with every write."""
        seen: list[Session | None] = []

        def change(current: Session | None) -> Session:
            seen.append(current)
            return structs.replace(current or a_session(), label=f"label {len(seen)}", version=99)

        first = wait(store.update_session(KEY, change))
        second = wait(store.update_session(KEY, change))

        assert seen == [None, first]
        assert [first.version, second.version] == [1, 2]
        assert wait(store.get_session(KEY)).label == "label 2"

    def test_change_to_none_writes_nothing(self, store: IStore, wait: Wait) -> None:
        """A change that returns None leaves what there is, be it a session or nothing."""
        assert wait(store.update_session(KEY, lambda current: None)) is None
        stored = wait(store.update_session(KEY, setting()))

        assert wait(store.update_session(KEY, lambda current: None)) == stored
        assert wait(store.get_session(KEY)) == stored

    def test_change_that_raises_writes_nothing(self, store: IStore, wait: Wait) -> None:
        """What a change raises reaches the caller as it is, and the session stays."""
        stored = wait(store.update_session(KEY, setting()))
        error = OverflowError("not for the store to translate")

        def change(current: Session | None) -> Session:
            raise error

        with pytest.raises(OverflowError) as caught:
            wait(store.update_session(KEY, change))
        assert caught.value is error
        assert wait(store.get_session(KEY)) == stored

    def test_change_can_not_move_a_session(self, store: IStore, wait: Wait) -> None:
        """A change that returns a session of another key is refused."""
        with pytest.raises(StoreError, match="can not change its key"):
            wait(store.update_session(KEY, setting(key="agent:main:other")))
        assert wait(store.find_sessions(SessionQuery(limit=10))).total == 0

    def test_what_json_can_not_hold_is_a_store_error(self, store: IStore, wait: Wait) -> None:
        """Settings that can not be encoded fail with StoreError, and the store goes on."""
        with pytest.raises(StoreError):
            wait(store.update_session(KEY, setting(settings={"key": object()})))
        with pytest.raises(StoreError):
            wait(store.update_session(KEY, setting(label="\ud800")))
        with pytest.raises(StoreError):
            wait(store.update_session(KEY, setting(input_tokens=2**63)))
        assert wait(store.update_session(KEY, setting())).version == 1

    def test_two_sessions_can_not_share_an_id(self, store: IStore, wait: Wait) -> None:
        """A second session with the same session id is refused."""
        wait(store.update_session(KEY, setting(session_id="one")))

        with pytest.raises(StoreError):
            wait(
                store.update_session("agent:main:b", setting(key="agent:main:b", session_id="one"))
            )

    def test_labels_need_not_be_unique(self, store: IStore, wait: Wait) -> None:
        """Two sessions may carry one label: whether they should is for the app to say."""
        for key in ("agent:main:a", "agent:main:b"):
            wait(store.update_session(key, setting(key=key, label="same")))

        assert wait(store.find_sessions(SessionQuery(limit=10, label="same"))).total == 2

    @pytest.mark.parametrize(("drop", "left"), [(False, 1), (True, 0)])
    def test_update_takes_the_transcript_along_if_asked(
        self, store: IStore, wait: Wait, drop: bool, left: int
    ) -> None:
        """A session is replaced together with its transcript, or neither is."""
        session = wait(store.update_session(KEY, setting()))
        wait(store.append_messages(session.session_id, [a_message()]))
        wait(store.append_messages("another", [a_message()]))

        for unstored in ("\ud800", None):
            with pytest.raises(StoreError) if unstored else nullcontext():
                wait(
                    store.update_session(
                        KEY,
                        setting(label=unstored) if unstored else lambda current: None,
                        drop_transcript=True,
                    )
                )
            assert wait(store.count_messages(session.session_id)) == 1
        renewed = wait(store.update_session(KEY, setting(label="new"), drop_transcript=drop))

        assert (renewed.version, renewed.label) == (2, "new")
        assert wait(store.count_messages(session.session_id)) == left
        assert wait(store.count_messages("another")) == 1
        wait(
            store.update_session(
                "agent:main:b", setting(key="agent:main:b", session_id="b"), drop_transcript=True
            )
        )

    def test_delete_is_checked_in_its_transaction(self, store: IStore, wait: Wait) -> None:
        """A check sees the stored session; what it raises reaches the caller, and nothing is deleted."""
        session = wait(store.update_session(KEY, setting()))
        wait(store.append_messages(session.session_id, [a_message()]))
        error = OverflowError("not for the store to translate")
        seen: list[Session] = []

        def refuse(current: Session) -> None:
            raise error

        with pytest.raises(OverflowError) as caught:
            wait(store.delete_session(KEY, delete_transcript=True, check=refuse))
        assert caught.value is error
        assert wait(store.get_session(KEY)) == session
        assert wait(store.count_messages(session.session_id)) == 1

        assert wait(store.delete_session(KEY, delete_transcript=True, check=seen.append)) is True
        assert wait(store.delete_session(KEY, delete_transcript=True, check=seen.append)) is False
        assert seen == [session]

    def test_delete_tells_whether_there_was_one(self, store: IStore, wait: Wait) -> None:
        """Deleting a session returns True once, and False when there is none."""
        wait(store.update_session(KEY, setting()))

        assert wait(store.delete_session(KEY, delete_transcript=False)) is True
        assert wait(store.delete_session(KEY, delete_transcript=False)) is False
        assert wait(store.get_session(KEY)) is None

    @pytest.mark.parametrize(("delete_transcript", "left"), [(False, 1), (True, 0)])
    def test_delete_takes_the_transcript_along_if_asked(
        self, store: IStore, wait: Wait, delete_transcript: bool, left: int
    ) -> None:
        """The messages of the deleted session stay or go as asked; those of others stay."""
        session = wait(store.update_session(KEY, setting()))
        wait(store.append_messages(session.session_id, [a_message()]))
        wait(store.append_messages("another", [a_message()]))

        wait(store.delete_session(KEY, delete_transcript=delete_transcript))

        assert wait(store.count_messages(session.session_id)) == left
        assert wait(store.count_messages("another")) == 1


class ListingContract:
    """Pages of sessions."""

    @pytest.fixture
    def listed(self, store: IStore, wait: Wait) -> None:
        """Store six sessions, the last one updated last."""
        rows = (
            a_session("agent:main:a", label="Straße 100%", parent_key="agent:main:b"),
            a_session("agent:main:b", first_message_preview="Plan the TRIP"),
            a_session("agent:ops:c", agent_id="ops", label="a_b"),
            a_session("agent:ops:d", agent_id="ops", label="axb"),
            a_session("global"),
            a_session("unknown"),
        )
        for number, row in enumerate(rows):
            updated = structs.replace(row, updated_at_ms=NOW + number)
            wait(store.update_session(row.key, putting(updated)))

    @pytest.mark.usefixtures("listed")
    @pytest.mark.parametrize(
        ("filters", "keys"),
        [
            ({}, "unknown global agent:ops:d agent:ops:c agent:main:b agent:main:a"),
            ({"limit": 2}, "unknown global"),
            ({"limit": 2, "offset": 3}, "agent:ops:c agent:main:b"),
            ({"limit": 2, "offset": 5}, "agent:main:a"),
            ({"limit": 2, "offset": 9}, ""),
            ({"limit": 0}, ""),
            ({"limit": -1, "offset": -1}, ""),
            ({"agent_id": "ops"}, "agent:ops:d agent:ops:c"),
            ({"label": "a_b"}, "agent:ops:c"),
            ({"label": "A_B"}, ""),
            ({"parent_key": "agent:main:b"}, "agent:main:a"),
            ({"updated_since_ms": NOW + 4}, "unknown global"),
            ({"include_global": False, "limit": 2}, "unknown agent:ops:d"),
            ({"include_unknown": False, "limit": 2}, "global agent:ops:d"),
            ({"search": "OPS:"}, "agent:ops:d agent:ops:c"),
            ({"search": "STRASSE"}, "agent:main:a"),
            ({"search": "the trip"}, "agent:main:b"),
            ({"search": "0%"}, "agent:main:a"),
            ({"search": "a_"}, "agent:ops:c"),
            ({"search": "/"}, ""),
            ({"search": ""}, "unknown global agent:ops:d agent:ops:c agent:main:b agent:main:a"),
            ({"search": "x" * 100_000}, ""),
            ({"agent_id": "ops", "search": "axb"}, "agent:ops:d"),
        ],
    )
    def test_filters(self, store: IStore, wait: Wait, filters: dict[str, Any], keys: str) -> None:
        """A page holds what matches, last updated first; wild cards of SQL are plain characters."""
        page = wait(store.find_sessions(SessionQuery(**{"limit": 10, **filters})))

        assert [session.key for session in page.sessions] == keys.split()

    @pytest.mark.usefixtures("listed")
    @pytest.mark.parametrize(
        ("filters", "total"),
        [
            ({"limit": 10}, 6),
            ({"limit": 2}, 6),
            ({"limit": 0}, 6),
            ({"limit": 2, "offset": 5}, 6),
            ({"limit": 2, "offset": 9}, 6),
            ({"limit": 1, "agent_id": "ops"}, 2),
            ({"limit": 1, "search": "agent:", "offset": 9}, 4),
            ({"limit": 1, "include_global": False, "include_unknown": False}, 4),
        ],
    )
    def test_total(self, store: IStore, wait: Wait, filters: dict[str, Any], total: int) -> None:
        """The total counts every match, whichever page was asked for."""
        assert wait(store.find_sessions(SessionQuery(**filters))).total == total

    def test_equal_times_have_an_order(self, store: IStore, wait: Wait) -> None:
        """Sessions updated at the same time never move between two pages."""
        for letter in "cabed":
            key = f"agent:main:{letter}"
            wait(store.update_session(key, setting(key=key)))

        pages = [
            wait(store.find_sessions(SessionQuery(limit=2, offset=offset))).sessions
            for offset in (0, 2, 4)
        ]

        assert [session.key[-1] for page in pages for session in page] == list("edcba")


class TranscriptContract:
    """Messages of a session id."""

    def test_messages_come_back_whole(self, store: IStore, wait: Wait) -> None:
        """Every field of a message is kept, and the store gives it its number."""
        message = a_message(
            "ü\x00\U0001f600",
            "assistant",
            run_id="run-1",
            stop_reason="stop",
            meta={"usage": {"input": 1}, "model": None},
        )

        (returned,) = wait(store.append_messages("s", [message]))

        assert returned == structs.replace(message, seq=1)
        assert wait(store.list_messages("s", limit=10)) == (returned,)

    def test_seq_rises_by_one_per_session_id(self, store: IStore, wait: Wait) -> None:
        """Messages are numbered 1, 2, 3 ... in each transcript, also after one that failed."""
        first = wait(store.append_messages("s", [a_message("a"), a_message("b", seq=7)]))
        with pytest.raises(StoreError):
            wait(store.append_messages("s", [a_message("c"), a_message("d", meta={"x": {1j}})]))
        other = wait(store.append_messages("t", [a_message("e")]))
        second = wait(store.append_messages("s", [a_message("f")]))

        assert [message.seq for message in (*first, *second)] == [1, 2, 3]
        assert [message.seq for message in other] == [1]
        assert wait(store.count_messages("s")) == 3

    def test_appending_nothing(self, store: IStore, wait: Wait) -> None:
        """No messages is no change."""
        assert wait(store.append_messages("s", [])) == ()
        assert wait(store.count_messages("s")) == 0

    @pytest.mark.parametrize(
        ("arguments", "seqs"),
        [
            ({"limit": 3}, [8, 9, 10]),
            ({"limit": 100}, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
            ({"limit": 3, "offset": 2}, [6, 7, 8]),
            ({"limit": 3, "before_seq": 4}, [1, 2, 3]),
            ({"limit": 2, "before_seq": 4, "offset": 1}, [1, 2]),
            ({"limit": 2, "before_seq": 1}, []),
            ({"limit": 0}, []),
            ({"limit": -1, "offset": -1}, []),
        ],
    )
    def test_newest_messages_oldest_first(
        self, store: IStore, wait: Wait, arguments: dict[str, int], seqs: list[int]
    ) -> None:
        """A page is the newest messages before a number, less an offset, oldest first."""
        wait(store.append_messages("s", [a_message(str(number)) for number in range(10)]))

        page = wait(store.list_messages("s", **arguments))

        assert [message.seq for message in page] == seqs
