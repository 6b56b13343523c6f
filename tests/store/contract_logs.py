"""The part of the contract about logs of events and how long they are kept; see :mod:`contract`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gateway.errors import StoreError
from gateway.interfaces import IStore
from gateway.model import EventSpan, Retention, RetentionPass, RunState

from .harness import (
    NOW,
    a_run,
    a_session,
    an_end,
    an_ended_run,
    an_event,
    setting,
)

Wait = Callable[[Any], Any]

DAY_MS = 24 * 3600 * 1000
EVENT_BYTES = len(an_event(1).data) + 200
"""What the store reckons one of :func:`an_event` to take."""


class LogContract:
    """Logs of runs."""

    def test_log_in_order(self, store: IStore, wait: Wait) -> None:
        """Events are read in the order of their numbers, from a position on, at most ``limit``."""
        wait(store.accept_turn(a_run(), setting(), None))
        wait(store.append_events([an_event(2), an_event(1), an_event(1, "another")]))
        wait(store.append_events([an_event(3, data=b"\x00\xff")]))

        assert wait(store.list_events("run-1", after_seq=0, limit=2)) == (
            an_event(1),
            an_event(2),
        )
        assert wait(store.list_events("run-1", after_seq=2, limit=9)) == (
            an_event(3, data=b"\x00\xff"),
        )
        assert wait(store.list_events("run-1", after_seq=3, limit=9)) == ()
        assert wait(store.list_events("run-1", after_seq=0, limit=-1)) == ()

    def test_every_epoch_is_a_log(self, store: IStore, wait: Wait) -> None:
        """Without an epoch the log is that of the run's own; another one can be asked for."""
        wait(store.accept_turn(a_run(epoch="new"), setting(), None))
        wait(store.append_events([an_event(1, epoch="old"), an_event(1, epoch="new")]))

        assert wait(store.list_events("run-1", after_seq=0, limit=9)) == (an_event(1, epoch="new"),)
        of_old = wait(store.list_events("run-1", after_seq=0, limit=9, epoch="old"))
        assert of_old == (an_event(1, epoch="old"),)
        assert wait(store.list_events("run-1", after_seq=1, limit=9, epoch="old")) == ()
        assert wait(store.list_events("run-1", after_seq=0, limit=9, epoch="none")) == ()
        assert wait(store.list_events("nobody", after_seq=0, limit=9)) == ()

    def test_a_place_is_taken_once(self, store: IStore, wait: Wait) -> None:
        """An event whose number another has fails the whole batch; an empty batch is fine."""
        wait(store.accept_turn(a_run(), setting(), None))
        wait(store.append_events([an_event(1)]))
        wait(store.append_events([]))

        with pytest.raises(StoreError):
            wait(store.append_events([an_event(2), an_event(1, data=b"{}")]))
        assert wait(store.list_events("run-1", after_seq=0, limit=9)) == (an_event(1),)

    def test_what_is_stored_may_come_again(self, store: IStore, wait: Wait) -> None:
        """Events of a commit that was said to have failed are taken a second time, and stay once."""
        wait(store.accept_turn(a_run(), setting(), None))
        wait(store.append_events([an_event(1), an_event(2)]))

        wait(store.append_events([an_event(1), an_event(2), an_event(3)]))

        found = wait(store.list_events("run-1", after_seq=0, limit=9))
        assert found == tuple(map(an_event, (1, 2, 3)))

    def test_span(self, store: IStore, wait: Wait) -> None:
        """The span is from the first to the last stored event of the run's own epoch."""
        wait(store.accept_turn(a_run(epoch="new"), setting(), None))
        empty = wait(store.event_span("run-1"))
        wait(store.append_events([an_event(9, epoch="old"), an_event(1, "another")]))
        wait(store.append_events([an_event(seq, epoch="new") for seq in (1, 2, 3)]))

        assert empty == EventSpan("new", 1, 0)
        assert wait(store.event_span("run-1")) == EventSpan("new", 1, 3)
        assert wait(store.event_span("another")) is None

    def test_prune_removes_what_ended_first(self, store: IStore, wait: Wait) -> None:
        """Pruning deletes runs that ended before a time, oldest end first, with all their events."""
        for number, run_id in enumerate(("b", "a", "c", "d")):
            wait(store.accept_turn(a_run(run_id), lambda current: current or a_session(), None))
            wait(store.append_events([an_event(1, run_id), an_event(1, run_id, epoch="old")]))
            if run_id != "d":
                ended = an_ended_run(run_id, ended_at_ms=NOW + number)
                wait(store.finish_turn(an_end(run=ended)))

        assert wait(store.prune_runs(NOW + 2, 0)) == 0
        assert wait(store.prune_runs(NOW + 2, 1)) == 1
        assert wait(store.get_run("b")) is None
        assert wait(store.prune_runs(NOW + 2, 9)) == 1
        assert wait(store.get_run("a")) is None
        assert wait(store.get_run("c")) is not None
        assert [run.run_id for run in wait(store.open_runs())] == ["d"]
        # The places of the pruned events are free again, those of the others are not.
        wait(store.append_events([an_event(1, "a"), an_event(1, "b", epoch="old")]))
        with pytest.raises(StoreError):
            wait(store.append_events([an_event(1, "c", data=b"{}")]))


class RetentionContract:
    """What a policy keeps."""

    @pytest.fixture
    def log_run(self, store: IStore, wait: Wait) -> Callable[..., None]:
        """Return what stores a run with its events; without ``ended_at_ms`` it stays open."""

        def log_run(
            run_id: str, *, events: int = 1, ended_at_ms: int | None = NOW, name: str = "main"
        ) -> None:
            key = f"agent:main:{name}"
            run = a_run(run_id, session_key=key)
            wait(store.accept_turn(run, lambda current: current or a_session(key), None))
            wait(store.append_events([an_event(seq, run_id) for seq in range(1, events + 1)]))
            if ended_at_ms is not None:
                ended = an_ended_run(
                    run_id, session_key=key, ended_at_ms=ended_at_ms, last_seq=events
                )
                wait(store.finish_turn(an_end(run=ended)))

        return log_run

    @pytest.fixture
    def apply(self, store: IStore, wait: Wait) -> Callable[..., tuple[int, int]]:
        """Return what applies a policy until nothing is left to do; it returns runs and events."""

        def apply(**policy: int) -> tuple[int, int]:
            runs = events = 0
            more = True
            while more:
                done: RetentionPass = wait(store.apply_retention(Retention(**policy)))
                runs, events, more = runs + done.runs, events + done.events, done.more
            return runs, events

        return apply

    def kept(self, store: IStore, wait: Wait, *run_ids: str) -> list[str]:
        """Return which of these runs are still known."""
        return [run_id for run_id in run_ids if wait(store.get_run(run_id)) is not None]

    def test_no_limit_keeps_everything(
        self, store: IStore, wait: Wait, log_run: Callable[..., None]
    ) -> None:
        """A policy without limits, and one that is met, finds nothing to do."""
        log_run("a", events=3)
        nothing = RetentionPass(runs=0, events=0, more=False)

        assert wait(store.apply_retention(Retention())) == nothing
        roomy = Retention(ended_before_ms=NOW, runs_per_session=1, log_bytes=3 * EVENT_BYTES)
        assert wait(store.apply_retention(roomy)) == nothing
        assert wait(store.event_span("a")) == EventSpan("epoch-1", 1, 3)

    def test_by_age(
        self, store: IStore, wait: Wait, log_run: Callable[..., None], apply: Callable[..., Any]
    ) -> None:
        """Runs that ended before a time are forgotten with their events; an open run never is."""
        log_run("old", events=3, ended_at_ms=NOW - 2)
        log_run("young", events=2, ended_at_ms=NOW)
        log_run("open", ended_at_ms=None)
        wait(store.append_events([an_event(1, "old", epoch="before")]))

        assert apply(ended_before_ms=NOW) == (1, 4)

        assert self.kept(store, wait, "old", "young", "open") == ["young", "open"]
        assert wait(store.event_span("old")) is None
        assert wait(store.list_events("old", after_seq=0, limit=9, epoch="before")) == ()
        assert wait(store.event_span("young")) == EventSpan("epoch-1", 1, 2)
        assert wait(store.event_span("open")) == EventSpan("epoch-1", 1, 1)

    def test_per_session(
        self, store: IStore, wait: Wait, log_run: Callable[..., None], apply: Callable[..., Any]
    ) -> None:
        """Of each session the runs accepted last are kept, whatever the clock said; open ones stay."""
        log_run("open", ended_at_ms=None)
        for number, run_id in enumerate(("a", "b", "c")):
            log_run(run_id, ended_at_ms=NOW - number * DAY_MS)
        log_run("other", name="other")

        assert apply(runs_per_session=2) == (1, 1)
        assert self.kept(store, wait, "open", "a", "b", "c", "other") == ["open", "b", "c", "other"]
        assert apply(runs_per_session=0) == (3, 3)
        assert self.kept(store, wait, "open", "b", "c", "other") == ["open"]

    def test_by_bytes(
        self, store: IStore, wait: Wait, log_run: Callable[..., None], apply: Callable[..., Any]
    ) -> None:
        """The oldest events go until the rest fits; their runs stay known and say what is gone."""
        log_run("a", events=3, ended_at_ms=NOW + DAY_MS)
        log_run("b", events=4)
        log_run("open", events=5, ended_at_ms=None)

        assert apply(log_bytes=2 * EVENT_BYTES) == (0, 5)

        assert wait(store.get_run("a")).evicted_through == 3
        assert wait(store.event_span("a")) == EventSpan("epoch-1", 4, 3)
        assert wait(store.get_run("b")).evicted_through == 2
        assert wait(store.event_span("b")) == EventSpan("epoch-1", 3, 4)
        assert wait(store.list_events("b", after_seq=0, limit=9)) == (
            an_event(3, "b"),
            an_event(4, "b"),
        )
        assert wait(store.event_span("open")) == EventSpan("epoch-1", 1, 5)
        assert apply(log_bytes=2 * EVENT_BYTES) == (0, 0)

    def test_by_bytes_of_all_epochs(
        self, store: IStore, wait: Wait, log_run: Callable[..., None], apply: Callable[..., Any]
    ) -> None:
        """Events of another epoch count, and what is gone is said of the run's own epoch."""
        log_run("a", events=2, ended_at_ms=None)
        wait(store.append_events([an_event(seq, "a", epoch="epoch-0") for seq in (1, 2, 3)]))
        wait(store.finish_turn(an_end("a")))

        assert apply(log_bytes=2 * EVENT_BYTES) == (0, 3)

        assert wait(store.get_run("a")).evicted_through == 0
        assert wait(store.event_span("a")) == EventSpan("epoch-1", 1, 2)
        assert wait(store.list_events("a", after_seq=0, limit=9, epoch="epoch-0")) == ()

    def test_run_that_was_never_accepted(
        self, store: IStore, wait: Wait, apply: Callable[..., Any]
    ) -> None:
        """The events of a run whose end alone was stored count as well."""
        wait(store.append_events([an_event(1)]))
        wait(store.finish_turn(an_end(events=(an_event(2), an_event(3)))))

        assert apply(log_bytes=EVENT_BYTES) == (0, 2)
        assert wait(store.event_span("run-1")) == EventSpan("epoch-1", 3, 3)

    def test_an_event_that_is_larger_than_the_limit(
        self, store: IStore, wait: Wait, apply: Callable[..., Any]
    ) -> None:
        """A single event beyond every bound is removed by itself."""
        wait(store.accept_turn(a_run(), setting(), None))
        large = an_event(1, data=b"x" * 3_000_000)
        wait(store.finish_turn(an_end(events=(large, an_event(2)))))

        assert apply(log_bytes=EVENT_BYTES) == (0, 1)
        assert wait(store.event_span("run-1")) == EventSpan("epoch-1", 2, 2)

    def test_many_runs_and_long_logs(
        self, store: IStore, wait: Wait, log_run: Callable[..., None], apply: Callable[..., Any]
    ) -> None:
        """More than one step or pass can take is removed all the same, and nothing else."""
        for number in range(300):
            log_run(f"old-{number}", ended_at_ms=NOW - 1)
        log_run("long", events=1203, ended_at_ms=NOW - 1)
        log_run("young")

        first = wait(store.apply_retention(Retention(ended_before_ms=NOW)))
        runs, events = apply(ended_before_ms=NOW)

        assert 0 < first.runs < 301
        assert first.more
        assert (first.runs + runs, first.events + events) == (301, 1503)
        assert self.kept(store, wait, "old-0", "old-299", "long", "young") == ["young"]

    def test_forgotten_run_can_come_again(
        self, store: IStore, wait: Wait, log_run: Callable[..., None], apply: Callable[..., Any]
    ) -> None:
        """The id of a forgotten run is free, and its log begins anew."""
        log_run("a", events=2)
        apply(runs_per_session=0)

        log_run("a", events=1, ended_at_ms=None)

        assert wait(store.get_run("a")).state is RunState.ACCEPTED
        assert wait(store.event_span("a")) == EventSpan("epoch-1", 1, 1)
