"""Which credential a connection shows, and where a device's tokens are kept.

A gateway hands a paired device a token of its own. The shared credential, where there is one, goes
first; the token is for a client that has nothing else, and, where the gateway offers it, for one
whose shared token is no longer right (protocol: device tokens).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gateway.client.errors import ClientError, ConnectRefused


@dataclass(frozen=True, slots=True)
class Credentials:
    """What proves that a client may connect; none of it is ever shown.

    ``token`` is the shared token or password of the gateway, ``device_token`` one that an earlier
    ``hello-ok`` handed to this device, ``bootstrap_token`` the secret of a setup code.
    """

    token: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    device_token: str | None = field(default=None, repr=False)
    bootstrap_token: str | None = field(default=None, repr=False)


class TokenStore(Protocol):
    """Keeps device tokens, by device and role. Called in the event loop: it must not block."""

    def load(self, device_id: str, role: str) -> str | None:
        """Return the token, ``None`` if there is none."""

    def save(self, device_id: str, role: str, token: str) -> None:
        """Keep a token in place of the one before."""

    def forget(self, device_id: str, role: str) -> None:
        """Drop a token that the gateway no longer takes."""


class MemoryTokens:
    """A token store that lives as long as its process."""

    def __init__(self) -> None:
        self._tokens: dict[tuple[str, str], str] = {}

    def load(self, device_id: str, role: str) -> str | None:
        """See TokenStore."""
        return self._tokens.get((device_id, role))

    def save(self, device_id: str, role: str, token: str) -> None:
        """See TokenStore."""
        self._tokens[device_id, role] = token

    def forget(self, device_id: str, role: str) -> None:
        """See TokenStore."""
        self._tokens.pop((device_id, role), None)


class Keyring:
    """Chooses the credentials of the next connection."""

    def __init__(
        self,
        given: Credentials,
        *,
        device_id: str | None,
        role: str,
        store: TokenStore | None,
        private: bool,
    ) -> None:
        self._given = given
        self._device_id = device_id
        self._role = role
        self._store = MemoryTokens() if store is None else store
        self._private = private
        self._shown: str | None = None
        self._instead = False

    def credentials(self) -> Credentials:
        """Return what to show now."""
        given, self._shown = self._given, None
        own = given.device_token is not None or given.bootstrap_token is not None
        if self._device_id is None or own:
            return given
        shared = given.token is not None or given.password is not None
        if not shared or self._instead:
            self._shown = self._store.load(self._device_id, self._role)
        return given if self._shown is None else Credentials(device_token=self._shown)

    def welcomed(self, token: str | None) -> None:
        """Keep the token that ``hello-ok`` brought, if it did."""
        if token is not None and self._device_id is not None:
            self._store.save(self._device_id, self._role, token)

    def refused(self, error: ClientError) -> bool:
        """Take in a refusal; whether to come back at once, with the device's token instead."""
        if not isinstance(error, ConnectRefused) or self._device_id is None:
            return False
        self._instead = False
        if self._shown is not None:
            if error.detail_code in ("AUTH_DEVICE_TOKEN_MISMATCH", "AUTH_TOKEN_MISMATCH"):
                self._store.forget(self._device_id, self._role)
            return False
        details = error.details if isinstance(error.details, Mapping) else {}
        offered = details.get("canRetryWithDeviceToken") is True and self._private
        self._instead = offered and self._store.load(self._device_id, self._role) is not None
        return self._instead
