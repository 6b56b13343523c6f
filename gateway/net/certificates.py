"""The certificates of TLS endpoints: looked at before they are served, since clients refuse expired ones."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from gateway.errors import StartError

SOON_DAYS: Final = 14
"""So many days before its end a certificate is warned of."""

_ARGUMENT: Final = r":{name}=((?:\\.|[^:\\])*)"
_DAY_MS: Final = 86_400_000


def certificate_of(spec: str) -> Path | None:
    """Return the file of the certificate that an ``ssl:`` endpoint serves, None for other endpoints."""
    if not spec.startswith("ssl:"):
        return None
    for name in ("certKey", "privateKey"):
        if match := re.search(_ARGUMENT.format(name=name), spec):
            return Path(re.sub(r"\\(.)", r"\1", match[1]))
    return Path("server.pem")


def look_at_certificates(specs: Iterable[str], now_ms: int) -> list[str]:
    """Return warnings of certificates that end soon. Raises StartError for one that has ended.

    What can not be read is left to the endpoint, which says so itself.
    """
    warnings = []
    for spec in specs:
        file = certificate_of(spec.strip())
        end_ms = None if file is None else _end_ms(file)
        if end_ms is None:
            continue
        days = (end_ms - now_ms) / _DAY_MS
        if days <= 0:
            raise StartError(
                f"cannot listen on {spec}: the certificate {file} has expired (server.listen)"
            )
        if days < SOON_DAYS:
            warnings.append(f"security: the certificate {file} expires in {days:.0f} days")
    return warnings


def _end_ms(file: Path) -> int | None:
    """Return when the first certificate of a file ends."""
    from cryptography import x509  # only for who has TLS

    try:
        certificate = x509.load_pem_x509_certificates(file.read_bytes())[0]
    except (OSError, ValueError):
        return None
    return round(certificate.not_valid_after_utc.timestamp() * 1000)
