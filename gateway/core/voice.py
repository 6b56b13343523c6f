"""Voice transcripts that a provider sends more than once: which of them start a turn.

Requirements
    Providers of speech resend events, up to five times, late and out of order; each utterance is to
    become one turn. People say "yes" twice, though, and that is two turns. So what counts is the
    identity that the provider gives (the id of an event, an item or a request, or a call with a
    sequence number): it is remembered for five minutes in its session, whatever came between. A
    transcript without an identity can only be compared by its fingerprint (text and time, if there is
    one), and only with the last transcript of its session, within 1,500 ms including the end. What is
    dropped renews nothing. What comes under another event id but is the same item, or has the same
    number in its call, is the same utterance: some providers give each event that they send an id of
    its own, and tell of one item in several.

    The same words are no repeat where they answer something else: once an agent has answered in a
    session, a text without a time is compared with nothing that was said before (``answered``). With a
    time it still is: nobody says two things at one moment.

    Memory is bounded: at most 200 sessions and 1,000 identities, at any moment. A sweep removes
    every expired entry, never stopping because few enough are left, and only then evicts what is
    above the maximum, the oldest first, entries of sessions with a run going last.

Design
    Two flat maps in order of insertion: session to its last transcript, and (session, identity) to
    when it was accepted. An accepted transcript is inserted anew, so the order is that of the last
    acceptance. Inserting into a full map sweeps first and, if nothing had expired, evicts in the
    same order, so there is one rule for what goes and no moment above the maximum. Ids and texts
    longer than a digest are kept as their digest: a client chooses their length.

    A transcript is reserved before it is known whether its turn can start. A refused one (unknown
    agent, store failure) is given back by ``forget``, and its resend is then accepted. The caller
    decides the transcripts of one session one after the other, in order of arrival: reserve, start
    or forget, then the next; so a refused event never costs a later one its turn.

    Times are ints in milliseconds from any one clock. A clock that steps back makes ages negative;
    they count by their size, so that neither a small step lets a resend through nor a large one
    silences a session.

Rejected
    Comparing texts for longer, or by similarity: it deletes the legitimate second "yes". A timer
    per entry: thousands of pending calls for what one sweep a minute does. Identities inside the
    record of their session: evicting a session would forget identities that are still to be
    remembered. Renewing on a drop: a provider that never stops resending would hold its entry for
    ever.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import TypeVar

WINDOW_MS = 1_500
SESSION_RETENTION_MS = 3_000
IDENTITY_RETENTION_MS = 300_000
MAX_SESSIONS = 200
MAX_IDENTITIES = 1_000

_MAX_KEY_CHARS = 64
_MAX_NUMBER = 2**63

Active = Callable[[str], bool]
K = TypeVar("K", bound=Hashable)


class FingerprintKind(StrEnum):
    """How far a fingerprint can be trusted."""

    IDENTITY = "identity"
    STAMPED = "stamped"
    """A moment that the provider names: a repeat within the window, but no identity."""
    TEXT = "text"
    """Nothing but words, which may be an answer to something else."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a transcript is recognised by. Only an identity is remembered beyond the window."""

    kind: FingerprintKind
    key: str
    others: tuple[str, ...] = ()
    """By what else an identity is recognised; the last one lasts longest with its provider."""

    @property
    def identities(self) -> tuple[str, ...]:
        """Everything that names the utterance; empty without an identity."""
        return (self.key, *self.others) if self.kind is FingerprintKind.IDENTITY else ()


def fingerprint(payload: Mapping[str, object], text: str) -> Fingerprint:
    """Return the fingerprint of a ``voice.transcript`` payload (protocol: node.event).

    ``text`` is the transcript as accepted, trimmed. In order of precedence: an event id; a call id
    with a sequence number; the id of an item or message; the id of a signed request; a call id with a
    time; time and text; the text. (The protocol has no items and requests; they stand behind what it
    knows.) Ids are strings that are not blank, numbers are finite JSON numbers, cut towards zero;
    anything else counts as missing. A call id with a time is no identity: two utterances of a call can
    carry the same time.
    """
    identities: list[str] = []
    if event_id := first_text(payload, "eventId", "providerEventId", "transcriptId"):
        identities.append(f"event:{event_id}")
    call_id = first_text(payload, "providerCallId", "callId")
    sequence = first_number(payload, "sequence", "seq")
    if call_id and sequence is not None:
        identities.append(f"call-seq:{call_id}:{sequence}")
    if item_id := first_text(payload, "providerItemId", "itemId", "messageId"):
        identities.append(f"item:{item_id}")
    if identities:
        return Fingerprint(FingerprintKind.IDENTITY, identities[0], tuple(identities[1:]))
    if request_id := first_text(payload, "signedRequestId", "requestId", "idempotencyKey"):
        return Fingerprint(FingerprintKind.IDENTITY, f"request:{request_id}")
    timestamp = first_number(payload, "timestamp", "ts", "eventTimestamp")
    if timestamp is None:
        return Fingerprint(FingerprintKind.TEXT, f"text:{text}")
    if call_id:
        return Fingerprint(FingerprintKind.STAMPED, f"call-ts:{call_id}:{timestamp}")
    return Fingerprint(FingerprintKind.STAMPED, f"timestamp:{timestamp}|text:{text}")


def is_interim(payload: Mapping[str, object]) -> bool:
    """Whether a provider says that it is still listening: such a transcript is no turn."""
    unfinished = any(payload.get(name) is False for name in ("final", "isFinal"))
    return unfinished or any(payload.get(name) is True for name in ("interim", "partial"))


def first_text(payload: Mapping[str, object], *names: str) -> str | None:
    """Return the first of some fields that is a text, trimmed and not blank."""
    for name in names:
        value = payload.get(name)
        if isinstance(value, str) and (text := value.strip()):
            return text
    return None


def first_number(payload: Mapping[str, object], *names: str) -> int | None:
    """Return the first of some fields that is a finite number, cut towards zero."""
    for name in names:
        value = payload.get(name)
        # A bool is an int in Python but not in JSON. The comparison below is false for NaN.
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if -_MAX_NUMBER < value < _MAX_NUMBER:
            return int(value)
    return None


@dataclass(slots=True, eq=False)
class _Transcript:
    key: str
    at_ms: int
    stamped: bool = False
    identities: tuple[str, ...] = ()
    previous: _Transcript | None = None
    """What was the session's last one before it, until another one comes."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """An accepted transcript, until its turn has started or ``forget`` gave it back."""

    session_key: str
    # What people said is nothing for a log.
    _transcript: _Transcript = field(repr=False)


def _no_session_is_active(_session_key: str) -> bool:
    return False


class TranscriptDedupe:
    """Decides which transcripts are new. Pure: the caller brings the time and the active sessions.

    ``active`` says of a session key whether a run of it is going; it only decides what is evicted
    last when a map is full.
    """

    def __init__(
        self, *, max_sessions: int = MAX_SESSIONS, max_identities: int = MAX_IDENTITIES
    ) -> None:
        self._max_sessions = max_sessions
        self._max_identities = max_identities
        self._last: dict[str, _Transcript] = {}
        self._identities: dict[tuple[str, str], _Transcript] = {}

    def __len__(self) -> int:
        """Return how many entries are held in all."""
        return len(self._last) + len(self._identities)

    @property
    def sessions(self) -> int:
        """How many sessions have a last transcript."""
        return len(self._last)

    @property
    def identities(self) -> int:
        """How many identities are remembered."""
        return len(self._identities)

    def seen(
        self,
        session_key: str,
        fingerprint: Fingerprint,
        now_ms: int,
        active: Active = _no_session_is_active,
    ) -> bool:
        """Return True if the transcript is to be dropped; otherwise it is recorded as accepted."""
        return self.reserve(session_key, fingerprint, now_ms, active) is None

    def reserve(
        self,
        session_key: str,
        fingerprint: Fingerprint,
        now_ms: int,
        active: Active = _no_session_is_active,
    ) -> Reservation | None:
        """Record a transcript of a session (canonical key); None if it is to be dropped."""
        key = bounded_key(fingerprint.key)
        previous = self._last.get(session_key)
        if previous is not None and previous.key == key and _within(previous, now_ms, WINDOW_MS):
            return None
        identities = tuple(map(bounded_key, fingerprint.identities[: self._max_identities]))
        for identity in identities:
            known = self._identities.get((session_key, identity))
            if known is not None and _within(known, now_ms, IDENTITY_RETENTION_MS):
                return None
        stamped = fingerprint.kind is FingerprintKind.STAMPED
        transcript = _Transcript(key, now_ms, stamped, identities, previous)
        if previous is not None:
            previous.previous = None
        self._make_room(session_key, now_ms, active, len(identities))
        _insert(self._last, session_key, transcript)
        for identity in identities:
            _insert(self._identities, (session_key, identity), transcript)
        return Reservation(session_key, transcript)

    def forget(self, reservation: Reservation) -> None:
        """Take a reservation back, as though its transcript had never come.

        Harmless if it was swept or another transcript came since: then only the identity goes.
        """
        session_key, transcript = reservation.session_key, reservation._transcript
        for identity in transcript.identities:
            if self._identities.get((session_key, identity)) is transcript:
                del self._identities[session_key, identity]
        if self._last.get(session_key) is transcript:
            del self._last[session_key]
            if transcript.previous is not None:
                self._last[session_key] = transcript.previous

    def answered(self, session_key: str) -> None:
        """An agent has answered in a session: the same words are from now on said to something else.

        What has an identity, or a time, stays known by that.
        """
        last = self._last.get(session_key)
        if last is not None and last.stamped:
            last.previous = None
        elif last is not None:
            del self._last[session_key]

    def sweep(self, now_ms: int, active: Active) -> int:
        """Remove every expired entry, then what is above the maximum; return how many went."""
        return self._prune(now_ms, active, self._max_sessions, self._max_identities)

    def _make_room(self, session_key: str, now_ms: int, active: Active, coming: int) -> None:
        """Sweep so far below a maximum that the coming entry, with its identities, does not exceed it."""
        sessions = self._max_sessions - (session_key not in self._last)
        identities = self._max_identities - coming
        if len(self._last) > sessions or len(self._identities) > identities:
            self._prune(now_ms, active, sessions, identities)

    def _prune(self, now_ms: int, active: Active, sessions: int, identities: int) -> int:
        before = len(self)
        _expire(self._last, now_ms, SESSION_RETENTION_MS)
        _expire(self._identities, now_ms, IDENTITY_RETENTION_MS)
        _evict(self._last, sessions, active)
        _evict(self._identities, identities, lambda entry: active(entry[0]))
        return before - len(self)


def bounded_key(key: str) -> str:
    """Return a key that a client chose, or its digest where it is long."""
    if len(key) <= _MAX_KEY_CHARS:
        return key
    return "sha256:" + sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _within(transcript: _Transcript, now_ms: int, span_ms: int) -> bool:
    return abs(now_ms - transcript.at_ms) <= span_ms


def _insert(entries: dict[K, _Transcript], key: K, transcript: _Transcript) -> None:
    entries.pop(key, None)
    entries[key] = transcript


def _expire(entries: dict[K, _Transcript], now_ms: int, retention_ms: int) -> None:
    expired = [
        key for key, transcript in entries.items() if not _within(transcript, now_ms, retention_ms)
    ]
    for key in expired:
        del entries[key]


def _evict(entries: dict[K, _Transcript], maximum: int, active: Callable[[K], bool]) -> None:
    excess = len(entries) - maximum
    if excess > 0:
        # sorted() is stable: idle entries first, each group in order of insertion.
        for key in sorted(entries, key=active)[:excess]:
            del entries[key]
