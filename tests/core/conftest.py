"""What property tests have: no deadline, since a busy machine is no fault of an example."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("gateway", deadline=None)
settings.load_profile("gateway")
