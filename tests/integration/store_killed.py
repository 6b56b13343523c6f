"""A program that backs up or restores a database, and dies on the way.

``store_killed.py STEP write|restore SOURCE TARGET``: it dies as if killed before its STEP-th call that
changes or syncs a file; with fewer calls it comes to its end.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from gateway.store import backup


def main(step: int, what: str, source: str, target: str) -> None:
    """Do it, and die on the way."""
    done = 0

    def mortal(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **more: Any) -> Any:
            nonlocal done
            done += 1
            if done == step:
                os._exit(9)
            return call(*arguments, **more)

        return called

    for name in ("fsync", "link", "open", "replace", "unlink"):
        setattr(os, name, mortal(getattr(os, name)))
    if what == "write":
        backup.write(source, target)
    else:
        backup.restore(source, target)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
