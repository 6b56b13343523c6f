"""An agent program of the Agent Client Protocol that does what the prompt says. Standard library only.

``/hang`` answers when it is cancelled, ``/deaf`` not even then; ``/die N`` exits with status N, ``/kill``
by SIGKILL; ``/flood`` never stops saying something; ``/env`` says the names of its environment variables,
``/pid`` its pid; ``/child`` starts a child that ignores SIGTERM and says its pid; ``/error`` refuses;
``/noise TEXT`` prints TEXT where only messages should be; ``/line`` writes a line without end;
``/print TEXT`` writes on standard error; ``/history`` says what came with the session. Anything else is said
back, word by word. With ``--stubborn`` it ignores the end of its input and SIGTERM.
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

    def send(self, **message: Any) -> None:
        print(json.dumps({"jsonrpc": "2.0"} | message), flush=True)

    def say(self, session_id: str, text: str) -> None:
        content = {"type": "text", "text": text}
        update = {"sessionUpdate": "agent_message_chunk", "content": content}
        self.send(method="session/update", params={"sessionId": session_id, "update": update})

    def handle(self, message: dict[str, Any]) -> None:
        match message:
            case {"method": "initialize", "id": id_}:
                self.send(id=id_, result={"protocolVersion": 1, "agentCapabilities": {}})
            case {"method": "session/new", "id": id_, "params": params}:
                session_id = f"s{next(self.numbers)}"
                self.history[session_id] = params["_meta"]["gateway"]["history"]
                self.send(id=id_, result={"sessionId": session_id})
            case {"method": "session/prompt", "id": id_, "params": params}:
                self.prompt(id_, params["sessionId"], params["prompt"][0]["text"])
            case {"method": "session/cancel", "params": {"sessionId": session_id}}:
                if session_id in self.waiting:
                    self.send(id=self.waiting.pop(session_id), result={"stopReason": "cancelled"})

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
