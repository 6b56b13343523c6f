"""What operators ask of the gateway itself, and what they report."""

from __future__ import annotations

import pytest

from tests.app.harness import READ, WRITE, Client, Gate


@pytest.fixture(params=[3, 4])
def client(request: pytest.FixtureRequest, gate: Gate) -> Client:
    """An admin's client of either version."""
    return gate.client(request.param)


def test_status_by_version_and_scope(gate: Gate) -> None:
    """Version 4 is told more of the process, its number only to admins."""
    gate.client().send("hello")
    clients = (gate.client(3), gate.client(4, scopes=READ), gate.client(4))
    three, reader, admin = (client.ok("status") for client in clients)

    assert not {"runtimeVersion", "tasks", "connections", "pid"} & set(three)
    assert reader["tasks"] == {"total": 1, "active": 1}
    assert "pid" not in reader
    assert admin["pid"] == 1


def test_what_is_reported_of_somebody(gate: Gate, client: Client) -> None:
    """A report is shown with what it says, nothing empty, and nothing long."""
    client.ok(
        "system-event",
        {
            "text": " working   hard ",
            "deviceId": "D1",
            "host": "h" * 1000,
            "ip": "",
            "roles": [],
            "tags": ["t" * 1000] * 100,
            "lastInputSeconds": 0,
            "whatever": {"a": 1},
        },
    )

    (entry,) = client.ok("system-presence")[1:]
    assert entry["text"] == "working hard"
    assert (entry["deviceId"], entry["lastInputSeconds"]) == ("D1", 0)
    assert not {"ip", "roles", "whatever"} & set(entry)
    assert len(entry["host"]) == 256
    assert (len(entry["tags"]), len(entry["tags"][0])) == (64, 256)
    client.ok("system-event", {"text": "gone", "deviceId": "d1"})
    assert [entry["text"] for entry in client.ok("system-presence")[1:]] == ["gone"]


def test_a_number_that_would_poison_the_list(gate: Gate, client: Client) -> None:
    """What can't be shown to everybody is refused, and the list stays as it was."""
    error = client.refused("system-event", {"text": "x", "lastInputSeconds": 2**64})

    assert "at /lastInputSeconds" in error["message"]
    assert len(client.ok("system-presence")) == 1


def test_who_may_switch_and_report(gate: Gate) -> None:
    """Reports and switches are for admins."""
    client = gate.client(scopes=WRITE)

    for method, params in (("system-event", {"text": "x"}), ("set-heartbeats", {"enabled": True})):
        assert client.refused(method, params)["code"] == "FORBIDDEN"


def test_the_configuration(gate: Gate, client: Client) -> None:
    """The configuration is shown as it was read, with the warnings of reading it."""
    view = gate.services.operations.config
    object.__setattr__(view, "warnings", ("auth.token: a bare string",))

    config = client.ok("config.get", {})

    assert config["path"] == "/nonexistent/gateway.toml"
    assert config["warnings"] == [{"path": "", "message": "auth.token: a bare string"}]
    assert config["parsed"] == config["config"] == config["resolved"] == {}


def test_what_is_told_to_the_agent(gate: Gate, client: Client) -> None:
    """What is reported is told to the main agent; of a device's beacons only those with news in them."""
    beacon = {"text": "Node: mac", "deviceId": "d1", "host": "mac", "reason": "periodic"}
    for params in (beacon, beacon, {**beacon, "host": "mac2", "text": "Node: mac2"}):
        client.ok("system-event", params)
    for _ in range(2):
        client.ok("system-event", {"text": "the door is open", "deviceId": "d1", "host": "mac2"})
        client.send("hello", run=f"r{len(gate.backend.started)}")
        gate.live(gate.backend.started[-1]).end()

    first, second = [live.request.text for live in gate.backend.live.values()]
    assert first.endswith("- Node: mac\n- Node: mac2\n- the door is open\n\nhello")
    assert second.endswith("user.]\n- the door is open\n\nhello")
