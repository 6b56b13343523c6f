"""gateway.config: what a file may say, and what is answered to one that says something else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config import (
    AgentConfig,
    Config,
    LoadedConfig,
    Secret,
    SecretRef,
    decode_agent,
    default_agent_id,
    default_toml,
    describe,
    load,
    redacted,
    resolve_secret,
)
from gateway.errors import ConfigError
from gateway.limits import LimitsConfig


class ToolAgent(AgentConfig, frozen=True, kw_only=True):
    command: list[str]
    env: dict[str, str] = {}
    api_key: Secret | None = None
    keys: dict[str, Secret] = {}


def load_text(tmp_path: Path, text: str | bytes) -> LoadedConfig:
    path = tmp_path / "gateway.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load(path, {})


def refusal(tmp_path: Path, text: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        load_text(tmp_path, text)
    message = str(caught.value)
    assert "\n" not in message
    prefix = f"{tmp_path}/gateway.toml: "
    assert message.startswith(prefix)
    return message.removeprefix(prefix)


def test_defaults() -> None:
    """Without a file every key has its default, and the demo agent is there."""
    loaded = load(None, {})
    assert loaded == LoadedConfig(Config(), None, "", {}, ())
    assert loaded.config.server.listen == ["127.0.0.1:18789"]
    assert loaded.config.auth.mode == "token"
    assert loaded.config.agents == {"main": {"backend": "demo"}}
    assert loaded.config.limits.payload_bytes == 25 * 1024 * 1024


def test_file(tmp_path: Path) -> None:
    """What a file says takes the place of the defaults, and its text and tables are kept."""
    text = """
    [server]
    listen = ["0.0.0.0:1", "unix:/run/x"]
    allowed_origins = ["https://example.org", "http://localhost:5173", "*", "null"]
    trusted_proxies = ["10.0.0.0/8", "10.1.2.3/8", "::1"]
    [auth]
    mode = "password"
    password = { file = "pw" }
    [agents.a]
    default = true
    extra = 1
    [limits]
    close_grace_s = 2
    """
    loaded = load_text(tmp_path, text)
    assert loaded.config.server.listen == ["0.0.0.0:1", "unix:/run/x"]
    assert loaded.config.auth.password == SecretRef(file=str(tmp_path / "pw"))
    assert loaded.config.agents == {"a": {"default": True, "extra": 1}}
    assert loaded.config.limits.close_grace_s == 2.0
    assert loaded.raw_text == text
    assert loaded.parsed["auth"]["mode"] == "password"
    assert loaded.warnings == ()


def test_file_of_the_environment(tmp_path: Path) -> None:
    """GATEWAY_CONFIG names the file when no option does, and a given path goes before it."""
    named, given = tmp_path / "named", tmp_path / "given"
    named.write_text("[limits]\nlane_depth = 2\n")
    given.write_text("[limits]\nlane_depth = 3\n")
    environ = {"GATEWAY_CONFIG": str(named)}
    assert load(None, environ).config.limits.lane_depth == 2
    assert load(given, environ).config.limits.lane_depth == 3
    assert load(None, {"GATEWAY_CONFIG": ""}).path is None


def test_listen_of_the_environment(tmp_path: Path) -> None:
    """GATEWAY_LISTEN goes before the file's addresses and leaves the rest of the table."""
    path = tmp_path / "c"
    path.write_text('[server]\nlisten = ["a:1"]\nallowed_origins = ["*"]\n')
    server = load(path, {"GATEWAY_LISTEN": " b:2  unix:/c "}).config.server
    assert (server.listen, server.allowed_origins) == (["b:2", "unix:/c"], ["*"])


def test_no_agents(tmp_path: Path) -> None:
    """An empty table of agents is like none: there is always one agent."""
    assert load_text(tmp_path, "[agents]\n").config.agents == {"main": {"backend": "demo"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]\nlisen = []", 'server.lisen: unknown key (did you mean "listen"?)'),
        ("[sever]\n", 'sever: unknown key (did you mean "server"?)'),
        (
            "zzz = 1",
            "zzz: unknown key (known: server, auth, pairing, agents, store, nodes, limits)",
        ),
        (
            '"a\\nb" = 1',
            "a\\nb: unknown key (known: server, auth, pairing, agents, store, nodes, limits)",
        ),
        ("server = 1", "server: expected object, got int"),
        ("[server]\nlisten = 'a:1'", "server.listen: expected array, got str"),
        ("[server]\nlisten = ['a:1', 2]", "server.listen[1]: expected str, got int"),
        ("[server]\nlisten = []", "server.listen: expected array of length >= 1"),
        (
            "[server]\nallowed_origins = ['https://a/']",
            'server: allowed_origins: "https://a/" is not scheme://host[:port] or "*"',
        ),
        (
            "[server]\ntrusted_proxies = ['proxy']",
            'server: trusted_proxies: "proxy" is not an IP address or network',
        ),
        (
            "[auth]\nmode = 'tokn'",
            "auth.mode: expected one of none, token, password, trusted-proxy",
        ),
        (
            "[auth]\nmode = 'trusted-proxy'",
            'auth.mode "trusted-proxy" needs server.trusted_proxies',
        ),
        ("[auth]\nmode = 'password'", 'auth: mode "password" needs the key "password"'),
        ("[auth]\ntoken = { env = 'A', file = 'b' }", "auth.token: give exactly one of"),
        ("[auth]\ntoken = {}", 'auth.token: give exactly one of "env" and "file"'),
        ("[auth]\ntoken = { envv = 'A' }", 'auth.token.envv: unknown key (did you mean "env"?)'),
        ("[auth]\ntoken = { env = 1 }", "auth.token.env: expected str | null, got int"),
        ("[limits]\npayload_bytes = 12", "limits.payload_bytes: expected int >= 1024"),
        ("[limits]\ndelta_interval_ms = 151", "limits.delta_interval_ms: expected int <= 150"),
        ("[limits]\nrun_timeout_s = 86401", "limits.run_timeout_s: expected float <= 86400"),
        ("[limits]\nrun_timeout_s = nan", "limits.run_timeout_s: expected float > 0"),
        ("[limits]\nlane_depth = true", "limits.lane_depth: expected int, got bool"),
        ("[agents]\nmain = 'demo'", "agents.main: expected object, got str"),
        ("[agents.Main]", "agents.Main: an agent's id is 1 to 64 of a-z, 0-9, _ and -"),
        ("[agents.-a]", "agents.-a: an agent's id"),
        (
            "[agents.a]\ndefault = true\n[agents.b]\ndefault = true",
            "agents.b.default: a is the default agent already",
        ),
        ("a = \n", "not TOML: Invalid value (at line 1, column 5)"),
        (b"a = '\xff'", "not UTF-8 at byte 5"),
        ("a = " + "[" * 5000, "not TOML: nested too deeply"),
    ],
)
def test_refusals(tmp_path: Path, text: str | bytes, message: str) -> None:
    """What is wrong in a file is one line with the file, the dotted key and the way out."""
    assert refusal(tmp_path, text).startswith(message)


def test_unreadable(tmp_path: Path) -> None:
    """A file that is not there, or is none, is named with the system's reason."""
    with pytest.raises(ConfigError, match=f"^{re.escape(str(tmp_path))}/none: No such file"):
        load(tmp_path / "none", {})
    with pytest.raises(ConfigError, match=f"^{re.escape(str(tmp_path))}: Is a directory$"):
        load(tmp_path, {})


def test_byte_order_mark(tmp_path: Path) -> None:
    """A byte order mark, as some editors write it, is no error."""
    assert load_text(tmp_path, b"\xef\xbb\xbf[server]\n").config == Config()


def test_decode_agent() -> None:
    """An agent's table is decoded as its backend's type, and takes the timeout of the limits."""
    table = {"backend": "tool", "command": ["x"], "api_key": {"env": "K"}}
    agent = decode_agent("main", table, ToolAgent, None, LimitsConfig(run_timeout_s=5.0))
    assert agent == ToolAgent(
        backend="tool", command=["x"], api_key=SecretRef(env="K"), timeout_s=5.0
    )
    assert decode_agent("a", {"timeout_s": 7}, AgentConfig, None).timeout_s == 7.0
    assert decode_agent("a", {}, AgentConfig, None) == AgentConfig()


def test_secret_files_of_an_agent(tmp_path: Path) -> None:
    """The files of an agent's secrets lie where the configuration lies, wherever the process is."""
    path = tmp_path / "c.toml"
    table = {"command": [], "api_key": {"file": "k"}, "keys": {"A": {"file": "/a"}, "B": "b"}}
    agent = decode_agent("main", table, ToolAgent, path)
    assert agent.api_key == SecretRef(file=str(tmp_path / "k"))
    assert agent.keys == {"A": SecretRef(file="/a"), "B": "b"}
    table["api_key"] = {"env": "K"}
    assert decode_agent("main", table, ToolAgent, path).api_key == SecretRef(env="K")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"comand": []}, 'agents.main.comand: unknown key (did you mean "command"?)'),
        ({}, "agents.main: object missing required field command"),
        (
            {"command": ["x"], "env": {"A": "b", "C": 1}},
            "agents.main.env.C: expected str, got int",
        ),
        ({"command": ["x"], "api_key": {"fil": "x"}}, "agents.main.api_key.fil: unknown key (did"),
    ],
)
def test_decode_agent_refusals(tmp_path: Path, table: dict[str, Any], message: str) -> None:
    """A mistake in an agent's table is told as well as one in the gateway's own."""
    with pytest.raises(ConfigError, match=re.escape(f"{tmp_path}: {message}")):
        decode_agent("main", table, ToolAgent, tmp_path)
    with pytest.raises(ConfigError, match=re.escape(f"configuration: {message}")):
        decode_agent("main", table, ToolAgent, None)


def test_default_agent() -> None:
    """The default agent is the marked one, else main, else the first."""
    assert default_agent_id({"b": {}, "main": {}, "a": {"default": True}}) == "a"
    assert default_agent_id({"b": {}, "main": {"default": False}}) == "main"
    assert default_agent_id({"b": {}, "a": {}}) == "b"


def test_resolve_secret(tmp_path: Path) -> None:
    """A secret is the string, the variable, or the file without the newline at its end."""
    (tmp_path / "s").write_text("se cret\r\n")
    assert resolve_secret("plain", {}, tmp_path) == "plain"
    assert resolve_secret(SecretRef(env="X"), {"X": "v\n"}, tmp_path) == "v\n"
    assert resolve_secret(SecretRef(file="s"), {}, tmp_path) == "se cret"
    assert resolve_secret(SecretRef(file=str(tmp_path / "s")), {}, Path("/")) == "se cret"


def test_unresolved_secret(tmp_path: Path) -> None:
    """What is missing of a secret is named, with the key that asks for it."""
    (tmp_path / "bytes").write_bytes(b"\xff")
    (tmp_path / "large").write_text("x" * 70_000)
    (tmp_path / "empty").write_text("\n")
    cases: list[tuple[Secret, str]] = [
        ("", "auth.token: the configured value is empty"),
        (SecretRef(env="X"), "auth.token: environment variable X is not set"),
        (SecretRef(env="E"), "auth.token: environment variable E is empty"),
        (SecretRef(file="none"), f"auth.token: file {tmp_path}/none: No such file or directory"),
        (SecretRef(file="bytes"), f"auth.token: file {tmp_path}/bytes is not a file of UTF-8 text"),
        (SecretRef(file="a\0"), f"auth.token: file {tmp_path}/a\\x00 is not a file of UTF-8 text"),
        (SecretRef(file="large"), f"auth.token: file {tmp_path}/large is too large for a secret"),
        (SecretRef(file="empty"), f"auth.token: file {tmp_path}/empty is empty"),
    ]
    for secret, message in cases:
        with pytest.raises(ConfigError) as caught:
            resolve_secret(secret, {"E": " "}, tmp_path, key="auth.token")
        assert str(caught.value) == message


def test_plain_secrets_warn(tmp_path: Path) -> None:
    """A secret in the file itself works and gives a warning that names the key, not the secret."""
    loaded = load_text(
        tmp_path, '[auth]\ntoken = "hunter2"\n[agents.key]\nenv = { API_KEY = "k" }\n'
    )
    assert loaded.config.auth.token == "hunter2"
    assert loaded.warnings == (
        f"{tmp_path}/gateway.toml: auth.token: is a secret in plain text;"
        " put it in the environment or in a file",
        f"{tmp_path}/gateway.toml: agents.key.env.API_KEY: is a secret in plain text;"
        " put it in the environment or in a file",
    )


def test_redacted(tmp_path: Path) -> None:
    """What is shown of a configuration holds no secret, neither in the tables nor in the text."""
    loaded = load_text(
        tmp_path, '[auth]\ntoken = "hunter2"\n[store]\nurl = "postgresql://u:pw@h/d"\n'
    )
    raw, parsed = redacted(loaded)
    mark = "__OPENCLAW_REDACTED__"
    assert raw == f'[auth]\ntoken = "{mark}"\n[store]\nurl = "{mark}"\n'
    assert parsed == {"auth": {"token": mark}, "store": {"url": mark}}
    assert redacted(load(None, {})) == ("", {})


def test_default_toml(tmp_path: Path) -> None:
    """The printed default configuration documents every key, and loading it changes nothing."""
    text = default_toml()
    loaded = load_text(tmp_path, text)
    assert loaded.config == Config()
    assert loaded.warnings == ()
    assert max(map(len, text.splitlines())) <= 100
    commented = text.replace("\n# ", "\n")
    for doc in describe():
        assert f"\n{doc.key.rpartition('.')[2]} = " in commented


def test_every_key_is_documented() -> None:
    """Every key has a meaning, a type, and a default unless it may be left out."""
    docs = describe()
    assert len({doc.key for doc in docs}) == len(docs) > 30
    for doc in docs:
        assert re.fullmatch(r"[A-Z].*\.|.*[^.]\. .*\.", doc.doc), doc
        assert doc.type_text
    by_key = {doc.key: doc for doc in docs}
    assert by_key["limits.delta_interval_ms"].type_text == "whole number from 75 to 150"
    assert by_key["limits.delta_interval_ms"].default == "100"
    assert by_key["auth.token"].type_text == 'text or { env = "…" } or { file = "…" }'
    assert by_key["auth.token"].default == ""
    assert by_key["agents.ID.timeout_s"].default == "600.0"


def test_structs_are_frozen() -> None:
    """A loaded configuration can not be changed."""
    with pytest.raises(AttributeError):
        load(None, {}).config.limits.lane_depth = 1  # type: ignore[misc]
    assert msgspec.structs.asdict(SecretRef(env="A")) == {"env": "A", "file": None}
