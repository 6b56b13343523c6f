"""The ledger of connections: what it keeps of those that ended, and what it forgets."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.app.ledger import MAX_ENTRY_BYTES, Ledger
from gateway.core.frames import EncodeFailed
from gateway.testing import FakeClock

DAY_S = 24 * 3600.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def ledger(clock: FakeClock) -> Ledger:
    return Ledger(clock, maximum=5, ttl_s=DAY_S)


def enter(ledger: Ledger, conn_id: str, *, authenticated: bool = True, **facts: Any) -> None:
    ledger.add(conn_id, {"connId": conn_id, **facts}, authenticated=authenticated)


def ids(ledger: Ledger, limit: int = 100, prefix: str = "") -> list[str]:
    return [json.loads(text)["connId"] for text in ledger.closed(limit, prefix)]


def test_the_newest_come_first_whoever_they_were(ledger: Ledger) -> None:
    """Refused and authenticated connections are listed together, in the order of their ends."""
    for number in range(6):
        enter(ledger, f"c{number}", authenticated=number % 2 == 0)

    assert ids(ledger) == ["c5", "c4", "c3", "c2", "c1", "c0"]
    assert ids(ledger, limit=2) == ["c5", "c4"]


def test_a_flood_of_refused_connections_pushes_out_no_authenticated_one(ledger: Ledger) -> None:
    """However many strangers are refused, they only push out each other."""
    enter(ledger, "known")
    for number in range(1000):
        enter(ledger, f"stranger{number}", authenticated=False)

    assert ids(ledger) == [*(f"stranger{number}" for number in range(999, 994, -1)), "known"]
    assert [len(ring) for ring in ledger.rings] == [1, 5]


def test_it_forgets_after_a_day(ledger: Ledger, clock: FakeClock) -> None:
    """A sweep removes what has been there for the time to live, of either kind."""
    enter(ledger, "old")
    enter(ledger, "refused", authenticated=False)
    clock.advance(DAY_S / 2)
    enter(ledger, "newer")
    clock.advance(DAY_S / 2)

    assert [ring.sweep(clock.seconds()) for ring in ledger.rings] == [1, 1]
    assert ids(ledger) == ["newer"]


def test_an_id_is_found_by_its_beginning(ledger: Ledger) -> None:
    """A beginning finds every id that it begins, a whole id the one; nothing else finds any."""
    for conn_id in ("ab1", "ab2", "b"):
        enter(ledger, conn_id)

    assert ids(ledger, prefix="ab") == ["ab2", "ab1"]
    assert ids(ledger, prefix="ab1") == ["ab1"]
    assert ids(ledger, prefix="1") == []


@pytest.mark.parametrize("char", ["x", "\U0001f600"])
def test_an_entry_has_a_largest_size(ledger: Ledger, char: str) -> None:
    """Texts of an entry that is too large are cut until it fits; numbers and ids stay."""
    facts: dict[str, Any] = {f"text{number}": char * 300 for number in range(20)}
    last = {"method": char * 128, "id": None}
    enter(ledger, "c1", **facts, lastFrame=last, code=1008)

    (text,) = ledger.closed(1)
    entry = json.loads(text)
    assert 1000 < len(text) <= MAX_ENTRY_BYTES
    assert (entry["connId"], entry["code"], entry["lastFrame"]["id"]) == ("c1", 1008, None)
    assert {len(entry[name]) for name in facts} in ({120}, {30})
    assert facts.items().isdisjoint(entry.items())


def test_a_small_entry_stays_as_it_is(ledger: Ledger) -> None:
    """Nothing is cut of an entry that fits."""
    enter(ledger, "c1", reason="r" * 300, lastFrame={"id": "i" * 128})

    assert json.loads(ledger.closed(1)[0]) == {
        "connId": "c1",
        "reason": "r" * 300,
        "lastFrame": {"id": "i" * 128},
    }


def test_what_has_no_json_form_is_refused(ledger: Ledger) -> None:
    """Facts that can not be told raise, and nothing is kept of them."""
    with pytest.raises(EncodeFailed):
        enter(ledger, "c1", error=object())

    assert ids(ledger) == []


def test_without_anybody_who_has_connections_there_are_none(ledger: Ledger) -> None:
    """A ledger that nobody told where the open connections are tells of none."""
    assert ledger.opened(10, "") == ([], 0)
