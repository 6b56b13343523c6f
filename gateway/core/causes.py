"""What the close causes mean, in words for operators, and what to do about each.

The one place for it: ``gatewayctl why`` prints it, and the table of docs/operations.md is held to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from gateway.errors import CloseCause


class Explanation(NamedTuple):
    """A cause in a sentence, and what mends it; in both, backquotes mark what is typed or looked for."""

    meaning: str
    remedy: str


_CREDENTIAL: Final = (
    "`gatewayctl token` says which token counts, `gatewayctl token --show` shows it."
)

EXPLANATIONS: Final[Mapping[CloseCause, Explanation]] = {
    CloseCause.INVALID_HANDSHAKE: Explanation(
        "The client's first request was no `connect` that fits the protocol, or its HTTP upgrade was"
        " at fault.",
        "The reason says what was wrong. `peer` and `userAgent` say who it was: another protocol on"
        " this port, an old client, or a scanner.",
    ),
    CloseCause.PROTOCOL_MISMATCH: Explanation(
        "The client speaks neither version 3 nor version 4 of the protocol.",
        "Install another version of the client.",
    ),
    CloseCause.INVALID_ROLE: Explanation(
        "The client asked for a role that is neither `operator` nor `node`.",
        "Mend the client: it does not speak the protocol.",
    ),
    CloseCause.HOST_MISMATCH: Explanation(
        "A local client, or a web page, called the gateway by a name that it does not have.",
        "If the name is yours, add `host` to `server.allowed_hosts`. If it is not, a web page that"
        " a user opened tried to reach the gateway under its own name.",
    ),
    CloseCause.MISSING_ATTRIBUTION: Explanation(
        "The upgrade came through a proxy that is not known here.",
        "If the proxy is yours, add its address (`peer`) to `server.trusted_proxies`, and let it"
        " overwrite the headers that clients send.",
    ),
    CloseCause.ORIGIN_MISMATCH: Explanation(
        "A web page of a foreign origin tried to connect.",
        "If the page is yours, add its `origin` to `server.allowed_origins`.",
    ),
    CloseCause.UNAUTHORIZED: Explanation(
        "The client showed no credential, or a wrong one.",
        _CREDENTIAL + " A device token may be too old: connect once with the shared token.",
    ),
    CloseCause.DEVICE_REQUIRED: Explanation(
        "The client has neither a credential nor a device identity, or is one that must have a device.",
        "Use a client with a device identity; a web page needs HTTPS or localhost for one. "
        + _CREDENTIAL,
    ),
    CloseCause.DEVICE_AUTH_INVALID: Explanation(
        "The client's proof of its device identity does not hold.",
        "Compare the clocks (`timedatectl` on both hosts: more than 2 minutes is too much); else remove"
        " the device identity of the client, which then makes a new one.",
    ),
    CloseCause.PAIRING_REQUIRED: Explanation(
        "The device is not paired here, or it wants more than it was paired for.",
        "On the gateway's host `gatewayctl devices` shows who asks for what, and `gatewayctl devices approve"
        " ID` grants it.",
    ),
    CloseCause.HANDSHAKE_TIMEOUT: Explanation(
        "It connected, and sent no `connect` in time (`limits.handshake_timeout_s`).",
        "`peer` and `userAgent` say who it was: mostly a scanner, a health check that should ask"
        " `/healthz`, or a client that hangs.",
    ),
    CloseCause.HANDSHAKE_OVERFLOW: Explanation(
        "It sent too many frames, or too large ones, while its `connect` was decided"
        " (`limits.preauth_queue_frames`, `limits.preauth_payload_bytes`).",
        "Mend the client: it has to wait for `hello-ok`. `peer` says who it was.",
    ),
    CloseCause.PREAUTH_TOO_LARGE: Explanation(
        "It sent a message that is too large for who is not authenticated"
        " (`limits.preauth_payload_bytes`).",
        "Mend the client, if it is one: `peer` and `userAgent` say who it was.",
    ),
    CloseCause.REPEATED_UNAUTHORIZED: Explanation(
        "It called more than ten methods in a row that are not for its role.",
        "Connect it with the other role: `role` is what it has, `lastFrame` the method it called last.",
    ),
    CloseCause.CAPACITY: Explanation(
        "There was no room: too many connections in all, of this identity, or of this address before"
        " authentication; or all places before authentication were taken, and this address had the most.",
        "Find who holds them (`gatewayctl connections`), or raise `limits.connections_max`,"
        " `limits.connections_per_principal` or `limits.preauth_connections_per_address`.",
    ),
    CloseCause.CLIENT_INVALIDATED: Explanation(
        "What the client was let in by is gone: its device was removed, or the token was revoked, rotated or"
        " replaced by newer ones.",
        "If it was meant to, nothing. Else pair the device again: let it connect with the shared token, then"
        " `gatewayctl devices`.",
    ),
    CloseCause.GATEWAY_AUTH_ROTATED: Explanation(
        "The shared token or password was changed while the client was connected by the old one.",
        "Give the client the new one. " + _CREDENTIAL,
    ),
    CloseCause.NODE_PAIRING_CHANGED: Explanation(
        "What the node may do was changed or taken back.",
        "It connects again by itself and asks anew: `gatewayctl nodes` shows what waits.",
    ),
    CloseCause.SLOW_CONSUMER: Explanation(
        "The client did not read what it was sent, until too much waited (`limits.outbox_bytes`), the"
        " oldest of it for too long (`limits.outbox_age_s`), or too much for all clients together, of whom"
        " it held most (`limits.outbox_total_bytes`).",
        "`limit` says which. Look at the client (does it hang, does it block while it draws?) and at its"
        " link. Nothing is lost: when it comes back it reads `chat.history`, and the runs that it followed"
        " by `connection.resume`.",
    ),
    CloseCause.SEND_ERROR: Explanation(
        "The operating system refused to send: the socket was broken already.",
        "The line `send failed` before it in the log names the error; look at the network.",
    ),
    CloseCause.DRAIN: Explanation(
        "The gateway was stopped or restarted, and told the client so.",
        "Nothing: clients come back by themselves.",
    ),
    CloseCause.PEER_CLOSED: Explanation(
        "The client closed the connection itself, properly.",
        "Nothing, if it was meant to. Code and reason are the client's.",
    ),
    CloseCause.PEER_GONE: Explanation(
        "The client's side vanished without a goodbye: its process died, its host slept, or something on"
        " the way cut the connection.",
        "Look at the client, its network, and proxies that cut idle connections: let them wait more than"
        " 40 s.",
    ),
    CloseCause.PROTOCOL_ERROR: Explanation(
        "The client broke the WebSocket protocol, or sent a message that is too large"
        " (`limits.payload_bytes`).",
        "The reason says what was wrong: mend the client, or whatever lies between and changes bytes.",
    ),
    CloseCause.INTERNAL_ERROR: Explanation(
        "The gateway failed: a fault of its own, or a store that does not work.",
        "The traceback stands before the close line in the log: `grep CONN logs/*.jsonl`. If the store"
        " failed, the line `store failing` says why.",
    ),
    CloseCause.KEEPALIVE_TIMEOUT: Explanation(
        "Nothing came from the client any more, not even the answer to a ping"
        " (`limits.ping_silence_s`, `limits.ping_timeout_s`).",
        "Its host sleeps, its network is gone, or its process hangs. It has to connect anew.",
    ),
}
"""By cause; every cause is in it."""
