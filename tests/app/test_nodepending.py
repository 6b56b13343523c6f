"""What waits for nodes: questions and actions, bounded and for a time."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.app.nodepending import (
    ACTION_TTL_S,
    ITEM_TTL_S,
    MAX_ACTION_BYTES,
    MAX_ACTIONS,
    NodePending,
)
from gateway.errors import Unavailable
from gateway.testing import FakeClock, FakeEntropy

STATUS = "status.request"
LOCATION = "location.request"


@pytest.fixture
def clock() -> FakeClock:
    """Return the time."""
    return FakeClock()


@pytest.fixture
def pending(clock: FakeClock) -> NodePending:
    """Return a queue with room for two nodes."""
    return NodePending(clock=clock, entropy=FakeEntropy("pending"), maximum=2)


def types(drained: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the types and priorities of what was drained."""
    return [(item["type"], item["priority"]) for item in drained["items"]]


def test_questions_are_drained_by_priority_and_are_gone(
    pending: NodePending, clock: FakeClock
) -> None:
    """The highest priority comes first; what was drained is gone, and the revision rises."""
    first = pending.enqueue("n1", STATUS, priority="normal")
    second = pending.enqueue("n1", LOCATION, priority="high", ttl_s=60.0)

    assert (first[0], second[0]) == (1, 2)
    assert second[1].expires_at_ms == clock.now_ms() + 60_000
    one = pending.drain("n1", 1)
    assert one == {
        "nodeId": "n1",
        "revision": 3,
        "items": [second[1].shape()],
        "hasMore": True,
    }
    two = pending.drain("n1", 4)
    assert (types(two), two["hasMore"], two["revision"]) == ([(STATUS, "normal")], False, 4)


def test_a_baseline_question_where_nothing_waits(pending: NodePending, clock: FakeClock) -> None:
    """A node that asks has a question for its status at least, where there is room for it."""
    baseline = {
        "id": "baseline-status",
        "type": STATUS,
        "priority": "default",
        "createdAtMs": clock.now_ms(),
        "expiresAtMs": None,
    }

    assert pending.drain("n1", 4)["items"] == [baseline]
    assert pending.drain("n1", 4)["revision"] == 0
    assert len(pending) == 0
    pending.enqueue("n1", LOCATION, priority="normal")
    assert types(pending.drain("n1", 1)) == [(LOCATION, "normal")]


def test_one_question_of_a_type(pending: NodePending) -> None:
    """Asked again, a question keeps its id, the higher priority and the later end."""
    revision, item = pending.enqueue("n1", STATUS, priority="high", ttl_s=60.0)
    same = pending.enqueue("n1", STATUS, priority="normal", ttl_s=30.0)
    longer = pending.enqueue("n1", STATUS, priority="normal", ttl_s=90.0)

    assert same == (revision, item)
    assert (longer[0], longer[1].id, longer[1].priority) == (revision + 1, item.id, "high")
    assert longer[1].expires_at_ms == item.expires_at_ms + 30_000


def test_questions_and_actions_expire(pending: NodePending, clock: FakeClock) -> None:
    """What is not fetched in its time is gone, and so is the place that it took."""
    pending.enqueue("n1", STATUS, priority="normal", ttl_s=1.0)
    assert pending.queue_action("n1", "camera.snap", None, key="k") is not None
    assert pending.sweep(clock.seconds()) == 0
    clock.advance(1.0)
    assert pending.drain("n1", 4)["items"][0]["id"] == "baseline-status"
    clock.advance(ACTION_TTL_S)
    assert pending.pull("n1", {"camera.snap"}) == []
    clock.advance(ITEM_TTL_S)
    assert (pending.sweep(clock.seconds()), len(pending)) == (1, 0)


def test_actions_wait_until_they_are_acknowledged(pending: NodePending, clock: FakeClock) -> None:
    """An action is told until its node has run it; a call that is repeated waits once."""
    first = pending.queue_action("n1", "camera.snap", '{"a":1}', key="k1")
    second = pending.queue_action("n1", "camera.snap", None, key="k2")
    assert first is not None
    assert second is not None

    assert pending.queue_action("n1", "camera.snap", '{"a":1}', key="k1") is first
    assert pending.pull("n1", {"camera.snap"}) == [first, second]
    assert first.shape() == {
        "id": first.id,
        "command": "camera.snap",
        "paramsJSON": '{"a":1}',
        "enqueuedAtMs": clock.now_ms(),
    }
    assert pending.acknowledge("n1", [first.id, first.id, "other"]) == ([first.id], 1)
    assert pending.pull("n1", {"camera.snap"}) == [second]
    assert pending.acknowledge("n2", ["other"]) == ([], 0)


def test_an_action_whose_command_was_taken_back_is_gone(pending: NodePending) -> None:
    """What is not live when the node asks never leaves."""
    pending.queue_action("n1", "camera.snap", None, key="k")

    assert pending.pull("n1", ()) == []
    assert pending.pull("n1", {"camera.snap"}) == []


def test_what_waits_is_bounded(pending: NodePending) -> None:
    """So many actions and bytes a node, and so many nodes; what does not fit is refused."""
    for number in range(MAX_ACTIONS):
        assert pending.queue_action("n1", "c", None, key=str(number)) is not None
    assert pending.queue_action("n1", "c", None, key="more") is None
    assert pending.queue_action("n2", "c", "x" * MAX_ACTION_BYTES, key="k") is not None
    assert pending.queue_action("n2", "c", "x", key="k2") is None
    assert pending.queue_action("n3", "c", None, key="k") is None
    with pytest.raises(Unavailable):
        pending.enqueue("n3", STATUS, priority="normal")
    pending.forget("n1")
    pending.forget("n9")
    assert pending.enqueue("n3", STATUS, priority="normal")[0] == 1


def test_what_is_asked_is_nothing_for_a_log(pending: NodePending) -> None:
    """The params of an action are in no repr."""
    action = pending.queue_action("n1", "sms.send", "secret", key="k")

    assert "secret" not in repr(action)
