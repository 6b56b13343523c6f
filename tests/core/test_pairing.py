"""The machine of a pairing: what is asked, granted, taken back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from gateway.core.access import covers
from gateway.core.devicetokens import LIVE_TOKENS, Issued, issue, revoke, rotate, verify
from gateway.core.pairing import (
    CLOCK_SLACK_MS,
    SEEN_INTERVAL_MS,
    TTL_MS,
    Ask,
    PairingError,
    active_grant,
    approve,
    ask,
    grant,
    grant_of,
    grantable,
    live,
    may_grant,
    paired,
    reason_for,
    reject,
    remove,
    remove_role,
    rename,
    seen,
)
from gateway.model import Pairing

NOW = 1_700_000_000_000
READ, WRITE, ADMIN = "operator.read", "operator.write", "operator.admin"
EMPTY = Pairing(device_id="d")
VERSIONS = pytest.mark.parametrize("protocol", [3, 4])


def asking(*scopes: str, **how: Any) -> Ask:
    """Return what a device asks for."""
    fields: dict[str, Any] = {
        "device_id": "d",
        "public_key": "key",
        "role": "operator",
        "scopes": scopes,
        "protocol": 4,
        "platform": "linux",
    }
    return Ask(**fields | how)


def asked(pairing: Pairing, wanted: Ask, request_id: str = "r1", now_ms: int = NOW) -> Pairing:
    """Return the pairing with the request in it."""
    return ask(pairing, wanted, request_id=request_id, now_ms=now_ms).pairing


def approved(wanted: Ask, pairing: Pairing = EMPTY, now_ms: int = NOW) -> Pairing:
    """Return the pairing after an operator approved what is asked."""
    pairing = asked(pairing, wanted, "r", now_ms)
    return approve(pairing, "r", via="owner", now_ms=now_ms)


def kind_of(work: Any, *args: Any, **how: Any) -> str:
    """Return the kind of the PairingError that a change raises."""
    with pytest.raises(PairingError) as caught:
        work(*args, **how)
    return caught.value.kind


# -- why


def test_what_is_granted_needs_no_request() -> None:
    """A device that asks for what it was granted needs nobody; asking for it all the same is an error."""
    pairing = approved(asking(WRITE))

    for wanted in (asking(), asking(READ), asking(WRITE, READ), asking("operator.unheard-of")):
        assert reason_for(pairing, wanted) is None
        assert kind_of(asked, pairing, wanted) == "nothing-to-approve"


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (asking(READ, public_key="other"), "not-paired"),
        (asking(role="node"), "role-upgrade"),
        (asking(ADMIN), "scope-upgrade"),
        (asking(platform="darwin"), "metadata-upgrade"),
        (asking(device_family="Mac"), None),
        (asking(platform=" LINUX "), None),
        (asking(platform=None), None),
        (asking(platform="darwin", protocol=3), None),
    ],
)
def test_reasons(wanted: Ask, reason: str | None) -> None:
    """Each way of asking for more has its reason; what was never said, or is not said, is no difference."""
    assert reason_for(EMPTY, wanted) == "not-paired"
    assert reason_for(approved(asking(READ)), wanted) == reason


def test_a_revoked_role_is_asked_for_anew() -> None:
    """A revoked grant is none; what is approved for it later does not bring back what it had."""
    pairing = revoke(approved(asking(ADMIN)), "operator", now_ms=NOW)
    assert reason_for(pairing, asking()) == "role-upgrade"

    again = approved(asking(READ), pairing)
    assert paired(again).scopes == (READ,)
    assert active_grant(again.device, "operator") == grant_of(again.device, "operator")
    assert reason_for(again, asking(ADMIN)) == "scope-upgrade"


# -- asking


@VERSIONS
def test_asking_the_same_again(protocol: int) -> None:
    """The same ask, or less, keeps the request as it is, its end included."""
    first = asked(EMPTY, asking(READ, WRITE, protocol=protocol))
    for again in (asking(READ, WRITE, protocol=protocol), asking(READ, protocol=protocol)):
        repeated = ask(first, again, request_id="r2", now_ms=NOW + 1)
        assert (repeated.pairing, repeated.created, repeated.superseded) == (first, False, None)


@VERSIONS
def test_a_wider_ask_supersedes(protocol: int) -> None:
    """A wider ask takes the old one's place under an id of its own, with all that was asked for."""
    first = asked(EMPTY, asking(READ, display_name="Ann", protocol=protocol))
    wanted = asking(role="node", platform="ios", device_family="iPhone", protocol=protocol)
    wider = ask(first, wanted, request_id="r2", now_ms=NOW + 1)

    assert wider.created
    assert wider.superseded == first.request
    assert wider.request.request_id == "r2"
    assert (wider.request.role, wider.request.roles) == ("node", ("operator", "node"))
    assert wider.request.scopes == (READ,)
    assert (wider.request.platform, wider.request.display_name) == ("ios", None)
    assert wider.request.expires_at_ms == NOW + 1 + TTL_MS
    assert kind_of(approve, wider.pairing, "r1", via="owner", now_ms=NOW) == "unknown-request"


@VERSIONS
@pytest.mark.parametrize(
    "wider",
    [
        pytest.param({"scopes": (WRITE,)}, id="write"),
        pytest.param({"scopes": ("operator.talk.secrets",)}, id="a secret"),
        pytest.param({"scopes": (ADMIN,)}, id="admin"),
        pytest.param({"role": "node", "scopes": ()}, id="node"),
        pytest.param({"scopes": (READ,), "platform": "darwin"}, id="another machine"),
    ],
)
def test_nothing_slips_into_a_request(wider: dict[str, Any], protocol: int) -> None:
    """An operator who looked at a harmless request does not grant more by its id, in either version."""
    first = asked(EMPTY, asking(READ, protocol=protocol))
    scopes = wider["scopes"]
    how = {name: value for name, value in wider.items() if name != "scopes"}
    taken = ask(first, asking(*scopes, protocol=protocol, **how), request_id="r2", now_ms=NOW)

    assert (taken.created, taken.superseded) == (True, first.request)
    assert kind_of(approve, taken.pairing, "r1", via="owner", now_ms=NOW) == "unknown-request"


def test_what_a_request_includes_is_no_wider_ask() -> None:
    """A scope that another one of the request includes makes no new request."""
    first = asked(EMPTY, asking(WRITE))
    assert ask(first, asking(READ), request_id="r2", now_ms=NOW).request == first.request


@VERSIONS
def test_another_key_asks_for_itself(protocol: int) -> None:
    """What another key asked for is not part of the request that takes its place."""
    first = asked(EMPTY, asking(ADMIN, protocol=protocol))
    other = asking(READ, public_key="other", protocol=protocol)
    taken = ask(first, other, request_id="r2", now_ms=NOW)

    assert (taken.created, taken.superseded) == (True, first.request)
    assert (taken.request.request_id, taken.request.scopes) == ("r2", (READ,))


@pytest.mark.parametrize(
    ("after_ms", "lives"),
    [
        (-CLOCK_SLACK_MS - 1, False),
        (-CLOCK_SLACK_MS, True),
        (0, True),
        (TTL_MS - 1, True),
        (TTL_MS, False),
    ],
)
def test_a_request_lives_five_minutes(after_ms: int, lives: bool) -> None:
    """After that nobody may approve or reject it, nor where the clock was set back by more than a minute."""
    pairing, now_ms = asked(EMPTY, asking(READ)), NOW + after_ms

    assert (live(pairing, now_ms).request is not None) is lives
    if not lives:
        assert kind_of(approve, pairing, "r1", via="owner", now_ms=now_ms) == "unknown-request"
        assert kind_of(reject, pairing, "r1", now_ms=now_ms) == "unknown-request"


def test_a_far_end_is_no_longer_life() -> None:
    """A request is bounded by when it was made, whatever its end says."""
    pairing = asked(EMPTY, asking(READ))
    assert pairing.request is not None
    late = replace(pairing, request=replace(pairing.request, expires_at_ms=NOW * 2))

    assert live(late, NOW + TTL_MS).request is None


# -- approving


def test_approval() -> None:
    """An approval makes the device what was asked for, and no more; nothing is left to approve."""
    pairing = approved(asking(READ, display_name="Ann", client_id="cli", remote_ip="203.0.113.5"))
    device = paired(pairing)

    assert (device.roles, device.scopes) == (("operator",), (READ,))
    assert (device.approved_via, device.display_name, device.remote_ip) == (
        "owner",
        "Ann",
        "203.0.113.5",
    )
    assert (pairing.request, pairing.tokens) == (None, ())


def test_a_second_approval_adds() -> None:
    """Roles and scopes add up; the name that an operator gave stays, what the device says is renewed."""
    pairing = rename(approved(asking(READ, platform="linux")), "Desk")
    pairing = approved(asking(WRITE, platform="darwin"), pairing, NOW + 1)
    pairing = approved(asking(role="node"), pairing, NOW + 2)
    device = paired(pairing)

    assert (device.roles, device.scopes) == (("operator", "node"), (READ, WRITE))
    assert (device.name, device.platform) == ("Desk", "linux")
    assert (device.created_at_ms, device.approved_at_ms) == (NOW, NOW + 2)
    assert [known.scopes for known in device.grants] == [(READ, WRITE), ()]
    assert paired(rename(pairing, None)).name is None


def test_a_node_gets_no_scopes() -> None:
    """Scopes are an operator's: a request for a node grants none."""
    pairing = approved(asking(ADMIN, role="node"))

    assert (paired(pairing).scopes, paired(pairing).grants[0].scopes) == ((), ())


def test_another_key_starts_from_nothing() -> None:
    """A device with another key is another device: no scope, name or token of the old one serves it."""
    old = issue(rename(approved(asking(ADMIN)), "Desk"), "operator", (), "t", now_ms=NOW).pairing
    new = approved(asking(READ, public_key="other"), old, NOW + 1)

    assert (paired(new).scopes, paired(new).name, new.tokens) == ((READ,), None, ())
    assert paired(new).created_at_ms == NOW + 1


def test_a_grant_leaves_a_wider_request_waiting() -> None:
    """What is granted silently settles a request only if nothing of it is left to approve."""
    waiting = asked(EMPTY, asking(READ, WRITE))

    def granted(*scopes: str, **how: Any) -> Pairing:
        return grant(
            waiting,
            asking(*scopes, **how),
            roles=("operator",),
            scopes=scopes,
            via="silent",
            now_ms=NOW,
        )

    assert granted(READ).request == waiting.request
    assert granted(WRITE, platform="darwin").request == waiting.request
    assert granted(WRITE, public_key="other").request == waiting.request
    assert granted(WRITE).request is None


def test_an_owner_s_approval_is_not_made_silent() -> None:
    """What an operator approved once stays approved by an operator, whatever was added silently."""
    pairing = approved(asking(READ))
    more = grant(
        pairing, asking(WRITE), roles=("operator",), scopes=(WRITE,), via="silent", now_ms=NOW
    )

    assert paired(more).approved_via == "owner"
    code = grant(pairing, asking(WRITE), roles=("node",), scopes=(), via="setup-code", now_ms=NOW)
    assert paired(code).approved_via == "setup-code"


def test_who_may_grant() -> None:
    """An approver needs each scope that it grants; the first that is missing is named."""
    request = asked(EMPTY, asking(READ, WRITE)).request
    assert request is not None

    assert may_grant((ADMIN,), request) is None
    assert may_grant((WRITE,), request) is None
    assert may_grant((READ,), request) == WRITE
    assert may_grant((), request) == READ


# -- taking back


def test_removing() -> None:
    """A removed device is unknown, its request and its tokens are gone."""
    pairing = issue(approved(asking(READ)), "operator", (READ,), "t", now_ms=NOW).pairing

    assert remove(asked(pairing, asking(ADMIN))) == EMPTY


def test_removing_a_role() -> None:
    """A role goes with its grant, its scopes and its tokens; the last one takes the device along."""
    both = approved(asking(role="node"), approved(asking(READ)))
    for role, digest in (("operator", "o"), ("node", "n")):
        both = issue(both, role, (), digest, now_ms=NOW).pairing

    node = remove_role(both, "operator")
    assert (paired(node).roles, paired(node).scopes) == (("node",), ())
    assert [token.digest for token in node.tokens] == ["n"]
    assert remove_role(node, "node") == EMPTY
    assert paired(remove_role(both, "node")).scopes == (READ,)


def test_what_is_not_there() -> None:
    """Changes of what is not there say so."""
    pairing = approved(asking(READ))

    assert kind_of(rename, EMPTY, "x") == "unknown-device"
    assert kind_of(remove, EMPTY) == "unknown-device"
    assert kind_of(remove_role, EMPTY, "node") == "unknown-device"
    assert kind_of(remove_role, pairing, "node") == "unknown-role"
    assert kind_of(revoke, pairing, "node", now_ms=NOW) == "unknown-role"
    assert kind_of(reject, pairing, "r1", now_ms=NOW) == "unknown-request"
    assert reject(asked(EMPTY, asking(READ)), "r1", now_ms=NOW) == EMPTY


# -- being there


def test_being_seen_is_written_once_a_minute() -> None:
    """What a device says of itself, and when it was here, is written at most once a minute."""
    pairing = issue(approved(asking(READ)), "operator", (READ,), "t", now_ms=NOW).pairing
    wanted = asking(READ, display_name="Ann", remote_ip="203.0.113.5")
    first = seen(pairing, wanted, "t", now_ms=NOW)
    device = paired(first)

    assert (device.last_seen_at_ms, device.last_seen_reason) == (NOW, "connect")
    assert (device.display_name, device.remote_ip) == ("Ann", "203.0.113.5")
    assert (device.grants[0].last_used_at_ms, first.tokens[0].last_used_at_ms) == (NOW, NOW)
    assert seen(first, asking(READ), "t", now_ms=NOW + SEEN_INTERVAL_MS - 1) is first
    later = seen(first, asking(READ), "t", now_ms=NOW + SEEN_INTERVAL_MS)
    assert paired(later).last_seen_at_ms == NOW + SEEN_INTERVAL_MS
    back = seen(later, asking(READ), "t", now_ms=NOW)
    assert paired(back).last_seen_at_ms == NOW
    assert seen(first, wanted, None, now_ms=NOW) is first
    assert seen(first, asking(role="node"), "t", now_ms=NOW) is first
    assert seen(first, wanted, "another", now_ms=NOW) is first


@pytest.mark.parametrize("silently", [False, True])
def test_version_3_does_not_change_which_machine_was_approved(silently: bool) -> None:
    """What is taken as it is does not become what others are held against; what was unknown does."""
    pairing = approved(asking(READ, platform="linux"))
    wanted = asking(READ, WRITE, protocol=3, platform="darwin", device_family="Mac")
    if silently:
        pairing = grant(
            pairing, wanted, roles=("operator",), scopes=(WRITE,), via="silent", now_ms=NOW
        )
    else:
        pairing = seen(pairing, wanted, None, now_ms=NOW)

    assert (paired(pairing).platform, paired(pairing).device_family) == ("linux", "Mac")
    assert reason_for(pairing, asking(READ, platform="linux")) is None
    assert reason_for(pairing, asking(READ, platform="darwin")) == "metadata-upgrade"


# -- any order of it all

ROLES = st.sampled_from(["operator", "node"])
SCOPES = st.lists(st.sampled_from([READ, WRITE, ADMIN, "operator.pairing", "odd"]), max_size=3)
DIGESTS = [f"{n:02}" for n in range(12)]


class AnyLife(RuleBasedStateMachine):
    """A device and its operators do whatever they can, in any order, while the clock goes and jumps."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.pairing = EMPTY
        self.key = "key"
        self.requests = 0
        self.asked_for: set[str] = set()
        """Scopes asked for in the open request."""
        self.granted: set[str] = set()
        """Scopes that were asked for and approved, and not taken back."""
        self.roles: set[str] = set()
        self.revoked: set[str] = set()
        self.dead: set[str] = set()
        """Digests that must never serve again."""
        self.kinds: set[str] = set()
        """Why changes could not be made."""

    def _taken(self, before: Pairing) -> None:
        left = {token.digest for token in self.pairing.tokens}
        self.dead |= {token.digest for token in before.tokens} - left

    @rule(role=ROLES, scopes=SCOPES, protocol=st.sampled_from([3, 4]))
    def ask(self, role: str, scopes: list[str], protocol: int) -> None:
        """The device asks."""
        own = tuple(scopes) if role == "operator" else ()
        wanted = asking(*own, role=role, protocol=protocol, public_key=self.key)
        had = live(self.pairing, self.now).request
        self.requests += 1
        if reason_for(self.pairing, wanted) is None:
            assert kind_of(ask, self.pairing, wanted, request_id="x", now_ms=self.now)
            return
        result = ask(self.pairing, wanted, request_id=f"r{self.requests}", now_ms=self.now)
        assert result.created == (had is None or result.request.request_id != had.request_id)
        assert (result.superseded is None) == (had is None or not result.created)
        if had is None or had.public_key != self.key:
            self.asked_for = set()
        self.asked_for |= set(grantable(own))
        self.pairing = result.pairing

    @rule(via=st.sampled_from(["owner", "silent"]))
    def approve(self, via: str) -> None:
        """An operator approves what is open, if it still is."""
        request, before = self.pairing.request, self.pairing
        if request is None:
            return
        if live(self.pairing, self.now).request is None:
            kind = kind_of(approve, self.pairing, request.request_id, via=via, now_ms=self.now)
            assert kind == "unknown-request"
            return
        self.pairing = approve(self.pairing, request.request_id, via=via, now_ms=self.now)
        replaced = before.device is not None and before.device.public_key != request.public_key
        if replaced:
            self.roles, self.granted, self.revoked = set(), set(), set()
        if "operator" in request.roles:
            if "operator" in self.revoked:
                self.granted = set()
            self.granted |= self.asked_for
        self.roles |= set(request.roles)
        self.revoked -= set(request.roles)
        self._taken(before)

    @rule()
    def reject(self) -> None:
        """An operator rejects what is open."""
        request = live(self.pairing, self.now).request
        if request is not None:
            self.pairing = reject(self.pairing, request.request_id, now_ms=self.now)

    @precondition(lambda self: self.pairing.device is not None)
    @rule(role=ROLES, scopes=SCOPES, digest=st.sampled_from(DIGESTS), fresh=st.booleans())
    def token(self, role: str, scopes: list[str], digest: str, fresh: bool) -> None:
        """A token is made, or all are replaced by one."""
        before, taken = self.pairing, self.dead | {t.digest for t in self.pairing.tokens}
        if digest in taken:
            return
        try:
            done: Issued = (
                rotate(self.pairing, role, scopes or None, digest=digest, now_ms=self.now)
                if fresh
                else issue(self.pairing, role, scopes, digest, now_ms=self.now)
            )
        except PairingError as error:
            self.kinds.add(error.kind)
            return
        self.pairing = done.pairing
        assert done.token in self.pairing.tokens
        dropped = {t.digest for t in before.tokens} - {t.digest for t in self.pairing.tokens}
        assert set(done.dropped) == dropped
        self._taken(before)

    @precondition(lambda self: self.pairing.device is not None)
    @rule(role=ROLES, whole=st.booleans())
    def take_role(self, role: str, whole: bool) -> None:
        """An operator revokes a role, or removes it."""
        before = self.pairing
        try:
            if whole:
                self.pairing = remove_role(self.pairing, role)
            else:
                self.pairing = revoke(self.pairing, role, now_ms=self.now)
        except PairingError as error:
            self.kinds.add(error.kind)
            return
        if whole:
            self.roles.discard(role)
            self.revoked.discard(role)
            self.granted = set() if role == "operator" else self.granted
        else:
            self.revoked.add(role)
        if not self.roles:
            self._forgotten()
        self._taken(before)
        assert not [t for t in self.pairing.tokens if t.role == role]

    @precondition(lambda self: self.pairing.device is not None)
    @rule()
    def remove(self) -> None:
        """An operator removes the device."""
        before, self.pairing = self.pairing, remove(self.pairing)
        self._forgotten()
        self._taken(before)

    def _forgotten(self) -> None:
        self.roles, self.granted, self.revoked = set(), set(), set()

    @rule(key=st.sampled_from(["key", "other"]))
    def another_key(self, key: str) -> None:
        """The device comes with another key."""
        self.key = key

    @rule(by=st.sampled_from([1, 1000, TTL_MS, -10, -TTL_MS]))
    def clock(self, by: int) -> None:
        """The clock goes on, or is set back."""
        self.now += by

    @invariant()
    def only_what_is_not_there_fails(self) -> None:
        """A change fails only where the role is not granted, or the scopes are not."""
        assert self.kinds <= {"unknown-role", "scope-not-approved"}

    @invariant()
    def the_record_is_what_was_approved(self) -> None:
        """Roles are the approvals less the removals; scopes were all asked for and approved."""
        device = self.pairing.device
        assert (device is None) == (not self.roles)
        if device is not None:
            assert set(device.roles) == self.roles == {known.role for known in device.grants}
            assert set(device.scopes) <= self.granted
            held = active_grant(device, "operator")
            assert held is None or set(held.scopes) == self.granted
            assert {g.role for g in device.grants if g.revoked_at_ms is not None} == self.revoked

    @invariant()
    def tokens_are_within_their_grants(self) -> None:
        """No token without a grant that stands, none beyond it, and a few of each role."""
        for token in self.pairing.tokens:
            held = active_grant(self.pairing.device, token.role)
            assert held is not None
            assert covers(held.scopes, token.scopes)
        for role in ("operator", "node"):
            of_role = [token for token in self.pairing.tokens if token.role == role]
            assert len(of_role) <= LIVE_TOKENS

    @invariant()
    def the_dead_stay_dead(self) -> None:
        """What was dropped, revoked or removed never verifies, what lives does for its own scopes."""
        device = self.pairing.device
        for role in ("operator", "node"):
            for digest in self.dead:
                assert verify(self.pairing, self.key, role, digest, ()) == "device_token_mismatch"
        for token in self.pairing.tokens:
            key = paired(self.pairing).public_key if device else ""
            found = verify(self.pairing, key, token.role, token.digest, token.scopes)
            assert found == token


TestAnyLife = AnyLife.TestCase
TestAnyLife.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
