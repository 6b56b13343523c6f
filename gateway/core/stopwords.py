"""Chat messages that are not for the agent: stop words and slash commands.

A whole message that says nothing but "stop" aborts the runs of its session (protocol: chat.send),
in whatever language, and ``/stop`` does too. ``/new`` and ``/reset`` at the start of a message
begin the session anew, with what follows as its first message.

A stop word counts only as the whole message. Case, runs of white space and punctuation at the end
do not matter, since speech recognition writes "Stop."; anything else around it makes it an ordinary
message, because one that is swallowed is worse than one that has to be repeated as ``/stop``. For
the same reason the list holds no word that answers a question of an agent ("no", "cancel", "quit").
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

CommandName = Literal["stop", "new", "reset"]

_MAX_CHARS = 64
# After NFKC, which turns full-width marks and the ellipsis into these.
_TRAILING = " .!?,;:'\"’”)]}。؟"
_STOP = "/stop"
_RESTART = re.compile(r"/(new|reset)(?:\s+(.*))?", re.IGNORECASE | re.DOTALL)

# English, and then one language a line: German, Dutch, Scandinavian, French, Spanish, Portuguese,
# Italian, Polish, Czech, Ukrainian and Russian, Turkish, Greek, Arabic, Hebrew, Hindi, Chinese,
# Japanese, Korean, Vietnamese, Indonesian.
_PHRASES = """
stop | stop it | stop now | stop that | stop this | please stop | stop please | stop everything
stop run | stop the run | stop this run | stop agent | stop the agent | stop talking
esc | abort | abort run | abort the run | wait | exit | halt | interrupt
stopp | stopp bitte | bitte stopp | anhalten | aufhören | abbrechen | hör auf | halt an
stoppen | hou op | ophouden
stoppa | sluta | stans
arrête | arrete | arrêtez | arretez | arrête-toi | stoppe | stoppez
para | detente | detén | parar | deténgase
pare | pára | parem
ferma | fermati | smettila
zatrzymaj | przestań | zatrzymaj się
zastav | přestaň
стоп | зупинись | припини | остановись | остановить | остановитесь | прекрати
dur | durdur
σταμάτα | σταμάτησε
توقف | قف
עצור | עצרי | תפסיק
रुको | रुक जाओ
停 | 停止 | 停下 | 停下来 | 停一下
止めて | やめて | ストップ | 停止して
멈춰 | 그만 | 중지
dừng | dừng lại
berhenti | hentikan
"""


def _normal_form(text: str) -> str:
    """Fold what a keyboard or a speech recogniser chooses by itself; ``""`` for a long message."""
    trimmed = text.strip()
    if len(trimmed) > _MAX_CHARS:
        return ""
    composed = unicodedata.normalize("NFKC", trimmed).casefold()
    return " ".join(composed.split()).rstrip(_TRAILING)


_STOP_MESSAGES = frozenset(
    {_STOP, *(_normal_form(phrase) for phrase in re.split(r"[|\n]", _PHRASES)[1:-1])}
)


@dataclass(frozen=True, slots=True)
class Command:
    """A slash command and the text after it, trimmed."""

    name: CommandName
    rest: str = ""


def is_stop_command(text: str) -> bool:
    """Say whether a whole message asks to stop: a stop word, or ``/stop``."""
    return _normal_form(text) in _STOP_MESSAGES


def parse_command(text: str) -> Command | None:
    """Read ``/stop``, ``/new [rest]`` or ``/reset [rest]`` at the start of a message.

    ``/stop`` takes no text: with some, the message is an ordinary one. Stop words without the slash
    are none of these commands; ``is_stop_command`` knows both.
    """
    if _normal_form(text) == _STOP:
        return Command("stop")
    match = _RESTART.fullmatch(text.strip())
    if match is None:
        return None
    return Command("new" if match[1].lower() == "new" else "reset", match[2] or "")
