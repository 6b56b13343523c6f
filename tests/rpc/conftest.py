"""The fixtures of the use-cases serve the methods too."""

from __future__ import annotations

from tests.app.conftest import gate, gates

__all__ = ["gate", "gates"]
