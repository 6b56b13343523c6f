"""Credentials of the wrong kind are named, and nothing of them is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.lookalikes import looks_like
from gateway.core.refusals import unauthorized
from gateway.core.setupcode import SetupCode, encode_setup_code

CODE = encode_setup_code(SetupCode("wss://gateway.example", "s" * 43, 1_700_000_000_000, "node"))
TOKEN = "Zq3-" + "x" * 39


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("   ", "blank"),
        (f" {TOKEN}", "blanks"),
        (f"{TOKEN}\n", "line break"),
        (f'"{TOKEN}"', "quotes"),
        (f"“{TOKEN}”", "quotes"),
        (f"'{TOKEN}", "quotes"),
        (f"Bearer {TOKEN}", "header"),
        (f"bearer {TOKEN}", "header"),
        (f"ws://127.0.0.1:18789/?token={TOKEN}", "address"),
        ("https://gateway.example", "address"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "JWT"),
        ("sk-proj-0123456789abcdef", "API key"),
        ("sk-ant-api03-0123456789", "API key"),
        ("AIzaSy0123456789abcdef", "API key"),
        ("ghp_0123456789abcdef", "API key"),
        ("$GATEWAY_TOKEN", "variable"),
        ("${GATEWAY_TOKEN}", "variable"),
        ("<your token>", "variable"),
        ("{{ gateway_token }}", "variable"),
        ("$argon2id$v=19$m=65536,t=3,p=4$c2FsdA$aGFzaA", "hash"),
        (CODE, "setup code"),
        ("0" * 64, "id of a device"),
    ],
)
def test_what_a_wrong_credential_is(text: str, word: str) -> None:
    """Each kind that people mistake for the token is recognised, as token and as password."""
    for password in (False, True):
        told = looks_like(text, password=password)
        assert told is not None
        assert word in told


def test_a_token_where_a_password_is_asked_for() -> None:
    """A device's token is named only where none is expected: else it looks as the right one does."""
    told = looks_like(TOKEN, password=True)
    assert told is not None
    assert "password is asked for" in told
    assert looks_like(TOKEN) is None


@pytest.mark.parametrize(
    "text", ["hunter2", "correct horse battery staple", "sk-", "eyJ", "x" * 5000]
)
def test_what_looks_like_nothing(text: str) -> None:
    """A text of no known kind gets no guess."""
    assert looks_like(text) is None


@given(st.text(max_size=80), st.booleans())
def test_nothing_of_a_credential_is_told(text: str, password: bool) -> None:
    """Whatever is shown, what is told of it is one of a few sentences, the same for all of its kind."""
    told = looks_like(text, password=password)
    assert told is None or told.startswith("it ")
    reason = "password_mismatch" if password else "token_mismatch"
    secret = f"canary-{text}-canary"
    for shown in (secret, f"sk-{secret}", f"wss://{secret}", f" {secret}", f'"{secret}"'):
        refusal = unauthorized(reason, 4, shown=shown)
        assert "canary" not in f"{refusal} {refusal.error} {refusal.close_reason} {vars(refusal)}"


def test_blanks_tell_nothing_of_what_is_between_them() -> None:
    """A right token with blanks around it is refused in the words of a wrong one with blanks."""
    answers = {str(unauthorized("token_mismatch", 4, shown=f" {text} ")) for text in (TOKEN, "x")}
    assert len(answers) == 1
    assert "blanks" in answers.pop()
