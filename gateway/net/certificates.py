"""The certificates of TLS endpoints: looked at before they are served, and read again once they are renewed.

Requirements. A certificate is renewed every few weeks under a gateway that runs for months: new
connections have the new one without a restart, those that are there stay. Files that are half written,
do not belong together or can not be read take nothing away. Who forgot to renew is warned.

Design. The files of ``ssl:`` endpoints are looked at (``stat``) in a thread, every few seconds. Once they
have changed and then stayed as they are until the next look, they are read there, by the endpoint's own
parser; connections that begin from then on are made with what came of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.protocol import ServerFactory
from twisted.logger import Logger
from zope.interface import implementer

from gateway.app.periodic import Periodic
from gateway.app.threads import InThread
from gateway.errors import StartError
from gateway.interfaces import IClock

SOON_DAYS: Final = 14
"""So many days before its end a certificate is warned of."""
LOOK_S: Final = 2.0
"""How often the files are looked at, in seconds; a change is taken with the second look at it."""
REMIND_S: Final = 86_400.0
"""How often a gateway that runs looks for certificates that end soon, in seconds."""

_ARGUMENT: Final = r":{name}=((?:\\.|[^:\\])*)"
_FILES: Final = ("certKey", "privateKey", "extraCertChain", "dhParameters")
_DEFAULT: Final = Path("server.pem")
_DAY_MS: Final = 86_400_000

_Signature = tuple[tuple[int, ...] | None, ...]


def certificate_of(spec: str) -> Path | None:
    """Return the file of the certificate that an ``ssl:`` endpoint serves, None for other endpoints."""
    if not spec.startswith("ssl:"):
        return None
    return _named(spec, "certKey") or _named(spec, "privateKey") or _DEFAULT


def look_at_certificates(specs: Iterable[str], now_ms: int) -> list[str]:
    """Return warnings of certificates that end soon. Raises StartError for one that has ended.

    What can not be read is left to the endpoint, which says so itself.
    """
    ends = _ends(specs, now_ms)
    for end in ends:
        if end.days <= 0:
            raise StartError(
                f"cannot listen on {end.spec}: the certificate {end.file} has expired (server.listen)"
            )
    return [end.warning for end in ends if end.days < SOON_DAYS]


@implementer(IOpenSSLServerConnectionCreator)
class ServedCertificate:
    """What the TLS connections of one ``ssl:`` endpoint are made with, and the files that it is from."""

    def __init__(self, spec: str) -> None:
        """Take in how the files are before the endpoint reads them."""
        self.spec = spec
        names = (_named(spec, name) for name in _FILES)
        self.files = tuple(file for file in names if file is not None) or (_DEFAULT,)
        self.seen = self.taken = signature_of(self.files)
        """How the files were at the last look, and when they were read."""
        self._options: Any = None

    def use(self, options: Any) -> None:
        """Make new connections with these CertificateOptions."""
        self._options = options

    def serverConnectionForTLS(self, protocol: Any) -> Any:  # noqa: N802 - the interface's name
        """Return the OpenSSL connection for a client that just came."""
        return self._options.serverConnectionForTLS(protocol)


class CertificateWatch:
    """Looks whether certificates were renewed, and has new connections use those."""

    _log = Logger()

    def __init__(self, served: Sequence[ServedCertificate], clock: IClock, run: InThread) -> None:
        self._served = served
        self._clock = clock
        self._in_thread = run

    async def look(self) -> None:
        """Look once at all files."""
        for served in self._served:
            seen: _Signature = await self._in_thread(signature_of, served.files)
            settled = seen == served.seen
            served.seen = seen
            if settled and seen != served.taken:
                served.taken = seen
                await self._renew(served)

    async def remind(self) -> None:
        """Warn of certificates that ended, or end soon."""
        specs = [served.spec for served in self._served]
        for end in await self._in_thread(_ends, specs, self._clock.now_ms()):
            if end.days < SOON_DAYS:
                self._log.warn("{warning}", warning=end.warning)

    async def _renew(self, served: ServedCertificate) -> None:
        try:
            options, warnings = await self._in_thread(_read, served.spec, self._clock.now_ms())
        except Exception as error:
            # Whatever OpenSSL, the parser and the file system find wrong: the old one is still good.
            self._log.error(
                "security: the certificate of {spec} stays as it was: {why}",
                spec=served.spec,
                why=" ".join(str(error).split()) or type(error).__name__,
            )
            return
        served.use(options)
        self._log.info("certificate read again, new connections have it: {spec}", spec=served.spec)
        for warning in warnings:
            self._log.warn("{warning}", warning=warning)


class Listens(Protocol):
    """A port that listens."""

    @property
    def certificate(self) -> ServedCertificate | None:
        """What it serves, if it is an ``ssl:`` endpoint."""


def certificate_beats(
    listeners: Iterable[Listens], clock: IClock, run: InThread
) -> tuple[Periodic, ...]:
    """Return what looks after the certificates of a gateway while it runs; nothing if it has none."""
    served = (listener.certificate for listener in listeners)
    found = [each for each in served if each is not None]
    watch = CertificateWatch(found, clock, run)
    renewals = Periodic("certificates", clock, LOOK_S, watch.look)
    reminders = Periodic("certificates that end", clock, REMIND_S, watch.remind)
    return (renewals, reminders) if found else ()


def signature_of(files: Iterable[Path]) -> _Signature:
    """Return what changes with files; a file that is not there has None."""
    return tuple(_stat(file) for file in files)


def _stat(file: Path) -> tuple[int, ...] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class _Reader:
    """A reactor that does not listen: it keeps what it is asked to listen with."""

    options: Any = None

    def listenSSL(  # noqa: N802 - IReactorSSL
        self, port: int, factory: Any, contextFactory: Any, **_options: Any
    ) -> None:
        self.options = contextFactory


def _read(spec: str, now_ms: int) -> tuple[Any, list[str]]:
    """Return what an endpoint makes of its files, and warnings. Raises whatever is wrong with them."""
    reader = _Reader()
    warnings = look_at_certificates([spec], now_ms)
    serverFromString(reader, spec).listen(ServerFactory())
    reader.options.getContext()  # the work of it is done in this thread, and the pair is tried
    return reader.options, warnings


class _End(NamedTuple):
    spec: str
    file: Path
    days: float
    """Until then; negative afterwards."""

    @property
    def warning(self) -> str:
        when = f"expires in {self.days:.0f} days" if self.days > 0 else "has expired"
        return f"security: the certificate {self.file} {when}"


def _ends(specs: Iterable[str], now_ms: int) -> list[_End]:
    """Return when certificates end, of those that can be read."""
    found = []
    for spec in map(str.strip, specs):
        file = certificate_of(spec)
        end_ms = None if file is None else _end_ms(file)
        if file is not None and end_ms is not None:
            found.append(_End(spec, file, (end_ms - now_ms) / _DAY_MS))
    return found


def _end_ms(file: Path) -> int | None:
    """Return when the first certificate of a file ends."""
    from cryptography import x509  # only for who has TLS

    try:
        certificate = x509.load_pem_x509_certificates(file.read_bytes())[0]
    except (OSError, ValueError):
        return None
    return round(certificate.not_valid_after_utc.timestamp() * 1000)


def _named(spec: str, name: str) -> Path | None:
    """Return the file that an argument of an endpoint names."""
    match = re.search(_ARGUMENT.format(name=name), spec)
    return None if match is None else Path(re.sub(r"\\(.)", r"\1", match[1]))
