"""What every record of the domain is."""

from __future__ import annotations

from typing import Any

import msgspec

Json = Any
"""A decoded JSON value."""


class Struct(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base of every record: immutable, camelCase on the wire, defaults left out."""
