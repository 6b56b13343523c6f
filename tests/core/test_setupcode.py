"""Setup codes: their text, and what their profiles allow."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.access import KNOWN_SCOPES, covers
from gateway.core.setupcode import (
    PROFILES,
    InvalidSetupCode,
    SetupCode,
    decode_setup_code,
    encode_setup_code,
    gateway_url_problem,
    is_link_code,
    is_private_url,
    join_url,
    link_secret,
    looks_like_setup_code,
    url_host,
)

CODE = SetupCode("wss://gw.example:8443", "s3cret" * 7, 1_700_000_000_000, "node")


def packed(payload: Any) -> str:
    """Return a value in the form of a setup code."""
    return urlsafe_b64encode(json.dumps(payload).encode()).decode()


def test_what_a_code_says() -> None:
    """A code is base64url of JSON without padding, and reads back as it was, blanks and padding aside."""
    text = encode_setup_code(CODE)
    assert json.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4))) == {
        "url": CODE.url,
        "bootstrapToken": CODE.secret,
        "expiresAtMs": CODE.expires_at_ms,
        "profile": "node",
    }
    assert "=" not in text
    assert decode_setup_code(f" {text[:20]}\n{text[20:]}== ") == CODE
    assert looks_like_setup_code(text)
    bare = SetupCode("ws://10.0.0.1:1", "t")
    assert decode_setup_code(encode_setup_code(bare)) == bare
    assert decode_setup_code(packed({"url": bare.url, "bootstrapToken": "t", "urls": []})) == bare


def test_a_code_keeps_its_secret() -> None:
    """What is printed of a code by accident has no secret in it, and neither has a refusal."""
    assert CODE.secret not in repr(CODE)
    with pytest.raises(InvalidSetupCode) as caught:
        decode_setup_code(packed({"url": "http://x", "bootstrapToken": CODE.secret}))
    assert CODE.secret not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n",
        "hello",
        "e",
        "öäü",
        "x" * 5000,
        packed([]),
        packed({"url": "ws://h:1"}),
        packed({"url": "ws://h:1", "bootstrapToken": ""}),
        packed({"url": "http://h:1", "bootstrapToken": "t"}),
        packed({"url": "ws://h:1", "bootstrapToken": "t", "expiresAtMs": "soon"}),
        encode_setup_code(CODE)[:-9],
        "t0ken-of-a-gateway_with_43_characters_abcde",
    ],
)
def test_what_is_no_code(text: str) -> None:
    """What is no code, or a part of one, is refused in one sentence."""
    assert not looks_like_setup_code(text)
    with pytest.raises(InvalidSetupCode, match="setup code"):
        decode_setup_code(text)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    """Whatever was pasted is read or refused."""
    looks_like_setup_code(text)


@given(st.sampled_from(sorted(PROFILES)), st.sets(st.sampled_from(sorted(KNOWN_SCOPES))))
def test_nobody_hands_on_more_than_it_has(name: str, held: set[str]) -> None:
    """What a code allows is within its profile and within what its maker holds."""
    profile = PROFILES[name].within(held)
    assert covers(held, profile.scopes)
    assert set(profile.scopes) <= set(PROFILES[name].scopes)
    assert profile.roles == PROFILES[name].roles


def test_profiles() -> None:
    """Only full and operator make admins, and a node alone gets no scope."""
    admins = {name for name, profile in PROFILES.items() if "operator.admin" in profile.scopes}
    assert admins == {"full", "operator"}
    assert PROFILES["node"].scopes == ()
    for profile in PROFILES.values():
        assert set(profile.scopes) <= KNOWN_SCOPES
        assert profile.access in ("full", "limited", "node")
        assert bool(profile.scopes) == ("operator" in profile.roles)


@pytest.mark.parametrize(
    ("url", "good", "private"),
    [
        ("ws://127.0.0.1:18789", True, True),
        ("ws://localhost:1", True, True),
        ("ws://[::1]:1/x", True, True),
        ("wss://gw.example", True, True),
        ("ws://gw.example", True, False),
        ("ws://192.168.1.2:1", True, False),
        ("http://gw.example", False, False),
        ("ws://", False, False),
        ("ws://h:99999", False, False),
        ("ws://[", False, False),
        ("ws://u:p@h", False, False),
        ("ws://h/?token=x", False, False),
        ("ws://h/a b", False, False),
        ("ws://h/é", False, False),
        ("ws://h/" + "x" * 600, False, False),
    ],
)
def test_addresses(url: str, good: bool, private: bool) -> None:
    """An address is a WebSocket URL without secrets; private ones are those that nobody can listen to."""
    assert (gateway_url_problem(url) is None) == good
    assert is_private_url(url) == private
    assert not good or url_host(url)


def test_join_links() -> None:
    """A link's code is 22 characters, and the secret behind it another text that tells nothing of it."""
    code = "A" * 21 + "_"
    assert is_link_code(code)
    for text in ("", code[1:], code + "A", code[1:] + "/", code[1:] + "\n", code[1:] + "\u00e9"):
        assert not is_link_code(text)
    assert len(link_secret(code)) == 43
    assert link_secret(code) != link_secret("B" + code[1:])
    assert join_url("wss://gw.example", code) == f"https://gw.example/j/{code}"
    assert join_url("wss://gw.example:1/below/", code) == f"https://gw.example:1/below/j/{code}"
    assert join_url("ws://127.0.0.1:1", code) == f"http://127.0.0.1:1/j/{code}"
