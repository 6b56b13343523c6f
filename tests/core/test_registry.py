"""Bounded registries."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.core.registry import Registry, RegistryFull, Sweepable


class Item:
    """A value that may be in use."""

    def __init__(self, *, used: bool = False) -> None:
        self.used = used


def registry(maximum: int = 3, ttl_s: float | None = 100) -> Registry[Item]:
    """Return a registry of items."""
    return Registry("things", maximum=maximum, ttl_s=ttl_s, in_use=lambda item: item.used)


def keys(held: Registry[Item], names: str = "abcdefgh") -> str:
    """Return which of the keys are there."""
    return "".join(name for name in names if name in held)


def filled(names: str, *, used: str = "", maximum: int = 3) -> Registry[Item]:
    """Return a registry with an item put at 0, 1, 2 ... ms under each of the names."""
    held = registry(maximum)
    for now_ms, name in enumerate(names):
        held.put(name, Item(used=name in used), now_ms)
    return held


def test_what_was_put_is_found() -> None:
    """An entry is found by its key, also when it has expired, until it is removed."""
    held = registry()
    item = Item()
    held.put("a", item, 0)

    assert held.get("a") is item
    assert (len(held), list(held), "a" in held, "b" in held) == (1, [item], True, False)
    assert held.pop("a") is item
    assert (held.pop("a"), held.get("a"), len(held)) == (None, None, 0)


def test_a_full_registry_lets_the_oldest_go() -> None:
    """A new entry takes the place of the oldest that is not in use."""
    held = filled("abc", used="a")
    held.put("d", Item(), 5)
    assert keys(held) == "acd"


def test_a_registry_full_of_entries_in_use_keeps_them() -> None:
    """Where every entry is in use a new one is refused, and nothing is lost."""
    held = filled("abc", used="abc")
    with pytest.raises(RegistryFull, match="things holds 3 entries in use"):
        held.put("d", Item(), 5)
    assert keys(held) == "abc"


def test_a_refused_entry_costs_no_other() -> None:
    """When the maximum was lowered and too few can go, none goes."""
    held = filled("abc", used="bc")
    held.maximum = 2
    with pytest.raises(RegistryFull):
        held.put("d", Item(), 5)
    assert keys(held) == "abc"


def test_an_entry_is_replaced_in_a_full_registry() -> None:
    """Putting a key again needs no room, and makes it the newest with a new time to live."""
    held = filled("abc", used="abc")
    newer = Item()
    held.put("a", newer, 50)

    assert held.get("a") is newer
    assert held.sweep(120) == 0
    held.put("d", Item(), 130)
    assert keys(held) == "bcd"


def test_a_sweep_removes_every_expired_entry() -> None:
    """A registry far below its maximum still loses all that has expired, and nothing else."""
    held = filled("abcdef", maximum=1_000)
    assert held.sweep(102) == 3
    assert keys(held) == "def"
    assert held.sweep(102) == 0


def test_an_entry_in_use_does_not_expire() -> None:
    """What is in use stays, however old, and goes with the next sweep after its use."""
    held = filled("ab", used="a")
    assert held.sweep(10_000) == 1
    item = held.get("a")
    assert item is not None
    item.used = False
    assert held.sweep(10_000) == 1


def test_without_a_time_to_live_nothing_expires() -> None:
    """A registry without a time to live is bounded by its maximum only."""
    held = registry(ttl_s=None)
    held.put("a", Item(), 0)
    assert held.sweep(10**12) == 0


def test_a_sweep_then_removes_the_oldest_over_the_maximum() -> None:
    """After the expired ones the oldest go until the maximum holds, but for those in use."""
    held = filled("abcdef", used="b", maximum=10)
    held.maximum = 3
    assert held.sweep(100) == 3
    assert keys(held) == "bef"
    held.maximum = 0
    assert held.sweep(100) == 2
    assert keys(held) == "b"


def test_a_touch_begins_the_time_to_live_anew() -> None:
    """A touched entry is the newest; a touch of an unknown key does nothing."""
    held = filled("abc")
    held.touch("a", 80)
    held.touch("x", 80)

    assert held.sweep(103) == 2
    assert keys(held) == "a"
    assert held.sweep(180) == 1


def test_the_oldest_can_be_taken_out() -> None:
    """The oldest entry leaves first, in use or not; an empty registry gives nothing."""
    held = filled("ab", used="a")
    first = held.get("a")
    assert held.pop_oldest() is first
    assert held.pop_oldest() is not None
    assert held.pop_oldest() is None


def test_iteration_takes_a_snapshot() -> None:
    """Entries may be removed while one goes through them."""
    held = filled("abc")
    for _ in held:
        held.pop_oldest()
    assert len(held) == 0


def test_by_default_nothing_is_in_use() -> None:
    """A registry without a rule protects nothing."""
    held: Registry[str] = Registry("names", maximum=1, ttl_s=10)
    held.put("a", "x", 0)
    held.put("b", "y", 0)
    swept: Sweepable = held
    assert (swept.name, list(held), swept.sweep(10)) == ("names", ["y"], 1)


class RegistryModel(RuleBasedStateMachine):
    """A registry against a plain list of (stamp, key, item), oldest first."""

    def __init__(self) -> None:
        super().__init__()
        self.held = registry(maximum=4)
        self.model: list[tuple[int, str, Item]] = []
        self.now = 0

    def without(self, key: str) -> list[tuple[int, str, Item]]:
        """Return the model without a key."""
        return [entry for entry in self.model if entry[1] != key]

    @rule(key=st.sampled_from("abcdefgh"), used=st.booleans())
    def put(self, key: str, used: bool) -> None:
        """Put an item."""
        item, model = Item(used=used), self.without(key)
        free = [entry for entry in model if not entry[2].used]
        if len(model) == len(self.model) == 4:
            if not free:
                with pytest.raises(RegistryFull):
                    self.held.put(key, item, self.now)
                return
            model.remove(free[0])
        self.held.put(key, item, self.now)
        self.model = [*model, (self.now, key, item)]

    @rule(key=st.sampled_from("abcdefgh"))
    def touch(self, key: str) -> None:
        """Touch an entry."""
        self.held.touch(key, self.now)
        self.model = self.without(key) + [
            (self.now, name, item) for _, name, item in self.model if name == key
        ]

    @rule(key=st.sampled_from("abcdefgh"))
    def release(self, key: str) -> None:
        """An entry is not in use any more."""
        item = self.held.get(key)
        if item is not None:
            item.used = False

    @rule(elapsed=st.integers(0, 80))
    def sweep(self, elapsed: int) -> None:
        """Time passes, and the sweep comes."""
        self.now += elapsed
        kept = [entry for entry in self.model if entry[2].used or entry[0] > self.now - 100]
        assert self.held.sweep(self.now) == len(self.model) - len(kept)
        self.model = kept

    @invariant()
    def same(self) -> None:
        """Both hold the same, in the same order, never more than the maximum."""
        assert list(self.held) == [item for _, _, item in self.model]
        assert len(self.held) <= 4


RegistryModel.TestCase.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
TestRegistryModel = RegistryModel.TestCase


def test_fresh() -> None:
    """An entry is fresh until its time is over, in use or not; without a time it always is."""
    held, lasting = registry(ttl_s=10), registry(ttl_s=None)
    for each in (held, lasting):
        each.put("a", Item(used=True), 0)

    assert held.fresh("a", 9.9) is held.get("a")
    assert held.fresh("a", 10) is None
    assert lasting.fresh("a", 1e9) is lasting.get("a")
    assert held.fresh("b", 0) is None
