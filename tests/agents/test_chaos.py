"""A thousand runs on processes that die, hang, flood and lie at random: what is told, and what is left."""

from __future__ import annotations

import gc
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gateway.agents.acp_turn import Turn
from gateway.agents.acp_worker import AcpWorker
from gateway.agents.process import ChildProcess
from gateway.agents.rpc import Conversation
from gateway.app.drive import Drive
from gateway.app.sink import Sink
from gateway.core.run import Run
from gateway.testing import FakeClock
from tests.agents.acp_setup import make_backend
from tests.agents.fakes import FakeProcess, FakeReactor
from tests.app.harness import Client, Gate

RUNS = 1000
OPEN = 30
"""Most runs that are open at once."""
MODES = ("followup", "collect", "steer", "interrupt")
ODD: tuple[Any, ...] = (None, 7, -1, 1e300, [], {}, "x" * 500, {"type": "text", "text": None}, "s1")
RECORDS = (Run, Drive, Sink, Turn, AcpWorker, ChildProcess, Conversation)


class Played:
    """A process that is played: what it was asked and has not answered."""

    def __init__(self, process: FakeProcess, chance: random.Random) -> None:
        self.process = process
        self.chance = chance
        self.prompts: list[tuple[int, str]] = []
        self.asked: list[tuple[int, dict[str, Any]]] = []

    @property
    def gone(self) -> bool:
        return self.process.exited

    def listen(self) -> None:
        """Take what was written to it."""
        for message in self.process.messages():
            if message.get("method") == "session/prompt":
                self.prompts.append((message["id"], message["params"]["sessionId"]))
            elif "method" in message and "id" in message:
                self.asked.append((message["id"], message))

    def well(self) -> None:
        """Answer what it was asked as a good agent does."""
        while self.asked and not self.gone:
            id_, message = self.asked.pop(0)
            answers: dict[str, Any] = {
                "initialize": {"protocolVersion": 1, "agentCapabilities": {"loadSession": True}},
                "session/new": {"sessionId": f"s{id_}-{self.process.pid}"},
            }
            self.process.answer(id_, answers.get(message["method"], {}))

    def talk(self) -> None:
        """Say something in a turn, or answer it."""
        if not self.prompts:
            return
        id_, session = self.chance.choice(self.prompts)
        if self.chance.random() < 0.5:
            self.process.say(session, f"word{self.chance.randrange(100)} ")
            return
        self.prompts.remove((id_, session))
        if self.chance.random() < 0.2:
            self.process.send(id=id_, error={"code": -32603, "message": "it broke"})
        else:
            reason = self.chance.choice(("end_turn", "cancelled", "refusal", "max_tokens", 7))
            self.process.answer(id_, {"stopReason": reason})

    def flood(self) -> None:
        """Report much at once, for all its turns."""
        for _ in range(100):
            for _, session in self.prompts:
                kind = self.chance.choice(("agent_thought_chunk", "plan", "tool_call"))
                call = {"toolCallId": str(self.chance.random()), "entries": [{"content": "step"}]}
                self.process.update(session, kind, content={"type": "text", "text": "t"}, **call)

    def lie(self) -> None:
        """Send what has no meaning, or another one."""
        odd, other = self.chance.choice(ODD), self.chance.choice(ODD)
        messages: list[dict[str, Any]] = [
            {"id": odd if isinstance(odd, str | int) else 1, "result": other},
            {"method": "session/update", "params": {"sessionId": odd, "update": other}},
            {"id": "q", "method": "session/request_permission", "params": odd},
            {"id": "q", "method": "terminal/create", "params": {"sessionId": odd}},
            {"method": "_gateway/event", "params": {"sessionId": odd, "stream": other}},
        ]
        for _, session in self.prompts:
            update = {"sessionUpdate": "tool_call_update", "toolCallId": odd, "content": other}
            params = {"sessionId": session, "update": update}
            messages.append({"method": "session/update", "params": params})
            asked = {"sessionId": session, "toolCall": {"title": "rm"}, "options": other}
            messages.append({"id": 9, "method": "session/request_permission", "params": asked})
        for message in messages:
            if not self.gone:
                self.process.send(**message)

    def babble(self) -> None:
        """Write what is no message."""
        for _ in range(self.chance.choice((1, 150))):
            if not self.gone:
                noise = self.chance.randbytes(20).replace(b"\n", b"")
                self.process.protocol.childDataReceived(1, noise + b"\n")

    def die(self) -> None:
        """End, one way or another."""
        way = self.chance.randrange(4)
        if way == 0:
            self.process.exit(code=self.chance.choice((0, 1)))
        elif way == 1:
            self.process.exit(signal=9)
        elif way == 2:
            self.process.lose_launcher(signal=9)
        elif 1 in self.process.pipes:
            self.process.lose(1)


class Chaos:
    """A gateway with an agent of three processes, a client, and dice."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.clock, self.reactor = FakeClock(), FakeReactor()
        self.backend = make_backend(
            directory, self.clock, self.reactor, pool=3, hang_timeout_s=20, idle_s=60
        )
        self.gate = Gate(backend=self.backend, clock=self.clock)
        self.client: Client = self.gate.client(caps=("approvals",))
        self.backend.startService()
        self.played: dict[int, Played] = {}
        self.sent: dict[str, str] = {}
        self.refused = 0

    @property
    def alive(self) -> list[Played]:
        """The processes that have not exited."""
        for process in self.reactor.processes:
            self.played.setdefault(process.pid, Played(process, self.chance))
        return [each for each in self.played.values() if not each.gone]

    def send(self) -> None:
        """Start a run, if not too many are open."""
        if len(self.gate.runs) >= OPEN:
            return
        run, key = f"r{len(self.sent)}", f"k{self.chance.randrange(8)}"
        self.sent[run] = key
        mode = self.chance.choice(MODES)
        call = self.client.send("hello", key=key, run=run, queueMode=mode)
        if not call.frame["ok"]:
            self.refused += 1  # its lane is full
            del self.sent[run]

    def abort(self) -> None:
        """Abort a run that is open, or was."""
        if self.sent:
            run = self.chance.choice(list(self.sent)[-OPEN:])
            self.client.call("chat.abort", {"sessionKey": self.sent[run], "runId": run})

    def play(self) -> None:
        """Let one process do something."""
        alive = self.alive
        if not alive:
            return
        one = self.chance.choice(alive)
        one.listen()
        tricks = (one.well, one.talk, one.flood, one.lie, one.babble, one.die)
        self.chance.choices(tricks, (50, 100, 4, 6, 1, 2))[0]()

    def bury(self) -> None:
        """End what the gateway has killed or let go of, and the helpers that look for what is left."""
        for one in self.alive:
            if one.process.signals or one.process.input_closed:
                one.process.end(signal=9)
        for process in self.reactor.processes:
            if process.exited and process.pipes:
                process.end()
        for sweep in self.reactor.sweeps:
            if not sweep.exited:
                sweep.end(code=0)

    def step(self) -> None:
        """Throw the dice once."""
        acts = (self.send, self.abort, self.play, self.bury)
        self.chance.choices(acts, (25, 2, 100, 10))[0]()
        self.clock.advance(self.chance.choice((0, 0, 0.01, 0.1, 0.5)))

    def settle(self) -> None:
        """Let time pass, and every process answer well or be ended, until no run is open."""
        for _ in range(3000):
            if not len(self.gate.runs):
                return
            for one in self.alive:
                one.listen()
                one.well()
                one.talk()
            self.bury()
            self.clock.advance(1)
        pytest.fail(f"{len(self.gate.runs)} runs do not end")


@pytest.mark.parametrize("seed", [1, 2])
def test_chaos(tmp_path: Path, seed: int) -> None:
    """Each of a thousand runs has one end, in both streams; of runs and processes nothing is left."""
    chaos = Chaos(tmp_path, seed)
    while len(chaos.sent) < RUNS // 2:
        chaos.step()
    chaos.settle()

    chats, phases = Counter[str](), Counter[str]()
    for frame in chaos.client.frames:
        payload = frame["payload"]
        if frame["event"] == "chat" and payload["state"] in ("final", "aborted", "error"):
            chats[payload["runId"]] += 1
        elif frame["event"] == "agent" and payload["stream"] == "lifecycle":
            phases[payload["runId"]] += payload["data"]["phase"] in ("end", "error")
    assert {run: count for run, count in chats.items() if count != 1} == {}
    assert {run: count for run, count in phases.items() if count != 1} == {}
    assert set(chats) == set(phases) == set(chaos.sent)

    stopping = chaos.backend.stopService()
    for _ in range(20):
        chaos.bury()
        chaos.clock.advance(1)
    assert stopping.called
    chaos.gate.wiring.services.follows.sweep(chaos.clock.seconds())
    assert [str(call) for call in chaos.clock.getDelayedCalls()] == []
    assert len(chaos.gate.runs.lanes) == len(chaos.gate.services.approvals) == 0
    assert not [each for each in chaos.reactor.processes if not each.pipes_closed and each.pipes]


def test_nothing_of_chaos_stays_in_memory(tmp_path: Path) -> None:
    """When the gateway is at rest and its agent stopped, no record of a run or a process is left."""
    before = living()
    chaos = Chaos(tmp_path, 3)
    while len(chaos.sent) < 100:
        chaos.step()
    chaos.settle()
    chaos.backend.stopService()
    for _ in range(20):
        chaos.bury()
        chaos.clock.advance(1)
    chaos.played.clear()
    chaos.reactor.processes.clear()
    chaos.reactor.sweeps.clear()

    assert living() - before == Counter()


def living() -> Counter[str]:
    """Return how many records of each kind there are."""
    gc.collect()
    return Counter(type(each).__name__ for each in gc.get_objects() if isinstance(each, RECORDS))
