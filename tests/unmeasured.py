"""Loops that are long because they do the same again and again, not because they reach more code."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def unmeasured(work: Callable[P, R]) -> Callable[P, R]:
    """Let a function run without the measuring of coverage, which makes such loops three times as long.

    The lines and branches it goes through have to be reached by other tests as well.
    """

    @functools.wraps(work)
    def undisturbed(*args: P.args, **kwargs: P.kwargs) -> R:
        tracer = sys.gettrace()
        sys.settrace(None)
        try:
            return work(*args, **kwargs)
        finally:
            sys.settrace(tracer)

    return undisturbed
