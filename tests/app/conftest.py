"""Fixtures of these tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.app.harness import Gate


@pytest.fixture
def gates() -> Iterator[Callable[..., Gate]]:
    """Make gateways in memory; they are closed after the test."""
    made: list[Gate] = []

    def make(*args: object, **how: object) -> Gate:
        made.append(Gate(*args, **how))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for gate in made:
        gate.close()


@pytest.fixture
def gate(gates: Callable[..., Gate]) -> Gate:
    """Return a gateway in memory."""
    return gates()
