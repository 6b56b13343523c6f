"""Setup codes in memory: one device, one use, ten minutes."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.app.setupcodes import SETUP_TTL_S, SetupCodes
from gateway.core.access import KNOWN_SCOPES
from gateway.core.setupcode import FULL, LIMITED, NODE, SetupCode
from gateway.errors import Unavailable
from tests.app.harness import Gate, assert_fits

SCOPES = frozenset(KNOWN_SCOPES)


@pytest.fixture
def codes(gate: Gate) -> SetupCodes:
    """Return the setup codes of a gateway."""
    return gate.services.setup_codes


def test_one_device_and_one_use(gate: Gate, codes: SetupCodes) -> None:
    """A code serves the first device that shows it, once; operators of version 4 are told."""
    watchers = {version: gate.client(version, scopes=("operator.pairing",)) for version in (3, 4)}
    made = codes.create(FULL, SCOPES)
    grant = codes.claim(made.secret, "d1", "k1")
    assert grant is not None
    assert (grant.roles, grant.scopes, grant.access) == (FULL.roles, FULL.scopes, "full")
    assert codes.claim(made.secret, "d1", "k1") is None, "under way"
    codes.release(grant)
    assert codes.claim(made.secret, "d2", "k2") is None, "another device"
    assert codes.claim(made.secret, "d1", "k2") is None, "another key"
    again = codes.claim(made.secret, "d1", "k1")
    assert again == grant
    codes.consume(again, "d1", "Ann's phone")
    codes.consume(again, "d1", None)
    codes.release(again)
    assert codes.claim(made.secret, "d1", "k1") is None, "used"
    assert len(codes) == 0
    told = {
        "setupId": made.setup_id,
        "deviceId": "d1",
        "deviceName": "Ann's phone",
        "access": "full",
        "ts": gate.clock.now_ms(),
    }
    assert_fits(4, "DevicePairSetupCompletedEvent", told)
    assert watchers[4].events("device.pair.setup.completed") == [told]
    assert watchers[3].frames == []
    assert codes.completion(made.setup_id) == told
    assert codes.completion("nope") is None


def test_a_device_without_a_name(gate: Gate, codes: SetupCodes) -> None:
    """A device that does not say its name is told of without one."""
    made = codes.create(NODE, SCOPES)
    grant = codes.claim(made.secret, "d1", "k1")
    assert grant is not None
    codes.consume(grant, "d1", None)
    assert "deviceName" not in (codes.completion(made.setup_id) or {"deviceName": 1})


def test_its_time(gate: Gate, codes: SetupCodes) -> None:
    """After ten minutes a code is worth nothing, swept or not; how the wall clock is set does not matter."""
    made = codes.create(LIMITED, SCOPES)
    assert made.expires_at_ms == gate.clock.now_ms() + 600_000
    gate.clock.jump(3600)
    gate.clock.advance(SETUP_TTL_S - 1)
    grant = codes.claim(made.secret, "d1", "k1")
    assert grant is not None
    codes.release(grant)
    gate.clock.advance(1)
    assert codes.claim(made.secret, "d1", "k1") is None
    assert codes.sweep(gate.clock.seconds()) == 1
    assert len(codes) == 0


def test_what_a_code_leaves_behind(codes: SetupCodes) -> None:
    """Neither the registry nor anything that is printed holds the secret; each code has another."""
    made, other = codes.create(LIMITED, SCOPES), codes.create(LIMITED, SCOPES)
    assert made.secret != other.secret
    assert len(made.secret) == 43
    for thing in (made, *codes._open, codes.claim(made.secret, "d", "k")):
        assert made.secret not in repr(thing)
    assert codes.claim("nonsense", "d", "k") is None


def test_a_maker_that_holds_little(codes: SetupCodes) -> None:
    """A code allows no more than its maker holds."""
    made = codes.create(FULL, {"operator.read"})
    assert made.profile.scopes == ("operator.read",)


def test_too_many(gates: Any) -> None:
    """Waiting codes are bounded, and none is pushed out by another."""
    gate = gates(limits={"setup_codes_max": 1})
    codes = gate.services.setup_codes
    made = codes.create(NODE, SCOPES)
    with pytest.raises(Unavailable, match="too many setup codes"):
        codes.create(NODE, SCOPES)
    grant = codes.claim(made.secret, "d1", "k1")
    assert grant is not None
    gate.clock.advance(SETUP_TTL_S)
    with pytest.raises(Unavailable):
        codes.create(NODE, SCOPES)
    codes.release(grant)
    assert codes.create(NODE, SCOPES)


def test_a_restart(gate: Gate, codes: SetupCodes) -> None:
    """A gateway that was started anew knows no code of before."""
    made = codes.create(NODE, SCOPES)
    again = gate.restarted()
    assert again.services.setup_codes.claim(made.secret, "d1", "k1") is None


def test_a_join_link_is_followed_once(gate: Gate, codes: SetupCodes) -> None:
    """It leads to the code's own secret, of which nothing is kept; whoever comes second finds nothing."""
    made = codes.create(NODE, SCOPES, link_to="wss://gw.example")
    assert made.link_code is not None
    assert made.secret not in str([vars_of(code) for code in codes._open])
    found = codes.follow(made.link_code)
    expected = SetupCode("wss://gw.example", made.secret, made.expires_at_ms, "node")
    assert found == expected
    assert codes.follow(made.link_code) is None
    assert codes.claim(made.secret, "d1", "k1") is not None


def vars_of(code: Any) -> dict[str, Any]:
    return {name: getattr(code, name) for name in code.__slots__}


def test_a_join_link_that_leads_nowhere(gate: Gate, codes: SetupCodes) -> None:
    """A link nobody made, one of a code without a link, and one that is too old lead nowhere."""
    codes.create(NODE, SCOPES)
    assert codes.follow("A" * 22) is None
    made = codes.create(NODE, SCOPES, link_to="wss://gw.example")
    gate.clock.advance(SETUP_TTL_S)
    assert codes.follow(made.link_code or "") is None


def test_a_code_ends_while_it_is_claimed(gate: Gate, codes: SetupCodes) -> None:
    """The rights of its maker go while a device comes in by it: the code is good no more."""
    maker = gate.client(device_id="d9").connection.caller.principal
    made = codes.create(NODE, SCOPES, maker)
    grant = codes.claim(made.secret, "d1", "k1")
    assert grant is not None
    assert codes.holds(grant)
    gate.services.revocations.device("d9")
    assert not codes.holds(grant)
