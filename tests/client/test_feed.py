"""The bounded async iterator that callbacks fill."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred

from gateway.client.actions import Gap
from gateway.client.errors import ConnectionLost
from gateway.client.feed import Feed
from gateway.client.twisted import DeferredWaiter
from gateway.testing import result_of


def read(feed):
    return Deferred.fromCoroutine(feed.__anext__())


def test_items_come_in_order():
    """A reader gets what was pushed before and after it began to wait."""
    feed: Feed[int] = Feed(DeferredWaiter, limit=10)
    feed.push(1)
    feed.push(2)

    first, second, third = read(feed), read(feed), read(feed)
    feed.push(3)

    assert [result_of(d) for d in (first, second, third)] == [1, 2, 3]


def test_the_end_comes_after_what_was_there():
    """An ended feed gives out what it holds, then stops; later items are ignored."""
    feed: Feed[int] = Feed(DeferredWaiter, limit=10)
    feed.push(1)
    feed.end()
    feed.push(2)

    assert result_of(read(feed)) == 1
    with pytest.raises(StopAsyncIteration):
        result_of(read(feed))


def test_an_error_is_raised_once():
    """An error ends the iteration after what was there; a reader that asks again finds it ended."""
    feed: Feed[int] = Feed(DeferredWaiter, limit=10)
    waiting = read(feed)
    error = ConnectionLost(1006, "gone")
    feed.end(error)
    feed.end()

    with pytest.raises(ConnectionLost):
        result_of(waiting)
    with pytest.raises(StopAsyncIteration):
        result_of(read(feed))


def test_a_lagging_reader_is_told_what_it_missed():
    """Over the limit the oldest items are dropped, and a gap says how many."""
    feed: Feed[int | Gap] = Feed(DeferredWaiter, limit=2, gap=Gap)
    for number in range(5):
        feed.push(number)

    assert [result_of(read(feed)) for _ in range(3)] == [Gap(3), 3, 4]


def test_neighbours_are_merged():
    """Items that can be merged take one place."""
    feed: Feed[str] = Feed(DeferredWaiter, limit=1, merge=lambda earlier, later: earlier + later)
    for text in "abc":
        feed.push(text)

    assert result_of(read(feed)) == "abc"


def test_a_cancelled_reader_leaves_the_feed_usable():
    """Cancelling a read loses nothing."""
    feed: Feed[int] = Feed(DeferredWaiter, limit=10)
    waiting = read(feed)
    waiting.cancel()
    feed.push(1)

    with pytest.raises(CancelledError):
        result_of(waiting)
    assert result_of(read(feed)) == 1


def test_two_readers_are_a_mistake():
    """A second reader that would have to wait is refused."""
    feed: Feed[int] = Feed(DeferredWaiter, limit=10)
    first = read(feed)

    with pytest.raises(RuntimeError):
        result_of(read(feed))
    feed.push(1)

    assert result_of(first) == 1


def test_a_feed_can_be_closed_by_its_reader():
    """A reader that closes a feed gets what was there, then the end."""
    feed: Feed[int] = Feed(DeferredWaiter, limit=10)
    feed.push(1)

    feed.close()
    feed.push(2)

    assert result_of(read(feed)) == 1
    with pytest.raises(StopAsyncIteration):
        result_of(read(feed))
