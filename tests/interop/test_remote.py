"""Clients and nodes on another host than the gateway, directly and through nginx."""

from __future__ import annotations

import hashlib
import json
import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from .clients import OpenClaw
from .install import Generation, Installation
from .network import Network, inside, missing
from .processes import Finished, Program, run, wait_until
from .server import Gateway

WHY_NOT = missing()

pytestmark = [
    pytest.mark.interop,
    pytest.mark.timeout(240, func_only=True),
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
]

PORT = 18789
TLS_PORT = 18790
PROXY_PORT = 8080


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """Return two hosts."""
    with Network() as hosts:
        yield hosts


@pytest.fixture(params=["trusted", "untrusted"])
def proxied(request: pytest.FixtureRequest) -> str:
    """Return whether the gateway is told of the proxy."""
    return str(request.param)


@pytest.fixture
def start_gateway(network: Network, tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Return what starts a gateway on the near host."""
    started: list[Gateway] = []

    def start(config: str = "", *more: str) -> Gateway:
        file = tmp_path / "gateway.toml"
        file.write_text(config)
        listen = [f"{network.near_address}:{PORT}", *more]
        gateway = Gateway(
            tmp_path / "state", listen=listen, config=file, prefix=inside(network.near)
        )
        started.append(gateway)
        return gateway

    yield start
    for gateway in started:
        gateway.stop()


class Person:
    """Somebody at a host, who has gatewayctl."""

    def __init__(self, host: str, home: Path, state: Path | None = None) -> None:
        self._host = host
        self._home = home
        self._state = state
        home.mkdir(parents=True, exist_ok=True)

    def ctl(self, *words: str) -> Finished:
        """Run gatewayctl."""
        program = str(Path(sys.executable).parent / "gatewayctl")
        state = [] if self._state is None else ["--state-dir", str(self._state)]
        environment = {
            "HOME": str(self._home),
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "COLUMNS": "200",
        }
        return run([*inside(self._host), program, *state, *words], environment, self._home, 60.0)

    def json(self, *words: str) -> Any:
        """Run gatewayctl, and return what it prints."""
        done = self.ctl(*words)
        assert done.status == 0, done
        return json.loads(done.stdout)


@pytest.fixture
def nginx(network: Network, tmp_path: Path) -> Iterator[None]:
    """Run nginx on the near host, before the gateway's loopback address."""
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    if not Path(program).exists():
        pytest.skip("nginx is not installed (Debian: nginx-light)")
    yield from _nginx(program, network, tmp_path)


def _nginx(program: str, network: Network, place: Path) -> Iterator[None]:
    file = place / "nginx.conf"
    file.write_text(
        f"""
daemon off; master_process off; pid {place}/nginx.pid; error_log {place}/error.log;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {place}/b; proxy_temp_path {place}/p; fastcgi_temp_path {place}/f;
  uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
  server {{
    listen {network.near_address}:{PROXY_PORT};
    location / {{
      proxy_pass http://{network.near_address}:{PORT};
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_read_timeout 1h;
    }}
  }}
}}
"""
    )
    words = [*inside(network.near), program, "-c", str(file), "-e", f"{place}/error.log"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    probe = [*inside(network.near), "bash", "-c"]
    probe.append(f"exec 3<>/dev/tcp/{network.near_address}/{PROXY_PORT}")
    try:
        assert wait_until(lambda: subprocess.run(probe, capture_output=True).returncode == 0, 10)
        yield
    finally:
        process.terminate()
        process.wait(10)


def test_a_remote_person_is_paired(
    network: Network, start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    """With the token alone a remote host may not even read; approved it may, and revoked it may not."""
    gateway = start_gateway()
    owner = Person(network.near, tmp_path / "near", gateway.state)
    guest = Person(network.far, tmp_path / "far")
    there = ("--url", f"ws://{network.near_address}:{PORT}", "--token", gateway.token)

    refused = guest.ctl(*there, "call", "status")
    assert refused.status != 0
    assert "pairing required" in refused.stderr, refused
    assert "gatewayctl devices approve" in refused.stderr, refused
    (request,) = owner.json("devices", "--json")["pending"]
    assert request["remoteIp"] == network.far_address
    approved = owner.ctl("devices", "approve", request["requestId"])
    assert approved.status == 0, approved

    assert guest.json(*there, "call", "sessions.list")["count"] == 0
    without = guest.json("--url", there[1], "call", "sessions.list")
    assert without["count"] == 0, "its own token is enough"

    (device,) = owner.json("devices", "--json")["paired"]
    assert owner.ctl("devices", "remove", device["deviceId"]).status == 0
    done = guest.ctl("--url", there[1], "call", "sessions.list")
    assert done.status != 0, done


def test_a_headless_box_is_paired(
    network: Network,
    start_gateway: Callable[..., Gateway],
    installations: dict[Generation, Installation],
    generation: Generation,
    tmp_path: Path,
) -> None:
    """A node on another host, over TLS, is let in when the owner approved it, and can then be asked."""
    certificate = trustme.CA().issue_cert(network.near_address)
    key, chain = tmp_path / "key.pem", tmp_path / "chain.pem"
    certificate.private_key_pem.write_to_path(str(key))
    certificate.cert_chain_pems[0].write_to_path(str(chain))
    der = ssl.PEM_cert_to_DER_cert(chain.read_text())
    tls = ("--tls", "--tls-fingerprint", hashlib.sha256(der).hexdigest())
    where = f"interface={network.near_address}"
    gateway = start_gateway("", f"ssl:{TLS_PORT}:privateKey={key}:certKey={chain}:{where}")
    owner = Person(network.near, tmp_path / "near", gateway.state)
    client = OpenClaw(
        installations[generation],
        tmp_path / "box",
        f"wss://{network.near_address}:{TLS_PORT}",
        gateway.token,
        prefix=inside(network.far),
    )

    def pending() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = owner.json("devices", "--json")["pending"]
        return found

    def row() -> dict[str, Any] | None:
        nodes = owner.json("nodes", "--json")["nodes"]
        return next((node for node in nodes if node["connected"]), None)

    programs: list[Program] = []
    try:
        programs.append(client.node_host(network.near_address, TLS_PORT, "Box", *tls))
        assert wait_until(lambda: bool(pending()), 45), programs[-1].printed
        (request,) = pending()
        assert (request["role"], request["remoteIp"]) == ("node", network.far_address)
        assert owner.ctl("devices", "approve", request["requestId"]).status == 0
        if not wait_until(lambda: row() is not None, 20):  # it gave up: people start it again
            programs[-1].stop()
            programs.append(client.node_host(network.near_address, TLS_PORT, "Box", *tls))
        assert wait_until(lambda: row() is not None, 45), programs[-1].printed
        for surface in owner.json("nodes", "pending", "--json"):
            assert owner.ctl("nodes", "approve", surface["requestId"]).status == 0
        node = row()
        assert node is not None
        asked = owner.ctl("nodes", "invoke", node["nodeId"], "system.which", '{"bins": ["sh"]}')
        assert asked.status == 0, f"{asked}\n--- node\n{programs[-1].printed}"
        assert json.loads(asked.stdout)["bins"]["sh"].endswith("/sh")
    finally:
        for program in programs:
            program.stop()


def test_through_nginx(
    network: Network,
    start_gateway: Callable[..., Gateway],
    nginx: None,
    proxied: str,
    tmp_path: Path,
) -> None:
    """Behind a proxy that it trusts the gateway sees who is there; of another it takes no word."""
    trusted = f'trusted_proxies = ["{network.near_address}"]' if proxied == "trusted" else ""
    gateway = start_gateway(f"[server]\n{trusted}\n")
    owner = Person(network.near, tmp_path / "near", gateway.state)
    guest = Person(network.far, tmp_path / "far")
    url = f"ws://{network.near_address}:{PROXY_PORT}"

    done = guest.ctl("--url", url, "--token", gateway.token, "call", "health")

    if proxied == "untrusted":
        assert done.status != 0, done
        assert "403" in done.stderr, done
        assert "missing-ingress-attribution" in gateway.report()
        assert owner.json("devices", "--json")["pending"] == []
        return
    (request,) = owner.json("devices", "--json")["pending"]
    assert request["remoteIp"] == network.far_address
