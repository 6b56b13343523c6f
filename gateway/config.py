"""The configuration: one struct per TOML table, one docstring per key, and :func:`load`.

A key that is unknown, of the wrong type or out of range is a :class:`gateway.errors.ConfigError` of
one line that names the file, the dotted key and, for a misspelt key, the nearest known one.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import fields, replace

from gateway import settings
from gateway.core.nodecommands import COMMAND_NAME, MAX_COMMAND_CHARS
from gateway.errors import ConfigError
from gateway.limits import LimitsConfig, Seconds, Table
from gateway.settings import FieldDoc, convert, find_secrets, one_line

S = TypeVar("S", bound=Struct)
T = TypeVar("T", bound="AgentConfig")

_AGENT_ID = re.compile(r"[a-z0-9_][a-z0-9_-]{0,63}")
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/\s]+")
_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}")
_SECRET_FILE_BYTES = 65_536


class SecretRef(Table, frozen=True, omit_defaults=True):
    """Where a secret lies, instead of the secret: exactly one of the two keys."""

    env: str | None = None
    """Name of an environment variable."""
    file: str | None = None
    """Path of a file, relative to the configuration's directory; one newline at its end is dropped."""

    def __post_init__(self) -> None:
        if (self.env is None) == (self.file is None):
            raise ValueError('give exactly one of "env" and "file"')


Secret = str | SecretRef


class ServerConfig(Table, frozen=True):
    """Where the gateway listens, and whom it believes."""

    listen: Annotated[list[str], Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: ["127.0.0.1:18789"]
    )
    """Addresses: HOST:PORT, or Twisted endpoint strings such as "unix:/run/gateway.sock"."""
    allowed_origins: list[str] = []
    """Origins of web pages that may connect beside the gateway's own: scheme://host[:port], or "*"."""
    allowed_hosts: list[str] = []
    """Names that local clients and web pages may call the gateway by, beside its machine's own."""
    trusted_proxies: list[str] = []
    """Addresses or networks of reverse proxies whose headers tell where a client comes from."""
    proxy_header: Literal["x-forwarded-for", "forwarded", "x-real-ip"] = "x-forwarded-for"
    """The header in which they tell it; they must overwrite or extend what a client sends in it."""
    workspace_roots: list[str] = []
    """Where clients may put agents' workspaces, beside workspace/ in the state directory."""

    def __post_init__(self) -> None:
        for origin in self.allowed_origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f'allowed_origins: "{origin}" is not scheme://host[:port] or "*"')
        for host in self.allowed_hosts:
            if not _HOST.fullmatch(host):
                raise ValueError(f'allowed_hosts: "{host}" is not a name (without port)')
        for proxy in self.trusted_proxies:
            try:
                ipaddress.ip_network(proxy, strict=False)
            except ValueError:
                raise ValueError(
                    f'trusted_proxies: "{proxy}" is not an IP address or network'
                ) from None


class AuthConfig(Table, frozen=True):
    """How those who connect prove that they may."""

    mode: Literal["none", "token", "password", "trusted-proxy"] = "token"
    """The proof asked for: none, token, password, or trusted-proxy (the proxy says who it is)."""
    token: Secret | None = None
    """The shared token of mode "token"; without it one is made in the state directory."""
    password: Secret | None = None
    """The shared password of mode "password", or its hash as "gatewayctl hash-password" prints it."""
    user_header: str = "x-forwarded-user"
    """With mode "trusted-proxy": the header in which the proxy says who it is."""
    required_headers: list[str] = []
    """With mode "trusted-proxy": headers that the proxy must have set as well."""
    allow_users: list[str] = []
    """With mode "trusted-proxy": who may connect; empty means everybody whom the proxy names."""
    allow_loopback_proxy: bool = False
    """With mode "trusted-proxy": whether a proxy on this machine is believed too."""
    allow_unauthenticated: bool = False
    """Whether mode "none" may listen where others than this machine can connect: everybody is let in."""

    def __post_init__(self) -> None:
        for name in (self.user_header, *self.required_headers):
            if not _HEADER.fullmatch(name):
                raise ValueError(f'"{name}" is not the name of a header')
        if self.mode == "password" and self.password is None:
            raise ValueError('mode "password" needs the key "password"')


class PairingConfig(Table, frozen=True):
    """How devices come to be paired."""

    silent_local: bool = True
    """Whether clients of this machine that have the shared credential are paired without asking anyone."""


class NodesConfig(Table, frozen=True):
    """What nodes may be asked to do, beside the commands of their platform."""

    allow_commands: list[str] = []
    """Commands of nodes that are allowed beyond those of their platform, each by its whole name."""
    deny_commands: list[str] = []
    """Commands of nodes that are not allowed, whatever allows them."""

    def __post_init__(self) -> None:
        for key, names in (
            ("allow_commands", self.allow_commands),
            ("deny_commands", self.deny_commands),
        ):
            for name in names:
                if len(name) > MAX_COMMAND_CHARS or not COMMAND_NAME.fullmatch(name):
                    raise ValueError(
                        f'{key}: "{name}" is not the name of a command; there are no patterns'
                    )


class StoreConfig(Table, frozen=True):
    """Where sessions, transcripts and runs are kept."""

    url: str | None = None
    """Database URL; without it the SQLite file gateway.db of the state directory."""
    synchronous: Literal["normal", "full"] = "normal"
    """Durability of SQLite: normal survives a killed process, full also a power cut (slower)."""
    retain_days: Annotated[float, Meta(ge=0, le=36_500)] = 30.0
    """Days after their end that runs are known, with their logs; 0 sets no limit."""
    retain_runs_per_session: Annotated[int, Meta(ge=0, le=1_000_000)] = 1000
    """Runs of one session that are known, the newest ones; 0 sets no limit."""
    retain_bytes: Annotated[int, Meta(ge=0, le=1 << 50)] = 1 << 30
    """Bytes of disk that the logs of ended runs may take, the oldest events go first; 0 sets no limit."""
    retain_usage_days: Annotated[float, Meta(ge=0, le=36_500)] = 400.0
    """Days that is known what runs used, by model, though the runs are known no more; 0 sets no limit."""


class AgentConfig(Table, frozen=True):
    """What the tables of all agents share; each backend adds its own keys."""

    backend: str = "demo"
    """The backend that runs this agent: demo, acp, llm, or the name of an installed plugin."""
    name: str | None = None
    """Name shown to people; without it the agent's id."""
    emoji: str | None = None
    """An emoji shown with the name."""
    avatar: str | None = None
    """A picture shown with the name: a URL, a data URL, or a few characters."""
    workspace: str | None = None
    """Directory of its files; without it workspace/ID in the state directory."""
    default: bool = False
    """Whether sessions that name no agent belong to this one."""
    timeout_s: Seconds = 600.0
    """How long a run of this agent may take, in seconds; limits.run_timeout_s where it is not set."""
    on_restart: Literal["interrupt", "rerun"] = "interrupt"
    """What becomes of a run that a crash cut off: it ends with an error, or is run again, once."""


def _default_agents() -> dict[str, dict[str, Any]]:
    return {"main": {"backend": "demo"}}


class Config(Table, frozen=True):
    """The whole file."""

    server: ServerConfig = ServerConfig()
    auth: AuthConfig = AuthConfig()
    pairing: PairingConfig = PairingConfig()
    agents: dict[str, dict[str, Any]] = msgspec.field(default_factory=_default_agents)
    """Raw tables by agent id; each is decoded by its backend's own type, see decode_agent."""
    store: StoreConfig = StoreConfig()
    nodes: NodesConfig = NodesConfig()
    limits: LimitsConfig = LimitsConfig()

    def __post_init__(self) -> None:
        if self.auth.mode == "trusted-proxy" and not self.server.trusted_proxies:
            raise ValueError('auth.mode "trusted-proxy" needs server.trusted_proxies')


class LoadedConfig(NamedTuple):
    """A configuration and where it came from.

    ``raw_text`` and ``parsed`` are the file's, empty without one. ``warnings`` are lines for the log
    that hold no secret.
    """

    config: Config
    path: Path | None
    raw_text: str
    parsed: dict[str, Any]
    warnings: tuple[str, ...]


def load(path: Path | None, environ: Mapping[str, str]) -> LoadedConfig:
    """Read the file ``path``, else the one named by GATEWAY_CONFIG, else take the defaults.

    GATEWAY_LISTEN (addresses separated by spaces) goes before the file's ``server.listen``.
    Raises ConfigError.
    """
    if path is None and environ.get("GATEWAY_CONFIG"):
        path = Path(environ["GATEWAY_CONFIG"])
    text, parsed = ("", {}) if path is None else _read(path)
    where = "configuration" if path is None else str(path)
    config = convert(parsed, Config, where)
    if path is not None:
        config = replace(config, auth=_anchored(config.auth, path.absolute().parent))
    check_agents(config.agents, where)
    if not config.agents:
        config = replace(config, agents=_default_agents())
    if listen := environ.get("GATEWAY_LISTEN", "").split():
        server = replace(config.server, listen=listen)
        config = replace(config, server=server)
    warnings = tuple(
        one_line(where, key, "is a secret in plain text; put it in the environment or in a file")
        for key, _ in find_secrets(parsed)
    )
    return LoadedConfig(config, path, text, parsed, warnings)


def decode_agent(
    name: str,
    table: Mapping[str, Any],
    config_type: type[T],
    path: Path | None,
    limits: LimitsConfig | None = None,
) -> T:
    """Decode the table of the agent ``name`` as its backend's type. Raises ConfigError.

    ``limits`` gives the timeout of an agent that sets none. Files of secrets become absolute paths.
    """
    timeout_s = (limits or LimitsConfig()).run_timeout_s
    where = "configuration" if path is None else str(path)
    agent = convert({"timeout_s": timeout_s} | dict(table), config_type, where, ("agents", name))
    return agent if path is None else _anchored(agent, path.absolute().parent)


def default_agent_id(agents: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the agent marked as default, else ``main`` if there is one, else the first."""
    for name, table in agents.items():
        if table.get("default") is True:
            return name
    return "main" if "main" in agents else next(iter(agents))


def check_agents(agents: Mapping[str, Mapping[str, Any]], where: str) -> None:
    """Raise ConfigError for an id that no agent may have, and for a second default agent."""
    for name in agents:
        if not _AGENT_ID.fullmatch(name):
            text = "an agent's id is 1 to 64 of a-z, 0-9, _ and -, and does not start with -"
            raise ConfigError(one_line(where, f"agents.{name}", text))
    defaults = [name for name, table in agents.items() if table.get("default") is True]
    if len(defaults) > 1:
        text = f"{defaults[0]} is the default agent already"
        raise ConfigError(one_line(where, f"agents.{defaults[1]}.default", text))


def resolve_secret(
    secret: Secret, environ: Mapping[str, str], base_dir: Path, *, key: str = "secret"
) -> str:
    """Return the secret itself.

    Files are absolute in what ``load`` and ``decode_agent`` return; others lie in ``base_dir``.
    ``key`` is the dotted key for the message. Raises ConfigError, naming what is missing.
    """
    if isinstance(secret, str):
        value, source = secret, "the configured value"
    elif secret.env is not None:
        value, source = environ.get(secret.env, ""), f"environment variable {secret.env}"
        if secret.env not in environ:
            raise ConfigError(one_line(key, f"{source} is not set"))
    else:
        file = base_dir / str(secret.file)
        value, source = _read_secret(file, key), f"file {file}"
    if not value.strip():
        raise ConfigError(one_line(key, f"{source} is empty"))
    return value


def redacted(loaded: LoadedConfig) -> tuple[str | None, dict[str, Any]]:
    """Return the file's text and its tables with every secret replaced.

    The text is None where it can not be redacted with certainty.
    """
    return settings.redact(loaded.raw_text, loaded.parsed)


def describe() -> list[FieldDoc]:
    """Return every key that the gateway itself knows; those of an agent stand under agents.ID."""
    docs: list[FieldDoc] = []
    for field in fields(Config):
        if field.name == "agents":
            docs += settings.describe(AgentConfig, "agents.ID")
        else:
            docs += settings.describe(field.type, field.name)
    return docs


def default_toml() -> str:
    """Return the default configuration as a file with comments; loading it changes nothing."""
    parts = ["# Configuration of the gateway: every key, at its default.\n"]
    for field in fields(Config):
        if field.name == "agents":
            parts.append(settings.render(AgentConfig, "agents.main", live=["backend"]))
        else:
            parts.append(settings.render(field.type, field.name))
    return "\n".join(parts)


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
        return text, tomllib.loads(text)
    except OSError as error:
        raise ConfigError(one_line(str(path), error.strerror or "can not be read")) from error
    except UnicodeDecodeError as error:
        raise ConfigError(one_line(str(path), f"not UTF-8 at byte {error.start}")) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(one_line(str(path), f"not TOML: {error}")) from error
    except RecursionError as error:
        raise ConfigError(one_line(str(path), "not TOML: nested too deeply")) from error


def _read_secret(file: Path, key: str) -> str:
    try:
        with file.open("rb") as stream:
            text = stream.read(_SECRET_FILE_BYTES + 1).decode()
    except OSError as error:
        raise ConfigError(one_line(key, f"file {file}", str(error.strerror))) from error
    except ValueError as error:  # not UTF-8, or a name that no file can have
        raise ConfigError(one_line(key, f"file {file} is not a file of UTF-8 text")) from error
    if len(text) > _SECRET_FILE_BYTES:
        raise ConfigError(one_line(key, f"file {file} is too large for a secret"))
    return text.removesuffix("\n").removesuffix("\r")


def _anchored(table: S, base: Path) -> S:
    """Make the files of a table's secrets, also of those in lists, mappings and tables, absolute paths."""

    def anchor(value: Any) -> Any:
        if isinstance(value, SecretRef) and value.file is not None:
            return SecretRef(file=str(base / value.file))
        if isinstance(value, dict):
            return {key: anchor(item) for key, item in value.items()}
        if isinstance(value, list):
            return [anchor(item) for item in value]
        return _anchored(value, base) if isinstance(value, Struct) else value

    return replace(
        table, **{field.name: anchor(getattr(table, field.name)) for field in fields(table)}
    )
