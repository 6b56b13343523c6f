"""gateway.net.certificates: a renewed certificate is served without a restart, a broken one never is."""

from __future__ import annotations

import datetime
import os
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import capturedLogs
from twisted.protocols.tls import TLSMemoryBIOFactory

from gateway.app.threads import here
from gateway.net.certificates import (
    LOOK_S,
    REMIND_S,
    CertificateWatch,
    ServedCertificate,
    certificate_beats,
    certificate_of,
)
from gateway.net.listen import Listener, listen
from gateway.testing import FakeClock, result_of

pytestmark = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")
AUTHORITY = trustme.CA()


class Renewed:
    """The files of an ``ssl:`` endpoint, what it serves, and the watch over it."""

    def __init__(self, directory: Path) -> None:
        self.key, self.chain = directory / "key.pem", directory / "chain.pem"
        self.issue()
        self.spec = f"ssl:0:interface=127.0.0.1:privateKey={self.key}:certKey={self.chain}"
        self.reactor = MemoryReactorClock()
        (self.listener,) = listen([self.spec], Factory.forProtocol(Protocol), self.reactor)
        assert self.listener.certificate is not None
        self.served: ServedCertificate = self.listener.certificate
        self.clock = FakeClock()
        self.watch = CertificateWatch([self.served], self.clock, here)

    def issue(self, *, days: int = 90) -> trustme.LeafCert:
        """Write another pair."""
        now = datetime.datetime.fromtimestamp(FakeClock().now_ms() / 1000, datetime.UTC)
        issued = AUTHORITY.issue_cert("localhost", not_after=now + datetime.timedelta(days=days))
        self.write(self.key, issued.private_key_pem.bytes())
        self.write(self.chain, issued.cert_chain_pems[0].bytes())
        return issued

    def write(self, file: Path, data: bytes) -> None:
        """Write a file, so that its time is another one."""
        file.write_bytes(data)
        self.stamp = getattr(self, "stamp", 1_700_000_000) + 1
        os.utime(file, (self.stamp, self.stamp))

    def stop(self) -> None:
        """Close the port."""
        self.listener.stopListening()
        self.reactor.advance(0)

    def look(self) -> list[str]:
        """Look once; return the lines of the log."""
        with capturedLogs() as log:
            result_of(Deferred.fromCoroutine(self.watch.look()))
        return [event["log_format"].format(**event) for event in log]

    def shown(self) -> int:
        """Connect in memory; return the serial number of the certificate that is shown."""
        anything = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # the fake clock is years behind
        anything.check_hostname, anything.verify_mode = False, ssl.CERT_NONE
        received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = anything.wrap_bio(received, sent)
        factory = TLSMemoryBIOFactory(self.served, False, Factory.forProtocol(Protocol))
        server, transport = factory.buildProtocol(None), StringTransport()
        server.makeConnection(transport)
        for _ in range(4):
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                server.dataReceived(sent.read())
                received.write(transport.value())
                transport.clear()
        certificate = client.getpeercert(binary_form=True)
        assert certificate is not None
        return x509.load_der_x509_certificate(certificate).serial_number


def serial_of(issued: trustme.LeafCert) -> int:
    return x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes()).serial_number


@pytest.fixture
def renewed(tmp_path: Path) -> Iterator[Renewed]:
    """An endpoint whose files can be renewed."""
    endpoint = Renewed(tmp_path)
    yield endpoint
    endpoint.stop()


def test_new_connections_have_the_renewed_certificate(renewed: Renewed) -> None:
    """It is taken with the second look, when nobody writes any more; it is said once."""
    before = renewed.shown()
    assert renewed.look() == []
    issued = renewed.issue()
    assert renewed.look() == []
    assert renewed.shown() == before
    (line,) = renewed.look()
    assert line == f"certificate read again, new connections have it: {renewed.spec}"
    assert renewed.shown() == serial_of(issued) != before
    assert renewed.look() == []


def test_a_change_before_the_first_look(renewed: Renewed) -> None:
    """What is renewed while the gateway starts is not overlooked."""
    issued = renewed.issue()
    renewed.look()
    renewed.look()
    assert renewed.shown() == serial_of(issued)


def not_pem(renewed: Renewed) -> None:
    renewed.write(renewed.chain, b"-----BEGIN CERTIFICATE-----\nhalf")


def empty_key(renewed: Renewed) -> None:
    renewed.write(renewed.key, b"")


def of_another(renewed: Renewed) -> None:
    renewed.write(renewed.key, AUTHORITY.issue_cert("localhost").private_key_pem.bytes())


def gone(renewed: Renewed) -> None:
    renewed.chain.unlink()


def expired(renewed: Renewed) -> None:
    renewed.issue(days=-1)


@pytest.mark.parametrize("spoil", [not_pem, empty_key, of_another, gone, expired])
def test_a_bad_pair_takes_nothing_away(renewed: Renewed, spoil: Callable[[Renewed], None]) -> None:
    """The old pair stays, in memory; it is logged once; a good one is taken later."""
    before = renewed.shown()
    spoil(renewed)
    assert renewed.look() == []
    (line,) = renewed.look()
    assert line.startswith(f"security: the certificate of {renewed.spec} stays as it was: ")
    assert "\n" not in line
    assert "PRIVATE" not in line
    assert renewed.look() == []
    assert renewed.shown() == before
    issued = renewed.issue()
    renewed.look()
    renewed.look()
    assert renewed.shown() == serial_of(issued)


def test_a_renewed_one_that_ends_soon_is_warned_of(renewed: Renewed) -> None:
    """It is taken all the same."""
    issued = renewed.issue(days=3)
    renewed.look()
    taken, warning = renewed.look()
    assert "read again" in taken
    assert warning == f"security: the certificate {renewed.chain} expires in 3 days"
    assert renewed.shown() == serial_of(issued)


def test_a_gateway_that_runs_reminds_of_the_end(renewed: Renewed) -> None:
    """Once a day whoever forgot to renew is told, before the end and after it."""
    renewals, reminders = certificate_beats([renewed.listener], renewed.clock, here)
    assert (renewals.interval_s, reminders.interval_s) == (LOOK_S, REMIND_S)
    reminders.startService()
    with capturedLogs() as log:
        for _ in range(92):
            renewed.clock.advance(REMIND_S)
    lines = [event["warning"] for event in log if "warning" in event]
    assert len(lines) == 92 - 76
    assert lines[0] == f"security: the certificate {renewed.chain} expires in 13 days"
    assert lines[-1] == f"security: the certificate {renewed.chain} has expired"
    reminders.stopService()


def test_nothing_to_look_after(renewed: Renewed) -> None:
    """A gateway without TLS looks at no files."""
    plain = Listener("127.0.0.1:0", "ws://127.0.0.1:1", renewed.listener.port)
    assert certificate_beats([plain], renewed.clock, here) == ()


def test_which_files_are_looked_at() -> None:
    """Those that the endpoint names, unescaped; by default that of the endpoint's parser."""
    assert ServedCertificate("ssl:443").files == (Path("server.pem"),)
    spec = r"ssl:443:privateKey=a\:b.pem:extraCertChain=chain.pem:dhParameters=dh"
    assert ServedCertificate(spec).files == (Path("a:b.pem"), Path("chain.pem"), Path("dh"))
    assert certificate_of(spec) == Path("a:b.pem")
    assert certificate_of("ssl:443") == Path("server.pem")
    assert certificate_of("tcp:80") is None
