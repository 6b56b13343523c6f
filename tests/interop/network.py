"""Two hosts on one machine: network namespaces joined by a cable, so that "not loopback" is real."""

from __future__ import annotations

import os
import shutil
import subprocess
from types import TracebackType


def missing() -> str | None:
    """Return why hosts can not be made here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need the command ip (Debian: iproute2)"
    probe = f"gw-probe-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True).returncode:
        return "this machine does not let network namespaces be made"
    subprocess.run(["ip", "netns", "del", probe], check=True)
    return None


class Network:
    """The host ``near``, on which the gateway runs, and the host ``far``; each has a loopback of its own."""

    def __init__(self) -> None:
        number = os.getpid()
        self.near, self.far = f"gw-near-{number}", f"gw-far-{number}"
        self.near_address, self.far_address = "10.213.7.1", "10.213.7.2"

    def __enter__(self) -> Network:
        for name in (self.near, self.far):
            _ip("netns", "add", name)
        cable = ("link", "add", "cable", "netns", self.near, "type", "veth")
        _ip(*cable, "peer", "name", "cable", "netns", self.far)
        ends = ((self.near, self.near_address), (self.far, self.far_address))
        for name, address in ends:
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
            _ip("-n", name, "link", "set", "cable", "up")
            _ip("-n", name, "link", "set", "lo", "up")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for name in (self.near, self.far):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def inside(host: str) -> list[str]:
    """Return the words that run a command on a host."""
    return ["ip", "netns", "exec", host]


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
