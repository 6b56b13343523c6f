"""Secrets are put wherever a gateway may meet one, and looked for where they do not belong (attack 22)."""

from __future__ import annotations

import json
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_twisted
from twisted.internet import reactor as installed_reactor
from twisted.internet.threads import deferToThread

from gateway.app.passwords import hash_password
from gateway.client import ConnectRefused
from gateway.core.deviceproof import DeviceIdentity, SignedContext
from gateway.core.setupcode import decode_setup_code
from tests.integration.daemon import Daemon, join, running, until
from tests.net.gate import UI
from tests.net.wire import close_frame, masked, upgrade

pytestmark = pytest.mark.integration

reactor: Any = installed_reactor
GATEWAYCTL = Path(sys.executable).with_name("gatewayctl")


def canary(name: str) -> str:
    """Return a secret that stands nowhere by accident."""
    return f"canary-{name}-0f9a8b7c6d5e4f3a2b1c"


TOKEN, PASSWORD = canary("shared-token"), canary("password")
API_KEY, ENV_SECRET = canary("api-key"), canary("env-secret")
WRONG = {
    name: canary(f"wrong-{name.lower()}")
    for name in ("token", "password", "deviceToken", "bootstrapToken")
}
"""What clients show that is no good: it may be the secret of something else."""
QUERY, HEADER, COOKIE = canary("query"), canary("header"), canary("cookie")
PROTOCOL, REFERER, USERINFO = canary("subprotocol"), canary("referer"), canary("userinfo")
CUT, PUSH = canary("cut-frame"), canary("push-token")

AGENT = """\
import os, sys
print("starting with", os.environ["PROVIDER_KEY"], os.environ["OTHER"], file=sys.stderr, flush=True)
sys.exit("no model: " + os.environ["PROVIDER_KEY"])
"""

CONFIG = """\
# the key is {comment}
[server]
allowed_origins = ["https://panel.example"]
[auth]
token = {{ file = "secret" }}
[agents.main]
backend = "demo"
[agents.broken]
backend = "acp"
command = [{python!r}, {program!r}]
env = {{ PROVIDER_KEY = "{api_key}", OTHER = {{ env = "CANARY_ENV" }} }}
"""


class Stranger:
    """A client on a socket that keeps all that it was sent."""

    def __init__(self, port: int, target: str = "/", **headers: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=15)
        self.heard = b""
        self.socket.sendall(upgrade(target, **headers))

    def hear(self, text: bytes = b"\xff\xff nothing") -> bytes:
        """Read until a text comes, or the end."""
        while text not in self.heard:
            try:
                data = self.socket.recv(65_536)
            except OSError:
                break
            if not data:
                break
            self.heard += data
        return self.heard

    def connect(self, **params: Any) -> None:
        """Answer the challenge."""
        self.hear(b"connect.challenge")
        asked = {"minProtocol": 3, "maxProtocol": 4, "client": UI, "role": "operator", **params}
        frame = {"type": "req", "id": "c", "method": "connect", "params": asked}
        self.socket.sendall(masked(json.dumps(frame).encode()))

    def end(self) -> bytes:
        """Say goodbye, and return all that was heard."""
        with suppress(OSError):
            self.socket.sendall(close_frame(1000))
        heard = self.hear()
        self.socket.close()
        return heard


class Scan:
    """What was told, printed and written; whoever may hold a secret is left out by name."""

    def __init__(self) -> None:
        self.places: dict[str, bytes] = {}

    def add(self, where: str, what: bytes | str | object) -> None:
        """Remember something that must hold no secret."""
        if isinstance(what, str):
            what = what.encode()
        data = what if isinstance(what, bytes) else json.dumps(what).encode()
        self.places[where] = self.places.get(where, b"") + data

    def add_files(self, directory: Path, *meant: str) -> None:
        """Read every file below a directory but those that are meant to hold a secret."""
        for path in directory.rglob("*"):
            if path.is_file() and path.name not in meant:
                self.add(str(path.relative_to(directory)), path.read_bytes())

    def found(self, *secrets: str) -> list[str]:
        """Return where secrets lie that should not."""
        return [
            f"{where}: {secret}"
            for where, data in self.places.items()
            for secret in secrets
            if secret.encode() in data
        ]


@pytest.fixture
def scan() -> Scan:
    return Scan()


def config_of(directory: Path) -> Path:
    """Write a configuration with secrets in all the ways there are."""
    (directory / "secret").write_text(TOKEN + "\n")
    program = directory / "agent.py"
    program.write_text(AGENT)
    file = directory / "gateway.toml"
    file.write_text(
        CONFIG.format(comment="none", python=sys.executable, program=str(program), api_key=API_KEY)
    )
    return file


def strange_clients(daemon: Daemon, scan: Scan) -> None:
    """Let clients show secrets in every place they have, and keep what they were told."""
    for name, secret in WRONG.items():
        for protocol in (3, 4):
            if protocol == 3 and name == "bootstrapToken":
                continue
            each = Stranger(daemon.port)
            each.connect(auth={name: secret}, minProtocol=protocol, maxProtocol=protocol)
            scan.add(f"answers to a wrong {name}", each.end())
    for target, headers in (
        (f"/?token={QUERY}", {}),
        (f"/{QUERY}/ws?password={QUERY}#{QUERY}", {}),
        ("/", {"Authorization": f"Bearer {HEADER}"}),
        ("/", {"X_Api_Key": HEADER, "Cookie": f"session={COOKIE}"}),
        ("/", {"Sec_WebSocket_Protocol": f"bearer, {PROTOCOL}"}),
        ("/", {"Referer": f"https://x.example/?token={REFERER}"}),
        ("/", {"Origin": f"https://user:{USERINFO}@x.example"}),
        ("/", {"Origin": f"https://x.example/?token={USERINFO}"}),
        ("/", {"Sec_WebSocket_Version": "12", "Authorization": f"Bearer {HEADER}"}),
    ):
        each = Stranger(daemon.port, target, **headers)
        each.connect(auth={})
        heard = each.end()
        if b"400 Bad Request" not in heard:  # that quotes the request to who has sent it
            scan.add(f"answers to {target} {sorted(headers)}", heard)
    for frame in (
        f'{{"type":"req","id":"c","method":"connect","params":{{"auth":{{"token":"{CUT}"',
        f'{{"type":"req","id":"c","method":"connect","params":{{"auth":"{CUT}"}}}}',
        f'{{"type":"req","id":"c","method":"connect","params":{{"auth":{{"token":["{CUT}"]}}}}}}',
        f"{CUT}",
        f'"{CUT}"',
    ):
        each = Stranger(daemon.port)
        each.hear(b"connect.challenge")
        each.socket.sendall(masked(frame.encode()))
        scan.add("answers to bad frames", each.end())


def probes(daemon: Daemon, scan: Scan) -> None:
    """Ask the HTTP side, with secrets in paths and headers."""
    for request in (
        f"GET /metrics?token={QUERY} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {HEADER}\r\n",
        f"GET /{QUERY} HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: a={COOKIE}\r\n",
        f"POST /readyz?key={QUERY} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n",
        f"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n",
        f"BREW /{QUERY} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Basic {HEADER}\r\n",
    ):
        with socket.create_connection(("127.0.0.1", daemon.port), timeout=15) as each:
            each.sendall(f"{request}Connection: close\r\n\r\n".encode())
            heard = b""
            while data := each.recv(65_536):
                heard += data
        scan.add(f"answer to {request.split()[0]} {request.split()[1][:9]}", heard)


async def operators(daemon: Daemon, scan: Scan) -> None:
    """Ask everything that an operator may ask."""
    client = await join(reactor, daemon.url, TOKEN)
    for method in (
        *("config.get", "logs.tail", "connections.closed", "connections.list", "status", "health"),
        *("agents.list", "agents.status", "models.list", "system-presence", "runs.list"),
        *("sessions.list", "device.pair.list", "node.list", "node.pair.list", "exec.approvals.get"),
    ):
        scan.add(method, await client.call(method))
    scan.add("hello", repr(client))
    await client.close()


def by_device(
    daemon: Daemon, seed: int, auth: dict[str, str], **how: Any
) -> tuple[Stranger, dict[str, Any]]:
    """Connect a device; return its connection, and the answer."""
    each = Stranger(daemon.port)
    nonce = each.hear(b"connect.challenge").partition(b'"nonce":"')[2].partition(b'"')[0].decode()
    identity = DeviceIdentity.from_seed(bytes([seed]) * 32)
    role, client = how.get("role", "operator"), how.get("client", UI)
    context = SignedContext(
        client_id=client["id"],
        client_mode=client["mode"],
        role=role,
        scopes=tuple(how.get("scopes", ())),
        token=next(iter(auth.values())),
        platform="linux",
    )
    proof = identity.prove(context, nonce=nonce, signed_at_ms=round(time.time() * 1000))
    device = {
        "id": proof.id,
        "publicKey": proof.public_key,
        "signature": proof.signature,
        "signedAt": proof.signed_at_ms,
        "nonce": proof.nonce,
    }
    each.connect(**{"auth": auth, "scopes": [], "device": device, **how})
    heard = each.hear(b'"id":"c"').decode("utf-8", "replace")
    answer, _ = json.JSONDecoder().raw_decode(heard[heard.rindex('{"type":"res"') :])
    return each, answer


def device_token(daemon: Daemon, scan: Scan) -> str:
    """Let a device be paired; return its token, which only that answer may hold."""
    each, answer = by_device(daemon, 5, {"token": TOKEN})
    each.end()
    token: str = answer["payload"]["auth"]["deviceToken"]
    return token


def node_with_push(daemon: Daemon, scan: Scan) -> None:
    """Let a node tell where it can be woken."""
    node = {"id": "node-host", "version": "1.0", "platform": "linux", "mode": "node"}
    each, _ = by_device(daemon, 6, {"token": TOKEN}, role="node", client=node)
    told = {"event": "push.apns.register", "payload": {"token": PUSH, "topic": "app"}}
    frame = {"type": "req", "id": "p", "method": "node.event", "params": told}
    each.socket.sendall(masked(json.dumps(frame).encode()))
    each.hear(b'"id":"p"')
    scan.add("the node's events", each.end().partition(b'"id":"p"')[2])


async def setup_code(daemon: Daemon, scan: Scan) -> tuple[str, str]:
    """Make a setup code, and let a device use it; return its secret, and the token that the device got."""
    admin = await join(reactor, daemon.url, TOKEN)
    made = await admin.call("device.pair.setupCode", {"publicUrl": "ws://192.168.1.5:18789"})
    secret = decode_setup_code(made["setupCode"]).secret
    scan.add("an address with a setup code", made["gatewayUrl"])
    used, answer = await deferToThread(by_device, daemon, 8, {"bootstrapToken": secret})
    used.end()
    again, refused = await deferToThread(by_device, daemon, 9, {"bootstrapToken": secret})
    again.end()
    assert not refused["ok"]
    scan.add("a setup code that was used", refused)
    scan.add(
        "its status", await admin.call("device.pair.setupStatus", {"setupId": made["setupId"]})
    )
    await admin.close()
    token = answer.get("payload", {}).get("auth", {}).get("deviceToken", "")
    return secret, token


async def join_link(daemon: Daemon, scan: Scan) -> tuple[str, str]:
    """Make a join link, and follow it twice; return its code, and the secret that it led to."""
    admin = await join(reactor, daemon.url, TOKEN)
    asked = {"publicUrl": "wss://gw.example", "joinUrl": True}
    made = await admin.call("device.pair.setupCode", asked)
    await admin.close()
    path = urlsplit(made["joinUrl"]).path
    followed = await deferToThread(daemon.probe, path)
    again = await deferToThread(daemon.probe, path)
    assert (followed.status, again.status) == (200, 404)
    scan.add("a join link that was followed", again.body)
    return path.rpartition("/")[2], followed.body["bootstrapToken"]


def commands(daemon: Daemon, scan: Scan) -> None:
    """Run the commands that tell of the past and the present."""
    environ = {"GATEWAY_STATE_DIR": str(daemon.state), "GATEWAY_URL": daemon.url}
    daemon.world.environ |= environ
    (daemon.world.directory / "token-file").write_text(TOKEN)
    given = ("--token-file", str(daemon.world.directory / "token-file"))
    closings = [each for each in daemon.records() if each["message"].startswith("closed conn=")]
    ended = [each["message"].split("conn=")[1].split()[0] for each in reversed(closings)]
    for command in (
        ("connections", "--closed"),
        *(("why", conn_id) for conn_id in ended[:2]),
        *(("devices",), ("nodes",), ("approvals",), ("approvals", "policy"), ("security",)),
        ("config", "check", str(daemon.world.directory / "gateway.toml")),
        ("call", "no.such.method", json.dumps({"token": CUT})),
    ):
        done = daemon.world.run(GATEWAYCTL, *command, *(given if command[0] != "config" else ()))
        scan.add(f"gatewayctl {command[0]}", done.stdout + done.stderr)
        if command[0] in ("why", "devices", "nodes", "security"):
            assert done.stdout, done.stderr
    wrong = daemon.world.run(GATEWAYCTL, "connections", "--token", WRONG["token"])
    scan.add("gatewayctl with a wrong token", wrong.stdout + wrong.stderr)


EVERYWHERE = (
    *WRONG.values(),
    *(TOKEN, PASSWORD, API_KEY, ENV_SECRET, QUERY, HEADER, COOKIE),
    *(PROTOCOL, REFERER, USERINFO, CUT, PUSH),
)
MEANT = ("secret", "token-file", "gateway.toml", "agent.py")
"""Files of the operator, where the secrets come from."""


@pytest_twisted.ensureDeferred
async def test_s22_no_secret_leaves_its_place(tmp_path: Path, scan: Scan) -> None:
    """Neither logs nor output nor answers nor metrics nor files hold a secret, after a kill neither."""
    config = config_of(tmp_path)
    with running(tmp_path, "--config", config, CANARY_ENV=ENV_SECRET) as daemon:
        until(lambda: daemon.lines("starting with [redacted] [redacted]"), 20, daemon.report)
        token = device_token(daemon, scan)
        assert len(token) == 43
        await deferToThread(strange_clients, daemon, scan)
        await deferToThread(probes, daemon, scan)
        await deferToThread(node_with_push, daemon, scan)
        code, its_token = await setup_code(daemon, scan)
        assert code
        assert its_token
        joined = await join_link(daemon, scan)
        await operators(daemon, scan)
        await deferToThread(commands, daemon, scan)
        with pytest.raises(ConnectRefused) as refused:
            await join(reactor, daemon.url, WRONG["token"])
        scan.add("the client library", f"{refused.value!r} {refused.value} {vars(refused.value)}")
        daemon.kill()
        scan.add("what it printed", daemon.output)
        # Where a node is woken is kept, as it has to be, in the store and nowhere else.
        stored = sorted(path.name for path in daemon.state.glob("*.db*"))
        assert stored
        scan.add_files(tmp_path, *MEANT, *stored)
        inside = Scan()
        inside.add_files(daemon.state)
    secrets = (token, code, its_token, *joined, *EVERYWHERE)
    assert scan.found(*secrets) == []
    assert {each.partition(": ")[2] for each in inside.found(*secrets)} <= {PUSH}


@pytest_twisted.ensureDeferred
async def test_s22_neither_does_a_password_nor_its_hash(tmp_path: Path, scan: Scan) -> None:
    """With a password the same holds, for the password, for a wrong one, and for the hash of it."""
    secret = hash_password(PASSWORD)
    config = tmp_path / "gateway.toml"
    config.write_text(f"[auth]\nmode = 'password'\npassword = '{secret}'\n")
    with running(tmp_path, "--config", config) as daemon:
        with pytest.raises(ConnectRefused) as refused:
            await join(reactor, daemon.url, WRONG["password"])
        scan.add("the client library", f"{refused.value!r} {vars(refused.value)}")
        client = await join(reactor, daemon.url, PASSWORD)
        for method in ("config.get", "logs.tail", "connections.closed"):
            scan.add(method, await client.call(method))
        await client.close()
        daemon.kill()
        scan.add("what it printed", daemon.output)
        scan.add_files(tmp_path, "gateway.toml")
    assert scan.found(secret, secret.rpartition("$")[2], PASSWORD, WRONG["password"]) == []
