"""Somebody changes a session between the look at it and the change: the look does not count."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from gateway.errors import BackendError
from gateway.testing import result_of
from tests.app.harness import Client, Gate

KEY = "agent:main:a"
CHANGED = {"code": "INVALID_REQUEST", "message": "session changed"}


@pytest.fixture
def client(gate: Gate) -> Client:
    """Return an admin's client, with a session to change."""
    client = gate.client(4)
    client.ok("sessions.create", {"key": KEY, "label": "kept"})
    return client


def entry(client: Client) -> Any:
    """Return the session as it is stored."""
    return result_of(Deferred.fromCoroutine(client.gate.services.sessions.get(KEY)))


@pytest.mark.parametrize("method", ["sessions.reset", "sessions.delete"])
def test_a_session_that_was_renewed_meanwhile(client: Client, method: str) -> None:
    """Who names the session he knew does not reset or delete the one that has taken its place."""
    gate = client.gate
    known = entry(client).session_id
    gate.store.hanging |= {"update_session", "delete_session"}
    other = Deferred.fromCoroutine(gate.services.sessions.reset(KEY))
    call = client.call(method, {"key": KEY, "expectedSessionId": known})
    gate.store.release()

    renewed = result_of(other)
    assert renewed.session_id != known
    assert CHANGED.items() <= call.error.items()
    assert entry(client) == renewed


def test_a_session_that_is_no_longer_archived(client: Client) -> None:
    """Tidying up spares a session that somebody took out of the archive meanwhile."""
    gate = client.gate
    client.ok("sessions.patch", {"key": KEY, "archived": True})
    gate.store.hanging |= {"update_session", "delete_session"}
    back = client.call("sessions.patch", {"key": KEY, "archived": False})
    call = client.call("sessions.delete", {"key": KEY, "archivedOnly": True})
    gate.store.release()

    assert back.payload["ok"]
    assert call.error["message"] == "session is not archived"
    assert entry(client).label == "kept"


def test_a_run_stopped_by_the_deletion(client: Client) -> None:
    """That its own run ends by the deletion does not count as a change of the session."""
    client.send("hello", key=KEY)
    client.gate.clock.advance(1)
    known = entry(client)

    deleted = client.ok(
        "sessions.delete", {"key": KEY, "expectedSessionUpdatedAt": known.updated_at_ms}
    )

    assert deleted["deleted"] is True
    assert client.ends() == (["aborted"], ["end"])


def test_a_session_is_deleted_once(client: Client) -> None:
    """Two deletions at once: one of them found it, and it is announced once."""
    gate = client.gate
    client.ok("sessions.subscribe")
    gate.store.hanging |= {"delete_session"}
    calls = [client.call("sessions.delete", {"key": KEY}) for _ in range(2)]
    gate.store.release()

    assert [call.payload["deleted"] for call in calls] == [True, False]
    reasons = [event["reason"] for event in client.events("sessions.changed")]
    assert reasons == ["delete"]


def test_a_worker_that_dies_frees_its_session(gate: Gate) -> None:
    """The run of an agent that dies ends at once, and the next message of its session goes."""
    client = gate.client()
    client.send("hello")
    client.send("again", run="r2")
    gate.live("r1").done.errback(BackendError("the worker died"))

    assert client.ends("r1") == (["error"], ["error"])
    assert gate.backend.started == ["r1", "r2"]
    gate.live("r2").sink.text("back")
    gate.live("r2").end()
    assert gate.messages()[-2:] == [("user", "again"), ("assistant", "back")]


def test_a_client_that_vanishes_frees_its_session(gate: Gate) -> None:
    """A run outlives its client; another client's message is taken, and can stop what goes."""
    first, second = gate.client(), gate.client()
    first.send("hello")
    first.leave()

    assert second.send("mine", run="r2").payload["status"] == "started"
    assert second.ok("chat.abort", {"sessionKey": "main", "runId": "r1"})["aborted"]
    assert gate.backend.started == ["r1", "r2"]
