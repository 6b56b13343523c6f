"""``gatewayctl chat``: one message, a conversation at a prompt, or a message per line of a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from io import TextIOWrapper
from typing import TYPE_CHECKING, TextIO

import click

from gateway.cli.approvals import put
from gateway.cli.common import Failure, Flags, Interrupted, connecting, printable

if TYPE_CHECKING:
    from gateway.cli.session import Asks, Session
    from gateway.client import RunEnded, RunEvent, TextDelta, TextReplaced

PROMPT = "> "


@click.command()
@click.argument("message", required=False)
@click.option(
    "--session",
    "session_key",
    default="main",
    show_default=True,
    metavar="KEY",
    help="The conversation to go on with.",
)
@connecting
def chat(flags: Flags, message: str | None, session_key: str) -> None:
    """Send MESSAGE to an agent and print the answer as it comes.

    Without MESSAGE it is a conversation: at a terminal a prompt, where Ctrl-C stops the answer that is
    running and Ctrl-D ends; otherwise every line of standard input is a message. What the agent asks for
    approval is asked at the terminal, or told on stderr without one ("gatewayctl approvals"). A message that
    fails is told on stderr, with exit status 1; Ctrl-C stops a single message with 130.
    """
    from gateway.cli.session import session

    _accept_any_encoding(sys.stdin, sys.stdout)
    with session(flags) as connected:
        if message is not None:
            _one(connected, message, session_key)
        elif sys.stdin.isatty():
            _prompt(connected, session_key)
        else:
            _lines(connected, session_key)


def _one(connected: Session, message: str, session_key: str) -> None:
    try:
        problem = _say(connected, message, session_key)
    except KeyboardInterrupt:
        raise Interrupted from None
    if problem is not None:
        raise Failure(problem)


def _lines(connected: Session, session_key: str) -> None:
    failed = False
    for line in sys.stdin:
        if message := line.strip():
            problem = _say(connected, message, session_key)
            if problem is not None:
                failed = True
                Failure(problem).show()
    if failed:
        raise click.exceptions.Exit(1)


def _prompt(connected: Session, session_key: str) -> None:
    click.echo(
        f"Session {session_key}. Ctrl-C stops an answer, Ctrl-D ends the conversation.", err=True
    )
    for message in _typed():
        try:
            problem = _say(connected, message, session_key)
        except KeyboardInterrupt:
            problem = "aborted"
        if problem is not None:
            Failure(problem).show()


def _say(connected: Session, message: str, session_key: str) -> str | None:
    """Send a message and show its answer; return what went wrong, if anything did."""
    answer = connected.chat(message, session_key)
    try:
        return show(answer, sys.stdout, lambda question: put(connected, question.approval_id))
    except (KeyboardInterrupt, OSError):  # nobody reads it any more: the agent need not go on
        answer.abort()
        raise


def _typed() -> Iterator[str]:
    """Yield what is typed at the prompt, until Ctrl-D; Ctrl-C drops the line."""
    _use_readline()
    while True:
        try:
            line = input(PROMPT if sys.stdout.isatty() else "")
        except EOFError:
            click.echo()
            return
        except KeyboardInterrupt:
            click.echo()
            continue
        if message := line.strip():
            yield message


def _accept_any_encoding(*streams: TextIO) -> None:
    """Have characters replaced that a stream can not carry, rather than fail on them."""
    for stream in streams:
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def _use_readline() -> None:
    try:
        import readline  # noqa: F401 - importing it gives input() history and editing
    except ImportError:
        return


def show(
    answer: Iterable[RunEvent | Asks],
    stream: TextIO,
    asked: Callable[[Asks], object] = lambda _: None,
) -> str | None:
    """Print an answer as it comes and end its line; return what went wrong, if anything did.

    What the agent asks is handed to ``asked``. What is rewritten can not be taken back: it is printed
    again, on a line of its own. Raises what ended the connection.
    """
    from gateway.cli.session import Asks
    from gateway.client import RequestFailed, RequestNotSent, RequestTimeout, RunEnded

    writer = _Writer(stream)
    try:
        for event in answer:
            if isinstance(event, RunEnded):
                return _problem(event)
            if isinstance(event, Asks):
                writer.end_line()
                asked(event)
            else:
                writer.write(event)
    except (RequestFailed, RequestNotSent, RequestTimeout) as error:
        return str(error)
    finally:
        writer.end_line()
    return None


def _problem(end: RunEnded) -> str | None:
    """Return what to tell of an end that is no success, ``None`` for one that is."""
    from gateway.client import Outcome

    if end.outcome is Outcome.ERROR:
        return end.error_message or "the run failed"
    if end.outcome is Outcome.ABORTED:
        return f"aborted ({end.stop_reason})" if end.stop_reason else "aborted"
    return None


class _Writer:
    """Writes the text of one answer, each piece at once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._clean = printable if stream.isatty() else str
        self._text = ""

    def write(self, event: TextDelta | TextReplaced) -> None:
        """Write what is new."""
        from gateway.client import TextDelta

        if isinstance(event, TextDelta):
            self._text += event.text
            self._put(event.text)
        elif event.text.strip() != self._text.strip():
            self.end_line()
            self._text = event.text
            self._put(event.text)

    def end_line(self) -> None:
        """End the line, unless the text did."""
        if self._text and not self._text.endswith("\n"):
            self._put("\n")
        self._text = ""

    def _put(self, text: str) -> None:
        self._stream.write(self._clean(text))
        self._stream.flush()
