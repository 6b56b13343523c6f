"""Why connections ended and what runs wait for, asked of a real gateway, and of its log once it is gone."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.integration.test_gatewayctl import TIMEOUT_S, Ctl, Gateway
from tests.net.wire import masked, upgrade

pytestmark = pytest.mark.integration

CONFIG = """
[limits]
outbox_bytes = 200000
"""
NOTE_BYTES = 20_000
NOTES = 100
"""More than the limit and what the two ends of a socket hold, some times over."""


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("why") / "state"


@pytest.fixture(scope="module")
def running(state: Path) -> Iterator[Gateway]:
    config = state.parent / "gateway.toml"
    config.write_text(CONFIG)
    running = Gateway(
        *("--listen", "127.0.0.1:0", "--state-dir", str(state), "--config", str(config))
    )
    yield running
    running.stop()


@pytest.fixture
def ctl(running: Gateway, state: Path) -> Ctl:
    return Ctl(GATEWAY_URL=running.url, GATEWAY_STATE_DIR=str(state))


class Peer:
    """A client of few virtues over a socket of its own."""

    def __init__(self, running: Gateway) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(TIMEOUT_S)
        host, _, port = running.url.removeprefix("ws://").rpartition(":")
        self.socket.connect((host, int(port)))
        self.socket.sendall(upgrade())
        self.heard = b""
        self.hear(b"connect.challenge")

    def hear(self, text: bytes) -> None:
        """Read until a text comes, or the end."""
        while text not in self.heard and (data := self.socket.recv(4096)):
            self.heard += data

    def request(self, frame_id: str, method: str, params: object) -> None:
        frame = {"type": "req", "id": frame_id, "method": method, "params": params}
        self.socket.sendall(masked(json.dumps(frame).encode()))

    def connect(self, token: str) -> None:
        client = {"id": "cli", "version": "1", "platform": "linux", "mode": "cli"}
        params = {"minProtocol": 4, "maxProtocol": 4, "client": client, "role": "operator"}
        params |= {"scopes": ["operator.admin"], "auth": {"token": token}}
        self.request("c", "connect", params)


def reads_nothing(running: Gateway, peer: Peer, token: str) -> None:
    """Let a client be sent more events than it may leave unread: those of the notes that another makes."""
    peer.connect(token)
    peer.hear(b'"id":"c","ok":true')
    other = Peer(running)
    with closing(other.socket):
        other.connect(token)
        other.request("new", "sessions.create", {"key": "why"})
        other.hear(b'"id":"new","ok":true')
        for number in range(NOTES):
            params = {"sessionKey": "why", "message": "x" * NOTE_BYTES}
            other.request(f"n{number}", "chat.inject", params)
            other.hear(b'"id":"n%d","ok":true' % number)


def shows_a_wrong_token(running: Gateway, peer: Peer, token: str) -> None:
    """Let a client be refused."""
    peer.connect("no-token-of-this-gateway")
    peer.hear(b"AUTH_TOKEN_MISMATCH")


@pytest.mark.parametrize(
    ("misbehaves", "cause", "said"),
    [
        (reads_nothing, "slow-consumer", "did not read what it was sent"),
        (shows_a_wrong_token, "unauthorized", "gatewayctl token --show"),
    ],
)
def test_why_a_connection_ended(
    running: Gateway,
    ctl: Ctl,
    state: Path,
    misbehaves: Callable[[Gateway, Peer, str], None],
    cause: str,
    said: str,
) -> None:
    """A connection that ended is listed with its cause, and explained by the beginning of its id."""
    peer = Peer(running)
    with closing(peer.socket):
        misbehaves(running, peer, (state / "token").read_text().strip())
        line = running.wait_for(f" cause={cause} ")
    assert "closed conn=" in line

    rows = ctl("connections", "--closed").stdout.splitlines()[1:]
    (conn_id,) = (row.split()[0] for row in rows if f"  {cause}  " in row)
    assert f"closed conn={conn_id}" in line
    told = ctl("why", conn_id)
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.startswith("Connection ")
    assert f" ended: {cause} (code " in told.stdout
    assert said in " ".join(told.stdout.split())


def test_what_a_run_waits_for(running: Gateway, ctl: Ctl, state: Path) -> None:
    """A run behind another is told with how many are before it, and listed above it."""
    peer = Peer(running)
    with closing(peer.socket):
        peer.connect((state / "token").read_text().strip())
        for run_id in ("hangs-1", "waits-1"):
            params = {"sessionKey": "why", "message": "/hang", "idempotencyKey": run_id}
            peer.request(run_id, "chat.send", params)
            peer.hear(b'"id":"%b","ok":true' % run_id.encode())

    assert "Run waits-1: waits for 1 run before it." in ctl("why", "waits").stdout
    (head, *rows) = ctl("runs", "--session", "why").stdout.splitlines()
    assert [row.split()[0] for row in rows] == ["waits-1", "hangs-1"]
    assert len({row.index("agent:main:why") for row in rows} | {head.index("SESSION")}) == 1


def test_the_log_tells_when_the_gateway_is_gone(running: Gateway, ctl: Ctl) -> None:
    """After a stop the same question is answered from the log files."""
    listed = ctl("connections", "--closed", "--limit", "1").stdout.splitlines()[1]
    running.stop()

    told = ctl("why", listed.split()[0])
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.startswith(f"Connection {listed.split()[0]}")
    assert "the gateway could not be asked" in told.stdout
    assert ctl("why", "no-such-id").returncode == 2
