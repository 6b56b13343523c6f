"""The part of the contract about what runs use, and about summaries; see :mod:`contract`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gateway.errors import VersionConflict
from gateway.interfaces import IStore
from gateway.model import (
    DaySpan,
    LatencySum,
    ModelUsage,
    Retention,
    RetentionPass,
    UsageQuery,
    UsageSum,
)

from .harness import KEY, NOW, a_message, an_end, an_ended_run, setting

Wait = Callable[[Any], Any]

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
OTHER = "agent:ops:main"
SMALL = ModelUsage(provider="p", model="small", input_tokens=10, output_tokens=1, cost_usd=0.1)
LARGE = ModelUsage(
    provider="p",
    model="large",
    input_tokens=100,
    output_tokens=20,
    cache_read_tokens=30,
    cache_write_tokens=4,
    cost_usd=0.2,
)
FREE = ModelUsage(provider="local", model="small", input_tokens=7, output_tokens=7)


def end_run(
    store: IStore, wait: Wait, run_id: str, at_ms: int, *used: ModelUsage, **run: Any
) -> None:
    """Store the end of a run that took as long as its id is long, in seconds."""
    started = at_ms - 1000 * len(run_id)
    record = an_ended_run(run_id, **{"ended_at_ms": at_ms, "started_at_ms": started, **run})
    wait(store.finish_turn(an_end(run=record, usage=used)))


def query(**fields: Any) -> UsageQuery:
    """Return a query for two days."""
    return UsageQuery(**{"since_ms": NOW, "until_ms": NOW + 2 * DAY_MS, **fields})


class UsageContract:
    """What runs used, and what is left of it."""

    def test_one_sum(self, store: IStore, wait: Wait) -> None:
        """Everything in the range is added up: from its beginning, without its end."""
        for number, at_ms in enumerate((NOW - 1, NOW, NOW + 2 * DAY_MS - 1, NOW + 2 * DAY_MS)):
            end_run(store, wait, f"run-{number}", at_ms, SMALL, LARGE)

        (found,) = wait(store.sum_usage(query()))

        assert found == UsageSum(
            entries=4,
            runs=2,
            input_tokens=220,
            output_tokens=42,
            cache_read_tokens=60,
            cache_write_tokens=8,
            cost_nanousd=600_000_000,
            unpriced=0,
            first_at_ms=NOW,
            last_at_ms=NOW + 2 * DAY_MS - 1,
        )

    def test_nothing_used(self, store: IStore, wait: Wait) -> None:
        """Where nothing was used there is no sum."""
        end_run(store, wait, "run-1", NOW)

        assert wait(store.sum_usage(query())) == ()
        assert wait(store.sum_usage(query(by=("model",)))) == ()
        assert wait(store.sum_latency(query())) == ()

    def test_by_model(self, store: IStore, wait: Wait) -> None:
        """Models of one name at two providers are two; a price that is not known is counted as such."""
        end_run(store, wait, "run-1", NOW, SMALL, FREE)
        end_run(store, wait, "run-2", NOW + 1, SMALL)
        end_run(store, wait, "run-3", NOW + 2, FREE)

        found = wait(store.sum_usage(query(by=("provider", "model"))))

        assert [
            (s.provider, s.model, s.entries, s.runs, s.cost_nanousd, s.unpriced) for s in found
        ] == [("local", "small", 2, 1, 0, 2), ("p", "small", 2, 2, 200_000_000, 0)]
        assert {(s.day, s.agent_id, s.session_key, s.run_id) for s in found} == {(None,) * 4}

    def test_by_day(self, store: IStore, wait: Wait) -> None:
        """Each entry counts for its day, where days begin and however long they are."""
        days = (
            DaySpan(NOW, 0, 23 * HOUR_MS),
            DaySpan(NOW + 23 * HOUR_MS, 1, 24 * HOUR_MS),
            DaySpan(NOW + 71 * HOUR_MS, 3, 25 * HOUR_MS),
        )
        hours = (0, 22, 23, 46, 47, 70, 71, 95)
        for hour in hours:
            at_ms = NOW + hour * HOUR_MS + (HOUR_MS - 1 if hour in (22, 46, 70, 95) else 0)
            end_run(store, wait, f"run-{hour}", at_ms, SMALL)

        asked = query(by=("day",), days=days, until_ms=NOW + 96 * HOUR_MS)
        found = wait(store.sum_usage(asked))

        assert [(s.day, s.runs) for s in found] == [(3, 2), (2, 2), (1, 2), (0, 2)]

    def test_by_session_and_run(self, store: IStore, wait: Wait) -> None:
        """Usage is told apart by session, by key alone, by agent and by run; the last used come first."""
        end_run(store, wait, "a", NOW + 1, SMALL, LARGE)
        end_run(store, wait, "bb", NOW + 2, SMALL, session_id="second")
        end_run(store, wait, "c", NOW + 3, SMALL, session_key=OTHER, agent_id="ops")
        end_run(store, wait, "d", NOW + 4, SMALL, session_id="second")

        sessions = wait(store.sum_usage(query(by=("session",))))
        keys = wait(store.sum_usage(query(by=("key",))))
        agents = wait(store.sum_usage(query(by=("agent",))))
        runs = wait(store.sum_usage(query(by=("run",), session_keys=(KEY,), session_id="second")))
        last = wait(store.sum_usage(query(by=("run",), limit=2, agent_id="main")))

        id_of = f"id of {KEY}"
        assert [(s.agent_id, s.session_key, s.session_id, s.runs) for s in sessions] == [
            ("main", KEY, "second", 2),
            ("ops", OTHER, id_of, 1),
            ("main", KEY, id_of, 1),
        ]
        assert [(s.session_key, s.session_id, s.runs) for s in keys] == [
            (KEY, None, 3),
            (OTHER, None, 1),
        ]
        assert [(s.agent_id, s.entries) for s in agents] == [("main", 4), ("ops", 1)]
        assert [s.run_id for s in runs] == ["d", "bb"]
        assert [s.run_id for s in last] == ["d", "bb"]
        assert wait(store.sum_usage(query(by=("run",), limit=0))) == ()

    def test_latency(self, store: IStore, wait: Wait) -> None:
        """Runs are measured once, whatever models they used; one that never started is not measured."""
        days = (DaySpan(NOW, 0, DAY_MS),)
        for number in range(1, 21):
            record = {"started_at_ms": NOW + 1000 - number}
            end_run(store, wait, f"r{number}", NOW + 1000, SMALL, LARGE, **record)
        end_run(store, wait, "next day", NOW + DAY_MS, SMALL, started_at_ms=NOW + DAY_MS + 5)
        end_run(store, wait, "unstarted", NOW + DAY_MS, SMALL, started_at_ms=None)

        (whole,) = wait(store.sum_latency(query()))
        daily = wait(store.sum_latency(query(by=("day",), days=days)))

        assert whole == LatencySum(runs=21, total_ms=210, p95_ms=19, min_ms=0, max_ms=20)
        assert daily == (
            LatencySum(day=0, runs=20, total_ms=210, p95_ms=19, min_ms=1, max_ms=20),
            LatencySum(day=1, runs=1, total_ms=0, p95_ms=0, min_ms=0, max_ms=0),
        )

    def test_usage_outlives_its_run(self, store: IStore, wait: Wait) -> None:
        """A run that was forgotten leaves its usage behind, and a new run may have its id."""
        end_run(store, wait, "run-1", NOW, SMALL)
        assert wait(store.prune_runs(NOW + 1, 9)) == 1
        end_run(store, wait, "run-1", NOW + 1, SMALL)
        with pytest.raises(VersionConflict):
            end_run(store, wait, "run-1", NOW + 2, SMALL)

        (found,) = wait(store.sum_usage(query()))

        assert found.runs == 2

    def test_old_usage_is_forgotten(self, store: IStore, wait: Wait) -> None:
        """A policy may forget usage by its age, after the runs; the rest stays."""
        for number in range(3):
            end_run(store, wait, f"run-{number}", NOW + number, SMALL, LARGE)
        policy = Retention(usage_before_ms=NOW + 2)

        first = wait(store.apply_retention(policy))
        again = wait(store.apply_retention(policy))

        assert first == RetentionPass(runs=0, events=0, usage=4, more=True)
        assert again == RetentionPass(runs=0, events=0, usage=0, more=False)
        (found,) = wait(store.sum_usage(query(by=("run",))))
        assert (found.run_id, found.entries) == ("run-2", 2)
        assert wait(store.get_run("run-0")) is not None

    def test_context_tokens_of_a_session(self, store: IStore, wait: Wait) -> None:
        """A session keeps what its last run said of the context, until a run says something else."""
        wait(store.update_session(KEY, setting(context_tokens=5, agent_session="kind:x")))
        wait(store.finish_turn(an_end("a", context_tokens=70)))
        wait(store.finish_turn(an_end("b")))

        session = wait(store.get_session(KEY))

        assert (session.context_tokens, session.agent_session) == (70, "kind:x")

    def test_newest_summary(self, store: IStore, wait: Wait) -> None:
        """It is the last message of the system that is a compaction; none of another session's."""
        kind = {"kind": "compaction"}
        messages = [
            a_message("first", role="system", meta=kind),
            a_message("not by role", role="assistant", meta=kind),
            a_message("second", role="system", meta=kind),
            a_message("a note", role="system"),
            a_message("hello"),
        ]
        wait(store.append_messages("s", messages))

        found = wait(store.newest_summary("s"))

        assert (found.seq, found.message_id) == (3, "m second")
        assert wait(store.newest_summary("another")) is None
