"""Runs against agents that die, hang, flood and lie at random, and what is left of it.

    python -m bench.chaos --runs 1000 --agents 24 --seed 1

A real ``twistd -n gateway`` with as many agents, each a real process (tests/agents/chaos_agent.py) in a pool
of two; for each agent one task of the load picks a trick, sends it as a message and waits for its end; some
runs are aborted after a random time. Meanwhile another client measures ``health``. Then:

- every run had one end for those who watch, ``chat`` and ``lifecycle``, and one in its stored log, the last;
- those that the agent answered well have the whole answer;
- at rest, each agent started anew, there are as many processes, descriptors and timers as before, and no run;
- after SIGTERM no process is left, found by a variable that every child inherits.

The exit status is 1 if any of this does not hold, and the first violations are printed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.soak.sample import Sample, Sampler
from gateway.client import OPERATOR_SCOPES, ClientError, ClientOptions, Credentials
from gateway.client.aio import Client, connect
from tests.agents import chaos_agent
from tests.integration.daemon import Daemon

HANG_S = 4.0
TIMEOUT_S = 12.0
REST_S = 120.0
PATIENCE_S = 60.0
AGENT = """
[agents.{name}]
backend = "acp"
command = {command}
timeout_s = {timeout}
hang_timeout_s = {hang}
pool = 2
idle_s = 5
"""
WELL = frozenset(("answer", "tools", "flood", "ask", "children", "complain"))
"""Tricks after which the run ends well, with the words it was asked for."""
HARMLESS = ("answer", "tools", "refuse", "hang", "flood", "lie", "ask", "complain")
"""Tricks that a process survives: picked more often, so that not every agent waits for its next start."""
SETTLED = {"descriptors": 0, "threads": 10, "children": 0, "timers": 0, "runs": 0}
"""What there may be no more of than before, but for so many: the reactor keeps a pool of ten threads."""


@dataclass
class Sent:
    """One run and what was seen of it."""

    run_id: str
    agent: str
    trick: str
    words: str
    aborted: bool = False
    chat: list[str] = field(default_factory=list)
    lifecycle: list[str] = field(default_factory=list)
    text: str = ""
    error: str = ""
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Chaos:
    """The load on one gateway, and its accounts."""

    def __init__(self, daemon: Daemon, seed: int) -> None:
        self.daemon = daemon
        self.random = random.Random(seed)
        self.sent: dict[str, Sent] = {}
        self.violations: list[str] = []
        self.health_ms: list[float] = []

    async def join(self) -> Client:
        """Connect a client that may do everything."""
        made = ClientOptions(
            credentials=Credentials(token=self.daemon.token), scopes=OPERATOR_SCOPES
        )
        return await connect(self.daemon.url, made)

    def see(self, notice: Any) -> None:
        """Take an event of the watching client."""
        payload = notice.payload
        sent = self.sent.get(str(payload.get("runId"))) if isinstance(payload, dict) else None
        if sent is None:
            return
        if notice.name == "chat" and payload["state"] in ("final", "aborted", "error"):
            sent.chat.append(payload["state"])
            blocks = (payload.get("message") or {}).get("content", ())
            sent.text = "".join(block.get("text", "") for block in blocks)
            sent.error = payload.get("errorMessage", "")
            sent.ended.set()
        elif notice.name == "agent" and payload["stream"] == "lifecycle":
            phase = payload["data"]["phase"]
            if phase in ("end", "error"):
                sent.lifecycle.append(phase)

    async def work(self, client: Client, agent: str, runs: int) -> None:
        """Play tricks on one agent, one after the other."""
        choose = self.random
        for number in range(runs):
            tricks = HARMLESS if choose.random() < 0.5 else tuple(chaos_agent.TRICKS)
            words = " ".join(f"w{number}-{n}" for n in range(choose.randrange(1, 30)))
            sent = Sent(f"{agent}-{number}", agent, choose.choice(tricks), words)
            if sent.trick == "children" and choose.random() < 0.5:
                sent.words += " die"
            self.sent[sent.run_id] = sent
            params = {
                "sessionKey": f"agent:{agent}:s{choose.randrange(3)}",
                "message": f"{sent.trick} {sent.words}",
                "idempotencyKey": sent.run_id,
            }
            await client.call("chat.send", params)
            await self._end(client, sent, params["sessionKey"])
            if "next start in" in sent.error:
                await asyncio.sleep(choose.uniform(1, 8))

    async def _end(self, client: Client, sent: Sent, key: str) -> None:
        """Wait for the end of a run, or abort it first."""
        if self.random.random() < 0.12:
            try:
                await asyncio.wait_for(sent.ended.wait(), self.random.expovariate(2.0))
            except TimeoutError:
                sent.aborted = True
                await client.call("chat.abort", {"sessionKey": key, "runId": sent.run_id})
        try:
            await asyncio.wait_for(sent.ended.wait(), PATIENCE_S)
        except TimeoutError:
            self.violations.append(f"no end in {PATIENCE_S:.0f} s: {sent}")

    async def measure(self, client: Client) -> None:
        """Ask for health until it is cancelled."""
        while True:
            started = time.perf_counter()
            await client.call("health", {})
            self.health_ms.append((time.perf_counter() - started) * 1000)
            await asyncio.sleep(0.05)

    def check(self) -> None:
        """Compare what was seen with what may be, and with what is stored."""
        place = self.daemon.state / "gateway.db"
        database = sqlite3.connect(f"file:{place}?mode=ro", uri=True)
        rows = database.execute("SELECT run_id, epoch, state, last_seq FROM runs")
        stored = {row[0]: row[1:] for row in rows}
        for sent in self.sent.values():
            if len(sent.chat) != 1 or len(sent.lifecycle) != 1:
                self.violations.append(f"ends: {sent}")
            answered = sent.chat == ["final"]
            if answered and sent.trick in WELL and sent.text.split() != sent.words.split():
                self.violations.append(f"another answer: {sent}")
            if sent.run_id not in stored:
                self.violations.append(f"not stored: {sent}")
                continue
            epoch, state, last_seq = stored[sent.run_id]
            if state not in ("done", "failed", "aborted"):
                self.violations.append(f"stored as {state}: {sent}")
            events = database.execute(
                "SELECT seq, stream, data FROM run_events WHERE run_id = ? AND epoch = ? ORDER BY seq",
                (sent.run_id, epoch),
            ).fetchall()
            ends = [
                seq
                for seq, stream, data in events
                if stream == "lifecycle" and json.loads(data)["phase"] in ("end", "error")
            ]
            if [seq for seq, _, _ in events] != list(range(1, last_seq + 1)) or ends != [last_seq]:
                self.violations.append(f"its log has {len(events)} events, ends {ends}: {sent}")
        database.close()

    def figures(self) -> dict[str, Any]:
        """Return what is worth printing."""
        ordered = sorted(self.health_ms) or [0.0]
        return {
            "runs": len(self.sent),
            "ends": dict(
                Counter(sent.chat[0] if sent.chat else "none" for sent in self.sent.values())
            ),
            "aborts": sum(sent.aborted for sent in self.sent.values()),
            "tricks": dict(Counter(sent.trick for sent in self.sent.values())),
            "not_started": sum("next start in" in sent.error for sent in self.sent.values()),
            "health_p50_ms": round(ordered[len(ordered) // 2], 1),
            "health_p99_ms": round(ordered[int(len(ordered) * 0.99)], 1),
            "violations": len(self.violations),
        }


async def _warm_up(client: Client) -> None:
    """Have a turn of an agent in the gateway itself, so that the store has opened what it opens once."""
    run_id = "warm-up"
    sent = {"sessionKey": "agent:main:main", "message": "hello", "idempotencyKey": run_id}
    await client.call("chat.send", sent)
    await client.call("agent.wait", {"runId": run_id, "timeoutMs": 10_000})
    await client.call("chat.history", {"sessionKey": "agent:main:main"})


async def _rest(sampler: Sampler, before: Sample, chaos: Chaos) -> None:
    """Wait until there is no more of anything than before."""
    deadline = time.monotonic() + REST_S
    while True:
        now = await asyncio.to_thread(sampler.sample)
        over = {
            name: (before.values[name], now.values[name])
            for name, more in SETTLED.items()
            if now.values[name] > before.values[name] + more
        }
        if not over:
            return
        if time.monotonic() > deadline:
            chaos.violations.append(f"not at rest: {over}, registries {now.registries}")
            return
        await asyncio.sleep(1)


async def run(args: argparse.Namespace, directory: Path) -> int:
    """Play as often as asked; return the exit status."""
    names = [f"c{number}" for number in range(args.agents)]
    command = json.dumps([sys.executable, "-u", chaos_agent.__file__])
    config = directory / "gateway.toml"
    tables = [
        AGENT.format(name=name, command=command, timeout=TIMEOUT_S, hang=HANG_S) for name in names
    ]
    config.write_text('[agents.main]\nbackend = "demo"\ndefault = true\n' + "".join(tables))
    daemon = Daemon(directory, "--config", config)
    chaos = Chaos(daemon, args.seed)
    started = time.monotonic()
    try:
        sampler = Sampler(daemon.process.pid, daemon.port, daemon.token, daemon.state)
        clients = [await chaos.join() for _ in range(3)]
        clients[0].on_event(chaos.see)
        await _warm_up(clients[2])
        await asyncio.sleep(5)  # every agent has started
        before = await asyncio.to_thread(sampler.sample)
        measuring = asyncio.ensure_future(chaos.measure(clients[1]))
        share = -(-args.runs // len(names))
        await asyncio.gather(*(chaos.work(clients[2], name, share) for name in names))
        measuring.cancel()
        for name in names:  # what an agent has started lives as long as the agent
            await clients[2].call("agents.restart", {"agentId": name})
        await _rest(sampler, before, chaos)
        for client in clients:
            await client.close()
        try:
            await asyncio.to_thread(daemon.stop)
        except AssertionError as error:
            chaos.violations.append(f"stop: {str(error)[:2000]}")
    except ClientError as error:
        chaos.violations.append(f"a client failed: {error!r}")
    finally:
        if daemon.process.poll() is None:
            daemon.kill()
    chaos.check()
    print(json.dumps({**chaos.figures(), "seconds": round(time.monotonic() - started, 1)}))
    for violation in chaos.violations[:20]:
        print(violation)
    return 1 if chaos.violations else 0


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--agents", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-") as directory:
        return asyncio.run(run(args, Path(directory)))


if __name__ == "__main__":
    sys.exit(main())
