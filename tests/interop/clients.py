"""The real OpenClaw command, pointed at a gateway and cut off from the person who runs the tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .install import Generation, Installation, node_environment
from .processes import Finished, Program, run
from .terminal import Terminal

_COMMAND_SECONDS = 60.0


class OpenClaw:
    """The command ``openclaw`` of one generation, with a home directory that holds nothing else."""

    def __init__(
        self,
        installation: Installation,
        home: Path,
        url: str,
        token: str,
        *,
        prefix: Sequence[str] = (),
    ) -> None:
        """``prefix`` are the words that run a command on the host where the client runs."""
        self._prefix = list(prefix)
        self._installation = installation
        self._home = home
        self._url = url
        self._token = token
        self._write_configuration()

    @property
    def generation(self) -> Generation:
        """Return which generation of the clients this is."""
        return self._installation.generation

    def call(self, method: str, token: str | None = None, **params: Any) -> Finished:
        """Run ``gateway call METHOD`` with the address and the token on the command line."""
        given = ("--params", json.dumps(params)) if params else ()
        return self._run("gateway", "call", method, "--json", *given, *self._address(token))

    def usage_cost(self, *options: str) -> Finished:
        """Run ``gateway usage-cost``."""
        return self._run("gateway", "usage-cost", *options, *self._address(None))

    def approvals(self, *words: str) -> Finished:
        """Run a command of ``approvals`` on the gateway's policy."""
        return self._run("approvals", *words, "--gateway", *self._address(None))

    def models(self, *options: str) -> Finished:
        """Run ``models list``, which only the newer command asks the gateway; its address is configured."""
        return self._run("models", "list", *options)

    def agent(self, message: str, *options: str) -> Finished:
        """Run ``agent --message``; the gateway's address comes from the configuration file.

        The older command has no option for it. It also answers by itself, and exits with 0, when
        the gateway fails: look at what was said, not at the exit status.
        """
        return self._run("agent", "--message", message, *options)

    def tui(self, *options: str) -> Terminal:
        """Start the terminal interface; close it after use."""
        argv = [*self._installation.argv, "tui", *self._address(None), *options]
        return Terminal(argv, self._environment(), self._home)

    def nodes(self, *words: str) -> Finished:
        """Run ``nodes WORDS``; it finds the gateway by its configuration."""
        return self._run("nodes", *words)

    def devices(self, *words: str) -> Finished:
        """Run ``devices WORDS``; it finds the gateway by its configuration."""
        return self._run("devices", *words)

    def node_host(self, host: str, port: int, name: str, *options: str) -> Program:
        """Start ``node run``, a node without a screen; stop it after use."""
        where = ["--host", host, "--port", str(port), "--display-name", name]
        argv = [*self._prefix, *self._installation.argv, "node", "run", *where, *options]
        token = {"OPENCLAW_GATEWAY_TOKEN": self._token} if self._token else {}
        return Program(argv, {**self._environment(), **token}, self._home)

    def paired_node_host(self, code: str, name: str) -> Program:
        """Start ``node run --pair``, which finds the gateway and comes in by a setup code; stop it after use.

        Only the newer command has it.
        """
        how = ["--pair", code, "--display-name", name]
        argv = [*self._prefix, *self._installation.argv, "node", "run", *how]
        return Program(argv, self._environment(), self._home)

    def connect(self, link: str, name: str) -> Program:
        """Start ``connect``, which makes a node of this machine by a join link; stop it after use.

        Only the newer command has it.
        """
        argv = [*self._prefix, *self._installation.argv, "connect", link, "--display-name", name]
        return Program(argv, self._environment(), self._home)

    def _address(self, token: str | None) -> list[str]:
        return ["--url", self._url, "--token", token or self._token]

    def _run(self, *words: str) -> Finished:
        argv = [*self._prefix, *self._installation.argv, *words]
        return run(argv, self._environment(), self._home, _COMMAND_SECONDS)

    def _environment(self) -> dict[str, str]:
        """Return a whole environment: nothing of the caller's reaches the client."""
        return {
            **node_environment(self._installation.node),
            "HOME": str(self._home),
            "OPENCLAW_STATE_DIR": str(self._state),
            "TMPDIR": str(self._home),
            "NODE_COMPILE_CACHE": str(self._installation.compile_cache),
            "LANG": "C.UTF-8",
            "NO_COLOR": "1",
            "OPENCLAW_NO_AUTO_UPDATE": "1",
        }

    @property
    def _state(self) -> Path:
        return self._home / ".openclaw"

    def _write_configuration(self) -> None:
        """Say where the gateway is, and keep the client's own log out of the shared /tmp."""
        configuration: dict[str, Any] = {
            "gateway": {
                "mode": "remote",
                "remote": {"url": self._url, "token": self._token},
            },
            "logging": {"file": str(self._home / "openclaw.log")},
        }
        self._state.mkdir(mode=0o700, parents=True)
        (self._state / "openclaw.json").write_text(json.dumps(configuration), encoding="utf-8")
