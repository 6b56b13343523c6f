"""Session keys: their grammar, their canonical form and the builders for chat peers and threads.

Requirements
    A session is found under one key whatever spelling a client uses: ``main``, ``Agent:Main:MAIN``
    and ``agent:main:main`` are the same session, for clients of both protocol versions at once.
    Nothing here raises on any text, since keys come from outside.

Grammar
    Canonical is ``agent:<agentId>:<rest>``, where neither part is blank and ``rest`` does not begin
    with a colon; further colons belong to ``rest``. Two sentinels stay bare: ``global`` and
    ``unknown``. Any other key without the ``agent:`` head is an alias of the default agent's. A key
    with that head which does not parse is malformed. Everything is lower case, but for what a chat
    network made case-sensitive: the id segment after ``signal:group:``, and all that follows
    ``matrix:channel:`` or ``matrix:group:`` at the start of ``rest``.

Design
    Pure functions on strings; the few configured facts (default agent, main key, scope, known
    agents) are one frozen ``SessionKeyPolicy``. Where protocol 3 differs (it knows no
    case-sensitive ids and takes the head literally) ``protocol=3`` gives its answer, in exactly the
    functions that differ. The gateway itself canonicalises with the default, 4, for every
    connection: were the key to depend on the connection's version, two clients would watch two
    sessions where there is one.

Rejected
    A parsed class instead of a string (keys are compared, stored and sent as strings in a hundred
    places); a cache of folded keys (folding costs about a microsecond); exceptions for malformed
    keys (each caller has its own text for the refusal, so it asks ``is_malformed`` first).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

DEFAULT_AGENT_ID = "main"
DEFAULT_MAIN_KEY = "main"
DEFAULT_ACCOUNT_ID = "default"
GLOBAL_KEY = "global"
UNKNOWN_KEY = "unknown"

SessionScope = Literal["per-sender", "global"]
DmScope = Literal["main", "per-peer", "per-channel-peer", "per-account-channel-peer"]
PeerKind = Literal["direct", "group", "channel"]

_AGENT_HEAD = "agent:"
_AGENT_KEY = re.compile(r"agent:([^:]+):([^:].*)", re.DOTALL)
_MATRIX_ROOM = re.compile(
    r"((?:agent:[^:]+:)?matrix:(?:channel|group):)(.*)", re.DOTALL | re.IGNORECASE
)
_THREAD_MARKER = re.compile(":thread:", re.IGNORECASE)
_CRON_RUN = re.compile(r"cron:[^:]+:run:[^:]+(?::|$)")
_CRON_RUN_SUFFIX = re.compile(r"(agent:[^:]+:cron:[^:]+):run:([^:]+)", re.IGNORECASE)
_DIRECT_ROUTE = re.compile(r"([^:]+):([^:]+):(direct|dm):([^:].*)", re.DOTALL)
_ROUTE = re.compile(r"([^:]+):(direct|dm|group|channel):([^:].*)", re.DOTALL)
_VALID_ID = re.compile(r"[a-z0-9_][a-z0-9_-]{0,63}")
_INVALID_ID_RUN = re.compile(r"[^a-z0-9_-]+")


class KeyShape(StrEnum):
    """What a key looks like before any configuration is asked."""

    MISSING = "missing"
    AGENT = "agent"
    MALFORMED_AGENT = "malformed_agent"
    LEGACY_OR_ALIAS = "legacy_or_alias"


@dataclass(frozen=True, slots=True)
class ParsedKey:
    """The parts of ``agent:<agent_id>:<rest>``."""

    agent_id: str
    rest: str


@dataclass(frozen=True, slots=True)
class SplitKey:
    """A key without its suffix, and the suffix's id; ``suffix`` is None where there is none."""

    base: str
    suffix: str | None = None


@dataclass(frozen=True, slots=True)
class DeliveryRoute:
    """The chat peer that a key names: ``peer_kind`` is direct, dm, group or channel."""

    channel: str
    peer_kind: str
    peer_id: str
    account_id: str | None = None
    thread_id: str | None = None


@dataclass(frozen=True, slots=True)
class ThreadKey:
    """The session key of a thread and, where the thread inherits from a session, that one's key."""

    session_key: str
    parent_session_key: str | None = None


def fold(key: str, *, protocol: int = 4) -> str:
    """Trim and lower-case a key, sparing the ids that are case-sensitive; blank gives ``""``."""
    text = key.strip()
    if protocol < 4:
        return text.lower()
    if room := _MATRIX_ROOM.fullmatch(text):
        head, tail = room.groups()
        # The marker inside the opaque tail is ours: ":Thread:" must not make another session.
        return head.lower() + _THREAD_MARKER.sub(":thread:", tail)
    parts = text.split(":")
    lowered = [part.lower() for part in parts]
    for index in range(2, len(parts)):
        if lowered[index - 2 : index] == ["signal", "group"]:
            lowered[index] = parts[index].strip()
    return ":".join(lowered)


def parse(key: str, *, protocol: int = 4) -> ParsedKey | None:
    """Split an agent's key; None for any other text. Protocol 3 takes the text as it stands."""
    text = key.strip() if protocol < 4 else fold(key)
    match = _AGENT_KEY.fullmatch(text)
    if match is None:
        return None
    agent_id, rest = match[1].strip(), match[2].strip()
    return ParsedKey(agent_id, rest) if agent_id and rest and rest[0] != ":" else None


def shape(key: str, *, protocol: int = 4) -> KeyShape:
    """Classify a key without configuration."""
    folded = fold(key, protocol=protocol)
    if not folded:
        return KeyShape.MISSING
    if parse(key, protocol=protocol) is not None:
        return KeyShape.AGENT
    return KeyShape.MALFORMED_AGENT if folded.startswith(_AGENT_HEAD) else KeyShape.LEGACY_OR_ALIAS


def is_malformed(key: str) -> bool:
    """Say whether a key can name no session.

    Besides the malformed agent keys these are bare keys that begin with a colon, whose canonical
    form would not parse. A blank key is not malformed: it is missing, and what that means is the
    method's business.
    """
    return shape(key) is KeyShape.MALFORMED_AGENT or fold(key).startswith(":")


def is_subagent(key: str) -> bool:
    """Say whether the session belongs to a sub-agent."""
    return _begins(key, "subagent:") or fold(key).startswith("subagent:")


def subagent_depth(key: str) -> int:
    """Count the sub-agents nested in a key; 0 for a session that belongs to none."""
    parsed = parse(key)
    rest = fold(key) if parsed is None else parsed.rest
    return f":{rest}".count(":subagent:")


def is_cron(key: str) -> bool:
    """Say whether the session belongs to a scheduled job."""
    return _begins(key, "cron:")


def is_cron_run(key: str) -> bool:
    """Say whether the session belongs to one run of a scheduled job."""
    parsed = parse(key)
    return parsed is not None and _CRON_RUN.match(parsed.rest) is not None


def is_acp(key: str) -> bool:
    """Say whether the session belongs to an agent that is driven over the Agent Client Protocol."""
    return _begins(key, "acp:") or fold(key).startswith("acp:")


def _begins(key: str, prefix: str) -> bool:
    parsed = parse(key)
    return parsed is not None and parsed.rest.startswith(prefix)


def split_cron_run(key: str) -> SplitKey:
    """Split ``…:cron:<job>:run:<run>`` at its end; other keys come back whole, only trimmed."""
    text = key.strip()
    match = _CRON_RUN_SUFFIX.fullmatch(text)
    return SplitKey(text) if match is None else SplitKey(match[1], match[2])


def split_thread(key: str) -> SplitKey:
    """Split a key at its last ``:thread:``; neither part is folded, a blank id counts as none."""
    text = key.strip()
    markers = list(_THREAD_MARKER.finditer(text))
    if not markers:
        return SplitKey(text)
    return SplitKey(text[: markers[-1].start()], text[markers[-1].end() :].strip() or None)


def delivery_route(key: str) -> DeliveryRoute | None:
    """Read the chat peer out of an agent's key; None where it names none."""
    split = split_thread(key)
    parsed = parse(split.base)
    if parsed is None:
        return None
    if match := _ROUTE.fullmatch(parsed.rest):
        return DeliveryRoute(match[1], match[2], match[3], thread_id=split.suffix)
    if match := _DIRECT_ROUTE.fullmatch(parsed.rest):
        return DeliveryRoute(match[1], match[3], match[4], match[2], split.suffix)
    return None


def request_key(key: str, *, protocol: int = 4) -> str | None:
    """Return the short form of a key: an agent's ``rest``, other keys trimmed; None if blank."""
    parsed = parse(key, protocol=protocol)
    return (key.strip() or None) if parsed is None else parsed.rest


def store_key(
    agent_id: str, key: str, *, main_key: str = DEFAULT_MAIN_KEY, protocol: int = 4
) -> str:
    """Return the key under which a given agent stores a short form: ``agent:<agent_id>:<key>``.

    Blank and ``main`` give the agent's main session; a key that names an agent is only folded.
    """
    folded = fold(key, protocol=protocol)
    if folded.startswith(_AGENT_HEAD):
        return folded
    rest = normalise_main_key(main_key) if folded in ("", DEFAULT_MAIN_KEY) else folded
    return f"{_AGENT_HEAD}{normalise_agent_id(agent_id)}:{rest}"


def normalise_agent_id(agent_id: str) -> str:
    """Return an id of at most 64 characters from ``a-z 0-9 _ -``; nothing usable gives main."""
    return _normalise_id(agent_id) or DEFAULT_AGENT_ID


def normalise_account_id(account_id: str | None) -> str:
    """Return a chat account's id in the alphabet of agent ids; nothing usable gives default."""
    return _normalise_id(account_id or "") or DEFAULT_ACCOUNT_ID


def _normalise_id(text: str) -> str:
    lowered = text.lower()
    if _VALID_ID.fullmatch(lowered):
        return lowered
    return _INVALID_ID_RUN.sub("-", lowered).strip("-")[:64]


def normalise_main_key(main_key: str) -> str:
    """Return the configured main key trimmed and in lower case; blank gives ``main``."""
    return main_key.strip().lower() or DEFAULT_MAIN_KEY


def peer_session_key(
    agent_id: str,
    channel: str,
    peer_kind: PeerKind,
    peer_id: str,
    *,
    account_id: str | None = None,
    dm_scope: DmScope = "main",
    main_key: str = DEFAULT_MAIN_KEY,
    protocol: int = 4,
) -> str:
    """Build the session key of a chat peer.

    Groups and channels have a session each. Direct messages share the agent's main session, unless
    ``dm_scope`` gives every peer its own; without a peer id they share it in any case.
    """
    peer = peer_id.strip()
    network = channel.strip() or UNKNOWN_KEY
    if peer_kind != "direct":
        rest = f"{network}:{peer_kind}:{peer or UNKNOWN_KEY}"
    elif not peer or dm_scope == "main":
        rest = normalise_main_key(main_key)
    else:
        heads = {
            "per-peer": "",
            "per-channel-peer": f"{network}:",
            "per-account-channel-peer": f"{network}:{normalise_account_id(account_id)}:",
        }
        rest = f"{heads[dm_scope]}direct:{peer.lower()}"
    return fold(f"{_AGENT_HEAD}{normalise_agent_id(agent_id)}:{rest}", protocol=protocol)


def thread_session_key(
    base_session_key: str,
    thread_id: str,
    *,
    parent_session_key: str | None = None,
    use_suffix: bool = True,
) -> ThreadKey:
    """Build the session key of a thread inside a session; a blank thread id is the session itself.

    ``use_suffix=False`` is for networks whose threads are channels of their own: the base key is
    then the thread's already.
    """
    thread = thread_id.strip().lower()
    if not thread:
        return ThreadKey(base_session_key)
    key = f"{base_session_key}:thread:{thread}" if use_suffix else base_session_key
    return ThreadKey(key, parent_session_key)


@dataclass(frozen=True, slots=True)
class SessionKeyPolicy:
    """The configured facts that decide which session a key means.

    The fields are taken as normal; ``from_config`` makes them so. With scope ``global`` all main
    sessions are the one session ``global``.
    """

    default_agent_id: str = DEFAULT_AGENT_ID
    main_key: str = DEFAULT_MAIN_KEY
    scope: SessionScope = "per-sender"
    agent_ids: frozenset[str] = frozenset({DEFAULT_AGENT_ID})

    @classmethod
    def from_config(
        cls,
        agent_ids: Sequence[str] = (),
        *,
        default_agent_id: str | None = None,
        main_key: str = DEFAULT_MAIN_KEY,
        scope: SessionScope = "per-sender",
    ) -> SessionKeyPolicy:
        """Normalise configured values; the default agent is the named one, the first, or main."""
        known = [normalise_agent_id(agent_id) for agent_id in agent_ids] or [DEFAULT_AGENT_ID]
        default = known[0] if default_agent_id is None else normalise_agent_id(default_agent_id)
        return cls(default, normalise_main_key(main_key), scope, frozenset({*known, default}))

    def main_session(self, agent_id: str | None = None) -> str:
        """Return the canonical key of an agent's main session (None: the default agent's)."""
        if self.scope == "global":
            return GLOBAL_KEY
        return f"{_AGENT_HEAD}{agent_id or self.default_agent_id}:{self.main_key}"

    def canonical(self, key: str, *, protocol: int = 4) -> str:
        """Return the one spelling of a key under which its session is kept and announced.

        Blank stays blank and a malformed key stays as it is, folded; both are the caller's to
        refuse (``is_malformed``). The agent of a key is not checked against the known ones:
        ``agent_of`` names it. ``agent:main:main``, which clients have built in, means the default
        agent's main session where no agent is called main.
        """
        folded = fold(key, protocol=protocol)
        parsed = parse(key, protocol=protocol)
        if parsed is not None:
            return self._of_agent(parsed.agent_id.lower(), fold(parsed.rest, protocol=protocol))
        if folded in ("", GLOBAL_KEY, UNKNOWN_KEY) or folded.startswith(_AGENT_HEAD):
            return folded
        return self._of_agent(self.default_agent_id, folded)

    def _of_agent(self, agent_id: str, rest: str) -> str:
        if rest not in (DEFAULT_MAIN_KEY, self.main_key):
            return f"{_AGENT_HEAD}{agent_id}:{rest}"
        if agent_id == DEFAULT_AGENT_ID and agent_id not in self.agent_ids:
            agent_id = self.default_agent_id
        return self.main_session(agent_id)


def agent_of(canonical_key: str, policy: SessionKeyPolicy) -> str:
    """Return the id of the agent that owns a session; the sentinels belong to the default agent."""
    parsed = parse(canonical_key)
    return policy.default_agent_id if parsed is None else parsed.agent_id
