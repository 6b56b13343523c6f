"""All outboxes together: who gives when they hold too much, and what a relief costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.events import Delivery, Event, TextDelta
from gateway.core.outbox import ENTRY_OVERHEAD, Outbox, Verdict
from gateway.core.outboxes import RELIEF, Outboxes

MAX = 160_000
ENOUGH = MAX - MAX // RELIEF


@dataclass
class Client:
    """Somebody who has an outbox."""

    outbox: Outbox


def made(total: Outboxes) -> Client:
    """Return a client whose own cap is not what counts."""
    return Client(Outbox(4, max_bytes=10 * MAX, max_age=60.0, total=total))


def fill(client: Client, size: int, name: str = "session.message") -> None:
    """Let one frame of exactly so many bytes wait."""
    empty = Event(name, "").size(4) + ENTRY_OVERHEAD
    assert client.outbox.put(Event(name, "x" * (size - empty)), 0.0) is Verdict.QUEUED


def relieved(total: Outboxes, clients: list[Client]) -> list[Client]:
    """Relieve, close whoever has to be, and return who that was."""
    closed = []
    for client in total.relieve(clients):
        client.outbox.clear()
        closed.append(client)
    return closed


def test_the_total_is_that_of_all() -> None:
    """Every byte that waits anywhere counts, the rest of a long message too, until it is gone."""
    total = Outboxes(MAX)
    one = made(total)
    two = made(total)
    fill(one, 1_000)
    fill(two, 2_000)
    two.outbox.write_long(500, Delivery.MUST)
    assert (total.held, two.outbox.held) == (3_500, 2_500)
    two.outbox.wrote(200)
    one.outbox.take()
    assert total.held == 2_300
    assert two.outbox.clear() == 2_300
    assert total.held == 0


def test_those_who_hold_most_shed_first() -> None:
    """What is droppable goes first, from the largest; nobody is closed if that is enough."""
    total = Outboxes(MAX)
    clients = [made(total) for _ in range(4)]
    small, idle, large, middle = clients
    fill(small, 1_000, "presence")
    for _ in range(100):
        fill(large, 1_000, "presence")
        fill(middle, 600, "presence")
    assert total.full
    assert relieved(total, clients) == []
    assert total.held <= ENOUGH
    assert (small.outbox.dropped, middle.outbox.dropped) == (0, 0)
    assert large.outbox.dropped == 11
    assert idle.outbox.held == 0


def test_the_largest_is_closed_and_no_other() -> None:
    """Where nothing can be shed the largest has to go, and that is enough."""
    total = Outboxes(MAX)
    clients = [made(total) for _ in range(10)]
    for client in clients:
        fill(client, 10_000)
    fill(clients[7], MAX)
    assert relieved(total, clients) == [clients[7]]
    assert total.held == 90_000


def test_who_shed_much_may_not_be_the_largest_any_more() -> None:
    """Whom to close is decided by what is left after the shedding."""
    total = Outboxes(MAX)
    clients = [made(total), made(total)]
    for _ in range(100):
        fill(clients[0], 2_000, "presence")
    for _ in range(200):
        fill(clients[1], 900)
    assert relieved(total, clients) == [clients[1]]
    assert clients[0].outbox.held == 0


@given(st.lists(st.tuples(st.integers(300, MAX), st.booleans()), max_size=60))
def test_nobody_is_closed_who_holds_less_than_one_who_stays(
    frames: list[tuple[int, bool]],
) -> None:
    """After a relief enough is free, and each who had to go held at least as much as each who stayed."""
    total = Outboxes(MAX)
    clients = [made(total) for _ in range(5)]
    for number, (size, droppable) in enumerate(frames):
        fill(clients[number % 5], size, "presence" if droppable else "session.message")
    held: list[int] = []
    closed = []
    for client in total.relieve(clients):
        held.append(client.outbox.held)
        client.outbox.clear()
        closed.append(client)
    assert total.held <= ENOUGH
    assert total.held == sum(client.outbox.held for client in clients)
    assert held == sorted(held, reverse=True)
    stayed = [client.outbox.held for client in clients if client not in closed]
    assert not held or not stayed or held[-1] >= max(stayed)


def test_what_was_lost_is_counted_by_class() -> None:
    """Shed, merged and discarded frames are counted under their class, a long message cut short included."""

    def show(_protocol: int, piece: TextDelta) -> Any:
        return piece.text

    def delta(text: str) -> TextDelta:
        return TextDelta("chat", show, key="k", group="r", run_seq=1, ts_ms=0, text=text, offset=0)

    total = Outboxes(MAX)
    client = made(total)
    box = client.outbox
    assert box.losses() == {}
    for text in ("a", "ab", "abc"):
        box.put(delta(text), 0.0)
    fill(client, 1_000, "presence")
    fill(client, 1_000, "presence")
    box.put_direct(b"{}", 0.0)
    assert box.shed(1) == 1_000
    assert box.losses() == {"latest": 2, "droppable": 1}
    box.take()
    assert box.taken is Delivery.LATEST
    box.write_long(100, box.taken)
    box.clear()
    assert box.losses() == {"must": 1, "latest": 3, "droppable": 2}
    box.clear()
    assert box.losses() == {"must": 1, "latest": 3, "droppable": 2}
