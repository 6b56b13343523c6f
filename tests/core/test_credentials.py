"""The shared credential: passwords with hashes, and identities of proxies."""

from __future__ import annotations

import pytest

from gateway.core.access import Peer
from gateway.core.credentials import AuthPolicy, SharedAuth, Unverified, is_hash

HASHED = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaA"


def test_a_hash_is_compared_by_somebody_else() -> None:
    """With a hash a password can't be judged here; what was found out is believed."""
    policy = AuthPolicy("password", HASHED)
    assert policy.hashed
    assert policy.shares_secret
    with pytest.raises(Unverified) as wanted:
        policy.check(None, "guess")
    assert wanted.value.candidate == "guess"
    assert "guess" not in str(wanted.value)
    assert policy.check(None, "guess", verified=True).ok
    wrong = policy.check("guess", None, verified=False)
    assert (wrong.reason, wrong.wrong, wrong.presented) == ("password_mismatch", True, True)
    assert policy.check(None, None).reason == "password_missing"


def test_the_hash_is_not_the_password() -> None:
    """Who has read the hash in a file can't come in with it."""
    with pytest.raises(Unverified):
        AuthPolicy("password", HASHED).check(None, HASHED)


def test_a_token_that_looks_like_a_hash_is_a_token() -> None:
    """Only passwords are hashed."""
    assert not AuthPolicy("token", HASHED).hashed
    assert AuthPolicy("token", HASHED).check(HASHED, None).ok
    assert is_hash(HASHED)
    assert not is_hash(None)


def test_who_a_proxy_names() -> None:
    """Everybody whom a proxy names is let in, or those that are listed."""
    anybody, some = (
        AuthPolicy("trusted-proxy"),
        AuthPolicy("trusted-proxy", users=frozenset({"ann"})),
    )
    ann, bob = Peer("192.0.2.7", user="ann"), Peer("192.0.2.7", user="bob")
    assert not anybody.shares_secret
    assert anybody.check(None, None, bob) == SharedAuth(True, "trusted-proxy")
    assert some.check(None, None, ann).ok
    assert some.check("x", "y", bob).reason == "trusted_proxy_user_not_allowed"


@pytest.mark.parametrize(
    ("peer", "reason"),
    [
        (None, "trusted_proxy_untrusted_source"),
        (Peer("127.0.0.1"), "trusted_proxy_untrusted_source"),
        (
            Peer("192.0.2.7", user_refusal="trusted_proxy_user_missing"),
            "trusted_proxy_user_missing",
        ),
    ],
)
def test_who_does_not_come_through_the_proxy(peer: Peer | None, reason: str) -> None:
    """Nobody else is let in, local clients included, and it counts as a credential that was shown."""
    shared = AuthPolicy("trusted-proxy").check("t", "p", peer)
    assert (shared.ok, shared.reason, shared.presented, shared.wrong) == (
        False,
        reason,
        True,
        False,
    )
