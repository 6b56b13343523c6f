"""Who calls."""

from __future__ import annotations

import pytest

from gateway.core.access import KNOWN_SCOPES
from gateway.core.events import EVENTS
from gateway.model import Role
from tests.app.harness import make_caller


@pytest.mark.parametrize(
    ("granted", "effective"),
    [
        ((), set()),
        (("operator.read",), {"operator.read", "operator.sessions.read"}),
        (("operator.admin",), set(KNOWN_SCOPES)),
        (("operator.everything", "read"), set()),
    ],
)
def test_the_scopes_of_an_operator(granted: tuple[str, ...], effective: set[str]) -> None:
    """An operator has the scopes that its grant includes, and no others."""
    caller = make_caller(scopes=granted)

    assert caller.scopes == effective
    assert not caller.is_node


def test_a_node_has_no_scopes() -> None:
    """A node has no scopes, whatever its grant says, and sees what everybody may see."""
    node = make_caller(role=Role.NODE, scopes=("operator.admin",))

    assert node.is_node
    assert node.scopes == frozenset()
    assert node.events == {name for name, spec in EVENTS.items() if not spec.scopes}
    direct = {name for name in EVENTS if name.startswith("node.invoke.")}
    assert node.events < make_caller().events == set(EVENTS) - direct
