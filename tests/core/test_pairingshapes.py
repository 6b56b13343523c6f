"""What clients are told of devices that ask to be paired."""

from __future__ import annotations

from gateway.core.pairingshapes import requested, resolved
from gateway.model import PairingRequest
from tests.core.schemas import violations
from tests.core.test_pairing import EMPTY, NOW, READ, asked, asking


def request(**how: str) -> PairingRequest:
    """Return an open request."""
    found = asked(EMPTY, asking(READ, **how)).request
    assert found is not None
    return found


def test_a_request_fits_the_closed_schema_of_version_3() -> None:
    """Version 3 is told everything but the device family, which its schema does not know."""
    full = request(
        display_name="Ann",
        device_family="iPhone",
        client_id="cli",
        client_mode="cli",
        remote_ip="203.0.113.5",
    )
    three, four = requested(full, 3), requested(full, 4)

    assert violations("DevicePairRequestedEvent", 3, three) == []
    assert four == three | {"deviceFamily": "iPhone"}
    assert (four["silent"], four["isRepair"], four["ts"]) == (False, False, NOW)


def test_what_is_not_known_is_left_out() -> None:
    """What a device did not say of itself is no key."""
    sparse = requested(request(platform=""), 4)

    assert not {"displayName", "platform", "remoteIp", "clientId"} & set(sparse)
    assert violations("DevicePairRequestedEvent", 3, sparse) == []


def test_a_resolution_fits_the_closed_schema_of_version_3() -> None:
    """A decision is told with the request and the device."""
    shape = resolved("r", "d", "rejected", NOW)

    assert violations("DevicePairResolvedEvent", 3, shape) == []
