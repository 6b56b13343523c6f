"""Which credential a connection shows."""

from __future__ import annotations

import pytest

from gateway.client.errors import ConnectionLost, ConnectRefused
from gateway.client.tokens import Credentials, Keyring, MemoryTokens

DEVICE = "d-1"


def keyring(given=Credentials(), store=None, **more):  # noqa: B008 - frozen
    options = {"device_id": DEVICE, "role": "operator", "private": True, **more}
    return Keyring(given, store=store, **options)


def mismatch(code="AUTH_TOKEN_MISMATCH", **details):
    return ConnectRefused("INVALID_REQUEST", "no", details={"code": code, **details})


def kept(token="dt-1"):
    store = MemoryTokens()
    store.save(DEVICE, "operator", token)
    return store


def test_what_was_given_is_shown():
    """Shared credentials, and a device token that was given, go as they are."""
    for kind in ("token", "password", "device_token", "bootstrap_token"):
        given = Credentials(**{kind: "t"})
        assert keyring(given, kept()).credentials() == given
    assert keyring(store=kept(), device_id=None).credentials() == Credentials()


def test_a_kept_token_is_shown_where_there_is_nothing_else():
    """A device without a shared credential shows the token that was kept for its role."""
    assert keyring(store=kept()).credentials() == Credentials(device_token="dt-1")
    assert keyring(store=kept(), role="node").credentials() == Credentials()


def test_a_new_token_is_kept():
    """The token of a hello is kept, and shown by the next connection, also without a store."""
    store, ring = MemoryTokens(), keyring()
    keyring(store=store).welcomed("dt-2")
    ring.welcomed("dt-3")
    ring.welcomed(None)

    assert store.load(DEVICE, "operator") == "dt-2"
    assert ring.credentials() == Credentials(device_token="dt-3")
    without_device = keyring(store=(other := MemoryTokens()), device_id=None)
    without_device.welcomed("dt-4")
    assert other.load(DEVICE, "operator") is None


@pytest.mark.parametrize("code", ["AUTH_DEVICE_TOKEN_MISMATCH", "AUTH_TOKEN_MISMATCH"])
def test_a_token_that_is_refused_is_forgotten(code):
    """A kept token that the gateway no longer takes is dropped, and that is the end."""
    store = kept()
    ring = keyring(store=store)
    ring.credentials()

    assert not ring.refused(mismatch(code))
    assert store.load(DEVICE, "operator") is None


def test_another_refusal_keeps_the_token():
    """A refusal for another reason says nothing about the token."""
    store = kept()
    ring = keyring(store=store)
    ring.credentials()

    assert not ring.refused(mismatch("PAIRING_REQUIRED"))
    assert not ring.refused(ConnectionLost(1006, ""))
    assert store.load(DEVICE, "operator") == "dt-1"


def test_the_device_token_instead_of_the_shared_one():
    """Where the gateway offers it, a wrong shared token is replaced once by the device's own."""
    ring = keyring(Credentials(token="old"), store := kept())
    first = ring.credentials()

    again = ring.refused(mismatch(canRetryWithDeviceToken=True))
    second, third = ring.credentials(), ring.credentials()
    once_more = ring.refused(mismatch("AUTH_DEVICE_TOKEN_MISMATCH", canRetryWithDeviceToken=True))

    assert first == Credentials(token="old")
    assert again
    assert second == third == Credentials(device_token="dt-1")
    assert not once_more
    assert ring.credentials() == Credentials(token="old")
    assert store.load(DEVICE, "operator") is None


@pytest.mark.parametrize(
    ("more", "refusal"),
    [
        ({"private": False}, mismatch(canRetryWithDeviceToken=True)),
        ({}, mismatch()),
        ({}, ConnectRefused("INVALID_REQUEST", "no", details="text")),
        ({"store": MemoryTokens()}, mismatch(canRetryWithDeviceToken=True)),
        ({"device_id": None}, mismatch(canRetryWithDeviceToken=True)),
    ],
)
def test_no_device_token_instead(more, refusal):
    """Over an open line, unasked, or without a token to show, there is no second try."""
    ring = keyring(Credentials(token="old"), **{"store": kept(), **more})
    ring.credentials()

    assert not ring.refused(refusal)


def test_forgetting_twice_is_harmless():
    """A token that is not there can be forgotten."""
    store = MemoryTokens()

    store.forget(DEVICE, "operator")

    assert store.load(DEVICE, "operator") is None


def test_credentials_are_not_shown():
    """No credential is in the text of the credentials."""
    shown = repr(Credentials(token="s3cret", password="s3cret", device_token="s3cret"))

    assert "s3cret" not in shown
