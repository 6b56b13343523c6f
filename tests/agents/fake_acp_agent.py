"""An agent program of the Agent Client Protocol that does what the prompt says. Standard library only.

``/hang`` answers when it is cancelled, ``/deaf`` not even then; ``/die N`` exits with status N, ``/kill``
by SIGKILL; ``/flood`` never stops saying something; ``/env`` says the names of its environment variables,
``/pid`` its pid; ``/child`` starts a child that ignores SIGTERM and says its pid; ``/error`` refuses;
``/noise TEXT`` prints TEXT where only messages should be; ``/line`` writes a line without end;
``/print TEXT`` writes on standard error; ``/history`` says what came with the session;
``/call METHOD PARAMS`` asks the gateway, says its answer and asks on with ``then METHOD PARAMS`` (JSON on
a line of its own each, ``$ID`` is the terminal opened last). Anything else is said back, word by word. With
``--stubborn`` it ignores the end of its input and SIGTERM, with ``--loads`` it offers to load sessions.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

CHILD = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


class Agent:
    def __init__(self) -> None:
        self.numbers = itertools.count(1)
        self.waiting: dict[str, Any] = {}
        self.history: dict[str, Any] = {}
        self.calls: dict[int, tuple[Any, str, list[str]]] = {}
        self.terminal = ""

    def send(self, **message: Any) -> None:
        print(json.dumps({"jsonrpc": "2.0"} | message), flush=True)

    def say(self, session_id: str, text: str) -> None:
        content = {"type": "text", "text": text}
        update = {"sessionUpdate": "agent_message_chunk", "content": content}
        self.send(method="session/update", params={"sessionId": session_id, "update": update})

    def handle(self, message: dict[str, Any]) -> None:
        match message:
            case {"method": "initialize", "id": id_}:
                agent: dict[str, Any] = {"_meta": {"gateway": {"history": True}}}
                if "--loads" in sys.argv:
                    agent["loadSession"] = True
                self.send(id=id_, result={"protocolVersion": 1, "agentCapabilities": agent})
            case {"method": "session/new", "id": id_, "params": params}:
                session_id = f"s{next(self.numbers)}"
                self.history[session_id] = params["_meta"]["gateway"]["history"]
                self.send(id=id_, result={"sessionId": session_id})
            case {"method": "session/load", "id": id_, "params": {"sessionId": session_id}}:
                self.history[session_id] = "loaded"
                self.say(session_id, "what was said before")
                self.send(id=id_, result={})
            case {"id": int(number)} if number in self.calls:
                self.answered(number, message)
            case {"method": "session/prompt", "id": id_, "params": params}:
                self.prompt(id_, params["sessionId"], params["prompt"][0]["text"])
            case {"method": "session/cancel", "params": {"sessionId": session_id}}:
                if session_id in self.waiting:
                    self.send(id=self.waiting.pop(session_id), result={"stopReason": "cancelled"})

    def call(self, id_: Any, session_id: str, lines: list[str]) -> None:
        method, _, params = lines[0].partition(" ")
        number = 1000 + next(self.numbers)
        self.calls[number] = (id_, session_id, lines[1:])
        given = json.loads(params.replace("$ID", self.terminal)) | {"sessionId": session_id}
        self.send(id=number, method=method, params=given)

    def answered(self, number: int, message: dict[str, Any]) -> None:
        id_, session_id, lines = self.calls.pop(number)
        answer: dict[str, Any] = message.get("result") or message.get("error") or {}
        self.terminal = answer.get("terminalId", self.terminal)
        self.say(session_id, json.dumps(answer) + "\n")
        if lines:
            self.call(id_, session_id, lines)
        else:
            self.send(id=id_, result={"stopReason": "end_turn"})

    def prompt(self, id_: Any, session_id: str, text: str) -> None:
        command, _, argument = text.partition(" ")
        match command:
            case "/hang":
                self.waiting[session_id] = id_
                self.say(session_id, "waiting")
                return
            case "/deaf":
                self.say(session_id, "waiting")
                return
            case "/die":
                os._exit(int(argument))
            case "/kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "/flood":
                content = {"type": "text", "text": "x"}
                update = {"sessionUpdate": "agent_message_chunk", "content": content}
                params = {"sessionId": session_id, "update": update}
                message = {"jsonrpc": "2.0", "method": "session/update", "params": params}
                while True:
                    os.write(1, (json.dumps(message) + "\n").encode() * 1000)
            case "/call":
                self.call(id_, session_id, argument.split("\nthen "))
                return
            case "/env":
                self.say(session_id, " ".join(sorted(os.environ)))
            case "/pid":
                self.say(session_id, str(os.getpid()))
            case "/child":
                self.say(session_id, str(subprocess.Popen([sys.executable, "-c", CHILD]).pid))
            case "/error":
                self.send(id=id_, error={"code": -32603, "message": "it broke"})
                return
            case "/noise":
                print(argument, flush=True)
            case "/line":
                while True:
                    os.write(1, b"x" * 65_536)
            case "/print":
                print(argument, file=sys.stderr, flush=True)
            case "/history":
                self.say(session_id, json.dumps(self.history[session_id]))
            case _:
                for word in text.split(" "):
                    self.say(session_id, word + " ")
        self.send(id=id_, result={"stopReason": "end_turn"})


def main() -> None:
    agent = Agent()
    if "--stubborn" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for line in sys.stdin:
        agent.handle(json.loads(line))
    if "--stubborn" in sys.argv:
        time.sleep(600)


if __name__ == "__main__":
    main()
