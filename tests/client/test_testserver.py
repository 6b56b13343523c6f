"""The fake gateway over WebSocket."""

from __future__ import annotations

import pytest

from gateway.client import ClientOptions, ConnectFailed
from gateway.client.testing import FakeGateway
from tests.client.rigs import TwistedRig


def test_the_end_of_every_connection_is_noted():
    """The factory has code and reason of each connection that ended, however it did."""

    async def probe():
        for close in (rig.gateway.cut, lambda: rig.gateway.close(1012, "restart")):
            client = await rig.connect(ClientOptions())
            close()
            await client.when_closed()
        await (await rig.connect(ClientOptions())).close(4000, "bye")

    with TwistedRig(FakeGateway()) as rig:
        rig.run(probe())

    assert [code for code, _ in rig.closes] == [1006, 1000, 4000]
    assert rig.gateway.connections == []


def test_an_upgrade_can_be_refused():
    """With a status the upgrade is refused by HTTP, and no connection comes about."""

    async def probe():
        with pytest.raises(ConnectFailed, match="503"):
            await rig.connect(ClientOptions())

    with TwistedRig(FakeGateway()) as rig:
        rig.gateway.http_status = 503
        rig.run(probe())

    assert rig.closes == []
    assert rig.gateway.accepted == 0
