"""What this command line is known by at gateways elsewhere: a device key, and the tokens they gave it.

::

    device.key            32 random bytes, base64url: the seed of an Ed25519 key
    device.key.tokens     JSON: by gateway and role the token and the scopes that it was given for

A gateway is ``SCHEME://HOST:PORT``: what was given over TLS is never sent where others read along. Files
of before name a gateway ``HOST:PORT``; such a token is shown where nobody reads along, and kept there.

Both are for their owner only. Who has them is this device; who loses them is paired anew.
"""

from __future__ import annotations

import binascii
import fcntl
import json
import os
import stat
import tempfile
from base64 import urlsafe_b64decode
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.cli.common import Failure, Flags
from gateway.client.options import parse_url
from gateway.core.deviceproof import DeviceIdentity, base64url

SEED_BYTES = 32
MAX_FILE_BYTES = 1_000_000


def identity_path(flags: Flags, environ: Mapping[str, str]) -> Path:
    """Return where the device key lies, or would lie."""
    named = flags.identity or environ.get("GATEWAY_IDENTITY")
    if named:
        return Path(named).expanduser().absolute()
    import platformdirs  # only where no file is named

    return Path(platformdirs.user_state_dir("gatewayctl", appauthor=False)) / "device.key"


def load_identity(path: Path) -> DeviceIdentity:
    """Return the device of a key file; make the file if there is none. Raises Failure."""
    try:
        with suppress(FileExistsError):
            _make(path)
        descriptor = os.open(path, os.O_RDONLY)
        with os.fdopen(descriptor, "rb") as file:
            if stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o077:
                raise Failure(f"others can read the device key {path}: run: chmod 600 {path}")
            text = file.read(MAX_FILE_BYTES).strip()
    except OSError as error:
        raise Failure(f"device key {path}: {error.strerror}") from None
    try:
        return DeviceIdentity.from_seed(urlsafe_b64decode(text + b"=" * (-len(text) % 4)))
    except (binascii.Error, ValueError):
        raise Failure(f"{path} is no device key: move it away, and another one is made") from None


def _make(path: Path) -> None:
    """Make the file, whole at once: another command that starts now never reads a part of it."""
    if path.exists():
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # mkstemp makes the file for its owner only.
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".key-")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(base64url(os.urandom(SEED_BYTES)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(name, path)
    finally:
        os.unlink(name)


@dataclass(frozen=True, slots=True)
class Kept:
    """What a gateway gave this device."""

    token: str = field(repr=False)
    scopes: tuple[str, ...]


class FileTokens:
    """The tokens of one device at one gateway, in a file; a TokenStore.

    ``scopes`` are those that the connection asks for: what a token that comes now is good for.
    """

    def __init__(self, path: Path, url: str, scopes: tuple[str, ...] = ()) -> None:
        target = parse_url(url)
        self._path = path
        host = f"[{target.host}]" if ":" in target.host else target.host
        self._gateway = f"{'wss' if target.secure else 'ws'}://{host}:{target.port}"
        self._before = f"{target.host}:{target.port}" if target.private else None
        self.scopes = scopes

    @classmethod
    def beside(cls, key: Path, url: str) -> FileTokens:
        """Return the tokens that belong to a key file."""
        return cls(key.with_name(key.name + ".tokens"), url)

    def kept(self, device_id: str, role: str) -> Kept | None:
        """Return what is kept, ``None`` if there is nothing, or nothing that can be read."""
        gateways = self._read(device_id)
        own = _kept(gateways, self._gateway, role)
        return own or (_kept(gateways, self._before, role) if self._before else None)

    def load(self, device_id: str, role: str) -> str | None:
        """See TokenStore."""
        kept = self.kept(device_id, role)
        return None if kept is None else kept.token

    def save(self, device_id: str, role: str, token: str) -> None:
        """See TokenStore."""
        if _kept(self._read(device_id), self._gateway, role) == Kept(token, self.scopes):
            return
        entry = {"token": token, "scopes": list(self.scopes)}
        with self._alone():
            gateways = self._read(device_id)
            self._drop(gateways, role)
            gateways.setdefault(self._gateway, {})[role] = entry
            self._write(device_id, gateways)

    def forget(self, device_id: str, role: str) -> None:
        """See TokenStore."""
        with self._alone():
            gateways = self._read(device_id)
            if self._drop(gateways, role):
                self._write(device_id, gateways)

    def _drop(self, gateways: dict[str, dict[str, Any]], role: str) -> bool:
        """Drop what is kept for a role, under either name; whether there was anything."""
        dropped = False
        for name in filter(None, (self._gateway, self._before)):
            roles = gateways.get(name, {})
            dropped = roles.pop(role, None) is not None or dropped
            if not roles:
                gateways.pop(name, None)
        return dropped

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other commands from writing meanwhile what they read before, where the system can."""
        with ExitStack() as stack:
            with suppress(OSError):
                directory = os.open(self._path.parent, os.O_RDONLY)
                stack.callback(os.close, directory)
                fcntl.flock(directory, fcntl.LOCK_EX)
            yield

    def _read(self, device_id: str) -> dict[str, dict[str, Any]]:
        try:
            with self._path.open("rb") as file:
                found = json.loads(file.read(MAX_FILE_BYTES))
        except (OSError, ValueError):
            return {}
        if not isinstance(found, dict) or found.get("deviceId") != device_id:
            return {}
        gateways = found.get("gateways")
        known = gateways.items() if isinstance(gateways, dict) else ()
        return {name: roles for name, roles in known if isinstance(roles, dict)}

    def _write(self, device_id: str, gateways: dict[str, dict[str, Any]]) -> None:
        """Replace the file, or leave it as it is. Raises Failure."""
        text = json.dumps({"deviceId": device_id, "gateways": gateways}, indent=1)
        try:
            # mkstemp makes the file for its owner only.
            descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=".tokens-")
            try:
                with os.fdopen(descriptor, "w") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(name, self._path)
            except BaseException:
                os.unlink(name)
                raise
        except OSError as error:
            raise Failure(f"device tokens {self._path}: {error.strerror}") from None


def _kept(gateways: Mapping[str, Mapping[str, Any]], name: str, role: str) -> Kept | None:
    """Return what is kept under a name, ``None`` for nothing that can be read."""
    entry = gateways.get(name, {}).get(role)
    if not isinstance(entry, dict) or not isinstance(entry.get("token"), str):
        return None
    scopes = entry.get("scopes")
    named = scopes if isinstance(scopes, list) else []
    return Kept(entry["token"], tuple(scope for scope in named if isinstance(scope, str)))
