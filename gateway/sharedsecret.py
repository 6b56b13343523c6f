"""The secret that clients share with the gateway: where it lies, and what happens when it changes.

Requirements. A new secret is taken without a restart, within five seconds; from then on the old one
opens nothing, and who came in with it is out. A file that is just being written, is empty or can not be
read never takes the gateway's secret away.

Design. The file is looked at (``stat``) in a thread, every 1.5 seconds. Once it has changed and then
stayed as it is until the next look, it is read; if what it holds is a secret, and another one, that is
the secret from now on. A secret from the environment or from the configuration's own text stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from twisted.logger import Logger

from gateway.app.threads import InThread
from gateway.config import AuthConfig, Secret, SecretRef, resolve_secret
from gateway.core.credentials import is_hash
from gateway.errors import StartError
from gateway.interfaces import IEntropy
from gateway.statedir import StateDirectory

LOOK_S: Final = 1.5
"""How often the file is looked at, in seconds; a change is taken with the second look at it."""
PASSWORD_CHARS_MIN: Final = 12

_Signature = tuple[int, int, int, int]


class Shared(NamedTuple):
    """The secret (None: there is none), where it lies in words, and warnings."""

    value: str | None
    source: str
    warnings: tuple[str, ...] = ()


class SharedSecret:
    """Finds the secret that the configuration asks for."""

    def __init__(
        self,
        auth: AuthConfig,
        state: StateDirectory,
        *,
        token_file: Path | None,
        environ: Mapping[str, str],
        base_dir: Path,
        entropy: IEntropy,
    ) -> None:
        self.auth = auth
        self._state = state
        self._token_file = token_file
        self._environ = environ
        self._base_dir = base_dir
        self._entropy = entropy

    def load(self) -> Shared:
        """Return the secret; the token of the state directory is made if there is none. Raises StartError."""
        mode = self.auth.mode
        if mode == "none":
            return Shared(None, "none is asked for (auth.mode)")
        if mode == "trusted-proxy":
            return Shared(None, "the proxies of server.trusted_proxies say who it is")
        if mode == "password":
            return self._password()
        configured = self._token()
        token = self._state.load_token(
            self._token_file, self._environ, configured, self._base_dir, self._entropy
        )
        return Shared(token.value, token.source, token.warnings)

    def reload(self) -> Shared:
        """Return the secret as it is now; none is made. Raises StartError."""
        if self.file == self._state.token:
            token = self._state.read_token()
            return Shared(token.value, token.source, token.warnings)
        return self.load()

    @property
    def file(self) -> Path | None:
        """The file that the secret lies in, if it lies in one."""
        if self.auth.mode not in ("token", "password"):
            return None
        secret: Secret | None = self.auth.password
        if self.auth.mode == "token":
            if self._token_file is not None:
                return self._token_file
            if self._environ.get("GATEWAY_TOKEN"):
                return None
            secret = self.auth.token
            if secret is None:
                return self._state.token
        return (
            self._base_dir / secret.file if isinstance(secret, SecretRef) and secret.file else None
        )

    def _token(self) -> Secret | None:
        configured = self.auth.token
        if configured is None or self._token_file is not None or self._environ.get("GATEWAY_TOKEN"):
            return configured
        return resolve_secret(configured, self._environ, self._base_dir, key="auth.token")

    def _password(self) -> Shared:
        assert self.auth.password is not None
        value = resolve_secret(
            self.auth.password, self._environ, self._base_dir, key="auth.password"
        )
        source = "auth.password of the configuration"
        if is_hash(value):
            return Shared(_checked_hash(value.strip()), f"{source} (a hash)")
        short = len(value) < PASSWORD_CHARS_MIN
        warning = f"{source} has less than {PASSWORD_CHARS_MIN} characters and can be guessed"
        return Shared(value, source, (warning,) if short else ())


class SecretWatch:
    """Looks whether the file of the secret has changed, and gives a new secret to ``changed``."""

    _log = Logger()

    def __init__(
        self,
        secret: SharedSecret,
        current: str | None,
        changed: Callable[[str], None],
        run: InThread,
    ) -> None:
        self._secret = secret
        self._current = current
        self._changed = changed
        self._in_thread = run
        self._taken: _Signature | None = None
        self._seen: _Signature | None = None
        self._began = False

    async def look(self) -> None:
        """Look once."""
        seen: _Signature | None = await self._in_thread(_signature, self._secret.file)
        if not self._began:
            self._began = True
            self._taken = self._seen = seen
            if seen is not None:  # it may have changed since the start read it
                await self._read()
            return
        settled = seen == self._seen
        self._seen = seen
        if not settled or seen == self._taken:
            return
        self._taken = seen
        if seen is None:
            self._keep("the file is gone")
        else:
            await self._read()

    async def _read(self) -> None:
        try:
            shared: Shared = await self._in_thread(self._secret.reload)
        except StartError as error:
            self._keep(str(error))
            return
        for warning in shared.warnings:
            self._log.warn("{warning}", warning=warning)
        if shared.value is not None and shared.value != self._current:
            self._current = shared.value
            self._changed(shared.value)
            self._log.warn("security: the shared secret changed: {source}", source=shared.source)

    def _keep(self, why: str) -> None:
        self._log.error("security: the shared secret stays as it was: {why}", why=why)


def _signature(file: Path | None) -> _Signature | None:
    """Return what changes with a file; None without one."""
    if file is None:
        return None
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _checked_hash(value: str) -> str:
    from argon2 import extract_parameters
    from argon2.exceptions import InvalidHashError

    try:
        extract_parameters(value)
    except InvalidHashError:
        raise StartError(
            "auth.password is not a whole Argon2 hash; gatewayctl hash-password prints one"
        ) from None
    return value
