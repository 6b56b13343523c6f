"""An agent program of the Agent Client Protocol that does its neighbours no good. Standard library only.

The prompt says what it does: ``/spin`` burns a processor core; ``/flood chunks``, ``/flood tools`` and
``/flood noise`` write valid messages, or lines on standard error, as fast as they are read; ``/talk N`` says
N words, one every 50 ms. ``/spin`` and ``/flood`` go on until the process is killed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


def line(**message: Any) -> bytes:
    """Return one message."""
    return json.dumps({"jsonrpc": "2.0"} | message).encode() + b"\n"


def update(session: str, kind: str, **what: Any) -> bytes:
    """Return the report of something of a turn."""
    params = {"sessionId": session, "update": {"sessionUpdate": kind} | what}
    return line(method="session/update", params=params)


def chunk(session: str, text: str) -> bytes:
    """Return a piece of the answer."""
    return update(session, "agent_message_chunk", content={"type": "text", "text": text})


def pour(descriptor: int, data: bytes) -> None:
    """Write the same again and again, in pieces of 1 MiB."""
    data *= 1 + (1 << 20) // len(data)
    while True:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]


def flood(session: str, kind: str) -> None:
    """Write as fast as the gateway reads."""
    if kind == "chunks":
        pour(1, chunk(session, "x"))
    elif kind == "tools":
        os.write(1, update(session, "tool_call", toolCallId="t", title="flood"))
        pour(1, update(session, "tool_call_update", toolCallId="t", status="in_progress"))
    else:
        pour(2, b"x\n")


def prompt(session: str, text: str) -> None:
    """Do what the prompt says."""
    command, _, argument = text.partition(" ")
    if command == "/spin":
        os.write(1, chunk(session, "spinning"))
        while True:
            pass
    elif command == "/flood":
        flood(session, argument)
    else:
        for number in range(int(argument)):
            os.write(1, chunk(session, f"word{number} "))
            time.sleep(0.05)


def main() -> None:
    """Answer what is asked."""
    for text in sys.stdin:
        message = json.loads(text)
        method, params = message.get("method"), message.get("params")
        result: dict[str, Any] | None = None
        if method == "initialize":
            result = {"protocolVersion": 1, "agentCapabilities": {}}
        elif method == "session/new":
            result = {"sessionId": "s1"}
        elif method == "session/prompt":
            prompt(params["sessionId"], params["prompt"][-1]["text"])
            result = {"stopReason": "end_turn"}
        if result is not None:
            os.write(1, line(id=message["id"], result=result))


if __name__ == "__main__":
    main()
