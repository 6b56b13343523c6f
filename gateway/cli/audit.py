"""What ``gatewayctl security`` looks at: the configuration, the state directory, a running gateway."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gateway.config import Config, LoadedConfig, Secret, SecretRef, resolve_secret
from gateway.core.credentials import is_hash
from gateway.core.proxies import networks_of
from gateway.errors import StartError
from gateway.settings import find_secrets

if TYPE_CHECKING:
    from gateway.statedir import StateDirectory

DANGER: Final = "danger"
WARNING: Final = "warning"
OK: Final = "ok"
TOKEN_CHARS_MIN: Final = 16
PASSWORD_CHARS_MIN: Final = 12
WIDEST: Final = {4: 16, 6: 48}
"""Shortest prefix of a network of proxies that is not too wide, by IP version."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: how it is, and what mends it."""

    level: str
    """danger, warning or ok."""
    check: str
    text: str
    mend: str = ""

    def row(self) -> dict[str, str]:
        """Return it for JSON."""
        return {"level": self.level, "check": self.check, "text": self.text, "mend": self.mend}


def look_offline(
    loaded: LoadedConfig,
    state: StateDirectory,
    environ: Mapping[str, str],
    *,
    now_ms: int,
) -> list[Finding]:
    """Look at what can be seen without a gateway."""
    from gateway.exposure import spec_reaches_others

    listen = [*loaded.config.server.listen, *_running(state)]
    exposed = any(map(spec_reaches_others, listen))
    return [
        *_listeners(listen, now_ms),
        *_auth(loaded, state, environ, exposed=exposed),
        *_proxies(loaded.config),
        *_pages(loaded.config),
        *_files(loaded, state),
    ]


def look_online(ask: Callable[[str], Any]) -> list[Finding]:
    """Look at what a running gateway tells; ``ask`` returns None for a method that it does not have."""
    return [*_devices(ask("device.pair.list")), *_policy(ask("exec.approvals.get"))]


def _listeners(listen: Sequence[str], now_ms: int) -> Iterator[Finding]:
    from gateway.exposure import ENCRYPTED_KINDS, kind_of, spec_reaches_others
    from gateway.net.certificates import look_at_certificates

    for spec in listen:
        try:
            for warning in look_at_certificates([spec], now_ms):
                yield Finding(WARNING, "listen", warning.removeprefix("security: "), "renew it")
        except StartError as error:
            yield Finding(DANGER, "listen", str(error), "renew it")
        if not spec_reaches_others(spec):
            yield Finding(OK, "listen", f"{spec}: only this machine can connect")
        elif kind_of(spec) in ENCRYPTED_KINDS:
            yield Finding(OK, "listen", f"{spec}: others can connect, over TLS")
        else:
            yield Finding(
                WARNING,
                "listen",
                f"{spec}: others can connect, and what is sent can be read on the way",
                "listen on 127.0.0.1 behind a proxy with TLS, or on an ssl: endpoint",
            )


def _running(state: StateDirectory) -> Iterator[str]:
    """Yield where the gateway that runs listens, which an option may have named; if that is elsewhere."""
    from gateway.exposure import spec_reaches_others

    scheme, _, address = (state.announced_url() or "").partition("://")
    if scheme == "ws" and state.owner() is not None and spec_reaches_others(address):
        yield address


def _auth(
    loaded: LoadedConfig, state: StateDirectory, environ: Mapping[str, str], *, exposed: bool
) -> Iterator[Finding]:
    auth = loaded.config.auth
    guessable = DANGER if exposed else WARNING
    if auth.allow_unauthenticated:
        yield Finding(
            DANGER if auth.mode == "none" else WARNING,
            "auth.allow_unauthenticated",
            'mode "none" may listen where others can connect',
            "remove it",
        )
    if auth.mode == "none":
        who = "everybody who can connect" if exposed else "every program on this machine"
        text = f"nobody is asked for a credential: {who} gets in"
        yield Finding(guessable, "auth.mode", text, 'set auth.mode = "token"')
    elif auth.mode == "trusted-proxy":
        yield Finding(OK, "auth.mode", "the trusted proxies say who it is")
        if not auth.allow_users:
            text = "everybody whom the proxy names is let in"
            yield Finding(WARNING, "auth.allow_users", text, "list who may connect")
        if auth.allow_loopback_proxy:
            text = "every program on this machine can say that it is the proxy"
            yield Finding(WARNING, "auth.allow_loopback_proxy", text, "let the proxy use a network")
    else:
        yield from _secret(loaded, state, environ, guessable)


def _secret(
    loaded: LoadedConfig, state: StateDirectory, environ: Mapping[str, str], guessable: str
) -> Iterator[Finding]:
    auth = loaded.config.auth
    key = f"auth.{auth.mode}"
    configured = auth.password if auth.mode == "password" else auth.token
    if auth.mode == "token" and environ.get("GATEWAY_TOKEN"):
        configured = SecretRef(env="GATEWAY_TOKEN")
    try:
        if configured is not None:
            base = Path() if loaded.path is None else loaded.path.absolute().parent
            value = resolve_secret(configured, environ, base, key=key).strip()
        elif state.token.exists():
            value = state.token.read_text("utf-8", "replace").strip()
        else:
            yield Finding(OK, key, "a token is made with the first start")
            return
    except (StartError, OSError) as error:
        yield Finding(
            WARNING, key, f"can not be read here: {error}", "run this as the gateway's user"
        )
        return
    least = PASSWORD_CHARS_MIN if auth.mode == "password" else TOKEN_CHARS_MIN
    if is_hash(value):
        yield Finding(OK, key, "the password is kept as a hash")
    elif len(value) < least:
        text = f"has less than {least} characters and can be guessed"
        yield Finding(guessable, key, text, _longer(auth.mode, configured))
    elif auth.mode == "password":
        text = "the password itself is kept, not its hash"
        yield Finding(WARNING, key, text, "put the output of gatewayctl hash-password there")
    else:
        yield Finding(OK, key, "long enough not to be guessed")


def _longer(mode: str, configured: Secret | None) -> str:
    if mode == "password":
        return "take a longer one, and put the output of gatewayctl hash-password there"
    if configured is None:
        return "gatewayctl secret rotate"
    return "put a longer one there, or leave it out: the gateway makes one"


def _proxies(config: Config) -> Iterator[Finding]:
    texts = config.server.trusted_proxies
    for text, network in zip(texts, networks_of(texts), strict=True):
        if network.prefixlen < WIDEST[network.version]:
            level = DANGER if config.auth.mode == "trusted-proxy" else WARNING
            told = f"{text}: everybody in there can say where, or who, a client is"
            yield Finding(level, "server.trusted_proxies", told, "name the proxies' own addresses")


def _pages(config: Config) -> Iterator[Finding]:
    origins = config.server.allowed_origins
    if "*" in origins:
        text = "every web page that a user of a client opens may connect"
        yield Finding(DANGER, "server.allowed_origins", text, 'list the origins instead of "*"')
    if "null" in origins:
        text = "pages without an origin may connect: files, sandboxed frames"
        yield Finding(WARNING, "server.allowed_origins", text, 'remove "null"')
    if config.pairing.silent_local:
        text = "programs on this machine that have the secret are paired without asking"
        yield Finding(OK, "pairing.silent_local", text)


def _files(loaded: LoadedConfig, state: StateDirectory) -> Iterator[Finding]:
    private = [(state.path, 0o700), (state.token, 0o600), (state.database, 0o600)]
    if loaded.path is not None and any(find_secrets(loaded.parsed)):
        private.append((loaded.path, 0o600))
    base = Path() if loaded.path is None else loaded.path.absolute().parent
    for secret in (loaded.config.auth.token, loaded.config.auth.password):
        if isinstance(secret, SecretRef) and secret.file and _reachable(base / secret.file):
            private.append((base / secret.file, 0o600))
    for path, mode in private:
        try:
            found = stat.S_IMODE(path.stat().st_mode)
        except OSError:
            continue  # it is not there yet, or not for us to see
        inside = path.parent == state.path and not _open(state.path)
        if found & 0o077 and not inside:
            text = f"{path} is open to others on this machine (mode {found:04o})"
            yield Finding(DANGER, "files", text, f"chmod {mode:o} {path}")


def _open(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & 0o077)
    except OSError:
        return True


def _devices(answer: Any) -> Iterator[Finding]:
    if not isinstance(answer, Mapping):
        return
    paired = [each for each in answer.get("paired", ()) if isinstance(each, Mapping)]
    admins = [each for each in paired if "operator.admin" in each.get("scopes", ())]
    if admins:
        names = ", ".join(str(each.get("displayName") or each.get("deviceId")) for each in admins)
        text = f"{len(admins)} of {len(paired)} devices may do everything: {names[:200]}"
        yield Finding(WARNING, "devices", text, "remove who need not (gatewayctl devices)")
    elif paired:
        yield Finding(OK, "devices", f"none of {len(paired)} devices may do everything")
    if pending := answer.get("pending"):
        text = f"{len(pending)} devices wait for approval"
        yield Finding(WARNING, "devices", text, "approve or reject them (gatewayctl devices)")


def _policy(answer: Any) -> Iterator[Finding]:
    file = answer.get("file") if isinstance(answer, Mapping) else None
    if not isinstance(file, Mapping):
        return
    agents = file.get("agents")
    tables = {"defaults": file.get("defaults"), **(agents if isinstance(agents, Mapping) else {})}
    for name, table in tables.items():
        if isinstance(table, Mapping) and table.get("security") == "full":
            asks = table.get("ask") == "always"
            text = f"{name}: any command may be run" + (", if a person agrees" if asks else "")
            mend = "use the policy allowlist (gatewayctl approvals)"
            yield Finding(WARNING if asks else DANGER, "exec policy", text, mend)


def _reachable(path: Path) -> bool:
    """Whether others may enter the directory that a file is in."""
    try:
        return bool(path.parent.stat().st_mode & 0o011)
    except OSError:
        return False
