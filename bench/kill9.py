"""Kills a gateway with SIGKILL at random moments while clients work with it, and keeps accounts.

    python -m bench.kill9 --points 200 --seed 1

A real ``twistd -n gateway`` on a state directory of its own; two connections that send messages to several
sessions, faster than they are answered, so that some wait; an agent that writes down every run that it is
given, in a file that outlives the process. After each kill the gateway is started again, every request that
was not answered is sent again under its key, every run is waited for, and the accounts are compared:

- a message that was accepted is in its transcript, once, and its run has one end;
- no run was given to the agent twice (on the agent ``again``, whose runs are run again after a crash, and of
  messages that are to be collected or to steer: not more than twice), and one that ended well was answered in
  the transcript, once; of one that was collected the answer may have been interrupted; one that steered, or
  was interrupted by another message, need not have an answer;
- no client saw two ends of one run, or another end than the one that is stored;
- every stored log is numbered 1, 2, 3 ... and has one end, its last event.

The exit status is 1 if any of this does not hold, and the first violations are printed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gateway
from gateway.client import OPERATOR_SCOPES, ClientError, ClientOptions, Credentials, RequestFailed
from gateway.client.aio import Client, connect
from gateway.core.batch import SEPARATOR

ROOT = Path(gateway.__file__).parent.parent
TWISTD = Path(sys.executable).parent / "twistd"
START_S = 30.0
WAIT_MS = 20_000
WORDS = 6
MODES = ("collect", "steer", "interrupt")
REASONS = ("interrupted", "collected", "steered", "interrupt")
"""How runs may end that are not answered."""
CONFIG = """
[agents.main]
backend = "counted"
word_delay_ms = 4
[agents.again]
backend = "counted"
word_delay_ms = 4
on_restart = "rerun"
"""
PLUGIN = '''
import os

from twisted.internet.defer import succeed
from twisted.plugin import IPlugin
from zope.interface import implementer

from gateway.agents.demo import DemoBackend, DemoConfig
from gateway.interfaces import IAgentBackendFactory, ISteerableBackend


def note(*run_ids):
    file = os.open(os.environ["COUNTED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for run_id in run_ids:
        os.write(file, run_id.encode() + b"\\n")
    os.close(file)


@implementer(ISteerableBackend)
class Counted(DemoBackend):
    def start(self, request, sink):
        note(request.run_id, *request.collected)
        return super().start(request, sink)

    def steer(self, run_id, text, attachments):
        note(text.rpartition("-")[0].split(" ")[-1])
        return succeed(True)


class CountedConfig(DemoConfig, frozen=True):
    """An agent that writes down what it is given."""


@implementer(IPlugin, IAgentBackendFactory)
class CountedFactory:
    name = "counted"
    summary = "Writes down what it is given."
    config_type = CountedConfig

    def make(self, config, environment):
        return Counted(config, environment.clock)


counted = CountedFactory()
'''


@dataclass
class Sent:
    """One message: what became of it, as far as its client knows."""

    run_id: str
    session: str
    text: str
    mode: str = "followup"
    accepted: bool = False
    ends: list[str] = field(default_factory=list)
    status: str = ""

    @property
    def params(self) -> dict[str, Any]:
        """The request, the same whenever it is sent."""
        return {
            "sessionKey": self.session,
            "message": self.text,
            "idempotencyKey": self.run_id,
            "queueMode": self.mode,
        }


def free_port() -> int:
    """Return a port that nothing listens on, out of those that no connection is given by itself."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as attempt:
            try:
                attempt.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Daemon:
    """A gateway in a process that is killed."""

    def __init__(self, directory: Path, synchronous: str) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.counted = directory / "counted"
        self.port = free_port()
        plugins = directory / "plugins" / "gateway" / "plugins"
        plugins.mkdir(parents=True)
        (plugins / "counted.py").write_text(PLUGIN)
        config = directory / "gateway.toml"
        config.write_text(f'{CONFIG}[store]\nsynchronous = "{synchronous}"\n')
        self._command = [
            *(str(TWISTD), "-n", "gateway", "--config", str(config)),
            *("--listen", f"127.0.0.1:{self.port}", "--state-dir", str(self.state)),
        ]
        path = os.pathsep.join((str(ROOT), str(directory / "plugins")))
        self._environ = {**os.environ, "PYTHONPATH": path, "COUNTED": str(self.counted)}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it is not up when this returns."""
        with (self.directory / "output").open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=self.directory,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def connect(self) -> Client:
        """Connect as soon as it listens, while it may still be starting."""
        deadline = time.monotonic() + START_S
        while True:
            try:
                token = (self.state / "token").read_text().strip()
                made = ClientOptions(credentials=Credentials(token=token), scopes=OPERATOR_SCOPES)
                return await connect(f"ws://127.0.0.1:{self.port}", made)
            except (OSError, ClientError):
                assert self._process is not None
                if self._process.poll() is not None or time.monotonic() > deadline:
                    print((self.directory / "output").read_text()[-2000:], file=sys.stderr)
                    raise
                await asyncio.sleep(0.005)

    def counts(self) -> Counter[str]:
        """Return how often the agent was given each run."""
        if not self.counted.exists():
            return Counter()
        return Counter(self.counted.read_text().split())


class Accounts:
    """What was sent, what was answered, what was seen."""

    def __init__(self, seed: int, modes: Mapping[str, float]) -> None:
        self.random = random.Random(seed)
        self.modes = modes
        self.sent: dict[str, Sent] = {}
        self.violations: list[str] = []
        self.killed_with_open = 0
        self.resent = 0

    def mode(self) -> str:
        """Return how the next message is to be queued."""
        rest = max(0.0, 1.0 - sum(self.modes.values()))
        modes = {**self.modes, "followup": rest}
        return self.random.choices(list(modes), list(modes.values()))[0]

    def blame(self, what: str, sent: Sent) -> None:
        """Note what must not be."""
        self.violations.append(f"{what}: {sent}")

    def see(self, notice: Any) -> None:
        """Note the end of a run that a client is told."""
        if notice.name != "chat" or notice.payload["state"] in ("delta", "status"):
            return
        sent = self.sent.get(notice.payload["runId"])
        if sent is not None:
            sent.ends.append(notice.payload["state"])

    async def send(self, client: Client, sent: Sent) -> None:
        """Send a message; it counts as accepted when it is answered."""
        try:
            await client.call("chat.send", sent.params)
            sent.accepted = True
        except RequestFailed as error:
            if (error.details or {}).get("reason") in ("interrupted", "expired"):
                sent.accepted = True  # it had been, and that is what became of it
            else:
                self.blame(f"refused with {error}", sent)
        except ClientError:
            pass  # the connection was lost: it is sent again


async def work(accounts: Accounts, clients: list[Client], point: int, messages: int) -> None:
    """Send messages in bursts, and do not wait for answers."""
    choose = accounts.random
    sessions = [f"agent:{agent}:p{point}-{n}" for agent in ("main", "again") for n in range(2)]
    sending = []
    for number in range(messages):
        run_id = f"r{point}-{number}"
        words = " ".join(f"{run_id}-{word}" for word in range(choose.randrange(1, WORDS)))
        sent = Sent(run_id, choose.choice(sessions), words, accounts.mode())
        accounts.sent[run_id] = sent
        sending.append(asyncio.ensure_future(accounts.send(choose.choice(clients), sent)))
        await asyncio.sleep(choose.choice((0, 0, 0, 0.004, 0.012)))
    await asyncio.gather(*sending)


async def settle(accounts: Accounts, client: Client, pending: list[Sent]) -> None:
    """Send again what was not answered, and wait for the end of every run."""
    for sent in pending:
        if not sent.accepted:
            accounts.resent += 1
            await accounts.send(client, sent)
    asked = [
        client.call("agent.wait", {"runId": sent.run_id, "timeoutMs": WAIT_MS}, timeout=60)
        for sent in pending
    ]
    for sent, answer in zip(pending, await asyncio.gather(*asked), strict=True):
        reason = answer.get("stopReason")
        sent.status = reason if reason in REASONS else answer["status"]
        if sent.status not in ("ok", *REASONS):
            accounts.blame(f"ended with {answer}", sent)


async def check_transcripts(accounts: Accounts, client: Client, done: list[Sent]) -> None:
    """Compare the transcripts with what was sent."""
    said: dict[str, Counter[tuple[str, str]]] = {}
    for session in {sent.session for sent in done}:
        answer = await client.call("chat.history", {"sessionKey": session, "limit": 1000})
        said[session] = Counter(
            (each["role"], text)
            for each in answer["messages"]
            for text in "".join(block.get("text", "") for block in each["content"]).split(SEPARATOR)
        )
    for sent in done:
        asked = said[sent.session]["user", sent.text]
        answered = said[sent.session]["assistant", sent.text]
        if asked != 1:
            accounts.blame(f"{asked} times in the transcript", sent)
        loose = sent.status in ("collected", "interrupt")
        if answered > 1 or (not loose and answered != (sent.status == "ok")):
            accounts.blame(f"{answered} answers in the transcript", sent)


def check_ends(accounts: Accounts, daemon: Daemon) -> dict[str, int]:
    """Compare what the agent was given and the clients were told with what is stored; return figures."""
    given = daemon.counts()
    database = sqlite3.connect(f"file:{daemon.state / 'gateway.db'}?mode=ro", uri=True)
    stored = {
        row[0]: row[1:]
        for row in database.execute("SELECT run_id, epoch, state, stop_reason, last_seq FROM runs")
    }
    not_begun = 0
    for sent in accounts.sent.values():
        begun = given[sent.run_id]
        not_begun += sent.status == "interrupted" and not begun
        if begun > (2 if ":again:" in sent.session or sent.mode in ("collect", "steer") else 1):
            accounts.blame(f"given to the agent {begun} times", sent)
        if sent.status in ("ok", "collected", "steered") and not begun:
            accounts.blame("never given to the agent", sent)
        if len(sent.ends) > 1:
            accounts.blame(f"ended {len(sent.ends)} times", sent)
        if sent.run_id not in stored:
            accounts.blame("not stored", sent)
            continue
        epoch, state, _reason, last_seq = stored[sent.run_id]
        wanted = {"done": "final", "failed": "error", "aborted": "aborted"}.get(state)
        if wanted is None or any(end != wanted for end in sent.ends):
            accounts.blame(f"stored as {state}", sent)
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
            accounts.blame(f"its log is {events}", sent)
    database.close()
    statuses = Counter(sent.status for sent in accounts.sent.values())
    return {
        "messages": len(accounts.sent),
        "ok": statuses["ok"],
        "interrupted": statuses["interrupted"],
        "collected": statuses["collected"],
        "steered": statuses["steered"],
        "interrupted_by_a_message": statuses["interrupt"],
        "interrupted_before_the_agent_began": not_begun,
        "run_again": sum(count == 2 for count in given.values()),
        "open_when_killed": accounts.killed_with_open,
        "sent_again": accounts.resent,
        "ends_seen": sum(len(sent.ends) for sent in accounts.sent.values()),
        "violations": len(accounts.violations),
    }


def modes_of(args: argparse.Namespace) -> dict[str, float]:
    """Return which part of the messages has which mode."""
    return {mode: getattr(args, mode) for mode in MODES}


async def run(args: argparse.Namespace, directory: Path) -> int:
    """Kill as often as asked; return the exit status."""
    accounts, daemon = Accounts(args.seed, modes_of(args)), Daemon(directory, args.synchronous)
    started = time.monotonic()
    pending: list[Sent] = []
    try:
        for point in range(args.points + 1):
            daemon.start()
            clients = [await daemon.connect() for _ in range(2)]
            for client in clients[:1]:
                client.on_event(accounts.see)  # one of them: an end is broadcast to both
            await settle(accounts, clients[1], pending)
            await check_transcripts(accounts, clients[1], pending)
            if point == args.points:
                break
            before = set(accounts.sent)
            working = asyncio.ensure_future(work(accounts, clients, point, args.messages))
            await asyncio.sleep(accounts.random.uniform(0.0, args.within))
            daemon.kill()
            await working
            for client in clients:
                await client.close()
            pending = [sent for run_id, sent in accounts.sent.items() if run_id not in before]
            accounts.killed_with_open += sum(s.accepted and not s.ends for s in pending)
        for client in clients:
            await client.close()
    finally:
        daemon.kill()
    figures = {
        "points": args.points,
        "seed": args.seed,
        "synchronous": args.synchronous,
        **check_ends(accounts, daemon),
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps(figures))
    for violation in accounts.violations[:20]:
        print(violation)
    return 1 if accounts.violations else 0


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--points", type=int, default=200, help="how often it is killed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--messages", type=int, default=14, help="messages between two kills")
    parser.add_argument("--within", type=float, default=0.3, help="seconds; it is killed before")
    for mode in MODES:
        parser.add_argument(f"--{mode}", type=float, default=0.0, help="which part has this mode")
    parser.add_argument("--synchronous", choices=("normal", "full"), default="normal")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill9-") as directory:
        return asyncio.run(run(args, Path(directory)))


if __name__ == "__main__":
    sys.exit(main())
