"""Both drivers against the fake gateway, by the same table."""

from __future__ import annotations

import pytest

from gateway.client.testing import FakeGateway
from tests.client.conformance import DISTURBANCES, be_disturbed
from tests.client.refusals import COMES_BACK, ONCE, REFUSALS, be_refused
from tests.client.rigs import AsyncioRig, TwistedRig

RIGS = pytest.mark.parametrize("rig_type", [TwistedRig, AsyncioRig], ids=["twisted", "asyncio"])


@RIGS
@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_every_refusal_is_told_as_it_is(rig_type, refusal):
    """A client that connects once raises the refusal with its codes, and leaves nothing behind."""
    with rig_type(FakeGateway(token="t")) as rig:
        seen = rig.run(be_refused(rig, refusal, ONCE))
        left = rig.leftovers()

    assert seen == [refusal.error, "1 attempts"]
    assert left == []


@RIGS
@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_only_what_passes_is_tried_again(rig_type, refusal):
    """A client that comes back does so after what passes, and never after what needs a person."""
    with rig_type(FakeGateway(token="t")) as rig:
        seen = rig.run(be_refused(rig, refusal, COMES_BACK))
        left = rig.leftovers()

    expected = [refusal.error, "1 attempts"] if refusal.final else ["connected", "3 attempts"]
    assert seen == expected
    assert left == []


@RIGS
@pytest.mark.parametrize("disturbance", DISTURBANCES, ids=lambda disturbance: disturbance.name)
def test_a_run_survives_what_can_be_survived(rig_type, disturbance):
    """Whatever happens to the connections, the run is told whole and ends once, or it is said why not."""
    with rig_type(FakeGateway(token="t")) as rig:
        seen = rig.run(be_disturbed(rig, disturbance))
        left = rig.leftovers()

    assert seen == {
        "seen": disturbance.seen,
        "text": disturbance.text,
        "end": disturbance.end,
        "error": disturbance.error,
        "ok": True,
        "dials": disturbance.dials,
        "messages": 1,
    }
    assert left == []
