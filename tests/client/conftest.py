"""What tests of both drivers have."""

from __future__ import annotations

import pytest

from gateway.client.testing import FakeGateway
from tests.client.rigs import AsyncioRig, TwistedRig


@pytest.fixture(params=[TwistedRig, AsyncioRig], ids=["twisted", "asyncio"])
def rig(request):
    """A driver and the gateway at the other end; whatever is left behind fails the test."""
    with request.param(FakeGateway()) as made:
        yield made
        assert made.leftovers() == []
