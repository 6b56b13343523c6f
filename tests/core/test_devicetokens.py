"""The tokens of a paired device."""

from __future__ import annotations

import pytest

from gateway.core.devicetokens import LIVE_TOKENS, issue, revoke, rotate, verify
from gateway.core.pairing import seen
from gateway.model import Pairing
from tests.core.test_pairing import ADMIN, EMPTY, NOW, READ, WRITE, approved, asking, kind_of

PAIRED = approved(asking(WRITE))


def filled(count: int) -> Pairing:
    """Return a device with tokens t0, t1 ... made a second apart."""
    pairing = PAIRED
    for n in range(count):
        pairing = issue(pairing, "operator", (READ,), f"t{n}", now_ms=NOW + 1000 * n).pairing
    return pairing


def test_the_one_longest_unused_dies() -> None:
    """A token too many ends the one that was not needed for longest, and says which."""
    pairing = seen(filled(LIVE_TOKENS), asking(READ), "t0", now_ms=NOW + 10_000)
    issued = issue(pairing, "operator", (), "new", now_ms=NOW + 20_000)

    assert issued.dropped == ("t1",)
    assert {token.digest for token in issued.pairing.tokens} == {"t0", "t2", "t3", "new"}


def test_what_a_connection_has_dies_last() -> None:
    """A token at work outlives newer ones that nobody uses; of those at work the least needed goes."""
    pairing = filled(LIVE_TOKENS)
    idle = issue(pairing, "operator", (), "new", now_ms=NOW + 20_000, in_use={"t0": 2, "t1": 1})
    full = issue(
        pairing,
        "operator",
        (),
        "new",
        now_ms=NOW + 20_000,
        in_use={"t0": 2, "t1": 2, "t2": 1, "t3": 2},
    )

    assert idle.dropped == ("t2",)
    assert full.dropped == ("t2",)


def test_a_new_token_lives_whatever_the_clock_says() -> None:
    """The token that is made is never the one that dies, also where the clock was set back."""
    issued = issue(filled(LIVE_TOKENS), "operator", (), "new", now_ms=0)

    assert issued.token in issued.pairing.tokens
    assert issued.dropped == ("t0",)


def test_rotation_leaves_one() -> None:
    """A rotated token takes the place of all; without scopes named it has all that is granted."""
    rotated = rotate(filled(3), "operator", None, digest="new", now_ms=NOW + 5)
    narrower = rotate(filled(1), "operator", (READ,), digest="new", now_ms=NOW + 5)

    assert rotated.pairing.tokens == (rotated.token,)
    assert rotated.token.scopes == (WRITE,)
    assert rotated.dropped == ("t0", "t1", "t2")
    device = rotated.pairing.device
    assert device is not None
    assert device.grants[0].rotated_at_ms == NOW + 5
    assert narrower.token.scopes == (READ,)


def test_no_token_beyond_its_grant() -> None:
    """A token is made only for a role that is granted now, and for no more scopes than it has."""
    revoked = revoke(PAIRED, "operator", now_ms=NOW)

    assert kind_of(issue, EMPTY, "operator", (), "t", now_ms=NOW) == "unknown-device"
    assert kind_of(issue, PAIRED, "node", (), "t", now_ms=NOW) == "unknown-role"
    assert kind_of(issue, revoked, "operator", (), "t", now_ms=NOW) == "unknown-role"
    assert kind_of(issue, PAIRED, "operator", (ADMIN,), "t", now_ms=NOW) == "scope-not-approved"
    assert kind_of(rotate, revoked, "operator", None, digest="t", now_ms=NOW) == "unknown-role"
    too_much = (ADMIN,)
    kind = kind_of(rotate, PAIRED, "operator", too_much, digest="t", now_ms=NOW)
    assert kind == "scope-not-approved"
    assert issue(PAIRED, "operator", ("odd",), "t", now_ms=NOW).token.scopes == ()


@pytest.mark.parametrize(
    ("pairing", "how", "answer"),
    [
        (filled(2), ("key", "operator", "t1", (READ,)), "t1"),
        (filled(2), ("key", "operator", "t1", ()), "t1"),
        (filled(2), ("key", "operator", "tx", ()), "device_token_mismatch"),
        (filled(2), ("other", "operator", "t1", ()), "device_token_mismatch"),
        (filled(2), ("key", "node", "t1", ()), "device_token_mismatch"),
        (EMPTY, ("key", "operator", "t1", ()), "device_token_mismatch"),
        (filled(2), ("key", "operator", "t1", (WRITE,)), "scope_mismatch"),
    ],
)
def test_verifying(
    pairing: Pairing, how: tuple[str, str, str, tuple[str, ...]], answer: str
) -> None:
    """A token serves its device in its role, for the scopes that it was made with."""
    found = verify(pairing, *how)

    assert (found if isinstance(found, str) else found.digest) == answer
