"""One connection or one run in sentences: what became of it, why, and what to do."""

from __future__ import annotations

import json
import shlex
import textwrap
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from gateway.cli.tables import one_line, size, span
from gateway.core.catalogue import CATALOGUE
from gateway.core.causes import EXPLANATIONS, Explanation
from gateway.errors import CloseCause

WIDTH = 88
_UNKNOWN = Explanation("This gatewayctl knows no such cause.", "Use one of the gateway's version.")

_TOLD = frozenset(
    "connId state phase cause code reason openedAtMs closedAtMs durationMs handshake peer client role"
    " protocol lastFrame queuedBytes framesIn framesOut".split()
)
"""Facts of a connection that have a line of their own; the others follow under their names."""

_PHASES = {
    "upgrade": "it had sent no whole upgrade request",
    "challenge": "it was asked who it is, and had not answered",
    "connect": "it had sent its connect request",
    "connected": "it was connected",
}
_NOW = {
    "upgrade": "It has sent no whole upgrade request yet.",
    "challenge": "It was asked who it is and has not answered yet. If it does not, it is closed"
    " (handshake-timeout).",
    "connect": "It has said who it is; that is being decided.",
    "closing": "It is being closed, and its transport is still there: the gateway waits for the answer to"
    " its close frame, a second or so.",
    "slow": "It is connected, but does not keep up with what it is sent. When too much waits, or for too"
    " long, it is closed (slow-consumer).",
    "silent": "It is connected, but was pinged and has not been heard of since. If nothing comes, it is"
    " closed (keepalive-timeout).",
    "open": "It is connected, and takes what it is sent.",
}
_STOPS = {
    "rpc": "a client asked for it (chat.abort)",
    "stop": "somebody wrote stop in its session",
    "reset": "its session was reset",
    "delete": "its session was deleted",
    "timeout": "it took longer than it may: timeoutMs of the request, or timeout_s of the agent",
    "shutdown": "the gateway was stopped",
    "aborted": "its agent gave it up",
}
_CUT_OFF = {
    "interrupted": "The gateway ended it, not its agent: it had started when the gateway died, or could not"
    " be run again. What it did until then is done, and what it said is in its log. If it is still"
    ' wanted, send the message again; an agent with on_restart = "rerun" has that done by the gateway.',
    "expired": "The gateway ended it: it waited for its turn longer than limits.queued_ttl_s, and never"
    " started. If it is still wanted, send the message again.",
}
"""What became of runs that failed, though no agent reported it."""


def connection(row: Mapping[str, Any], now_ms: int) -> str:
    """Tell of a connection, open or closed, from its row of ``connections.list`` or ``.closed``."""
    if "cause" not in row:
        state = str(row.get("state"))
        key = state if row.get("phase") == "connected" else str(row.get("phase"))
        return _text(
            f"Connection {row['connId']} is open.", [_NOW.get(key, "")], _facts(row, now_ms)
        )
    cause = str(row["cause"])
    known = EXPLANATIONS[CloseCause(cause)] if cause in [*CloseCause] else _UNKNOWN
    remedy = known.remedy.replace("CONN", str(row["connId"]))
    said = f", “{one_line(row['reason'])}”" if row.get("reason") else ""
    title = f"Connection {row['connId']} ended: {cause} (code {row.get('code')}{said})."
    sentences = [known.meaning, f"What to do: {remedy}", *_advice(str(row.get("reason")))]
    return _text(title, sentences, _facts(row, now_ms))


def _advice(reason: str) -> list[str]:
    """Return what mends a refusal, which a close reason has no room for."""
    said = reason.removeprefix("unauthorized: ")
    found = (
        advice.mend
        for advice in CATALOGUE.values()
        if advice.told and advice.says and said.startswith(advice.says.rstrip(": …"))
    )
    mend = next(found, "")
    return [f"It was refused, and told: {mend}."] if mend else []


def run(row: Mapping[str, Any], now_ms: int) -> str:
    """Tell of a run from its row of ``runs.describe``."""
    state, ahead = str(row.get("state")), row.get("queuePosition")
    sentences = [*_of_run(row, state, ahead)]
    return _text(
        f"Run {row['runId']}: {_title(row, state, ahead)}.", sentences, _run_facts(row, now_ms)
    )


def _title(row: Mapping[str, Any], state: str, ahead: int | None) -> str:
    if state in ("accepted", "running") and row.get("live") is False:
        return f"{state}, but this gateway does not hold it"
    if state == "accepted":
        runs = "1 run" if ahead == 1 else f"{ahead} runs"
        return f"waits for {runs} before it" if ahead else "is about to start"
    if state == "failed":
        return f"failed: {one_line(row['error']).rstrip('.')}" if row.get("error") else "failed"
    if state == "aborted":
        reason = one_line(row.get("stopReason") or "aborted")
        return f"was aborted ({reason})"
    return {"running": "goes on", "done": "is done"}.get(state, one_line(state))


def _of_run(row: Mapping[str, Any], state: str, ahead: int | None) -> Iterator[str]:
    session, agent = one_line(row.get("sessionKey")), one_line(row.get("agentId"))
    if state in ("accepted", "running") and row.get("live") is False:
        yield (
            "Another process of the gateway left it open, or its end could not be stored. A gateway"
            " settles such runs when it starts."
        )
    elif state == "accepted" and ahead:
        yield "In a session one run goes at a time. To see those of this one, and to end them all:"
        params = json.dumps({"sessionKey": session}, ensure_ascii=False)
        yield (
            f"  gatewayctl runs --session {shlex.quote(session)}\n"
            f"  gatewayctl call chat.abort {shlex.quote(params)}"
        )
    elif state == "accepted":
        yield (
            "It is being stored, or starts at once. If it stays like this, the store fails: /readyz and the"
            " line “run … waits for the store” in the log say why. It starts when the store works again."
        )
    elif state == "failed" and row.get("stopReason") in _CUT_OFF:
        yield _CUT_OFF[str(row["stopReason"])]
    elif state == "failed":
        known = "That is what its agent reported, or what went wrong with it."
        yield f"{known if row.get('error') else 'Its error is not known.'} More may stand in the log:"
        yield f"  grep gateway.agents.{agent} logs/*.jsonl"
    elif state == "aborted" and row.get("stopReason") in _STOPS:
        yield f"It ended before its time because {_STOPS[str(row['stopReason'])]}."
    worker = row.get("worker")
    if isinstance(worker, Mapping) and worker.get("state") != "ready":
        error = f": {one_line(worker['lastError'])}" if worker.get("lastError") else ""
        yield (
            f"The process of agent {agent} takes no work now, it is {one_line(worker.get('state'))}{error}."
        )


def _text(title: str, sentences: list[str], facts: Iterator[tuple[str, str]]) -> str:
    filled = [_filled(each) for each in sentences]
    shown = [(name, one_line(value)) for name, value in facts if value]
    width = max((len(name) for name, _ in shown), default=0)
    listed = "\n".join(f"  {name.ljust(width)}  {value}" for name, value in shown)
    return "\n\n".join(part for part in (one_line(title), *filled, listed) if part)


def _filled(sentence: str) -> str:
    """Return a sentence in lines; what is indented is to be typed, and stays as it is."""
    if sentence.startswith(" "):
        return sentence
    return textwrap.fill(sentence.replace("`", ""), WIDTH, break_long_words=False)


def _facts(row: Mapping[str, Any], now_ms: int) -> Iterator[tuple[str, str]]:
    closed = "cause" in row
    if closed:
        lasted = span(row.get("durationMs"))
        yield "ended", f"{moment(row.get('closedAtMs'), now_ms)}, {lasted} after it was opened"
        yield "phase", _PHASES.get(str(row.get("phase")), str(row.get("handshake") or ""))
    else:
        yield "opened", moment(row.get("openedAtMs"), now_ms)
    yield "peer", str(row.get("peer") or "")
    yield "client", client_of(row)
    if row.get("role"):
        yield "role", f"{row['role']}, protocol {row.get('protocol')}"
    last = row.get("lastFrame") or {}
    if last.get("type"):
        yield (
            "lastFrame",
            " ".join(str(last[key]) for key in ("type", "method", "id") if last.get(key)),
        )
    yield "frames", f"{row.get('framesIn')} in, {row.get('framesOut')} out"
    verb = "waited" if closed else "wait"
    yield (
        "queued",
        f"{size(row.get('queuedBytes'))} {verb} for it" if row.get("queuedBytes") else "",
    )
    for name, value in row.items():
        if name not in _TOLD and value is not None:
            yield name, _listed(value) if isinstance(value, Mapping) else str(value)


def _run_facts(row: Mapping[str, Any], now_ms: int) -> Iterator[tuple[str, str]]:
    for name in ("accepted", "started", "ended"):
        yield name, moment(row.get(f"{name}AtMs"), now_ms)
    yield "waited", span(row.get("queuedMs"))
    yield "ran", span(row.get("runMs"))
    for name in ("sessionKey", "agentId", "backend", "model"):
        yield name, str(row.get(name) or "")
    worker = row.get("worker")
    if isinstance(worker, Mapping):
        yield "worker", _listed(worker)
    by = (
        f" by connection {row['connId']} (gatewayctl why {row['connId']})"
        if row.get("connId")
        else ""
    )
    yield "origin", f"{row['origin']}{by}" if row.get("origin") else ""
    if row.get("lastSeq") is not None:
        gone = (
            f", those to {row['evictedThrough']} are removed" if row.get("evictedThrough") else ""
        )
        yield "events", f"{row['lastSeq']}{gone}"
    if row.get("textChars"):
        yield "answer", f"{row['textChars']} characters so far"


def _listed(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def client_of(row: Mapping[str, Any]) -> str:
    """Return who a connection is, in few words; what it only claims is in brackets."""
    client = row.get("client")
    if isinstance(client, Mapping):
        name = f" “{client['displayName']}”" if client.get("displayName") else ""
        return f"{client.get('id')} {client.get('mode')} v{client.get('version')}{name}"
    return str(client or "") or (f"[{row['claims']}]" if row.get("claims") else "")


def moment(ms: int | None, now_ms: int) -> str:
    """Return a time as the clock of this host shows it, and how long ago that is."""
    if ms is None:
        return ""
    shown = datetime.fromtimestamp(ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return f"{shown} ({span(now_ms - ms)} ago)"
