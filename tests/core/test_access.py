"""Scopes, the shared credential, where a client comes from."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import access
from gateway.core.access import (
    KNOWN_SCOPES,
    OriginPolicy,
    Peer,
    covers,
    digest_of,
    effective_scopes,
    is_loopback,
    normal_origins,
    same_secret,
)
from gateway.core.credentials import AuthPolicy, SharedAuth

LOCAL = "127.0.0.1"
REMOTE = "192.0.2.7"
SECRET = "correct horse"


def short(scopes: Any) -> set[str]:
    """Return scopes without their common head."""
    return {scope.removeprefix("operator.") for scope in scopes}


@pytest.mark.parametrize(
    ("granted", "satisfied"),
    [
        ([], set()),
        (["read"], {"read", "sessions.read"}),
        (["write"], {"write", "read", "talk", "sessions.read", "sessions.write"}),
        (["sessions.write"], {"sessions.write", "sessions.read"}),
        (["sessions.read"], {"sessions.read"}),
        (["talk"], {"talk"}),
        (["approvals", "pairing"], {"approvals", "pairing"}),
        (["talk.secrets", "questions"], {"talk.secrets", "questions"}),
        (["admin"], short(KNOWN_SCOPES)),
        (["unknown"], set()),
    ],
)
def test_what_a_scope_implies(granted: list[str], satisfied: set[str]) -> None:
    """A grant satisfies itself and what the protocol's table says, and nothing else."""
    assert short(effective_scopes(f"operator.{scope}" for scope in granted)) == satisfied


def test_a_scope_outside_the_operators_is_never_satisfied() -> None:
    """Nobody comes by a right through a string that only looks like one."""
    for scope in ("node.admin", "admin", "", "OPERATOR.ADMIN", "operator.admin "):
        assert effective_scopes([scope]) == frozenset()


@given(
    st.sets(st.sampled_from(sorted(KNOWN_SCOPES))), st.sets(st.sampled_from(sorted(KNOWN_SCOPES)))
)
def test_more_grants_never_satisfy_less(first: set[str], second: set[str]) -> None:
    """Implication is monotone and complete: applying it twice adds nothing."""
    both = effective_scopes(first | second)
    assert both >= effective_scopes(first) >= first
    assert effective_scopes(both) == both
    assert covers(first, second) is (second <= effective_scopes(first))


@pytest.mark.parametrize(
    ("approved", "requested", "covered"),
    [
        ([], [], True),
        ([], ["operator.read"], False),
        (["operator.write"], ["operator.read", "operator.talk"], True),
        (["operator.read"], ["operator.write"], False),
        (["operator.read"], ["operator.read", "operator.admin"], False),
        (["operator.admin"], ["operator.pairing", "operator.new-in-a-later-version"], True),
        (["operator.admin"], ["something.else"], False),
        (["operator.admin", "something.else"], ["something.else"], True),
        (["operator.write"], ["operator.new-in-a-later-version"], False),
        (["operator.new"], ["operator.new"], True),
    ],
)
def test_what_approved_scopes_cover(
    approved: list[str], requested: list[str], covered: bool
) -> None:
    """Admin covers all operator scopes, write covers read; anything else has to be there literally."""
    assert covers(approved, requested) is covered


@pytest.mark.parametrize(
    ("mode", "token", "password", "reason"),
    [
        ("token", SECRET, None, None),
        ("token", None, SECRET, None),
        ("token", "", SECRET, None),
        ("token", "wrong", SECRET, "token_mismatch"),
        ("token", SECRET, "wrong", None),
        ("token", None, None, "token_missing"),
        ("token", "", "", "token_missing"),
        ("token", SECRET + " ", None, "token_mismatch"),
        ("token", "\ud800", None, "token_mismatch"),
        ("password", None, SECRET, None),
        ("password", SECRET, None, None),
        ("password", SECRET, "wrong", "password_mismatch"),
        ("password", None, None, "password_missing"),
    ],
)
def test_the_shared_secret_may_come_in_either_field(
    mode: str, token: str | None, password: str | None, reason: str | None
) -> None:
    """The field of the mode counts; only where it is empty does the other."""
    verdict = AuthPolicy(mode, SECRET).check(token, password)
    assert verdict == SharedAuth(reason is None, mode, reason)
    assert verdict.presented is (reason is None or reason.endswith("mismatch"))


@pytest.mark.parametrize("secret", [None, ""])
@pytest.mark.parametrize("mode", ["token", "password"])
def test_without_a_configured_secret_nobody_has_it(mode: str, secret: str | None) -> None:
    """A gateway without a secret lets nobody in by one, not even by an empty one."""
    for given_ in (None, "", "x"):
        verdict = AuthPolicy(mode, secret).check(given_, given_)
        assert verdict == SharedAuth(False, mode, f"{mode}_missing_config")
        assert verdict.presented


def test_mode_none_asks_for_nothing() -> None:
    """Without authentication every credential is right."""
    assert AuthPolicy("none").check(None, None) == SharedAuth(True, "none")
    assert AuthPolicy("none", SECRET).check("wrong", None).ok


def test_secrets_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both secrets are digested to one length and compared by a function without early end."""
    compared: list[tuple[bytes, bytes]] = []
    real: Callable[[Any, Any], bool] = hmac.compare_digest

    def spy(first: bytes, second: bytes) -> bool:
        compared.append((first, second))
        return real(first, second)

    monkeypatch.setattr(hmac, "compare_digest", spy)

    assert same_secret("short", "a very much longer secret") is False
    assert same_secret("ü", "ü") is True
    assert AuthPolicy("token", SECRET).check(SECRET, None).ok
    assert [(len(first), len(second)) for first, second in compared] == [(32, 32)] * 3


def test_a_policy_does_not_show_its_secret() -> None:
    """The secret stands in no representation."""
    policy = AuthPolicy("token", SECRET)
    assert SECRET not in f"{policy!r} {policy}"


def test_a_digest_is_what_is_stored() -> None:
    """A token is stored as the SHA-256 of its text in hex."""
    assert digest_of("abc").startswith("ba7816bf8f01cfea")
    assert len(digest_of("\ud800")) == 64


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.255.0.9", True),
        ("::1", True),
        ("::1%lo", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:7f00:1", True),
        ("0:0:0:0:0:0:0:1", True),
        ("::ffff:192.0.2.7", False),
        ("::127.0.0.1", False),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.7", False),
        ("10.0.0.1", False),
        ("fe80::1%eth0", False),
        ("localhost", False),
        ("127.0.0.1.evil.example", False),
        ("127.1", False),
        ("2130706433", False),
        ("0177.0.0.1", False),
        ("", False),
    ],
)
def test_which_addresses_are_of_this_machine(address: str, loopback: bool) -> None:
    """Loopback in either family, mapped or with a zone; a name and a private address are not."""
    assert is_loopback(address) is loopback
    assert Peer(address).local is loopback


def test_a_client_behind_a_proxy_is_not_local() -> None:
    """A forwarding header says that somebody stands between, whoever the peer is."""
    assert Peer(LOCAL, forwarded=True).local is False


HOSTILE = [
    "null",
    "NULL",
    "",
    " ",
    "file://",
    "file:///etc/passwd",
    "evil.example",
    "//gateway.example",
    "https://",
    "https://gateway.example/",
    "https://gateway.example/path",
    "https://gateway.example?x",
    "https://gateway.example#x",
    "https://user@gateway.example",
    "https://user:pw@gateway.example",
    "https://@gateway.example",
    "https://evil.example\\@gateway.example",
    "https://gateway.example:",
    "https://gateway.example:0",
    "https://gateway.example:65536",
    "https://gateway.example:443443",
    "https://gateway.example:44３",
    " https://gateway.example",
    "https://gateway.example\n",
    "https://gate\tway.example",
    "https://gateway.example https://evil.example",
    "https://gateway.example, null",
    "https://[::1",
    "https://::1",
    "https://[gateway.example]",
    "http://loca\u212bhost",
    "https://gatewa\uff59.example",
]
FOREIGN = [
    "https://evil.example",
    "https://gateway.example.evil.example",
    "https://evilgateway.example",
    "https://evil.gateway.example",
    "https://gateway.example.",
    "https://gateway.example:8443",
    "http://gateway.example",
    "https://xn--gatewy-5wa.example",
    "https://gateway-example",
    "wss://gateway.example",
    "http://localhost.evil.example",
    "http://localhost.",
    "http://notlocalhost",
    "http://127.0.0.1.evil.example",
    "http://127.0.0.1.",
    "http://2130706433",
    "http://0x7f.0.0.1",
    "http://192.0.2.7",
    "http://[2001:db8::1]",
    "chrome-extension://localhost",
]
LOOPBACK = [
    "http://localhost",
    "http://localhost:3000",
    "https://localhost:8443",
    "http://LocalHost:3000",
    "http://app.localhost:3000",
    "http://127.0.0.1:18789",
    "http://127.9.9.9",
    "http://[::1]:18789",
    "http://[::ffff:127.0.0.1]",
]
OPEN = OriginPolicy(normal_origins(["https://gateway.example"]))


@pytest.mark.parametrize("origin", HOSTILE)
@pytest.mark.parametrize("policy", [OPEN, OriginPolicy(allow_any=True)], ids=["list", "any"])
def test_what_is_no_origin_is_refused(origin: str, policy: OriginPolicy) -> None:
    """A page that names nobody is refused, whoever may connect and from wherever it comes."""
    for address in (LOCAL, REMOTE):
        for browser in (True, False):
            reason = policy.refusal(Peer(address, origin=origin), browser=browser)
            assert reason == "origin missing or invalid"


@pytest.mark.parametrize("origin", FOREIGN)
def test_a_foreign_page_is_refused(origin: str) -> None:
    """Look-alikes, other ports, schemes and subdomains of an allowed origin are not allowed."""
    for address in (LOCAL, REMOTE):
        for browser in (True, False):
            reason = OPEN.refusal(Peer(address, origin=origin), browser=browser)
            assert reason == "origin not allowed"
    assert OriginPolicy(allow_any=True).refusal(Peer(REMOTE, origin=origin), browser=True) is None


@pytest.mark.parametrize("origin", LOOPBACK)
def test_a_page_of_this_machine_may_connect_from_this_machine(origin: str) -> None:
    """A loopback page is allowed to a direct local client, and to nobody else."""
    assert OPEN.refusal(Peer(LOCAL, origin=origin), browser=True) is None
    for peer in (Peer(REMOTE, origin=origin), Peer(LOCAL, origin=origin, forwarded=True)):
        assert OPEN.refusal(peer, browser=True) == "origin not allowed"


@pytest.mark.parametrize(
    ("configured", "sent"),
    [
        ("https://gateway.example", "https://gateway.example"),
        ("https://Gateway.Example", "HTTPS://GATEWAY.EXAMPLE"),
        ("https://gateway.example:443", "https://gateway.example"),
        ("http://gateway.example:80", "http://gateway.example"),
        ("http://gateway.example:443", "http://gateway.example:443"),
        ("https://gateway.example:08443", "https://gateway.example:8443"),
        ("https://[2001:DB8::1]:8443", "https://[2001:db8::1]:8443"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ("null", "null"),
    ],
)
def test_an_allowed_origin_may_connect_from_anywhere(configured: str, sent: str) -> None:
    """Origins are compared in lower case and without the default port of their scheme."""
    policy = OriginPolicy(normal_origins([configured]))
    for address in (LOCAL, REMOTE):
        assert policy.refusal(Peer(address, origin=sent), browser=True) is None


def test_a_client_that_is_no_browser_needs_no_origin() -> None:
    """A missing Origin is right for a command line, and wrong for a client that runs in a browser."""
    assert OPEN.refusal(Peer(REMOTE), browser=False) is None
    assert OPEN.refusal(Peer(LOCAL), browser=True) == "origin missing or invalid"
    assert OriginPolicy(allow_any=True).refusal(Peer(LOCAL), browser=True) is not None


def test_what_is_no_origin_can_not_be_allowed() -> None:
    """Configured texts that no browser sends are left out."""
    assert normal_origins(iter(["https://a.example/", "*", "a.example", ""])) == frozenset()
    assert normal_origins(["https://a.example", "null"]) == {"https://a.example", "null"}


@given(st.text() | st.sampled_from(HOSTILE + FOREIGN + LOOPBACK))
def test_any_origin_is_judged(origin: str) -> None:
    """No text in the header raises, and a normal origin is its own normal form."""
    OPEN.refusal(Peer(LOCAL, origin=origin), browser=True)
    (*normal,) = normal_origins([origin])
    assert normal_origins(normal) == frozenset(normal)
    assert access.NULL_ORIGIN == "null"


def test_a_unix_socket_is_local() -> None:
    """Who comes through a Unix socket is on this machine."""
    assert Peer("unix").local is True
    assert Peer("unix", forwarded=True).local is False
