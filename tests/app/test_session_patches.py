"""Many writers change one session at once: nothing of anybody's is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bench import patches
from tests.unmeasured import unmeasured

COUNT = 3_000


@pytest.mark.parametrize("patch", [patches.in_memory, patches.on_disk])
@unmeasured
def test_patches_of_many_writers(patch: Callable[[int], Any]) -> None:
    """What 64 writers patch at random ends as a serial replay does, with versions that rise by one."""
    applied, stored = patch(COUNT)

    assert patches.losses(COUNT, applied, stored) == []
    assert sum(stored.settings[f"w{writer}"] for writer in range(patches.WRITERS)) == COUNT
    assert stored.version == COUNT


def test_a_loss_is_noticed() -> None:
    """A patch that was applied to a stale copy, left out or done twice does not pass for a replay."""
    applied, stored = patches.in_memory(200)
    assert stored is not None
    assert patches.losses(200, applied, None) == ["the settings are not those of the replay"]
    assert patches.losses(201, applied, stored) == [
        "200 changes were applied",
        "the versions do not rise by one each",
    ]
    applied.changes.append(applied.changes[0])
    assert "the settings are not those of the replay" in patches.losses(200, applied, stored)
