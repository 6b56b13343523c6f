"""Passwords: real hashes, few comparisons at once, and a memory for the right one."""

from __future__ import annotations

from typing import Any

import pytest
from argon2 import PasswordHasher
from twisted.internet.defer import CancelledError, Deferred

from gateway.app.passwords import AT_ONCE, WAITING_MAX, Passwords, hash_password, verify_password
from gateway.app.threads import here
from gateway.errors import Unavailable
from gateway.testing import result_of

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("correct horse")


class Threads:
    """Threads whose work is done when the test says so."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Deferred[Any], Any, tuple[Any, ...]]] = []
        self.begun = 0

    def __call__(self, function: Any, /, *args: Any) -> Deferred[Any]:
        self.begun += 1
        job: Deferred[Any] = Deferred()
        self.jobs.append((job, function, args))
        return job

    def finish(self) -> None:
        job, function, args = self.jobs.pop(0)
        job.callback(function(*args))


def ask(passwords: Passwords, password: str = "guess") -> Deferred[bool]:
    return Deferred.fromCoroutine(passwords.verify(CHEAP, password))


def test_a_hash_is_that_of_its_password() -> None:
    """A hash is made and checked by Argon2id; what is no hash fits no password."""
    hashed = hash_password("correct horse")
    assert hashed.startswith("$argon2id$")
    assert verify_password(hashed, "correct horse")
    assert not verify_password(hashed, "wrong horse")
    assert not verify_password(CHEAP, "\udcff")
    assert not verify_password("$argon2id$half", "x")
    assert not verify_password("", "x")


def test_the_right_password_is_known_again() -> None:
    """A second client with the same password waits for no thread; another hash forgets it."""
    threads = Threads()
    passwords = Passwords(threads, b"k" * 32)
    first = ask(passwords, "correct horse")
    threads.finish()
    assert result_of(first) is True
    assert result_of(ask(passwords, "correct horse")) is True
    assert threads.begun == 1
    assert not passwords.recall(CHEAP, "wrong")
    assert not passwords.recall(CHEAP + "x", "correct horse")


def test_a_wrong_password_is_wrong_each_time() -> None:
    """Nothing is remembered of a wrong one."""
    passwords = Passwords(here, b"k" * 32)
    assert result_of(ask(passwords)) is False
    assert not passwords.recall(CHEAP, "guess")


def test_few_at_once_and_no_more_than_can_wait() -> None:
    """Two comparisons run, 64 wait in order, and the next client is asked to come again."""
    threads = Threads()
    passwords = Passwords(threads, b"k" * 32)
    asked = [ask(passwords) for _ in range(AT_ONCE + WAITING_MAX)]
    assert threads.begun == AT_ONCE
    with pytest.raises(Unavailable) as full:
        result_of(ask(passwords))
    assert full.value.retryable
    while threads.jobs:
        assert len(threads.jobs) <= AT_ONCE
        threads.finish()
    assert [result_of(each) for each in asked] == [False] * len(asked)
    assert len(passwords) == 0


def test_who_leaves_while_waiting_takes_no_turn() -> None:
    """A client that is gone before its turn costs nothing; one that leaves later frees no place early."""
    threads = Threads()
    passwords = Passwords(threads, b"k" * 32)
    running = [ask(passwords) for _ in range(AT_ONCE)]
    leaves, stays = ask(passwords), ask(passwords)
    for each in (leaves, running[0]):
        each.cancel()
        with pytest.raises(CancelledError):
            result_of(each)
    assert threads.begun == AT_ONCE, "the thread of who left still works"
    threads.finish()
    assert threads.begun == AT_ONCE + 1
    threads.finish()
    threads.finish()
    assert result_of(stays) is False
    assert len(passwords) == 0
