"""Programs that do what no agent should, by name: ``python misbehaving.py NAME``. Standard library only."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

LONG = 600


def daemon(work: Callable[[], None]) -> None:
    """Do something in a process that has no parent, in a session of its own, and heeds no SIGTERM."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            work()
        os._exit(0)
    os.wait()


def say(text: str) -> None:
    os.write(1, text.encode() + b"\n")


def sleep() -> None:
    time.sleep(LONG)


def fork_on() -> None:
    """Fork for three seconds: children that sleep, each in a session of its own."""
    end = time.monotonic() + 3
    while time.monotonic() < end:
        if os.fork() == 0:
            os.setsid()
            time.sleep(LONG)
    time.sleep(LONG)


def daemons() -> None:
    for _ in range(50):
        daemon(sleep)
    say("ready")


def forker() -> None:
    daemon(fork_on)
    time.sleep(0.2)
    say("ready")


def holder() -> None:
    """Leave a process that holds the pipes."""
    daemon(sleep)
    say("ready")


def deaf() -> None:
    """Ignore SIGTERM and the end of the input."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    daemon(sleep)
    say("ready")
    time.sleep(LONG)


def waiter() -> None:
    """Stay until the input ends."""
    daemon(sleep)
    say("ready")
    sys.stdin.read()


def regicide() -> None:
    """Kill the launcher."""
    daemon(sleep)
    say("ready")
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(LONG)


def mute() -> None:
    """Close the output, and stay."""
    daemon(sleep)
    say("ready")
    os.close(1)
    os.close(2)
    time.sleep(LONG)


def orphans() -> None:
    """Leave children that end before it does, and see whether they are reaped."""
    for _ in range(20):
        if os.fork() == 0:
            if os.fork() == 0:
                time.sleep(0.01)
            os._exit(0)
        os.wait()
    say("ready")
    sys.stdin.read()


def hungry() -> None:
    """Take a GiB of memory."""
    try:
        say(f"took {len(bytearray(1 << 30))}")
    except MemoryError:
        say("refused")


def limits() -> None:
    import resource

    numbers = (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)
    say(" ".join(str(resource.getrlimit(number)) for number in numbers))
    with open("/proc/self/oom_score_adj") as file:
        say(f"{os.nice(0)} {int(file.read())}")
    files = []
    try:
        while True:
            files.append(open("/dev/null"))  # noqa: SIM115
    except OSError as error:
        say(f"{len(files) < 64} {error.strerror}")


if __name__ == "__main__":
    globals()[sys.argv[1]]()
