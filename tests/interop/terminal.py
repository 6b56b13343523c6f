"""A pseudo-terminal with a screen that can be read: enough of a terminal for text interfaces."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from .processes import kill_tree

ESCAPE = "\x1b"
"""The key Esc."""

_TOKENS = re.compile(
    r"\x1b\[(?P<parameters>[0-?]*)[ -/]*(?P<final>[@-~])"
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\)"
    r"|\x1b[^\[\]PX^_]"
    r"|(?P<control>[\x00-\x1a\x1c-\x1f\x7f])"
    r"|(?P<text>[^\x00-\x1f\x7f]+)",
    re.DOTALL,
)
"""One token of a terminal's input; what is left at the end of a chunk is an unfinished one."""


class Screen:
    """The characters on a terminal: cursor moves, erasing and scrolling, no colours, no margins.

    Every character takes one column, which is right for all but emoji and East Asian text.
    """

    def __init__(self, columns: int, rows: int) -> None:
        self._columns = columns
        self._cells = [[" "] * columns for _ in range(rows)]
        self._row = 0
        self._column = 0
        self._rest = ""

    @property
    def lines(self) -> list[str]:
        """Return the rows from the top, without the spaces at both of their ends."""
        return ["".join(row).strip() for row in self._cells]

    def __str__(self) -> str:
        return "\n".join(line for line in self.lines if line)

    def feed(self, text: str) -> None:
        """Apply what a program wrote; an escape sequence may be cut anywhere."""
        text = self._rest + text
        end = 0
        for token in _TOKENS.finditer(text):
            if token.start() != end:
                break
            end = token.end()
            self._apply(token)
        self._rest = text[end:]

    def _apply(self, token: re.Match[str]) -> None:
        if token["text"] is not None:
            self._print(token["text"])
        elif token["control"] is not None:
            self._control(token["control"])
        elif token["final"] is not None:
            self._command(token["final"], token["parameters"])

    def _print(self, text: str) -> None:
        for character in text:
            if self._column == self._columns:
                self._column = 0
                self._line_feed()
            self._cells[self._row][self._column] = character
            self._column += 1

    def _control(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._line_feed()
        elif character == "\b":
            self._column = max(0, self._column - 1)

    def _line_feed(self) -> None:
        if self._row == len(self._cells) - 1:
            self._cells.append([" "] * self._columns)
            del self._cells[0]
        else:
            self._row += 1

    def _command(self, final: str, parameters: str) -> None:
        numbers = [int(part) if part.isdecimal() else 0 for part in parameters.split(";")]
        first = numbers[0]
        many = max(1, first)
        match final:
            case "A":
                self._move(self._row - many, self._column)
            case "B":
                self._move(self._row + many, self._column)
            case "C":
                self._move(self._row, self._column + many)
            case "D":
                self._move(self._row, self._column - many)
            case "G":
                self._move(self._row, many - 1)
            case "H" | "f":
                self._move(many - 1, max(1, numbers[1]) - 1 if len(numbers) > 1 else 0)
            case "J":
                self._erase_rows(first)
            case "K":
                self._erase(self._row, *self._span(first))

    def _move(self, row: int, column: int) -> None:
        self._row = min(max(row, 0), len(self._cells) - 1)
        self._column = min(max(column, 0), self._columns - 1)

    def _span(self, kind: int) -> tuple[int, int]:
        """Return the columns that an erasure of this kind covers: to the end, from the start, all."""
        return (self._column if kind == 0 else 0, self._column + 1 if kind == 1 else self._columns)

    def _erase_rows(self, kind: int) -> None:
        if kind < 2:
            self._erase(self._row, *self._span(kind))
        rows = len(self._cells)
        for row in (range(self._row + 1, rows), range(self._row), range(rows), ())[min(kind, 3)]:
            self._erase(row, 0, self._columns)

    def _erase(self, row: int, start: int, end: int) -> None:
        self._cells[row][start:end] = [" "] * (min(end, self._columns) - start)


class Terminal:
    """A program on a pseudo-terminal, and the screen that a person would see."""

    def __init__(self, argv: list[str], environment: Mapping[str, str], cwd: Path) -> None:
        columns, rows = 120, 50
        self.screen = Screen(columns, rows)
        self._closed = False
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        try:
            self._process = subprocess.Popen(
                argv,
                env={**environment, "TERM": "xterm-256color"},
                cwd=cwd,
                stdin=slave,
                stdout=slave,
                stderr=slave,
                start_new_session=True,
            )
        except OSError:
            os.close(self._master)
            raise
        finally:
            os.close(slave)

    def type(self, text: str, seconds: float = 30.0) -> None:
        """Type a line, wait until it can be read on the screen, and press Enter."""
        before = self.screen.lines.count(text)
        self.press(text)
        self.wait(lambda: self.screen.lines.count(text) > before, seconds, f"{text!r} typed")
        self.press("\r")

    def press(self, keys: str) -> None:
        """Send keys as they are, as the terminal would: see :data:`ESCAPE`."""
        os.write(self._master, keys.encode())

    def wait_for(self, text: str, seconds: float = 30.0) -> None:
        """Wait until ``text`` stands somewhere on the screen."""
        self.wait(lambda: text in str(self.screen), seconds, f"{text!r}")

    def wait(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Keep reading the program's output until ``condition`` holds.

        Raises :class:`AssertionError`, with the screen, when the time is up or the program ends.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0 or not self._read(min(left, 0.1)):
                state = f"after {seconds} s" if left <= 0 else "when the program ended"
                raise AssertionError(f"no {what} {state}; the screen:\n{self.screen}")

    def wait_for_end(self, seconds: float = 20.0) -> None:
        """Wait until the program has ended by itself, while its output is still read."""
        deadline = time.monotonic() + seconds
        while self._process.poll() is None:
            assert time.monotonic() < deadline, f"still there after {seconds} s; {self.screen}"
            self._read(0.1)

    def _read(self, seconds: float) -> bool:
        """Read what comes within the time; return False when the program has closed its side."""
        if select.select([self._master], [], [], seconds)[0]:
            try:
                data = os.read(self._master, 65536)
            except OSError:
                return False
            self.screen.feed(self._decoder.decode(data))
        return True

    def close(self) -> None:
        """Kill the program and all that it started; a second call does nothing."""
        if not self._closed:
            self._closed = True
            kill_tree(self._process.pid)
            self._process.wait()
            os.close(self._master)
