"""The part of the contract about runs and their logs; see :mod:`contract`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec import structs

from gateway.errors import StoreError, VersionConflict
from gateway.interfaces import IStore
from gateway.model import (
    Attachment,
    EventSpan,
    RunQuery,
    RunRecord,
    RunRequest,
    RunState,
    Session,
    SessionQuery,
    decode_request,
    encode_request,
)

from .harness import (
    KEY,
    NOW,
    a_message,
    a_run,
    a_session,
    an_end,
    an_ended_run,
    an_event,
    as_it_is,
    putting,
    setting,
)

Wait = Callable[[Any], Any]


class AcceptContract:
    """Turns that are accepted."""

    def test_accept_stores_session_message_and_run(self, store: IStore, wait: Wait) -> None:
        """The session, the user's message and the run are stored together."""
        run = a_run(session_id="whatever the caller thought")

        session, message = wait(
            store.accept_turn(run, setting(session_id="s"), a_message("  what\n is  up? "))
        )

        assert (session.version, session.session_id, message.seq) == (1, "s", 1)
        assert session.first_message_preview == "what is up?"
        assert session.last_message_preview == "what is up?"
        assert wait(store.get_session(KEY)) == session
        assert wait(store.list_messages("s", limit=9)) == (message,)
        assert wait(store.get_run("run-1")) == structs.replace(run, session_id="s")

    def test_accept_without_a_message(self, store: IStore, wait: Wait) -> None:
        """A turn may have no message: the transcript and the previews stay."""
        session, message = wait(store.accept_turn(a_run(), setting(), None))

        assert message is None
        assert session.first_message_preview is None
        assert wait(store.count_messages(session.session_id)) == 0

    def test_first_preview_stays(self, store: IStore, wait: Wait) -> None:
        """The first message's preview is kept, the last message's follows the transcript."""
        wait(store.accept_turn(a_run("run-1"), setting(), a_message("one")))
        session, message = wait(store.accept_turn(a_run("run-2"), as_it_is, a_message("two")))

        assert (session.first_message_preview, session.last_message_preview) == ("one", "two")
        assert (session.version, message.seq) == (2, 2)

    def test_stored_run_is_a_conflict(self, store: IStore, wait: Wait) -> None:
        """A run that is stored already is a VersionConflict, and nothing of the turn is stored."""
        before, _ = wait(store.accept_turn(a_run(), setting(), a_message("one")))

        with pytest.raises(VersionConflict):
            wait(store.accept_turn(a_run(), as_it_is, a_message("two")))

        assert wait(store.get_session(KEY)) == before
        assert wait(store.count_messages(before.session_id)) == 1

    def test_refused_turn_stores_nothing(self, store: IStore, wait: Wait) -> None:
        """What the change raises fails the turn, and nothing of it is stored."""

        def change(current: Session | None) -> Session:
            raise LookupError("no such session")

        with pytest.raises(LookupError):
            wait(store.accept_turn(a_run(), change, a_message()))
        with pytest.raises(StoreError):
            wait(store.accept_turn(a_run(), setting(key="agent:main:other"), a_message()))

        assert wait(store.get_run("run-1")) is None
        assert wait(store.get_session(KEY)) is None

    def test_open_runs_in_order_of_acceptance(self, store: IStore, wait: Wait) -> None:
        """Runs without an end are listed as they were accepted, though the clock went back."""
        for number, run_id in enumerate(("b", "a", "c")):
            run = a_run(run_id, accepted_at_ms=NOW - number)
            wait(store.accept_turn(run, lambda current: current or a_session(), None))
        wait(store.finish_turn(an_end("a")))

        assert [run.run_id for run in wait(store.open_runs())] == ["b", "c"]


class OpenRunContract:
    """Runs between their acceptance and their end."""

    def test_request_is_kept_until_the_end(self, store: IStore, wait: Wait) -> None:
        """The request that came with a run is there for who starts it again, and gone with its end."""
        request = RunRequest(
            run_id="run-1",
            session_key=KEY,
            session_id="s",
            agent_id="main",
            text="what is on the picture?",
            attachments=(Attachment(mime_type="image/png", data=b"\x89PNG\x00\xff"),),
            thinking="high",
            extra_system_prompt="Be brief.",
            timeout_s=7.5,
        )
        run = a_run(request_json=encode_request(request))
        wait(store.accept_turn(run, setting(), None))

        (kept,) = wait(store.open_runs())
        assert kept == run == wait(store.get_run("run-1"))
        assert decode_request(kept.request_json) == request
        wait(store.finish_turn(an_end(run=an_ended_run(request_json=run.request_json))))
        assert wait(store.get_run("run-1")).request_json is None

    def test_large_request_comes_back_whole(self, store: IStore, wait: Wait) -> None:
        """A request of megabytes is kept as it is."""
        run = a_run(request_json=b"x" * 7_000_000)
        wait(store.accept_turn(run, setting(), None))

        assert wait(store.get_run("run-1")) == run

    def test_a_run_is_taken_over(self, store: IStore, wait: Wait) -> None:
        """Who starts a run again gives it an epoch of its own, and says that it runs."""
        wait(store.accept_turn(a_run(request_json=b"{}"), setting(), None))
        wait(store.append_events([an_event(1)]))

        def take(current: RunRecord | None) -> RunRecord:
            assert current is not None
            return structs.replace(
                current,
                epoch="epoch-2",
                state=RunState.RUNNING,
                started_at_ms=NOW,
                request_json=None,
            )

        taken = wait(store.update_run("run-1", take))

        expected = a_run(epoch="epoch-2", state=RunState.RUNNING, started_at_ms=NOW)
        assert taken == expected == wait(store.get_run("run-1"))
        assert wait(store.event_span("run-1")) == EventSpan("epoch-2", 1, 0)
        assert wait(store.open_runs()) == (expected,)
        wait(store.finish_turn(an_end(run=an_ended_run(epoch="epoch-2"))))
        assert wait(store.open_runs()) == ()

    def test_update_that_leaves_a_run_alone(self, store: IStore, wait: Wait) -> None:
        """A change that returns None sees the run, stores nothing and returns what is stored."""
        assert wait(store.update_run("run-1", lambda current: None)) is None
        wait(store.accept_turn(a_run(), setting(), None))
        seen: list[RunRecord | None] = []

        def look(current: RunRecord | None) -> None:
            seen.append(current)

        assert wait(store.update_run("run-1", look)) == a_run()
        assert seen == [a_run()]

    def test_a_run_that_starts(self, store: IStore, wait: Wait) -> None:
        """Who starts a run is told the session of that moment; of an unknown run there is none."""
        assert wait(store.start_run("run-1", lambda current: None)) == (None, None)
        session, _ = wait(store.accept_turn(a_run(), setting(), None))
        started = a_run(state=RunState.RUNNING, started_at_ms=NOW)

        assert wait(store.start_run("run-1", lambda current: started)) == (started, session)
        assert wait(store.get_run("run-1")) == started
        wait(store.delete_session(session.key, delete_transcript=True))
        assert wait(store.start_run("run-1", lambda current: None)) == (started, None)

    def test_update_that_raises(self, store: IStore, wait: Wait) -> None:
        """What the change raises reaches the caller, and nothing is stored."""
        wait(store.accept_turn(a_run(), setting(), None))

        def refuse(current: RunRecord | None) -> RunRecord:
            raise LookupError("somebody has it")

        with pytest.raises(LookupError, match="somebody has it"):
            wait(store.update_run("run-1", refuse))
        assert wait(store.get_run("run-1")) == a_run()

    def test_only_an_open_run_is_updated(self, store: IStore, wait: Wait) -> None:
        """A run that is unknown or has ended is a VersionConflict, and stays as it is."""
        with pytest.raises(VersionConflict):
            wait(store.update_run("run-1", putting(a_run())))
        wait(store.finish_turn(an_end()))

        with pytest.raises(VersionConflict):
            wait(store.update_run("run-1", putting(a_run())))
        assert wait(store.get_run("run-1")) == an_ended_run()

    @pytest.mark.parametrize("run", [a_run("run-2"), an_ended_run(), a_run(ended_at_ms=NOW)])
    def test_update_is_no_end(self, store: IStore, wait: Wait, run: RunRecord) -> None:
        """An update neither ends a run nor gives it another id."""
        wait(store.accept_turn(a_run(), setting(), None))

        with pytest.raises(StoreError):
            wait(store.update_run("run-1", putting(run)))
        assert wait(store.get_run("run-1")) == a_run()


class RunListContract:
    """Runs that are listed."""

    @pytest.fixture
    def five_runs(self, store: IStore, wait: Wait) -> None:
        """Accept five runs in two sessions while the clock goes back; end three of them."""
        ends = {"b": RunState.DONE, "c": RunState.FAILED, "d": RunState.DONE}
        for number, run_id in enumerate("abcde"):
            key = "agent:main:other" if run_id == "d" else KEY
            run = a_run(run_id, session_key=key, accepted_at_ms=NOW - number, request_json=b"{}")
            wait(store.accept_turn(run, putting(a_session(key)), None))
            if run_id in ends:
                ended = an_ended_run(run_id, session_key=key, state=ends[run_id])
                wait(store.finish_turn(an_end(run=ended)))

    @pytest.mark.usefixtures("five_runs")
    @pytest.mark.parametrize(
        ("query", "found"),
        [
            (RunQuery(limit=9), "edcba"),
            (RunQuery(limit=2), "ed"),
            (RunQuery(limit=0), ""),
            (RunQuery(limit=-1), ""),
            (RunQuery(limit=9, session_key=KEY), "ecba"),
            (RunQuery(limit=2, session_key=KEY), "ec"),
            (RunQuery(limit=9, session_key="agent:main:none"), ""),
            (RunQuery(limit=9, states=(RunState.DONE,)), "db"),
            (RunQuery(limit=9, states=(RunState.ACCEPTED, RunState.FAILED)), "eca"),
            (RunQuery(limit=2, states=(RunState.FAILED, RunState.ACCEPTED)), "ec"),
            (RunQuery(limit=9, states=(RunState.DONE, RunState.DONE)), "db"),
            (RunQuery(limit=9, states=(RunState.ABORTED,)), ""),
            (RunQuery(limit=9, states=tuple(RunState), session_key=KEY), "ecba"),
            (RunQuery(limit=9, states=(RunState.DONE,), session_key=KEY), "b"),
            (RunQuery(limit=1 << 40), "edcba"),
        ],
    )
    def test_newest_first(self, store: IStore, wait: Wait, query: RunQuery, found: str) -> None:
        """Runs are listed as they were accepted, the last one first, filtered, at most ``limit``."""
        assert [run.run_id for run in wait(store.runs_of(query))] == list(found)

    @pytest.mark.usefixtures("five_runs")
    def test_listed_without_requests(self, store: IStore, wait: Wait) -> None:
        """A listed run is whole, but for its request, which can be megabytes."""
        (listed,) = wait(store.runs_of(RunQuery(limit=1)))

        stored = wait(store.get_run("e"))
        assert stored.request_json == b"{}"
        assert listed == structs.replace(stored, request_json=None)


class FinishContract:
    """Turns that end."""

    @pytest.fixture
    def session(self, store: IStore, wait: Wait) -> Session:
        """Accept one run."""
        session, _ = wait(store.accept_turn(a_run(), setting(), a_message("question")))
        assert isinstance(session, Session)
        return session

    def test_finish_stores_everything(self, store: IStore, wait: Wait, session: Session) -> None:
        """The end of a run is stored with its messages, its last events and the session's sums."""
        run = an_ended_run(started_at_ms=NOW + 1, stop_reason="stop", last_seq=2)
        wait(store.append_events([an_event(1)]))

        messages = wait(
            store.finish_turn(
                an_end(
                    run=run,
                    messages=(a_message("tool", "toolResult"), a_message("answer", "assistant")),
                    events=(an_event(2, stream="lifecycle"),),
                    input_tokens=3,
                    output_tokens=4,
                )
            )
        )

        assert [message.seq for message in messages] == [2, 3]
        assert wait(store.list_messages(session.session_id, limit=2)) == messages
        assert wait(store.get_run("run-1")) == run
        assert wait(store.open_runs()) == ()
        log = wait(store.list_events("run-1", after_seq=0, limit=10))
        assert log == (an_event(1), an_event(2, stream="lifecycle"))
        assert wait(store.get_session(KEY)) == structs.replace(
            session,
            version=2,
            updated_at_ms=NOW + 1000,
            system_sent=True,
            input_tokens=3,
            output_tokens=4,
            total_tokens=7,
            last_message_preview="answer",
        )

    @pytest.mark.parametrize("state", [RunState.FAILED, RunState.ABORTED])
    def test_finish_tells_how_it_ended(
        self, store: IStore, wait: Wait, session: Session, state: RunState
    ) -> None:
        """An aborted run marks its session, the next one takes the mark away."""
        run = an_ended_run(state=state, error="because")
        wait(store.finish_turn(an_end(run=run, system_sent=False)))
        marked = wait(store.get_session(KEY))
        wait(store.accept_turn(a_run("run-2"), as_it_is, None))
        wait(store.finish_turn(an_end("run-2")))

        assert marked.aborted_last_run is (state is RunState.ABORTED)
        assert marked.system_sent is False
        assert marked.last_message_preview == "question"
        assert wait(store.get_run("run-1")).error == "because"
        assert wait(store.get_session(KEY)).aborted_last_run is False

    def test_user_message_at_the_end_can_be_the_first(self, store: IStore, wait: Wait) -> None:
        """A user's message that is stored with the end gives the session its first preview."""
        wait(store.accept_turn(a_run(), setting(), None))
        words = (a_message("hello", "assistant"), a_message("said aloud"))

        wait(store.finish_turn(an_end(messages=words)))

        stored = wait(store.get_session(KEY))
        assert stored.first_message_preview == "said aloud"
        assert wait(store.find_sessions(SessionQuery(limit=9, search="aloud"))).total == 1

    @pytest.mark.parametrize("reset", [True, False])
    def test_finish_without_its_session(
        self, store: IStore, wait: Wait, session: Session, reset: bool
    ) -> None:
        """A run whose session was reset or deleted is stored all the same, the session untouched."""
        new = None
        if reset:
            new = wait(store.update_session(KEY, setting(session_id="new")))
        else:
            wait(store.delete_session(KEY, delete_transcript=True))

        (message,) = wait(store.finish_turn(an_end(messages=(a_message("late", "assistant"),))))

        assert message.seq == (2 if reset else 1)
        assert wait(store.get_session(KEY)) == new
        assert wait(store.get_run("run-1")).state is RunState.DONE
        assert wait(store.count_messages("new")) == 0

    def test_finish_of_a_run_that_was_never_accepted(self, store: IStore, wait: Wait) -> None:
        """The end of a run that could not be accepted is stored."""
        wait(store.finish_turn(an_end(events=(an_event(1),))))

        assert wait(store.get_run("run-1")) == an_ended_run()
        assert wait(store.list_events("run-1", after_seq=0, limit=9)) == (an_event(1),)

    def test_a_run_ends_once(self, store: IStore, wait: Wait, session: Session) -> None:
        """A second end is a VersionConflict, and nothing of it is stored."""
        wait(store.finish_turn(an_end(input_tokens=1)))
        stored = wait(store.get_session(KEY))

        with pytest.raises(VersionConflict):
            wait(store.finish_turn(an_end(messages=(a_message(),), input_tokens=1)))

        assert wait(store.get_session(KEY)) == stored
        assert wait(store.count_messages(session.session_id)) == 1

    @pytest.mark.parametrize("run", [a_run(), an_ended_run(ended_at_ms=None)])
    def test_an_end_is_an_end(self, store: IStore, wait: Wait, session: Session, run: Any) -> None:
        """A run that is not in a terminal state, or has no time of its end, is refused."""
        with pytest.raises(StoreError, match="has not ended"):
            wait(store.finish_turn(an_end(run=run)))
        assert wait(store.get_run("run-1")).state is RunState.ACCEPTED
