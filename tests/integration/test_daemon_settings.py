"""Where the daemon takes its settings from: options, environment, file, defaults, in this order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as installed_reactor
from twisted.internet.endpoints import UNIXClientEndpoint

from gateway.client import ConnectRefused
from tests.integration.daemon import free_port, join, probe, running

pytestmark = pytest.mark.integration

reactor: Any = installed_reactor
FILE_TOKEN = "token-of-the-configuration"
ENV_TOKEN = "token-of-the-environment"
OPTION_TOKEN = "token-of-the-option"


def write_config(directory: Path, *ports: int, agent: str) -> Path:
    """Write a configuration that listens on ports, and has its token in a file beside it."""
    directory.mkdir()
    (directory / "secret").write_text(f"{FILE_TOKEN}\n")
    listen = [f"127.0.0.1:{port}" for port in ports]
    config = directory / "gateway.toml"
    config.write_text(
        f'[server]\nlisten = {listen}\n[auth]\ntoken = {{ file = "secret" }}\n[agents.{agent}]\n'
    )
    return config


async def agent_of(port: int, token: str) -> str:
    """Return the default agent of the gateway on a port that lets this token in."""
    client = await join(reactor, f"ws://127.0.0.1:{port}", token)
    listed = await client.call("agents.list")
    await client.close()
    return str(listed["defaultId"])


async def healthy(socket: Path, token: str) -> bool:
    """Whether the gateway on a Unix socket lets this token in, and is well."""
    endpoint = UNIXClientEndpoint(reactor, str(socket))
    client = await join(reactor, "ws://127.0.0.1", token, endpoint=endpoint)
    health = await client.call("health")
    await client.close()
    return bool(health["ok"])


async def refused(port: int, token: str) -> bool:
    """Whether the gateway on a port does not let this token in."""
    try:
        await join(reactor, f"ws://127.0.0.1:{port}", token)
    except ConnectRefused as error:
        return error.detail_code == "AUTH_TOKEN_MISMATCH"
    return False


@pytest_twisted.ensureDeferred
async def test_settings_of_the_file(tmp_path: Path) -> None:
    """GATEWAY_CONFIG names the file; its addresses, all of them, and its token count."""
    ports = free_port(), free_port()
    config = write_config(tmp_path / "etc", *ports, agent="filed")

    with running(tmp_path, port=ports[0], GATEWAY_CONFIG=str(config)) as daemon:
        for port in ports:
            assert await agent_of(port, FILE_TOKEN) == "filed"
        assert not (daemon.state / "token").exists()
        assert [f"gateway ready url=ws://127.0.0.1:{port}" for port in ports] == daemon.lines(
            "gateway ready"
        )


@pytest_twisted.ensureDeferred
async def test_environment_before_file(tmp_path: Path) -> None:
    """Address and token of the environment go before those of the file; so does the state directory."""
    filed, port = free_port(), free_port()
    environ = {
        "GATEWAY_CONFIG": str(write_config(tmp_path / "etc", filed, agent="filed")),
        "GATEWAY_LISTEN": f"127.0.0.1:{port}",
        "GATEWAY_TOKEN": ENV_TOKEN,
        "GATEWAY_STATE_DIR": str(tmp_path / "environment"),
    }

    with running(tmp_path, port=port, state=tmp_path / "environment", **environ) as daemon:
        assert await agent_of(port, ENV_TOKEN) == "filed"
        assert await refused(port, FILE_TOKEN)
        assert probe(filed, "/healthz").status == 0
        assert daemon.lines("token: $GATEWAY_TOKEN")
        assert not (tmp_path / "xdg").exists()


@pytest_twisted.ensureDeferred
async def test_options_before_environment(tmp_path: Path) -> None:
    """Options go before the environment; --listen is repeatable and takes Twisted's endpoints."""
    (tmp_path / "secret").write_text(f"{OPTION_TOKEN}\n")
    config = write_config(tmp_path / "etc", free_port(), agent="optional")
    port, other, environments = free_port(), free_port(), free_port()
    given = ["--config", str(config.relative_to(tmp_path)), "--state-dir", "state"]
    given += ["--token-file", "secret"]
    listen = f"127.0.0.1:{port}", f"tcp:{other}:interface=127.0.0.1", f"unix:{tmp_path}/socket"
    environ = {
        "GATEWAY_CONFIG": str(write_config(tmp_path / "etc2", environments, agent="environment")),
        "GATEWAY_LISTEN": f"127.0.0.1:{environments}",
        "GATEWAY_TOKEN": ENV_TOKEN,
        "GATEWAY_STATE_DIR": str(tmp_path / "environment"),
    }
    given += [part for spec in listen for part in ("--listen", spec)]

    with running(tmp_path, *given, port=port, state=tmp_path / "state", **environ) as daemon:
        assert await agent_of(port, OPTION_TOKEN) == "optional"
        assert await agent_of(other, OPTION_TOKEN) == "optional"
        assert await healthy(tmp_path / "socket", OPTION_TOKEN)
        assert await refused(port, ENV_TOKEN)
        assert probe(environments, "/healthz").status == 0
        assert daemon.lines(f"token: {tmp_path}/secret")
        assert daemon.lines("gateway ready")[-1] == f"gateway ready url=unix:{tmp_path}/socket"
        assert not (tmp_path / "environment").exists()
        assert not (tmp_path / "xdg").exists()
    assert not (tmp_path / "socket").exists()
