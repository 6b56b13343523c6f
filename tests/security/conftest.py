"""The fixtures of the network layer serve here too: these tests attack over the real protocol."""

from __future__ import annotations

from tests.net.conftest import gate, log

__all__ = ["gate", "log"]
