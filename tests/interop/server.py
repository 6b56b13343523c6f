"""A real gateway in a process of its own: ``twistd -n gateway`` on a free port of loopback."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .processes import stop, wait_until

_REPOSITORY = Path(__file__).resolve().parents[2]
_READY_SECONDS = 30.0
_STOP_SECONDS = 10.0
_TAIL_LINES = 60

Record = dict[str, Any]


class Gateway:
    """A running gateway with a state directory of its own and the agent ``demo``.

    ``listen`` are more addresses that it listens on, ``config`` is a configuration file, and ``prefix`` the
    words that run a command on the host where it runs.
    """

    def __init__(
        self,
        state: Path,
        *,
        listen: Sequence[str] = (),
        config: Path | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self.port = free_port()
        self.state = state
        self._listen = [f"127.0.0.1:{self.port}", *listen]
        self._config = config
        self._prefix = list(prefix)
        self._output = state.parent / f"{state.name}.output"
        self._process = self._start()
        self._wait()

    @property
    def url(self) -> str:
        """Return the address that clients connect to."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def token(self) -> str:
        """Return the token that the gateway made when it first started."""
        return (self.state / "token").read_text(encoding="ascii").strip()

    @property
    def pid(self) -> int:
        """Return the process id of the gateway."""
        return self._process.pid

    def records(self) -> list[Record]:
        """Return every record of the structured log, oldest first."""
        lines = [
            line
            for file in sorted(self.state.glob("logs/*.jsonl"))
            for line in file.read_text(encoding="utf-8").splitlines()
        ]
        return [json.loads(line) for line in lines if line.endswith("}")]

    def ended_runs(self, session: str | None = None) -> list[Record]:
        """Return the log's record of every run that ended, oldest first, or those of one session.

        ``run`` is the run's id, ``state`` is ``done``, ``failed`` or ``aborted``.
        """
        return [
            record
            for record in self.records()
            if {"run", "state", "session"} <= record.keys() and session in (None, record["session"])
        ]

    def report(self) -> str:
        """Return the last lines of what the gateway printed and logged, for a failed test."""
        printed = self._output.read_text(encoding="utf-8", errors="replace").splitlines()
        logged = [json.dumps(record, ensure_ascii=False) for record in self.records()]
        return "\n".join(
            ["--- printed", *printed[-_TAIL_LINES:], "--- logged", *logged[-_TAIL_LINES:]]
        )

    def crash(self) -> None:
        """Kill the gateway without a word, and start it anew where it was."""
        self._process.kill()
        self._process.wait(_STOP_SECONDS)
        self._process = self._start()
        self._wait()

    def stop(self) -> bool:
        """Stop the gateway; return whether it ended when asked, instead of being killed."""
        return stop(self._process, _STOP_SECONDS)

    def _start(self) -> subprocess.Popen[bytes]:
        twistd = Path(sys.executable).parent / "twistd"
        options: list[str | Path] = ["--state-dir", self.state]
        for address in self._listen:
            options += ["--listen", address]
        if self._config is not None:
            options += ["--config", self._config]
        with self._output.open("ab") as output:
            return subprocess.Popen(
                [*self._prefix, twistd, "-n", "gateway", *options],
                env={key: os.environ[key] for key in os.environ if not key.startswith("GATEWAY_")},
                cwd=_REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait(self) -> None:
        if not wait_until(self._answers, _READY_SECONDS):
            self.stop()
            raise AssertionError(f"no gateway after {_READY_SECONDS} s:\n{self.report()}")

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError(f"the gateway ended at once:\n{self.report()}")
        if self._prefix:  # its loopback is not ours
            return b"gateway ready" in self._output.read_bytes()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == http.client.OK
        except OSError:
            return False
        finally:
            connection.close()


def free_port() -> int:
    """Return a port of loopback that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
