"""``runs.*`` and ``connection.resume``."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.app import follow
from tests.app.harness import READ, Gate
from tests.app.runlogs import after, begin, finish, say, seqs, settle, told


def test_resume(gate: Gate) -> None:
    """One call follows runs from their positions and watches sessions, by their canonical keys."""
    begin(gate)
    begin(gate, "r2", "other")
    say(gate, "a ", "b ")
    client = gate.client(scopes=READ)
    answer = client.ok(
        "connection.resume",
        {
            "runs": [{"runId": "r1", **after(gate, 2)}, {"runId": "r2"}, {"runId": "nobody"}],
            "sessions": ["main"],
        },
    )
    say(gate, "c")
    gate.client().send("more", run="r3")

    first, second, third = answer["runs"]
    assert (first["runId"], seqs(first["events"])) == ("r1", [3])
    assert (second["runId"], seqs(second["events"])) == ("r2", [1])
    assert third == {"runId": "nobody", "status": "unknown", "events": []}
    assert answer["sessions"] == ["agent:main:main"]
    assert told(client) == [4]
    assert gate.services.hub.watches(client.connection.conn_id, "agent:main:main")
    assert gate.client().ok("connection.resume") == {"runs": [], "sessions": []}


def test_events_come_after_the_answer(gate: Gate) -> None:
    """What happens to one run while another is read for the answer comes after it, and is not missing."""
    client = begin(gate)
    begin(gate, "r2", "other")
    finish(gate)
    gate.store.hanging.add("list_events")
    wishes = [{"runId": "r2"}, {"runId": "r1"}]
    client.ok("runs.follow", {"runId": "r2"})
    call = client.call("connection.resume", {"runs": wishes})
    say(gate, "meanwhile", run="r2")
    before = told(client, "r2")
    gate.store.release()
    settle(gate)

    assert before == []
    assert [run["next"]["seq"] for run in call.payload["runs"]] == [1, 2]
    assert told(client, "r2") == [2]


def test_resume_is_bounded_as_a_whole(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """All answers together stay below the bound; snapshots and events beyond it come afterwards."""
    monkeypatch.setattr(follow, "ANSWER_BYTES", 3000)
    client = begin(gate)
    for name in ("r2", "r3", "r4"):
        begin(gate, name, name)
    for name in ("r1", "r2", "r3", "r4"):
        say(gate, *("é" * 1000 for _ in range(3)), run=name)
    old = {"after": {"epoch": "old", "seq": 7}}
    wishes = [{"runId": "r1"}, {"runId": "r2"}, {"runId": "r3", **old}]
    wishes.append({"runId": "r4", **after(gate, 9)})
    one, two, three, four = client.ok("connection.resume", {"runs": wishes})["runs"]
    settle(gate)
    asked = client.ok("runs.follow", {"runId": "r3", **old})

    assert seqs(one["events"]) == [1, 2]
    assert (two["status"], seqs(two["events"])) == ("replay", [1])
    assert (three["status"], three["next"]) == ("replay", old["after"])
    assert four["status"] == "gap", "nothing would tell it later"
    assert told(client, "r1") == [3, 4]
    assert told(client, "r2") == [2, 3, 4]
    assert told(client, "r3") == [4], "of another epoch: the client asks again"
    assert asked["snapshot"]["text"] == "é" * 3000


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("runs.read", {"runId": ""}),
        ("runs.read", {"runId": "x" * 2000}),
        ("runs.read", {"runId": "r", "limit": 0}),
        ("runs.read", {"runId": "r", "limit": 1001}),
        ("runs.follow", {"runId": "r", "after": {"epoch": "e", "seq": -1}}),
        ("runs.follow", {"runId": "r", "after": {"epoch": "e"}}),
        ("runs.unfollow", {}),
        ("connection.resume", {"sessions": ["  "]}),
        ("connection.resume", {"runs": [{"runId": "r"}] * 201}),
    ],
)
def test_bad_params(gate: Gate, method: str, params: dict[str, Any]) -> None:
    """What makes no sense is refused."""
    assert gate.client().refused(method, params)["code"] == "INVALID_REQUEST"


def test_who_may_read(gate: Gate) -> None:
    """Reading takes operator.read; a device may not."""
    begin(gate)
    pairing = gate.client(scopes=("operator.pairing",))
    for method in ("runs.read", "runs.follow", "runs.unfollow", "connection.resume"):
        params = {} if method == "connection.resume" else {"runId": "r1"}
        assert pairing.refused(method, params)["message"] == "missing scope: operator.read"
        assert gate.node().refused(method, params)["code"] == "INVALID_REQUEST"
        assert gate.client(3, scopes=READ).call(method, params).frame["ok"]


def test_openclaws_clients_see_nothing_new(gate: Gate) -> None:
    """Who does not follow gets no run.event."""
    client = begin(gate)
    say(gate, "a")
    finish(gate)

    assert client.events("run.event") == []
    assert client.events("chat")


def test_answers_are_counted(gate: Gate) -> None:
    """How positions were answered is a metric."""
    client = begin(gate)
    client.ok("runs.read", {"runId": "r1"})
    client.ok("runs.read", {"runId": "nobody"})

    text = gate.wiring.metrics.render().decode()
    assert 'gateway_log_reads_total{status="replay"} 1.0' in text
    assert 'gateway_log_reads_total{status="unknown"} 1.0' in text
