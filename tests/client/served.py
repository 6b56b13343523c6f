"""The scripted gateway on a real port of the loopback interface, in a thread with its own reactor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.protocols.tls import TLSMemoryBIOFactory

from gateway.cli.session import Loop
from tests.client.scripted import Script, server_factory


@contextmanager
def served(script: Script, certificate: Path | None = None) -> Iterator[str]:
    """Serve a script for the length of a ``with`` block; gives the URL.

    With a certificate (key and certificate in one PEM file) it is served over TLS.
    """
    with Loop() as loop:

        async def listen() -> Any:
            factory = server_factory(script, loop.reactor)
            if certificate is not None:  # listenSSL would have timers on the global reactor
                context = DefaultOpenSSLContextFactory(str(certificate), str(certificate))
                factory = TLSMemoryBIOFactory(context, False, factory, loop.reactor)
            return loop.reactor.listenTCP(0, factory, interface="127.0.0.1")

        async def stop() -> None:
            for connection in script.live:
                connection.transport.abortConnection()
            await port.stopListening()

        port = loop.run(listen)
        try:
            number = port.getHost().port
            yield f"wss://localhost:{number}" if certificate else f"ws://127.0.0.1:{number}"
        finally:
            loop.run(stop)


def self_signed(path: Path) -> Path:
    """Write a key and its own certificate for localhost into one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    start = datetime(2020, 1, 1, tzinfo=UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=36_500))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    return path
