"""Which gateway, and by what right: from options, environment, configuration and state directory."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli.common import Flags, Unreachable
from gateway.config import Config, SecretRef, load, resolve_secret
from gateway.core.credentials import is_hash
from gateway.errors import StartError

if TYPE_CHECKING:
    from gateway.statedir import StateDirectory

_HOST_PORT = re.compile(r"(?P<host>\[[^\]]+\]|[^\[\]:]+):(?P<port>\d+)")
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - compared
_TCP_ENDPOINTS = {"tcp": "127.0.0.1", "tcp4": "127.0.0.1", "tcp6": "[::1]"}


@dataclass(frozen=True, slots=True)
class Target:
    """An address and what to show there."""

    url: str
    token: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class TokenSource:
    """Where a token lies: words for people, and the token, ``None`` where there is none yet."""

    source: str
    value: str | None = field(repr=False)
    hashed: bool = False
    """Whether only the hash of a password lies there."""


def resolve(flags: Flags, environ: Mapping[str, str]) -> Target:
    """Find address and token. Raises Unreachable.

    The token of this host is for gateways on this host: to any other address only a token goes that
    was given for it.
    """
    from gateway.client.errors import InvalidUrl
    from gateway.client.options import parse_url

    url = flags.url or environ.get("GATEWAY_URL")
    try:
        given = _given_token(flags, environ)
        if url is not None and (given is not None or not is_loopback(parse_url(url).host)):
            return Target(url, None if given is None else given.value)
        config, base_dir = _configuration(environ)
        found = given or _own_token(flags, environ, config, base_dir)
        url = url or state_directory(flags, environ).announced_url()
        return Target(url or url_of(config.server.listen), None if found is None else found.value)
    except (InvalidUrl, StartError) as error:
        raise Unreachable(str(error)) from None


def local_logs(flags: Flags, environ: Mapping[str, str]) -> Path | None:
    """Return where the log files of the gateway lie, ``None`` if it is not on this host."""
    from gateway.client.errors import InvalidUrl
    from gateway.client.options import parse_url

    url = flags.url or environ.get("GATEWAY_URL")
    try:
        here = url is None or is_loopback(parse_url(url).host)
    except InvalidUrl:
        here = False
    return state_directory(flags, environ).logs if here else None


def local_token(flags: Flags, environ: Mapping[str, str]) -> TokenSource | None:
    """Find the token of the gateway on this host; ``None`` if it wants none. Raises StartError."""
    return _given_token(flags, environ) or _own_token(flags, environ, *_configuration(environ))


def _given_token(flags: Flags, environ: Mapping[str, str]) -> TokenSource | None:
    if flags.token:
        return TokenSource("--token", flags.token)
    if flags.token_file:
        path = Path(flags.token_file).absolute()
        return TokenSource(str(path), _read(SecretRef(file=str(path)), environ, path.parent))
    if environ.get("GATEWAY_TOKEN"):
        return TokenSource("$GATEWAY_TOKEN", environ["GATEWAY_TOKEN"].strip())
    return None


def _own_token(
    flags: Flags, environ: Mapping[str, str], config: Config, base_dir: Path
) -> TokenSource | None:
    if config.auth.mode in ("none", "trusted-proxy"):
        return None
    secret = config.auth.password if config.auth.mode == "password" else config.auth.token
    if secret is not None:
        value = _read(secret, environ, base_dir)
        source = _source(secret, base_dir, config.auth.mode)
        return (
            TokenSource(source, None, hashed=True) if is_hash(value) else TokenSource(source, value)
        )
    state = state_directory(flags, environ)
    return TokenSource(str(state.token), state.read_token().value if state.token.exists() else None)


def database(flags: Flags, environ: Mapping[str, str]) -> str:
    """Return the path of the database of the gateway on this host. Raises StartError."""
    from gateway.store.sqlite import parse_url, path_of

    config, _ = _configuration(environ)
    if not config.store.url:
        return str(state_directory(flags, environ).database)
    path = path_of(parse_url(config.store.url))
    if path is None:
        raise StartError("the database is in memory (store.url): there is no file of it")
    return path


def state_directory(flags: Flags, environ: Mapping[str, str]) -> StateDirectory:
    """Return the state directory of the gateway on this host."""
    from gateway.statedir import StateDirectory, default_path

    named = flags.state_dir or environ.get("GATEWAY_STATE_DIR")
    return StateDirectory(Path(named) if named else default_path())


def announced(flags: Flags, environ: Mapping[str, str]) -> int | None:
    """Return the process of the gateway that is meant where none is named, if it is alive."""
    if flags.url or environ.get("GATEWAY_URL"):
        return None
    return state_directory(flags, environ).owner()


def url_of(listen: Sequence[str]) -> str:
    """Return the address for a client of this host. Raises StartError.

    Listening on every address includes the loopback one.
    """
    for address in listen:
        if match := _HOST_PORT.fullmatch(address):
            host = match["host"]
            host = _TCP_ENDPOINTS.get(host) or _EVERY_ADDRESS.get(host) or host
            return f"ws://{host}:{match['port']}"
    raise StartError(f"server.listen has no HOST:PORT to connect to ({listen[0]}): give --url")


def is_loopback(host: str) -> bool:
    """Whether a host is this one for sure."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _configuration(environ: Mapping[str, str]) -> tuple[Config, Path]:
    loaded = load(None, environ)
    return loaded.config, Path() if loaded.path is None else loaded.path.parent


def _read(secret: str | SecretRef, environ: Mapping[str, str], base_dir: Path) -> str:
    return resolve_secret(secret, environ, base_dir, key="token").strip()


def _source(secret: str | SecretRef, base_dir: Path, mode: str) -> str:
    if isinstance(secret, str):
        return f"auth.{mode} of the configuration"
    return f"${secret.env}" if secret.env else str((base_dir / str(secret.file)).absolute())
