"""The door of a real process: a secret that is rotated while it runs, and TLS with real certificates."""

from __future__ import annotations

import datetime
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import trustme
from twisted.internet import reactor as _reactor
from twisted.internet.threads import deferToThread

from gateway.errors import StartError
from gateway.net.certificates import look_at_certificates
from tests.integration.daemon import Daemon, Watched, join, running, soon
from tests.integration.test_port_real import Served, open_websocket, read_until
from tests.net.wire import head, masked

pytestmark = pytest.mark.integration
reactor: Any = _reactor
YEAR = 365


class Certificates:
    """A certificate authority, and a certificate of this machine in files."""

    def __init__(self, directory: Path, *, days: float = YEAR) -> None:
        authority = trustme.CA()
        ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
        issued = authority.issue_cert("127.0.0.1", "localhost", not_after=ends)
        self.key, self.chain = directory / "key.pem", directory / "chain.pem"
        issued.private_key_pem.write_to_path(str(self.key))
        issued.cert_chain_pems[0].write_to_path(str(self.chain))
        self.context = ssl.create_default_context()
        authority.configure_trust(self.context)

    @property
    def spec(self) -> str:
        """The endpoint that serves it on a free port."""
        return f"ssl:0:interface=127.0.0.1:privateKey={self.key}:certKey={self.chain}"


@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest_twisted.ensureDeferred
async def test_tls_with_a_verified_certificate(tmp_path: Path) -> None:
    """Clients that verify the certificate get in by TLS 1.2 or newer; plain HTTP gets no answer."""
    made = Certificates(tmp_path)
    port = Served(made.spec)

    def client() -> tuple[str | None, bytes]:
        with made.context.wrap_socket(port.dial(), server_hostname="localhost") as ws:
            open_websocket(ws)
            ws.sendall(masked(b"hello"))
            version = ws.version()
            assert read_until(ws, b"re:hello").endswith(b"re:hello")
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        with port.dial() as raw, pytest.raises((ssl.SSLError, OSError)):
            old.wrap_socket(raw)
        with port.dial() as plain:
            plain.sendall(head("/healthz"))
            return version, received(plain)

    version, answer = await deferToThread(client)
    assert version in ("TLSv1.2", "TLSv1.3")
    assert b"HTTP/" not in answer
    assert len(port.factory.undecided_peers) == 0
    await port.stop()


def received(plain: socket.socket) -> bytes:
    """Read to the end."""
    data = b""
    try:
        while piece := plain.recv(4096):
            data += piece
    except ConnectionResetError:
        pass
    return data


def test_an_expired_certificate_is_not_served(tmp_path: Path) -> None:
    """The start names the file; one that ends soon is warned of."""
    now_ms = round(time.time() * 1000)
    expired = Certificates(tmp_path, days=-1)
    with pytest.raises(StartError, match="has expired"):
        look_at_certificates([expired.spec], now_ms)
    (warning,) = look_at_certificates([Certificates(tmp_path, days=3).spec], now_ms)
    assert "expires in 3 days" in warning
    assert look_at_certificates([Certificates(tmp_path).spec], now_ms) == []


@pytest_twisted.ensureDeferred
async def test_a_token_is_rotated_while_the_gateway_runs(tmp_path: Path) -> None:
    """Soon the new token opens, the old one does not, and who came in with it is out."""
    with running(tmp_path) as daemon:
        old = daemon.token
        watched = Watched(await daemon.connect(reactor))
        ended = daemon.world.run(*ctl(daemon, "secret", "rotate"))
        assert ended.status == 0, ended.stderr
        new = daemon.token
        assert new not in ended.stdout
        assert new != old
        closed = await watched.closed
        assert "4001" in str(closed) or "gateway auth changed" in str(closed)
        refused = [None]

        async def old_one() -> None:
            try:
                await join(reactor, daemon.url, old)
            except Exception as error:
                refused[0] = error  # type: ignore[call-overload]

        await old_one()
        assert "mismatch" in str(refused[0])
        client = await daemon.connect(reactor)
        await client.close()
        (daemon.state / "token").write_text("")
        await soon(reactor, lambda: daemon.lines("security: the shared secret stays"))
        client = await join(reactor, daemon.url, new)
        await client.close()
        assert not any(secret in str(daemon.records()) for secret in (old, new))


def ctl(daemon: Daemon, *words: str) -> list[str | Path]:
    """Return a gatewayctl command line for the daemon's own directory."""
    from tests.integration.daemon import TWISTD

    return [TWISTD.with_name("gatewayctl"), "--state-dir", str(daemon.state), *words]
