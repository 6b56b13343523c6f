"""What the next connection has to subscribe to again."""

from __future__ import annotations

from gateway.client.subscriptions import MAX_SESSIONS, Subscriptions


def test_subscriptions_are_remembered_until_taken_back():
    """Sessions are watched until they are not, each once and in order."""
    subscriptions = Subscriptions()
    for key in ("b", "a", "b"):
        subscriptions.granted("sessions.messages.subscribe", {"key": key})
    before = subscriptions.sessions

    subscriptions.granted("sessions.messages.unsubscribe", {"key": "b"})
    subscriptions.granted("sessions.messages.unsubscribe", {"key": "never"})

    assert before == ["b", "a"]
    assert subscriptions.sessions == ["a"]


def test_following_all_sessions_is_remembered():
    """A subscription to all sessions is remembered with its params."""
    subscriptions = Subscriptions()
    none = subscriptions.every

    subscriptions.granted("sessions.subscribe", {"limit": 5})
    some = subscriptions.every
    subscriptions.granted("sessions.unsubscribe", None)

    assert (none, some, subscriptions.every) == (None, {"limit": 5}, None)


def test_other_calls_are_no_subscriptions():
    """Any other method, and params that name no session, change nothing."""
    subscriptions = Subscriptions()

    subscriptions.granted("health", None)
    subscriptions.granted("sessions.messages.subscribe", {"key": 1})

    assert subscriptions.sessions == []


def test_the_number_of_sessions_is_bounded():
    """Beyond the limit, sessions are not watched again."""
    subscriptions = Subscriptions()

    for number in range(MAX_SESSIONS + 1):
        subscriptions.granted("sessions.messages.subscribe", {"key": str(number)})

    assert subscriptions.sessions == [str(number) for number in range(MAX_SESSIONS)]
