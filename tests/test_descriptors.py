"""What the process may open is raised, and strangers hold a share of it."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.config import load
from gateway.descriptors import ENOUGH, fitted, raise_limit

NO_LIMIT = resource.RLIM_INFINITY


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[int, int]]]:
    """Return what plays the system's limits; it returns the list of what is asked for."""

    def play(soft: int, hard: int, refusal: Exception | None = None) -> list[tuple[int, int]]:
        asked: list[tuple[int, int]] = []

        def set_limit(which: int, limits: tuple[int, int]) -> None:
            asked.append(limits)
            if refusal is not None:
                raise refusal

        monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, hard))
        monkeypatch.setattr(resource, "setrlimit", set_limit)
        return asked

    return play


@pytest.mark.parametrize(
    ("soft", "hard", "wanted"),
    [
        (1024, 524_288, 524_288),
        (4096, 4096, 4096),
        (1024, NO_LIMIT, ENOUGH),
        (2 * ENOUGH, NO_LIMIT, 2 * ENOUGH),
    ],
)
def test_the_limit_is_raised(
    system: Callable[..., list[tuple[int, int]]], soft: int, hard: int, wanted: int
) -> None:
    """The soft limit becomes the hard one; where there is none, it is enough."""
    asked = system(soft, hard)
    assert raise_limit() == wanted
    assert asked == [(wanted, hard)]


def test_without_a_limit_nothing_is_asked_for(
    system: Callable[..., list[tuple[int, int]]],
) -> None:
    """Who has no limit keeps it."""
    asked = system(NO_LIMIT, NO_LIMIT)
    assert (raise_limit(), asked) == (ENOUGH, [])


@pytest.mark.parametrize("refusal", [OSError("no"), ValueError("no")])
def test_a_system_that_does_not_allow_it(
    system: Callable[..., list[tuple[int, int]]], refusal: Exception
) -> None:
    """What the system does not allow ends no start."""
    system(1024, NO_LIMIT, refusal)
    assert raise_limit() == 1024


def test_strangers_have_a_third() -> None:
    """With few descriptors there are fewer places, and the log says so; with many it is as configured."""
    loaded = load(None, {})
    assert fitted(loaded, 20_000) is loaded
    few = fitted(loaded, 1024)
    assert few.config.limits.preauth_connections_max == 341
    (warning,) = few.warnings
    assert "may open 1024 files" in warning
    assert "341 are held instead of 5000 (limits.preauth_connections_max)" in warning
    assert fitted(loaded, 2).config.limits.preauth_connections_max == 1


def test_a_limit_of_the_file_stays(tmp_path: Path) -> None:
    """What the operator has set lower than the share counts."""
    file = tmp_path / "gateway.toml"
    file.write_text("[limits]\npreauth_connections_max = 10\n")
    assert fitted(load(file, {}), 1024).config.limits.preauth_connections_max == 10
