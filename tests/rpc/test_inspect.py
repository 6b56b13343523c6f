"""runs.list and runs.describe: what goes on, what is stored, and what is told when the store fails."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from twisted.internet.defer import Deferred
from zope.interface import directlyProvides

from gateway.client.methods import RunInfo
from gateway.errors import BackendError, StoreError
from gateway.interfaces import IAgentBackend, IWorkerBackend
from gateway.model import RunState
from gateway.rpc.inspect import RunsListParams
from tests.app.harness import READ, Client, Gate


@pytest.fixture(params=[3, 4])
def client(request: pytest.FixtureRequest, gate: Gate) -> Client:
    """A reader's client of either version, beside whom an admin sends."""
    return gate.client(request.param, scopes=READ)


@pytest.fixture
def sender(gate: Gate) -> Client:
    return gate.client()


def listed(client: Client, **params: Any) -> list[tuple[str, str]]:
    """Return the runs of a list as (id, state)."""
    rows = client.ok("runs.list", params)["runs"]
    return [(row.run_id, row.state) for row in (msgspec.convert(each, RunInfo) for each in rows)]


def described(client: Client, run_id: str) -> dict[str, Any]:
    row: dict[str, Any] = client.ok("runs.describe", {"runId": run_id})["run"]
    assert msgspec.convert(row, RunInfo).run_id == run_id
    return row


def test_a_run_that_goes(gate: Gate, client: Client, sender: Client) -> None:
    """A run that goes on is told with its agent, its model, its times and who started it."""
    sender.send("hello")
    gate.clock.advance(1.5)
    gate.live().sink.text("12345")

    row = described(client, "r1")
    accepted = gate.clock.now_ms() - 1500
    assert row == {
        "runId": "r1",
        "state": "running",
        "sessionKey": "agent:main:main",
        "sessionId": row["sessionId"],
        "agentId": "main",
        "origin": "chat",
        "epoch": gate.runs.epoch,
        "lastSeq": row["lastSeq"],
        "acceptedAtMs": accepted,
        "startedAtMs": accepted,
        "queuedMs": 0,
        "runMs": 1500,
        "backend": "test",
        "model": "fake/echo-1",
        "queuePosition": 0,
        "connId": sender.connection.conn_id,
        "live": True,
        "textChars": 5,
    }
    gate.live().end()


def test_runs_that_wait_for_their_turn(gate: Gate, client: Client, sender: Client) -> None:
    """A run behind others of its session says how many, and how long it waits already."""
    for number in range(3):
        sender.send("hello", run=f"r{number}")
    gate.clock.advance(2)

    rows = client.ok("runs.list", {})["runs"]
    places = {row["runId"]: (row["state"], row["queuePosition"], row["queuedMs"]) for row in rows}
    assert places == {
        "r0": ("running", 0, 0),
        "r1": ("accepted", 1, 2000),
        "r2": ("accepted", 2, 2000),
    }
    assert "runMs" not in described(client, "r2")
    sender.call("chat.abort", {"sessionKey": "main"})


def test_a_run_that_ended(gate: Gate, client: Client, sender: Client) -> None:
    """A run that ended is told from the store, with how long it waited and went, and its error."""
    sender.send("hello")
    gate.clock.advance(0.75)
    gate.live().done.errback(BackendError("401 bad key"))
    gate.clock.advance(60)

    row = described(client, "r1")
    assert (row["state"], row["error"], row["live"]) == ("failed", "401 bad key", False)
    assert (row["queuedMs"], row["runMs"]) == (0, 750)
    assert row["endedAtMs"] == row["startedAtMs"] + 750
    assert (row["backend"], row["model"]) == ("test", "fake/echo-1")
    assert not {"queuePosition", "worker", "connId", "evictedThrough"} & row.keys()


def test_a_run_that_was_aborted_before_its_turn(gate: Gate, client: Client, sender: Client) -> None:
    """A run that never began has waited all its time."""
    sender.send("hello", run="r1")
    sender.send("hello", run="r2")
    gate.clock.advance(3)
    sender.ok("chat.abort", {"sessionKey": "main", "runId": "r2"})

    row = described(client, "r2")
    assert (row["state"], row["stopReason"], row["queuedMs"]) == ("aborted", "rpc", 3000)
    assert "runMs" not in row
    gate.live().end()


def test_runs_are_listed_newest_first(gate: Gate, client: Client, sender: Client) -> None:
    """Runs of memory and store are one list, by when they were accepted; each is there once."""
    for number in range(3):
        sender.send("hello", run=f"ended{number}")
        gate.live(f"ended{number}").end()
        gate.clock.advance(1)
    sender.send("hello", run="goes")
    gate.clock.advance(1)
    sender.send("hello", key="other", run="elsewhere")

    ended = [(f"ended{number}", "done") for number in (2, 1, 0)]
    assert listed(client) == [("elsewhere", "running"), ("goes", "running"), *ended]
    assert listed(client, limit=3) == [("elsewhere", "running"), ("goes", "running"), ended[0]]
    assert listed(client, sessionKey="other") == [("elsewhere", "running")]
    assert listed(client, sessionKey="main", state="done") == ended
    assert listed(client, state="running", limit=1) == [("elsewhere", "running")]
    assert listed(client, state="accepted") == []
    gate.live("goes").end()
    gate.live("elsewhere").end()


def test_a_state_is_what_memory_says(gate: Gate, client: Client, sender: Client) -> None:
    """A run that the store still has as accepted is found among those that run, and there only."""
    sender.send("hello")

    assert listed(client, state="running") == [("r1", "running")]
    assert listed(client, state="accepted") == []
    gate.live().end()


def test_a_run_that_ends_while_the_store_is_asked(
    gate: Gate, client: Client, sender: Client
) -> None:
    """A run that ends while the list is read is told as it ended."""
    sender.send("hello")
    gate.store.hanging.add("runs_of")
    call = client.call("runs.list", {})
    gate.live().end()
    gate.store.release()

    (row,) = call.payload["runs"]
    assert (row["runId"], row["state"]) == ("r1", "done")
    assert "queuePosition" not in row


def test_what_goes_on_is_told_without_the_store(gate: Gate, client: Client, sender: Client) -> None:
    """While the store fails or hangs, the runs of memory are told, and that the others are missing."""
    sender.send("hello")
    gate.store.failing["runs_of"] = StoreError("disk full")
    gate.store.failing["get_run"] = StoreError("disk full")

    answer = client.ok("runs.list", {})
    assert [row["runId"] for row in answer["runs"]] == ["r1"]
    assert answer["incomplete"] == "the store failed: disk full"
    assert described(client, "r1")["state"] == "running"

    del gate.store.failing["runs_of"]
    gate.store.hanging.add("runs_of")
    call = client.call("runs.list", {})
    gate.clock.advance(1)
    assert call.payload["incomplete"] == "the store does not answer"
    assert [row["runId"] for row in call.payload["runs"]] == ["r1"]
    gate.store.release()
    gate.store.failing.clear()
    gate.live().end()


def test_an_end_that_waits_for_the_store(
    gate: Gate,
    client: Client,
    sender: Client,
    expected_failures: list[type[BaseException]],
) -> None:
    """A run that has ended is told as ended, although the store did not take its end yet."""
    expected_failures.append(StoreError)
    sender.send("hello")
    sender.send("hello", "other", "r2")
    gate.store.failing["finish_turn"] = StoreError("disk full")
    gate.live("r1").end()
    gate.live("r2").end()
    gate.clock.advance(1)
    stored = gate.store._inner.get_run("r1").result.state
    gate.store.failing |= {"get_run": StoreError("disk"), "runs_of": StoreError("disk")}
    row, without_store = described(client, "r1"), listed(client, sessionKey="main")
    gate.store.failing = {"finish_turn": StoreError("disk full")}

    assert stored is RunState.RUNNING
    assert (row["state"], row["live"], row["stopReason"]) == ("done", False, "stop")
    assert without_store == listed(client, sessionKey="main") == [("r1", "done")]
    assert sorted(listed(client, state="done")) == [("r1", "done"), ("r2", "done")]
    assert listed(client, state="running") == []
    gate.store.failing.clear()
    gate.clock.advance(5)


def test_a_run_of_another_process(gate: Gate, client: Client, sender: Client) -> None:
    """Of a run that began before a restart neither model nor how long it went on is guessed."""
    sender.send("hello")
    later = gate.restarted()
    reader = later.client(client.connection.protocol, scopes=READ)

    row = described(reader, "r1")
    assert (row["state"], row["live"]) == ("running", False)
    assert not {"backend", "model", "runMs", "queuePosition"} & row.keys()
    gate.live().end()


@pytest.mark.parametrize("run_id", ["nope", "x" * 1024])
def test_an_unknown_run(client: Client, run_id: str) -> None:
    """A run that nobody knows is refused by its id."""
    error = client.refused("runs.describe", {"runId": run_id})

    assert error == {
        "code": "INVALID_REQUEST",
        "message": f'no run has the id "{run_id[:64]}"',
        "details": {"reason": "unknown-run"},
    }


def test_params_that_do_not_fit(client: Client) -> None:
    """States, limits and ids are checked, and the error names the place."""
    assert "at /state" in client.refused("runs.list", {"state": "lost"})["message"]
    assert "at /limit" in client.refused("runs.list", {"limit": 0})["message"]
    assert "at /limit" in client.refused("runs.list", {"limit": 1001})["message"]
    assert "malformed" in client.refused("runs.list", {"sessionKey": "agent::"})["message"]
    assert "1024" in client.refused("runs.describe", {"runId": "x" * 1025})["message"]
    assert "runId" in client.refused("runs.describe", {})["message"]


def test_connections_are_for_admins(client: Client) -> None:
    """Who may only read learns nothing of connections."""
    for method in ("connections.list", "connections.closed"):
        assert "operator.admin" in client.refused(method, {})["message"]


def test_every_state_can_be_asked_for() -> None:
    """The states of the params are those that runs have."""
    hint = get_type_hints(RunsListParams)["state"]

    assert {name for part in get_args(hint) for name in get_args(part)} == set(RunState)


# -- workers


def tells(gate: Gate, told: Any) -> None:
    """Let the backend tell of its worker: a value, or an exception."""

    def describe_worker(run_id: str) -> Any:
        if isinstance(told, Exception):
            raise told
        return told

    gate.backend.describe_worker = describe_worker
    directlyProvides(gate.backend, IAgentBackend, IWorkerBackend)


def test_the_worker_of_a_run(gate: Gate, client: Client, sender: Client) -> None:
    """What a backend tells of its process is told while the run goes on; texts are cut, the rest left out."""
    sender.send("hello")
    assert "worker" not in described(client, "r1")
    odd = {"why": "\ud800" + "w" * 1000, "object": object(), 5: "number"}
    tells(gate, {"pid": 4711, "state": "ready", "share": 0.5, **odd})

    worker = described(client, "r1")["worker"]
    assert worker == {"pid": 4711, "state": "ready", "share": 0.5, "why": "\ufffd" + "w" * 299}
    assert "worker" not in client.ok("runs.list", {})["runs"][0]
    gate.live().end()


def test_a_backend_that_can_not_tell(
    gate: Gate, client: Client, sender: Client, expected_failures: list[type[BaseException]]
) -> None:
    """A backend that raises or gives nonsense leaves the run without a worker; the error is logged."""
    sender.send("hello")
    expected_failures.append(ZeroDivisionError)
    tells(gate, ZeroDivisionError("boom"))
    assert "worker" not in described(client, "r1")
    tells(gate, Deferred())
    assert "worker" not in described(client, "r1")
    gate.live().end()


def test_a_run_of_an_agent_that_is_gone(gate: Gate, client: Client, sender: Client) -> None:
    """A run whose agent is not configured any more is told without one."""
    sender.send("hello")
    gate.services.agents._agents.clear()

    row = described(client, "r1")
    assert row["agentId"] == "main"
    assert not {"backend", "model", "worker"} & row.keys()
    gate.live().end()


def test_a_run_whose_end_is_not_stored(
    gate: Gate,
    client: Client,
    sender: Client,
    expected_failures: list[type[BaseException]],
) -> None:
    """A run that ended while the store fails is told as it ended, though its record says that it goes."""
    expected_failures.append(StoreError)
    sender.send("hello")
    gate.store.failing["finish_turn"] = StoreError("disk full")
    gate.live().end()

    by_state = [listed(client, state=state) for state in ("running", "done")]
    by_session = [listed(client, sessionKey=key) for key in ("main", "other")]

    assert by_state == [[], [("r1", "done")]]
    assert by_session == [[("r1", "done")], []]
    assert described(client, "r1")["state"] == "done"
    gate.store.failing.clear()
    gate.clock.advance(5)
    assert listed(client) == [("r1", "done")]
