"""Calling what callers hand to the store."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from gateway.store.writer import ChangeRaised

C = TypeVar("C")
R = TypeVar("R")


def call_change(change: Callable[[C], R], current: C) -> R:
    """Call a caller's ``change`` so that what it raises reaches the caller as it is."""
    try:
        return change(current)
    except Exception as error:
        raise ChangeRaised from error
