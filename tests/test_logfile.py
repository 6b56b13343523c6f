"""gateway.logfile: what a line holds, when files roll, and how their ends are read."""

from __future__ import annotations

import io
import json
import os
import resource
import stat
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import ILogObserver, LogBeginner, LogEvent, Logger, LogLevel, LogPublisher
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from gateway.errors import CloseCause, CloseCode
from gateway.logfile import LogFile, Redactor, TailResult, tail
from gateway.testing import FakeClock

DAY = 86_400.0
START = FakeClock.EPOCH_MS / 1000  # 2023-11-14T22:13:20Z


class Log:
    """A log in a directory, written to through a publisher of its own."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.directory = directory
        self.stderr = io.StringIO()
        self.redactor = Redactor()
        self.file = LogFile(directory, self.redactor, stderr=self.stderr, **options)
        self.publisher = LogPublisher()
        self.file.install(self.publisher)
        self.logger = Logger(namespace="gateway.test", observer=self._at)  # type: ignore[arg-type]
        self.now = START

    def _at(self, event: dict[str, Any]) -> None:
        self.publisher(event | {"log_time": self.now})

    def lines(self, name: str = "gateway-2023-11-14.jsonl") -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.directory / name).read_text().splitlines()]

    def names(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir())


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """A log that keeps three files of 2000 bytes."""
    log = Log(tmp_path, keep=3, max_bytes=2000)
    yield log
    log.file.remove(log.publisher)


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """Let no file grow beyond ``size``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_line(log: Log) -> None:
    """A line holds time, level, logger, the message, and the event's simple fields."""
    assert verifyObject(ILogObserver, log.file)
    log.logger.warn(
        "closed conn={conn} cause={cause}",
        conn="c1",
        cause=CloseCause.SLOW_CONSUMER,
        code=CloseCode.POLICY,
        durationMs=12.5,
        agent=None,
        final=True,
        ratio=float("nan"),
        obj=object(),
        items=[1],
        time="reserved",
        system="reserved",
    )
    assert log.lines() == [
        {
            "time": "2023-11-14T22:13:20.000Z",
            "level": "warn",
            "logger": "gateway.test",
            "message": "closed conn=c1 cause=slow-consumer",
            "conn": "c1",
            "cause": "slow-consumer",
            "code": 1008,
            "durationMs": 12.5,
            "agent": None,
            "final": True,
            "ratio": "nan",
        }
    ]
    path = log.directory / log.names()[0]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes().endswith(b"}\n")


def test_one_line_per_event(log: Log) -> None:
    """Line breaks, lone surrogates and broken formats still give one line each."""
    log.logger.info("a\nb\u2028{x}", x="\ud800")
    log.logger.info("{missing}")
    log.publisher({"log_time": START})
    first, second, third = log.lines()
    assert first["message"] == "a\nb\u2028\ud800"
    assert "missing" in second["message"]
    assert (third["level"], third["logger"], third["message"]) == ("info", "", "")
    assert log.file.failures == 0


def test_level(log: Log) -> None:
    """Events below the level are left out."""
    log.logger.debug("no")
    log.logger.info("yes")
    assert [line["message"] for line in log.lines()] == ["yes"]


def test_failure(log: Log) -> None:
    """A failure adds its traceback."""
    try:
        raise ValueError("boom-0123456789")
    except ValueError:
        failure = Failure()
    log.redactor.add("boom-0123456789")
    log.logger.failure("it failed", failure)
    (line,) = log.lines()
    assert (line["level"], line["message"]) == ("critical", "it failed")
    assert line["traceback"].endswith("builtins.ValueError: [redacted]\n")


def test_redaction(log: Log) -> None:
    """No secret that was named reaches a file, in whichever part of a line it stands."""
    log.redactor.add('quote"secret-1')
    log.redactor.add("tooshort")
    log.logger.info("got {it} tooshort", it='<quote"secret-1>', fieldSecret='quote"secret-1')
    (line,) = log.lines()
    assert line["message"] == "got <[redacted]> tooshort"
    assert (line["it"], line["fieldSecret"]) == ("<[redacted]>", "[redacted]")


def test_redactor_is_bounded() -> None:
    """Of more than 512 secrets the newest stay; naming one again makes it new."""
    redactor = Redactor()
    redactor.add("secret-of-the-start")
    redactor.add("another-old-secret")
    for number in range(510):
        redactor.add(f"secret-number-{number:04}")
    redactor.add("secret-of-the-start")
    redactor.add("one-secret-too-many")
    assert redactor.clean("secret-of-the-start another-old-secret secret-number-0000") == (
        "[redacted] another-old-secret [redacted]"
    )


def test_long_text_is_cut(log: Log) -> None:
    """A text of more than 16,384 characters is cut, so that a line has a bound."""
    log.logger.info("{text}", text="x" * 20_000)
    (line,) = log.lines()
    assert line["message"] == line["text"] == "x" * 16_384 + "…"


def test_rolls_at_midnight(log: Log) -> None:
    """The day of an event, in UTC, decides which file it goes to; the newest files stay."""
    for day in range(5):
        log.now = START + day * DAY
        log.logger.info("day {day}", day=day)
    assert log.names() == [f"gateway-2023-11-{day}.jsonl" for day in (16, 17, 18)]
    (log.directory / "gateway-notes.jsonl").touch()
    log.now = START
    log.logger.info("the clock was set back")
    assert log.names() == [
        "gateway-2023-11-14.jsonl",
        "gateway-2023-11-17.jsonl",
        "gateway-2023-11-18.jsonl",
        "gateway-notes.jsonl",
    ]


def test_rolls_when_full(log: Log) -> None:
    """A day that is full goes on in another file, also after a restart, and old parts go."""
    for _ in range(3):
        log.logger.info("x" * 1500)
    assert log.names() == [f"gateway-2023-11-14{part}.jsonl" for part in (".1", ".2", "")]
    assert len(log.lines("gateway-2023-11-14.2.jsonl")) == 1
    log.file.remove(log.publisher)
    log.file.install(log.publisher)
    log.logger.info("short")
    log.logger.info("x" * 1500)
    assert len(log.lines("gateway-2023-11-14.2.jsonl")) == 2
    assert sorted(log.names()) == [f"gateway-2023-11-14.{part}.jsonl" for part in (1, 2, 3)]


def test_line_larger_than_a_file(log: Log) -> None:
    """A line larger than a file's maximum is written to a file of its own."""
    log.logger.info("x" * 5000)
    log.logger.info("y")
    assert len(log.lines()) == len(log.lines("gateway-2023-11-14.1.jsonl")) == 1


def test_removed_file(log: Log) -> None:
    """A file that somebody removes is made anew with the next line."""
    log.logger.info("one")
    (log.directory / log.names()[0]).unlink()
    log.logger.info("two")
    assert [line["message"] for line in log.lines()] == ["two"]


def test_open_file_is_closed_to_others(log: Log) -> None:
    """A log file that others could read is closed to them."""
    path = log.directory / "gateway-2023-11-14.jsonl"
    path.touch()
    path.chmod(0o644)
    log.logger.info("x")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_write_failure(log: Log) -> None:
    """What can not be written is counted and told once on stderr, and never raises."""
    log.logger.info("before")
    size = (log.directory / log.names()[0]).stat().st_size
    with file_limit(size):
        log.logger.info("lost")
        log.logger.info("lost")
    log.logger.info("after")
    assert [line["message"] for line in log.lines()] == ["before", "after"]
    assert log.file.failures == 2
    assert log.stderr.getvalue() == (
        f"gateway: log {log.directory}: [Errno 27] File too large;"
        " later failures are counted only\n"
    )


def test_torn_line(log: Log) -> None:
    """After a line that was written in part the next one still begins on a line of its own."""
    log.logger.info("before")
    path = log.directory / log.names()[0]
    with file_limit(path.stat().st_size + 10):
        log.logger.info("torn")
    log.logger.info("after")
    lines = path.read_text().splitlines()
    assert json.loads(lines[0])["message"] == "before"
    assert len(lines[1]) == 10
    assert json.loads(lines[2])["message"] == "after"
    assert log.file.failures == 1


def test_unopened_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory that is not there loses lines, and nothing else."""
    log = Log(tmp_path / "none")
    log.file = LogFile(tmp_path / "none", Redactor())
    log.file.install(log.publisher)
    log.logger.info("lost")
    assert log.file.failures == 1
    assert "No such file or directory" in capsys.readouterr().err


def test_closed_stderr(tmp_path: Path) -> None:
    """Where even stderr is closed a failure is still counted."""
    log = Log(tmp_path / "none")
    log.stderr.close()
    log.logger.info("lost")
    assert log.file.failures == 1


def test_remove(log: Log) -> None:
    """After the removal nothing is written and no descriptor is open."""
    log.logger.info("one")
    before = len(os.listdir("/proc/self/fd"))
    log.file.remove(log.publisher)
    log.file.remove(log.publisher)
    assert len(os.listdir("/proc/self/fd")) == before - 1
    log.logger.info("two")
    assert len(log.lines()) == 1


class Starting:
    """A reactor that does not run yet."""

    def __init__(self) -> None:
        self.waiting: list[Any] = []

    def callWhenRunning(self, call: Any) -> None:
        self.waiting.append(call)


def test_what_is_published_again(tmp_path: Path) -> None:
    """What twistd publishes again when it begins its log is written once, and then nothing is kept of it."""
    publisher = LogPublisher()
    beginner = LogBeginner(publisher, io.StringIO(), sys, warnings)
    logger = Logger(namespace="gateway.test", observer=publisher)
    kept: list[LogEvent] = []
    file, reactor = LogFile(tmp_path, Redactor()), Starting()
    logger.info("first")
    file.install(publisher, reactor)
    for _ in range(2):
        logger.info("same words")
    observer: Any = kept.append
    beginner.beginLoggingTo([observer], redirectStandardIO=False)
    logger.info("last")
    (path,) = tmp_path.iterdir()
    written = [json.loads(line)["message"] for line in path.read_text().splitlines()]
    assert written == ["same words", "same words", "first", "last"]
    assert len(kept) == 4

    for call in reactor.waiting:
        call()
    event = {"log_time": START, "log_format": "of its own"}
    publisher(event)
    publisher(event)
    assert len((tmp_path / "gateway-2023-11-14.jsonl").read_text().splitlines()) == 2
    file.remove(publisher)


def test_what_may_be_published_again_is_bounded(tmp_path: Path) -> None:
    """However much is logged before the reactor runs, a thousand events of it are kept."""
    publisher, file = LogPublisher(), LogFile(tmp_path, Redactor())
    file.install(publisher, Starting())
    for _ in range(1001):
        publisher({"log_time": START, "log_format": "x"})
    assert len(file._early or ()) == 1000
    file.remove(publisher)
    assert file._early is None


def test_debug_level(tmp_path: Path) -> None:
    """The level can be lowered."""
    log = Log(tmp_path, level=LogLevel.debug)
    log.logger.debug("yes")
    log.file.remove(log.publisher)
    assert [line["level"] for line in log.lines()] == ["debug"]


@pytest.fixture
def ten(tmp_path: Path) -> Path:
    """A directory with an older file, and a newest of ten lines of ten bytes each."""
    (tmp_path / "gateway-2024-01-01.9.jsonl").write_text("old\n")
    (tmp_path / "gateway-2024-01-02.2.jsonl").write_text("old\n")
    path = tmp_path / "gateway-2024-01-02.10.jsonl"
    path.write_text("".join(f"line-{number:04}\n" for number in range(10)))
    return tmp_path


NAMES = [f"line-{number:04}" for number in range(10)]


@pytest.mark.parametrize(
    ("cursor", "limit", "max_bytes", "lines", "end", "truncated", "reset", "skipped"),
    [
        (None, 500, 1000, NAMES, 100, False, False, 0),
        (None, 3, 1000, NAMES[-3:], 100, False, False, 0),
        (None, 500, 100, NAMES, 100, False, False, 0),
        (None, 500, 30, NAMES[-3:], 100, True, False, 0),
        (None, 500, 35, NAMES[-3:], 100, True, False, 0),
        (None, 500, 5, [], 100, True, False, 0),
        (0, 500, 1000, NAMES, 100, False, False, 0),
        (70, 500, 1000, NAMES[-3:], 100, False, False, 0),
        (65, 500, 1000, NAMES[-3:], 100, False, False, 0),
        (70, 500, 30, NAMES[-3:], 100, False, False, 0),
        (70, 2, 30, NAMES[-2:], 100, False, False, 0),
        (100, 500, 1000, [], 100, False, False, 0),
        (101, 500, 1000, NAMES, 100, False, True, 0),
        (101, 500, 30, NAMES[-3:], 100, True, True, 0),
        (40, 500, 30, NAMES[-3:], 100, True, True, 30),
    ],
)
def test_tail(
    ten: Path,
    cursor: int | None,
    limit: int,
    max_bytes: int,
    lines: list[str],
    end: int,
    truncated: bool,
    reset: bool,
    skipped: int,
) -> None:
    """The tail of the newest file follows the cursor, the bytes and the lines that are asked for."""
    path = str(ten / "gateway-2024-01-02.10.jsonl")
    assert tail(ten, cursor, limit, max_bytes) == TailResult(
        path, end, 100, lines, truncated, reset, skipped
    )


def test_tail_follows(ten: Path) -> None:
    """A line that is still being written is left for the call after it is whole."""
    path = ten / "gateway-2024-01-02.10.jsonl"
    with path.open("ab") as stream:
        stream.write(b"half")
    first = tail(ten)
    assert (first.lines, first.cursor, first.size) == (NAMES, 100, 104)
    again = tail(ten, first.cursor)
    assert (again.lines, again.cursor, again.reset) == ([], 100, False)
    with path.open("ab") as stream:
        stream.write(b" \xff and half\n")
    assert tail(ten, again.cursor).lines == ["half \ufffd and half"]


def test_tail_inside_of_a_long_line(ten: Path) -> None:
    """A line longer than what may be read is passed over, and reading goes on behind it."""
    path = ten / "gateway-2024-01-02.10.jsonl"
    with path.open("ab") as stream:
        stream.write(b"x" * 50)
    first = tail(ten, None, 500, 20)
    assert (first.lines, first.cursor, first.truncated) == ([], 150, True)
    with path.open("ab") as stream:
        stream.write(b"xx\nnext\n")
    assert tail(ten, first.cursor, 500, 20).lines == ["next"]


def test_tail_without_a_file(tmp_path: Path) -> None:
    """Without any log file the tail is empty, and names the directory."""
    assert tail(tmp_path, 5) == TailResult(str(tmp_path), 0, 0, [], False, False, 0)
    (tmp_path / "gateway-2024-01-02.jsonl").touch()
    assert tail(tmp_path).lines == []
    assert tail(tmp_path, 0) == tail(tmp_path)
