"""An agent program of the Agent Client Protocol that misbehaves as the prompt says. Standard library only.

A prompt is the name of one of the :data:`TRICKS`, and may say after it which words to answer with. What an
agent may do in earnest (answer, use a tool, ask, be cancelled) is there beside what it must not.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

Session = str
Id = int | str | None


class Agent:
    """Reads requests, plays tricks. Each trick says whether it has answered the prompt."""

    def __init__(self) -> None:
        self.sessions = 0
        self.asked = 0
        self.waiting: dict[Session, Id] = {}

    def send(self, **message: Any) -> None:
        """Write one message."""
        sys.stdout.write(json.dumps({"jsonrpc": "2.0"} | message) + "\n")
        sys.stdout.flush()

    def update(self, session: Session, **update: Any) -> None:
        """Report something of a turn."""
        self.send(method="session/update", params={"sessionId": session, "update": update})

    def say(self, session: Session, text: str) -> None:
        """Report a piece of the answer."""
        content = {"type": "text", "text": text}
        self.update(session, sessionUpdate="agent_message_chunk", content=content)

    def handle(self, message: dict[str, Any]) -> None:
        """Take a message of the gateway; answers to what was asked are not looked at."""
        method, id_, params = message.get("method"), message.get("id"), message.get("params") or {}
        session = params.get("sessionId", "")
        if method == "initialize":
            self.send(id=id_, result={"protocolVersion": 1, "agentCapabilities": {}})
        elif method == "session/new":
            self.sessions += 1
            self.send(id=id_, result={"sessionId": f"s{self.sessions}"})
        elif method == "session/prompt":
            name, _, words = params["prompt"][-1]["text"].rpartition("\n")[2].partition(" ")
            if not TRICKS[name](self, session, id_, words):
                self.send(id=id_, result={"stopReason": "end_turn"})
        elif method == "session/cancel" and session in self.waiting:
            self.send(id=self.waiting.pop(session), result={"stopReason": "cancelled"})
        elif method is not None and id_ is not None:
            self.send(id=id_, error={"code": -32601, "message": "no such method"})

    def ask(self, method: str, params: Any) -> None:
        """Ask the gateway for something."""
        self.asked += 1
        self.send(id=f"q{self.asked}", method=method, params=params)


def answer(agent: Agent, session: Session, id_: Id, words: str) -> bool:
    """Says the words, one by one."""
    for word in words.split():
        agent.say(session, word + " ")
    return False


def tools(agent: Agent, session: Session, id_: Id, words: str) -> bool:
    """Uses a tool whose output grows to a megabyte, report by report."""
    agent.update(session, sessionUpdate="tool_call", toolCallId="t1", title="grow", kind="execute")
    for size in (10, 1000, 100_000, 1_000_000):
        block = {"type": "content", "content": {"type": "text", "text": "x" * size}}
        agent.update(
            session,
            sessionUpdate="tool_call_update",
            toolCallId="t1",
            status="in_progress",
            content=[block],
        )
    agent.update(session, sessionUpdate="tool_call_update", toolCallId="t1", status="completed")
    return answer(agent, session, id_, words)


def refuse(agent: Agent, session: Session, id_: Id, words: str) -> bool:
    """Answers with an error."""
    agent.send(id=id_, error={"code": -32603, "message": "it broke", "data": {"kind": 7}})
    return True


def leave(agent: Agent, session: Session, id_: Id, words: str) -> bool:
    """Ends in the middle of a sentence."""
    agent.say(session, "half a ")
    os._exit(3)


def crash(agent: Agent, session: Session, id_: Id, words: str) -> bool:
    """Is killed in the middle of a message."""
    sys.stdout.write('{"jsonrpc": "2.0", "method": "session/upd')
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)
    return True


def hang(agent: Agent, session: Session, id_: Id, words: str) -> bool:
    """Does nothing until it is cancelled."""
    agent.waiting[session] = id_
    return True


def deaf(agent: Agent, session: Session, id_: Id, words: str) -> bool:
    """Reads nothing more, and ignores SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
    return True


def spin(agent: Agent, session: Session, id_: Id, words: str) -> bool:
    """Burns its processor for good."""
    while True:
        pass


def flood(agent: Agent, session: Session, id_: Id, words: str) -> bool:
    """Reports 30,000 thoughts and plans as fast as it can, then answers."""
    for number in range(30_000):
        text = {"type": "text", "text": f"thought {number} " + "x" * 100}
        agent.update(session, sessionUpdate="agent_thought_chunk", content=text)
        if number % 10 == 0:
            agent.update(session, sessionUpdate="plan", entries=[{"content": f"step {number}"}])
    return answer(agent, session, id_, words)


def line(agent: Agent, session: Session, id_: Id, words: str) -> bool:
    """Writes 100 MB without the end of a line."""
    for _ in range(1600):
        os.write(1, b"x" * 65_536)
    return True


def garbage(agent: Agent, session: Session, id_: Id, words: str) -> bool:
    """Writes bytes that are no messages, and no text."""
    for _ in range(300):
        os.write(1, random.randbytes(80).replace(b"\n", b" ") + b"\n")
    return False


def lie(agent: Agent, session: Session, id_: Id, words: str) -> bool:
    """Reports for others, with wrong types; answers twice, and what was not asked."""
    wrong: tuple[Any, ...] = (None, 7, [], {}, "x" * 1000, {"type": "text"}, {"text": None}, 1e308)
    for value in wrong:
        agent.update(session, sessionUpdate="agent_message_chunk", content=value)
        agent.update(session, sessionUpdate="tool_call", toolCallId=value, title=value, kind=value)
        agent.update(session, sessionUpdate="tool_call_update", toolCallId="t", content=value)
        agent.update(session, sessionUpdate="plan", entries=value)
        agent.update(session, sessionUpdate=value)
        agent.send(method="session/update", params=value)
        agent.send(id=value if isinstance(value, str | int) else 0, result=value)
        agent.ask("session/request_permission", value)
        agent.ask("fs/read_text_file", value)
        agent.ask("terminal/create", value)
    agent.say("somebody-else", "not mine")
    agent.send(id=id_, result={"stopReason": wrong[4], "usage": {"inputTokens": -5}})
    agent.send(id=id_, result={"stopReason": "end_turn"})
    return True


def ask(agent: Agent, session: Session, id_: Id, words: str) -> bool:
    """Asks for permission, for files out of its place and for a terminal, and does not wait."""
    options = [{"optionId": "y", "name": "Yes", "kind": "allow_once"}]
    call = {"toolCallId": "p1", "title": "rm -rf /"}
    agent.ask(
        "session/request_permission", {"sessionId": session, "toolCall": call, "options": options}
    )
    for path in ("/etc/passwd", "../../../etc/passwd", "/dev/zero", "nothing"):
        agent.ask("fs/read_text_file", {"sessionId": session, "path": path})
        agent.ask("fs/write_text_file", {"sessionId": session, "path": path, "content": "x"})
    agent.ask(
        "terminal/create", {"sessionId": session, "command": "sleep", "args": ["600"], "env": []}
    )
    return answer(agent, session, id_, words)


def children(agent: Agent, session: Session, id_: Id, words: str) -> bool:
    """Leaves ten processes behind, in sessions of their own, that ignore SIGTERM and hold its pipes."""
    for _ in range(10):
        if os.fork() == 0:
            os.setsid()
            if os.fork() > 0:
                os._exit(0)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            time.sleep(600)
            os._exit(0)
        os.wait()
    if words.endswith("die"):
        os._exit(0)
    return answer(agent, session, id_, words)


def shut(agent: Agent, session: Session, id_: Id, words: str) -> bool:
    """Closes its standard output and lives on."""
    os.close(1)
    time.sleep(600)
    return True


def complain(agent: Agent, session: Session, id_: Id, words: str) -> bool:
    """Writes a megabyte on its standard error, then answers."""
    for _ in range(16):
        os.write(2, b"trouble\n" * 8192)
    return answer(agent, session, id_, words)


TRICKS: dict[str, Callable[[Agent, Session, Id, str], bool]] = {
    trick.__name__: trick
    for trick in (
        *(answer, tools, refuse, leave, crash, hang, deaf, spin, flood, line, garbage, lie, ask),
        *(children, shut, complain),
    )
}


def main() -> None:
    """Serve until standard input ends."""
    agent = Agent()
    for text in sys.stdin:
        agent.handle(json.loads(text))


if __name__ == "__main__":
    main()
