"""Who is connected, and who gets which event."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.app.hub import MAX_WATCHED_SESSIONS, SESSION_SCOPED, Hub
from gateway.core.access import Peer
from gateway.core.events import EVENTS, Event
from gateway.errors import InvalidRequest, Unavailable
from gateway.metrics import Metrics
from gateway.model import Role
from tests.app.harness import ADMIN, LOCAL, READ, REMOTE, FakeConnection, make_caller

OPEN_EVENTS = {"connect.challenge", "health", "tick", "shutdown"}
"""What every connection may see; everything else asks for operator.read."""

SCOPE_CASES = [
    ("a node", {"role": Role.NODE, "scopes": ()}),
    ("a node that claims scopes", {"role": Role.NODE, "scopes": ("operator.admin",)}),
    ("an operator without scopes", {"scopes": ()}),
    ("one with other scopes", {"scopes": ("operator.pairing", "operator.approvals")}),
    ("one with a scope that does not exist", {"scopes": ("operator.everything",)}),
]


def connect(hub: Hub, conn_id: str, protocol: int = 4, **who: Any) -> FakeConnection:
    """Enter a connection."""
    connection = FakeConnection(make_caller(conn_id, protocol, **who))
    hub.add(connection)
    return connection


def names(connection: FakeConnection) -> list[str]:
    """Return the names of the events that came."""
    return [frame["event"] for frame in connection.frames]


@pytest.fixture
def hub() -> Hub:
    """Return an empty hub."""
    return Hub(Metrics(), maximum=5)


@pytest.mark.parametrize("who", [who for _, who in SCOPE_CASES], ids=[n for n, _ in SCOPE_CASES])
@pytest.mark.parametrize("protocol", [3, 4])
def test_who_may_not_read_sees_next_to_nothing(
    hub: Hub, who: dict[str, Any], protocol: int
) -> None:
    """A caller without operator.read, a node included, gets only health, tick and shutdown."""
    outsider = connect(hub, "outsider", protocol, **who)
    reader = connect(hub, "reader", protocol, scopes=READ)
    admin = connect(hub, "admin", protocol, scopes=ADMIN)
    for name in EVENTS:
        hub.broadcast(Event(name, {"n": 1}))
        hub.broadcast_session(Event(name, {"n": 1}), "k")
        hub.send_to(Event(name, {"n": 1}), ["outsider", "reader"], "k")

    approvals = {name for name in EVENTS if "approval" in name}
    pairing = {name for name in EVENTS if ".pair." in name}
    direct = {name for name in EVENTS if name.startswith("node.invoke.")}
    more: set[str] = set()
    if not outsider.caller.is_node:
        more |= approvals if "operator.approvals" in who["scopes"] else set()
        more |= pairing if "operator.pairing" in who["scopes"] else set()
    assert set(names(outsider)) == OPEN_EVENTS | more
    talk = {name for name in EVENTS if name.startswith("talk.")}
    assert set(names(reader)) == set(EVENTS) - approvals - pairing - direct - talk
    assert set(names(admin)) == set(EVENTS) - direct


@pytest.mark.parametrize("scope", ["operator.read", "operator.write", "operator.admin"])
def test_scopes_that_read(hub: Hub, scope: str) -> None:
    """Writing includes reading, and administering everything."""
    connection = connect(hub, "c", scopes=(scope,))
    hub.broadcast(Event("chat", {}))

    assert names(connection) == ["chat"]


def test_numbers_are_taken_by_who_is_reached(hub: Hub) -> None:
    """An event that a version has no form of takes no number of its connections."""
    three, four = connect(hub, "c3", 3), connect(hub, "c4", 4)
    hub.broadcast(Event("chat", {"n": 1}, v3=None))
    hub.broadcast(Event("chat", {"n": 2}))

    assert [frame["seq"] for frame in three.frames] == [1]
    assert [frame["seq"] for frame in four.frames] == [1, 2]


def test_a_connection_that_fails(
    hub: Hub, expected_failures: list[type[BaseException]], logged_failures: list[Any]
) -> None:
    """A connection that raises on a delivery is logged, and the others get the event."""
    expected_failures.append(ZeroDivisionError)
    connections = [connect(hub, f"c{number}") for number in range(3)]
    connections[1].broken = ZeroDivisionError()

    hub.broadcast(Event("chat", {}))

    assert [names(connection) for connection in connections] == [["chat"], [], ["chat"]]
    assert len(logged_failures) == 1


def test_the_connections_of_a_device(hub: Hub) -> None:
    """A device's connections are found by its id, oldest first, until they leave."""
    first, second = (connect(hub, name, device_id="d") for name in ("c1", "c2"))
    connect(hub, "c3", device_id="e")
    connect(hub, "c4")
    assert hub.of_device("d") == [first, second]

    hub.remove(first)
    assert hub.of_device("d") == [second]
    hub.remove(second)
    assert (hub.of_device("d"), hub.of_device("f")) == ([], [])


def test_session_scoped_events(hub: Hub) -> None:
    """Who asks for session-scoped events hears of runs only in the sessions it watches."""
    scoped = connect(hub, "scoped", caps=[SESSION_SCOPED])
    plain = connect(hub, "plain")
    hub.watch("scoped", "k1")
    for key in ("k1", "k2"):
        hub.broadcast_session(Event("chat", {"key": key}), key)
        hub.broadcast_session(Event("agent", {"key": key}), key)
        hub.send_to(Event("session.tool", {"key": key}), ["scoped", "plain"], key)
        hub.send_to(Event("sessions.changed", {"key": key}), ["scoped", "plain"], key)
    hub.broadcast(Event("tick", {}))

    def seen(connection: FakeConnection) -> list[tuple[str, str | None]]:
        return [(f["event"], f["payload"].get("key")) for f in connection.frames]

    assert seen(scoped) == [
        ("chat", "k1"),
        ("agent", "k1"),
        ("session.tool", "k1"),
        ("sessions.changed", "k1"),
        ("sessions.changed", "k2"),
        ("tick", None),
    ]
    assert len(plain.frames) == 9


def test_scoped_connections_get_plain_broadcasts(hub: Hub) -> None:
    """What is broadcast without a session reaches those too who ask for session-scoped events."""
    scoped = connect(hub, "scoped", caps=[SESSION_SCOPED])
    hub.broadcast(Event("agent", {}))

    assert names(scoped) == ["agent"]


def test_following_and_watching(hub: Hub) -> None:
    """Followers of all sessions and watchers of one are told apart, and both can stop."""
    for conn_id in ("follower", "watcher", "both"):
        connect(hub, conn_id)
    hub.follow_sessions("follower")
    hub.follow_sessions("both")
    for conn_id in ("watcher", "both"):
        hub.watch(conn_id, "k1")
        hub.watch(conn_id, "k1")
    hub.watch("watcher", "k2")

    assert hub.session_followers("k1", watched=False) == {"follower", "both"}
    assert hub.session_followers("k1", watched=True) == {"follower", "both", "watcher"}
    assert hub.session_followers("k2", watched=True) == {"follower", "both", "watcher"}
    assert hub.watches("watcher", "k2")
    hub.unwatch("watcher", "k2")
    hub.unwatch("watcher", "k1")
    hub.unwatch("watcher", "k1")
    assert hub.session_followers("k1", watched=True) == {"follower", "both"}
    assert hub._watched.keys() == {"both"}


def test_who_is_gone_can_follow_nothing(hub: Hub) -> None:
    """A connection that is not there leaves no subscription behind, whenever it asks."""
    connection = connect(hub, "c")
    hub.follow_sessions("c")
    hub.watch("c", "k")
    hub.remove(connection)
    hub.follow_sessions("c")
    hub.watch("c", "k")
    hub.send_to(Event("chat", {}), ["c"], "k")

    assert hub._followers == set()
    assert hub._watched == {}
    assert connection.frames == []


def test_watched_sessions_are_bounded(hub: Hub) -> None:
    """One connection watches only so many sessions; the next is refused."""
    connect(hub, "c")
    for number in range(MAX_WATCHED_SESSIONS):
        hub.watch("c", f"k{number}")

    with pytest.raises(InvalidRequest, match="at most 500 sessions"):
        hub.watch("c", "one more")
    hub.watch("c", "k0")


def test_connections_are_bounded(hub: Hub) -> None:
    """There is room for so many connections; one that goes makes room for another."""
    connections = [connect(hub, f"c{number}") for number in range(5)]
    with pytest.raises(Unavailable, match="too many connections"):
        connect(hub, "c5")
    assert hub.remove(connections[0])
    assert not hub.remove(connections[0])
    connect(hub, "c5")

    assert len(hub) == 5
    assert [c.conn_id for c in hub.connections] == ["c1", "c2", "c3", "c4", "c5"]
    assert hub.get("c1") is connections[1]
    assert hub.get("c0") is None


def test_a_budget_per_principal() -> None:
    """With a budget one identity holds so many connections from elsewhere; local ones do not count."""
    hub = Hub(Metrics(), maximum=50, per_principal=2)
    for number in range(5):
        connect(hub, f"local{number}", device_id="d1", peer=LOCAL)
    held = [connect(hub, f"remote{number}", device_id="d1", peer=REMOTE) for number in range(2)]
    with pytest.raises(Unavailable, match="of this principal"):
        connect(hub, "remote2", device_id="d1", peer=REMOTE)
    connect(hub, "other", device_id="d2", peer=REMOTE)
    hub.remove(held[0])
    connect(hub, "remote2", device_id="d1", peer=REMOTE)
    with pytest.raises(Unavailable):
        connect(hub, "remote3", device_id="d1", peer=REMOTE)
    for connection in hub.connections:
        hub.remove(connection)

    assert hub._held == {}


def test_who_shares_the_credential_has_a_budget_for_each_address() -> None:
    """One client with the shared secret does not use up the places of others; proxied users have theirs."""
    hub = Hub(Metrics(), maximum=50, per_principal=1)
    connect(hub, "one", peer=Peer("2001:db8::1"))
    with pytest.raises(Unavailable):
        connect(hub, "two", peer=Peer("2001:db8::2"))
    connect(hub, "three", peer=Peer("2001:db8:0:1::1"))
    connect(hub, "ann", user="ann", peer=Peer("2001:db8::1"))
    with pytest.raises(Unavailable):
        connect(hub, "ann2", user="ann", peer=Peer("192.0.2.1"))
    connect(hub, "bob", user="bob", peer=Peer("192.0.2.1"))


def test_a_wanted_audience(hub: Hub) -> None:
    """An event can be sent to those of its audience that a condition picks."""
    one, two = connect(hub, "one"), connect(hub, "two", scopes=())
    hub.broadcast_where(Event("tick", {}), lambda caller: caller.conn_id == "two")
    hub.broadcast_where(Event("chat", {}), lambda caller: True)

    assert (names(one), names(two)) == (["chat"], ["tick"])


def test_the_audience_follows_who_comes_and_goes(hub: Hub) -> None:
    """A connection gets events from when it came until it goes."""
    first = connect(hub, "first")
    hub.broadcast(Event("tick", {}))
    second = connect(hub, "second")
    hub.broadcast(Event("tick", {}))
    hub.remove(first)
    hub.broadcast(Event("tick", {}))

    assert (len(first.frames), len(second.frames)) == (2, 2)
