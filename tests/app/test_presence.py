"""Who is here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from gateway.app.presence import PUBLISH_INTERVAL_S, Presence, PresenceEntry
from gateway.model import Role
from gateway.testing import FakeClock
from tests.app.harness import REMOTE, Gate, assert_fits, make_caller

TTL_S = 300


@pytest.fixture
def presence(gate: Gate) -> Presence:
    """Return the presence list of a gateway in memory."""
    return gate.services.presence


@pytest.fixture
def clock(gate: Gate) -> FakeClock:
    """Return its clock."""
    return gate.clock


def hosts(presence: Presence) -> list[tuple[str | None, str | None]]:
    """Return host and reason of every entry but the gateway's own."""
    return [(entry.host, entry.reason) for entry in presence.list()[1:]]


def test_the_gateways_own_entry(presence: Presence, clock: FakeClock) -> None:
    """The gateway is first in its list, always fresh."""
    clock.advance(1000)

    (own,) = presence.list()
    assert own.ts == clock.now_ms()
    assert (own.host, own.mode, own.reason) == ("test-host", "gateway", "self")
    assert own.text is not None
    assert own.text.startswith("Gateway: test-host · app ")


def test_clients_for_one_call(presence: Presence) -> None:
    """Clients that come for one call are not listed, and change no version."""
    caller = make_caller(mode="cli")

    assert not presence.joined(caller)
    assert not presence.left(caller)
    assert (hosts(presence), presence.version, len(presence)) == ([], 1, 0)


@pytest.mark.parametrize("mode", ["backend", "probe"])
def test_programs(gate: Gate, presence: Presence, mode: str) -> None:
    """Programs are presence for version 3 only; nobody is told that they come, and only it that they go."""
    three, four = gate.client(3), gate.client(4)
    caller = make_caller("c1", mode=mode)
    told = presence.joined(caller)
    listed = [[entry.host for entry in presence.list(version)[1:]] for version in (3, 4)]
    assert presence.left(caller)
    presence.publish()

    assert not told
    assert listed == [["test"], []]
    assert four.events("presence") == []
    ((_, entry),) = [payload["presence"] for payload in three.events("presence")]
    assert (entry["host"], entry["reason"]) == ("test", "disconnect")


def test_an_entry(presence: Presence) -> None:
    """A client is listed with what it says of itself, and its address if it is not of this machine."""
    presence.joined(
        make_caller(
            "c1",
            peer=REMOTE,
            client="openclaw-ios",
            display_name="Ann's phone",
            device_family="iPhone",
            model_identifier="iPhone99,1",
            instance_id="i1",
        )
    )
    presence.joined(make_caller("c2", device_id="d2", instance_id="i2", scopes=()))

    two, one = presence.list()[1:]
    assert one == PresenceEntry(
        ts=one.ts,
        text="Client: Ann's phone · mode ui",
        host="Ann's phone",
        ip="192.0.2.7",
        version="1.0",
        platform="linux",
        device_family="iPhone",
        model_identifier="iPhone99,1",
        mode="ui",
        reason="connect",
        roles=("operator",),
        scopes=("operator.admin",),
        instance_id="i1",
        client_id="openclaw-ios",
        online_since=one.ts,
    )
    assert (two.ip, two.device_id, two.instance_id, two.scopes) == (None, "d2", "d2", None)
    for version in (3, 4):
        for entry in msgspec.json.decode(msgspec.json.encode(presence.list(version))):
            assert_fits(version, "PresenceEntry", entry)


def test_versions(presence: Presence, clock: FakeClock) -> None:
    """The version rises by one with every change, expiry included."""
    caller = make_caller()
    versions = [presence.version]
    presence.joined(caller)
    versions.append(presence.version)
    presence.left(caller)
    versions.append(presence.version)
    presence.left(caller)
    versions.append(presence.version)
    clock.advance(TTL_S + 1)
    presence.list()
    versions.append(presence.version)

    assert versions == [1, 2, 3, 3, 4]


def test_who_leaves_is_seen_to_have_left(presence: Presence, clock: FakeClock) -> None:
    """A client that is gone stays listed as such for five minutes; a connected one stays."""
    gone, here = make_caller("gone", display_name="gone"), make_caller("here", display_name="here")
    presence.joined(gone)
    presence.joined(here)
    clock.advance(1000)
    presence.left(gone)
    at_once = hosts(presence)
    clock.advance(TTL_S)

    assert at_once == [("gone", "disconnect"), ("here", "connect")]
    assert hosts(presence) == [("here", "connect")]


def test_connections_of_one_device(presence: Presence) -> None:
    """An operator's connections are listed each by itself; a node has one place."""
    for conn_id in ("c1", "c2"):
        presence.joined(make_caller(conn_id, device_id="d1"))
    operators = len(hosts(presence))
    nodes = [
        make_caller(conn_id, role=Role.NODE, scopes=(), device_id="N1", mode="node")
        for conn_id in ("n1", "n2")
    ]
    for node in nodes:
        presence.joined(node)
    left_older = presence.left(nodes[0])

    assert operators == 2
    assert len(hosts(presence)) == 3
    assert presence.list()[1].text == "Node: test · mode node"
    assert not left_older
    assert presence.left(nodes[1])
    assert hosts(presence)[0] == ("test", "disconnect")


def test_a_node_without_a_device(presence: Presence) -> None:
    """A node without a device identity has its place by its connection."""
    presence.joined(make_caller("n1", role=Role.NODE, scopes=(), mode="node"))
    presence.joined(make_caller("n2", role=Role.NODE, scopes=(), mode="node"))

    assert len(hosts(presence)) == 2


def test_at_most_200(presence: Presence) -> None:
    """Of 200 entries the oldest goes for a new one, a connected one only when all are connected."""
    for number in range(150):
        presence.joined(make_caller(f"c{number}", display_name=f"c{number}"))
    for number in range(150):
        presence.report(PresenceEntry(ts=0, host=f"r{number}"), f"r{number}")
    listed = {host for host, _ in hosts(presence)}
    kept = {f"c{number}" for number in range(150)}

    assert len(listed) == 200
    assert kept <= listed
    assert {host for host in listed if host and host[0] == "r"} == {
        f"r{number}" for number in range(100, 150)
    }
    for number in range(150, 250):
        presence.joined(make_caller(f"c{number}", display_name=f"c{number}"))
    listed = {host for host, _ in hosts(presence)}
    assert listed == {f"c{number}" for number in range(50, 250)}
    assert not presence.left(make_caller("c0"))


def test_newest_first(presence: Presence, clock: FakeClock) -> None:
    """The list has the newest entry first, also among those of one moment."""
    for name in ("a", "b"):
        presence.joined(make_caller(name, display_name=name))
    clock.advance(1)
    presence.joined(make_caller("c", display_name="c"))

    assert [host for host, _ in hosts(presence)] == ["c", "b", "a"]


def test_reports_share_a_key_in_any_case(presence: Presence) -> None:
    """What is reported of somebody replaces what was reported before, whatever the key's case."""
    presence.report(PresenceEntry(ts=0, host="one"), "Key")
    presence.report(PresenceEntry(ts=0, host="two"), "kEY")

    assert hosts(presence) == [("two", None)]


def test_publishing(gate: Gate, presence: Presence) -> None:
    """The list is broadcast at once, and then at most once a second, the last state in any case."""
    three, four = gate.client(3), gate.client(4)
    outsider = gate.client(scopes=())
    presence.publish()
    for number in range(5):
        presence.joined(make_caller(f"c{number}"))
        presence.publish()
    at_once = len(four.events("presence"))
    presence.flush()
    presence.flush()
    gate.clock.advance(PUBLISH_INTERVAL_S)
    presence.publish()

    assert at_once == 1
    lists = [len(payload["presence"]) for payload in four.events("presence")]
    assert lists == [len(p["presence"]) for p in three.events("presence")] == [1, 6, 6]
    assert outsider.frames == []
    (frame, *_) = three.frames
    assert frame["stateVersion"] == {"presence": 1, "health": 0}
    for client in (three, four):
        for frame in client.frames:
            assert_fits(client.connection.protocol, "EventFrame", frame)
            for entry in frame["payload"]["presence"]:
                assert_fits(client.connection.protocol, "PresenceEntry", entry)


@pytest.mark.parametrize(("mode", "told"), [("ui", [3, 4]), ("probe", [3])])
def test_who_is_listed_no_longer(
    gate: Gate, presence: Presence, mode: str, told: list[int]
) -> None:
    """Those who watch are told once, with the next beat, that an entry has expired."""
    watching = {version: gate.client(version) for version in (3, 4)}
    gone = make_caller("gone", mode=mode)
    presence.joined(gone)
    presence.left(gone)
    presence.publish()
    before = {version: len(client.events("presence")) for version, client in watching.items()}
    gate.clock.advance(TTL_S + 1)
    presence.sweep(gate.clock.seconds())
    for _ in range(3):
        presence.flush()

    for version, client in watching.items():
        lists = [payload["presence"] for payload in client.events("presence")[before[version] :]]
        assert [len(entries) for entries in lists] == [1] * (version in told)


def test_the_beat_publishes_what_is_due(gates: Callable[..., Any]) -> None:
    """A change that came too soon after another is published by the beat of the gateway."""
    gate: Gate = gates()
    client = gate.client()
    (beat,) = [beat for beat in gate.wiring.beats if beat.name == "presence"]
    beat.startService()
    gate.services.presence.publish()
    gate.services.presence.publish()
    gate.clock.pump([PUBLISH_INTERVAL_S] * 5)
    beat.stopService()

    assert len(client.events("presence")) == 2


def test_where_version_3_shows_an_entry(presence: Presence) -> None:
    """Version 3 has one entry for a device, else for an instance, else for a connection."""
    who: list[dict[str, Any]] = [
        {"device_id": "D1"},
        {"device_id": "d1", "instance_id": "i9"},
        {"instance_id": "I1"},
        {"instance_id": "i1"},
        {},
        {},
    ]
    for number, facts in enumerate(who):
        presence.joined(make_caller(f"c{number}", display_name=f"h{number}", **facts))

    assert [entry.host for entry in presence.list(3)[1:]] == ["h5", "h4", "h3", "h1"]
    assert len(presence.list(4)[1:]) == 6


def test_who_is_still_here_goes_before_who_left(presence: Presence) -> None:
    """Where one connection of a device has ended and another has not, version 3 shows the device as here."""
    for number in (1, 2):
        presence.joined(make_caller(f"c{number}", device_id="d1"))
    presence.left(make_caller("c2", device_id="d1"))

    assert [entry.reason for entry in presence.list(3)[1:]] == ["connect"]
    assert [entry.reason for entry in presence.list(4)[1:]] == ["disconnect", "connect"]


def test_who_comes_back_is_not_listed_as_gone(presence: Presence) -> None:
    """A device that connects anew takes the place of its ended connections."""
    for number in range(3):
        presence.joined(make_caller(f"c{number}", device_id="d1"))
        presence.left(make_caller(f"c{number}", device_id="d1"))
    presence.joined(make_caller("c3", device_id="d1"))

    assert hosts(presence) == [("test", "connect")]


def test_a_thousand_connections_of_one_device(presence: Presence) -> None:
    """Whatever one device does, the others stay listed: 16 of its connections are, the newest."""
    others = [make_caller(f"o{n}", device_id=f"o{n}", display_name=f"o{n}") for n in range(100)]
    for other in others:
        presence.joined(other)
    for number in range(1000):
        presence.joined(make_caller(f"c{number}", device_id="d1", display_name=f"c{number}"))
    here = [host for host, _ in hosts(presence)]
    for number in range(1000):
        presence.left(make_caller(f"c{number}", device_id="d1"))
        presence.joined(make_caller(f"x{number}", device_id="d1"))
        presence.left(make_caller(f"x{number}", device_id="d1"))

    assert here == [f"c{n}" for n in range(999, 983, -1)] + [f"o{n}" for n in range(99, -1, -1)]
    assert {other.client.display_name for other in others} <= {host for host, _ in hosts(presence)}
    assert len(presence) <= 100 + 16


def test_an_address_that_floods(presence: Presence) -> None:
    """Clients without a device that all come from one address push out each other, not the rest."""
    for number in range(20):
        presence.joined(make_caller(f"o{number}", device_id=f"o{number}", display_name="other"))
        presence.left(make_caller(f"x{number}", peer=REMOTE))
    for number in range(500):
        caller = make_caller(f"c{number}", peer=REMOTE, instance_id=f"i{number}")
        presence.joined(caller)
        if number % 2:
            presence.left(caller)

    assert [host for host, _ in hosts(presence)].count("other") == 20
    assert len(presence) == 200


def test_the_last_activity(gate: Gate) -> None:
    """Who starts a run was active then; version 4 is shown that, without a broadcast."""
    presence = gate.services.presence
    here, gone = gate.client(), gate.client()
    presence.joined(here.connection.caller)
    since = gate.clock.now_ms()
    gate.clock.advance(5)
    here.send("hello")
    gone.send("hello", key="other", run="r2")
    for run in ("r1", "r2"):
        gate.live(run).sink.text("answer")
        gate.live(run).end()

    (entry,) = presence.list()[1:]
    assert (entry.online_since, entry.last_activity_at) == (since, since + 5000)
    assert here.events("presence") == []
    for version in (3, 4):
        for shown in msgspec.json.decode(msgspec.json.encode(presence.list(version))):
            assert_fits(version, "PresenceEntry", shown)


def test_what_is_news(presence: Presence) -> None:
    """A report is news if it says another place, version or mode, or a reason that is no routine."""
    said = PresenceEntry(ts=0, host="mac", version="1", mode="ui", reason="connect")

    def report(**changes: Any) -> bool:
        return presence.report(msgspec.structs.replace(said, **changes), "d1")

    assert report()
    assert not report(ts=5, text="again")
    assert report(version="2")
    assert not report(version="2", reason="periodic")
    assert report(version="2", reason="connect")
    assert report(ip="192.0.2.1", reason="heartbeat")
