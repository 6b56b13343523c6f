"""Ending what was let in on rights that are gone, and keeping out what is being decided on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from gateway.app.admission import Admitted
from gateway.app.context import Caller
from gateway.app.revocation import Revocations
from gateway.core.access import digest_of
from gateway.core.devicetokens import issue, revoke
from gateway.core.pairing import remove
from gateway.core.refusals import Refusal
from gateway.errors import CloseCause, Unavailable
from gateway.model import ClientInfo, Pairing, Principal, Role
from tests.app.door import READ, Door, make_door
from tests.app.harness import LOCAL, REMOTE, FakeConnection

VERSIONS = pytest.mark.parametrize("protocol", [3, 4])


@pytest.fixture
def door() -> Door:
    """Return a door with the test kit's token."""
    return make_door()


def connected(door: Door, conn_id: str, **who: Any) -> FakeConnection:
    """Enter a connection."""
    facts: dict[str, Any] = {"role": Role.OPERATOR, "scopes": READ, "auth_method": "token"}
    caller = Caller(
        conn_id=conn_id,
        protocol=4,
        principal=Principal(**facts | who),
        client=ClientInfo(id="test", version="1", platform="linux", mode="ui"),
        peer=LOCAL,
    )
    connection = FakeConnection(caller)
    door.hub.add(connection)
    return connection


def test_a_token_that_was_only_given(door: Door) -> None:
    """Who came in by the shared credential does not end with the token it was given beside."""
    given = connected(door, "given", device_id="d", token_digest="t1")
    stands = connected(door, "stands", device_id="d", auth_method="device-token", token_digest="t2")
    again = connected(door, "again", device_id="d", token_digest="t2")
    connected(door, "other", device_id="e", token_digest="t3")

    assert door.revocations.in_use("d") == {"t1": 1, "t2": 2}
    door.revocations.tokens("d", ("t1", "t2"))

    assert [each.closed is None for each in (given, stands, again)] == [True, False, True]


@pytest.mark.parametrize(
    ("taken", "closed"),
    [
        (lambda r: r.device("d"), {"by-token", "by-secret", "by-code", "node"}),
        (lambda r: r.role("d", "operator"), {"by-token", "by-secret", "by-code"}),
        (lambda r: r.role("d", "node"), {"node"}),
        (lambda r: r.tokens("d", ("t1", "t2")), {"by-token"}),
        (lambda r: r.tokens("d", ("t3",)), {"by-code"}),
        (lambda r: r.tokens("d", ()), set()),
        (lambda r: r.shared("token"), {"by-secret", "stranger"}),
    ],
)
def test_who_is_closed(door: Door, taken: Callable[[Revocations], None], closed: set[str]) -> None:
    """Exactly the connections that stood on what was taken are closed, and told why."""
    everyone: dict[str, dict[str, Any]] = {
        "by-token": {"auth_method": "device-token", "device_id": "d", "token_digest": "t1"},
        "by-secret": {"device_id": "d", "token_digest": "t2"},
        "by-code": {"auth_method": "bootstrap-token", "device_id": "d", "token_digest": "t3"},
        "node": {
            "auth_method": "device-token",
            "device_id": "d",
            "role": Role.NODE,
            "scopes": (),
            "token_digest": "t4",
        },
        "other": {"auth_method": "device-token", "device_id": "e", "token_digest": "t1"},
        "stranger": {},
    }
    connections = {name: connected(door, name, **who) for name, who in everyone.items()}
    door.hub.remove(door.operator)

    taken(door.revocations)

    ended = {name: c.closed for name, c in connections.items() if c.closed is not None}
    assert set(ended) == closed
    for cause, code, reason in ended.values():
        assert (cause, code, reason) in (
            (CloseCause.CLIENT_INVALIDATED, 4001, "device removed"),
            (CloseCause.GATEWAY_AUTH_ROTATED, 4001, "gateway auth changed"),
        )


def test_one_that_can_not_be_closed_spares_no_other(
    door: Door, expected_failures: list[type[BaseException]]
) -> None:
    """Whatever goes wrong with one connection, the next is closed."""
    expected_failures.append(ZeroDivisionError)
    first, second = (connected(door, name, device_id="d") for name in ("first", "second"))

    def boom(*args: Any, **details: Any) -> None:
        raise ZeroDivisionError

    first.close = boom  # type: ignore[method-assign]
    door.revocations.device("d")

    assert second.closed is not None


# -- races


def held(door: Door, operation: str, **how: Any) -> tuple[list[Any], Deferred[Admitted]]:
    """Let the device knock, and hold the store's operation; return what came of it, later."""
    door.store.hanging.add(operation)
    results: list[Any] = []
    knocking = door.knocking(**how).addBoth(results.append)
    assert results == []
    return results, knocking


def let_others(door: Door) -> Callable[[], None]:
    """Let the store go on with everything but the operation that hangs; return what lets that go on."""
    (write,) = door.store.held
    door.store.held.clear()
    door.store.hanging.clear()
    go: Callable[[], None] = write
    return go


@VERSIONS
def test_revoked_while_a_token_is_checked(door: Door, protocol: int) -> None:
    """A device whose role is revoked after its token was read is judged anew, and kept out."""
    token = door.knock().device_token or ""
    real, reads = door.admission._store.get_pairing, list[str]()

    def read(device_id: str) -> Any:
        found = real(device_id)
        if not reads:  # read before, answered after
            reads.append(device_id)
            door.change(lambda p: revoke(p, "operator", now_ms=door.clock.now_ms()))
            door.revocations.role(device_id, "operator")
        return found

    door.store.get_pairing = read
    with pytest.raises(Refusal, match="device token mismatch"):
        door.knock(protocol, auth={"deviceToken": token}, peer=REMOTE)


@VERSIONS
def test_revoked_before_its_visit_is_written(door: Door, protocol: int) -> None:
    """A device whose token was good when it was read is judged again where its visit is written."""
    token = door.knock().device_token or ""
    door.clock.advance(60)
    how: dict[str, Any] = {"protocol": protocol, "auth": {"deviceToken": token}}
    results, _ = held(door, "update_pairing", **how)
    write = let_others(door)
    door.change(lambda p: revoke(p, "operator", now_ms=door.clock.now_ms()))
    write()

    assert "device token mismatch" in results[0].value.reason


@VERSIONS
def test_its_token_died_while_it_was_checked(door: Door, protocol: int) -> None:
    """A device whose token alone died after it was read is judged anew, and kept out."""
    token = door.knock().device_token or ""
    real, reads = door.admission._store.get_pairing, list[str]()

    def without(pairing: Pairing) -> Pairing:
        kept = issue(pairing, "operator", (), "new", now_ms=door.clock.now_ms(), keep=1)
        return kept.pairing

    def read(device_id: str) -> Any:
        found = real(device_id)
        if not reads:
            reads.append(device_id)
            door.change(without)
            door.revocations.tokens(device_id, [digest_of(token)])
        return found

    door.store.get_pairing = read
    with pytest.raises(Refusal, match="device token mismatch"):
        door.knock(protocol, auth={"deviceToken": token}, peer=REMOTE)


@VERSIONS
def test_removed_while_its_token_is_made(door: Door, protocol: int) -> None:
    """A device that is removed before its token is stored has to ask; no token of it is left."""
    door.knock()
    results, _ = held(door, "update_pairing", protocol=protocol, peer=REMOTE)
    write = let_others(door)
    door.change(remove)
    door.revocations.device(door.identity.device_id)
    write()

    assert isinstance(results[0].value, Refusal)
    assert "pairing required" in results[0].value.close_reason
    assert door.pairing().tokens == ()


@VERSIONS
def test_removed_after_its_token_was_made(door: Door, protocol: int) -> None:
    """A device that is removed when its token is stored, and it is not in yet, is kept out."""
    door.knock()
    real, writes = door.admission._store.update_pairing, list[str]()

    def write(device_id: str, change: Any) -> Any:
        stored = real(device_id, change)
        if not writes:
            writes.append(device_id)
            real(device_id, remove)
            door.revocations.device(device_id)
        return stored

    door.store.update_pairing = write
    with pytest.raises(Refusal, match="pairing required"):
        door.knock(protocol, peer=REMOTE)
    assert door.pairing().tokens == ()


def test_approved_while_it_asks(door: Door) -> None:
    """An approval between a device's asking and its answer is not lost: it comes in."""
    door.refusal(peer=REMOTE)
    results, _ = held(door, "update_pairing", peer=REMOTE)
    write = let_others(door)
    door.approve()
    write()

    assert results[0].principal.scopes == READ


def test_the_shared_secret_changes_meanwhile(door: Door) -> None:
    """Who was judged by the old secret is not let in after it was changed, and is asked to come again."""
    results, _ = held(door, "update_pairing")
    door.revocations.shared("token")
    door.store.release()

    assert isinstance(results[0].value, Unavailable)
    assert results[0].value.retryable


def test_a_new_secret_is_nothing_to_a_token(door: Door) -> None:
    """Who comes in by a device token does not depend on the shared secret."""
    token = door.knock().device_token or ""
    results, _ = held(door, "get_pairing", auth={"deviceToken": token})
    door.revocations.shared("token")
    door.store.release()

    assert results[0].principal.auth_method == "device-token"


def test_rights_that_are_taken_without_end(door: Door) -> None:
    """Where something is taken each time it is decided, the device is asked to try again."""
    real = door.admission._store.update_pairing

    def write(device_id: str, change: Any) -> Any:
        door.revocations.device(device_id)
        return real(device_id, change)

    door.store.update_pairing = write
    with pytest.raises(Unavailable, match="try again"):
        door.knock()


def test_who_leaves_has_asked(door: Door) -> None:
    """A device that leaves while its request is written has asked: operators are told."""
    results, knocking = held(door, "update_pairing", peer=REMOTE)
    knocking.cancel()
    door.store.release()

    assert results[0].check(CancelledError)
    assert [name for name, _ in door.told] == ["device.pair.requested"]
    assert not door.revocations._watches


def test_two_decisions_on_one_device(door: Door) -> None:
    """Each connect of a device hears of what is taken while it is decided, whichever ends first."""
    revocations = door.revocations
    with revocations.watch("d1", "aa") as longer:
        with revocations.watch("d1", "bb") as shorter:
            revocations.tokens("d1", ["bb"])
        assert (shorter.gone, longer.gone) == (True, False)
        revocations.tokens("d2", ["aa"])
        assert not longer.gone
        revocations.device("d1")
        assert longer.gone
    assert not revocations._watches


def test_a_copy_without_a_token_comes_and_goes(door: Door) -> None:
    """However often it comes, the token of the connection at work stays, and that connection too."""
    token = door.knock().device_token
    assert token is not None
    mine = digest_of(token)
    who: dict[str, Any] = {"device_id": door.identity.device_id, "auth_method": "device-token"}
    at_work = connected(door, "at-work", token_digest=mine, **who)

    for _ in range(6):
        door.clock.advance(1)
        door.knock()

    assert mine in {token.digest for token in door.pairing().tokens}
    assert at_work.closed is None
