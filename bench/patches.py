"""64 writers change one session at random, all at once; then the end is compared with a serial replay.

``python bench/patches.py [PATCHES]`` (100,000 by default) prints two lines of JSON: with the store in memory,
and with one on disk, whose own thread applies many patches in one transaction while others are asked for.
Every patch goes the way of ``sessions.patch``. Exit status 1 if anything was lost.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from gateway.interfaces import IStore
from gateway.model import Session
from gateway.runtime import SystemClock
from gateway.store.store import SQLStore
from gateway.testing import memory_gateway, result_of

KEY = "agent:main:main"
WRITERS = 64
FIELDS = 16
SEED = 17


@dataclass
class Applied:
    """The changes in the order in which the store applied them, and the versions it gave."""

    changes: list[tuple[int, int, int]] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)


def change_of(applied: Applied, writer: int, name: int, value: int) -> Callable[[Session], Session]:
    """Return a patch: one of 16 shared fields is set, and the writer's own counter rises by one.

    The counter can only come out right if every patch was applied to what the one before had left.
    """

    def change(session: Session) -> Session:
        applied.changes.append((writer, name, value))
        return msgspec.structs.replace(
            session, settings=patched(session.settings, writer, name, value)
        )

    return change


def patched(settings: dict[str, Any], writer: int, name: int, value: int) -> dict[str, Any]:
    """Return the settings after one patch."""
    counter = f"w{writer}"
    return {**settings, f"f{name}": value, counter: settings.get(counter, 0) + 1}


class Writers:
    """64 writers, each with one patch under way at a time."""

    def __init__(self, patches: int, store: SQLStore | None = None) -> None:
        """``store`` is an open one, None for one in memory."""
        self.applied = Applied()
        self._wiring = memory_gateway(store=store)
        self._dice = random.Random(SEED)
        self._waiting: list[Deferred[None]] = []
        share, rest = divmod(patches, WRITERS)
        self._writers = [
            Deferred.fromCoroutine(self._write(writer, share + (writer < rest)))
            for writer in range(WRITERS)
        ]

    @property
    def done(self) -> bool:
        """Whether every writer is done; raises what went wrong with one."""
        return all(writer.called and result_of(writer) is None for writer in self._writers)

    @property
    def store(self) -> IStore:
        """Where the session is."""
        return self._wiring.store

    def go_on(self) -> None:
        """Let every writer go on that may, in random order."""
        self._dice.shuffle(self._waiting)
        ready, self._waiting = self._waiting, []
        for writer in ready:
            writer.callback(None)

    async def _write(self, writer: int, count: int) -> None:
        for _ in range(count):
            mine: Deferred[None] = Deferred()
            self._waiting.append(mine)
            await mine
            name, value = self._dice.randrange(FIELDS), self._dice.randrange(1000)
            change = change_of(self.applied, writer, name, value)
            session = await self._wiring.services.sessions.patch(KEY, change)
            self.applied.versions.append(session.version)


def in_memory(patches: int) -> tuple[Applied, Session | None]:
    """Patch a session of a store in memory."""
    writers = Writers(patches)
    while not writers.done:
        writers.go_on()
    stored = result_of(writers.store.get_session(KEY))
    result_of(writers.store.stopService())  # type: ignore[no-untyped-call]
    return writers.applied, stored


def on_disk(patches: int) -> tuple[Applied, Session | None]:
    """Patch a session of a store on disk, which has threads of its own."""
    calls: SimpleQueue[Any] = SimpleQueue()

    def wait_for(deferred: Deferred[Any]) -> Any:
        while not deferred.called:
            function, arguments = calls.get(timeout=60)
            function(*arguments)
        return result_of(deferred)

    with TemporaryDirectory() as directory:
        store = SQLStore(
            f"sqlite:///{directory}/gateway.db",
            clock=SystemClock(None),
            call_from_thread=lambda function, *arguments: calls.put((function, arguments)),
        )
        store.open()
        store.startService()
        writers = Writers(patches, store)
        while not writers.done:
            writers.go_on()
            function, arguments = calls.get(timeout=60)
            function(*arguments)
        stored = wait_for(store.get_session(KEY))
        wait_for(store.stopService())
    return writers.applied, stored


def losses(patches: int, applied: Applied, stored: Session | None) -> list[str]:
    """Return what does not agree with a serial replay."""
    settings: dict[str, Any] = {}
    for writer, name, value in applied.changes:
        settings = patched(settings, writer, name, value)
    found = []
    if len(applied.changes) != patches:
        found.append(f"{len(applied.changes)} changes were applied")
    if stored is None or stored.settings != settings:
        found.append("the settings are not those of the replay")
    if applied.versions != list(range(1, patches + 1)):
        found.append("the versions do not rise by one each")
    return found


def main(arguments: list[str]) -> int:
    """Measure, print, and return the exit status."""
    patches = int(arguments[0]) if arguments else 100_000
    failed = False
    for place, patch in (("memory", in_memory), ("disk", on_disk)):
        started = time.perf_counter()
        lost = losses(patches, *patch(patches))
        seconds = time.perf_counter() - started
        figures = {
            "store": place,
            "writers": WRITERS,
            "patches": patches,
            "seconds": round(seconds, 2),
            "patches_per_s": round(patches / seconds),
            "lost": lost,
        }
        print(json.dumps(figures))
        failed = failed or bool(lost)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
