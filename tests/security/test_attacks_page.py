"""The page of attacks and the tests name each other."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
LATER = {3, 13, 21}
"""Attacks on what there is not yet."""


def rows() -> dict[int, str]:
    """Return the row of each attack by its number."""
    text = (ROOT / "docs" / "attacks.md").read_text(encoding="utf-8")
    return {int(line.split("|")[1]): line for line in text.splitlines() if re.match(r"\| \d", line)}


def tests() -> dict[int, set[str]]:
    """Return the files with tests of each attack."""
    found: dict[int, set[str]] = {}
    for path in [*HERE.glob("test_*.py"), ROOT / "tests" / "integration" / "test_canaries.py"]:
        for number in re.findall(r"def test_s(\d\d)_", path.read_text(encoding="utf-8")):
            found.setdefault(int(number), set()).add(path.name)
    return found


def test_every_attack_has_its_test_and_its_row() -> None:
    """What the page promises is tested, and what is tested stands on the page."""
    listed, tested = rows(), tests()
    assert set(listed) == set(range(1, 26))
    assert set(tested) == set(listed) - LATER
    for number, files in tested.items():
        assert all(name in listed[number] for name in files), number


def test_every_file_that_the_page_names_is_there() -> None:
    """No row names a test that was moved or removed."""
    for row in rows().values():
        for name in re.findall(
            r"`((?:tests/)?[\w/]+(?:\.py)?)`", row.rpartition("|")[0].rpartition("|")[2]
        ):
            assert (ROOT / name).exists() or (HERE / name).exists(), name


def test_every_limit_has_a_twin() -> None:
    """Beside each attack on a limit stands a client that the limit must not hurt."""
    text = "".join(path.read_text(encoding="utf-8") for path in HERE.glob("test_s*.py"))
    twins = {int(number) for number in re.findall(r"def test_s(\d\d)_twin_", text)}
    assert {1, 2, 4, 6, 7, 8, 9, 10, 11, 14, 15, 16, 18, 25} <= twins
