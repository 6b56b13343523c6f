"""A device from elsewhere and a real gateway: it asks, is approved, comes back, is thrown out, has a code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.cli.reach import own_address
from gateway.core.setupcode import decode_setup_code
from tests.cli.ctl import Ctl, one_line
from tests.integration.daemon import Daemon, free_port

pytestmark = pytest.mark.integration

ADDRESS = own_address()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Run a gateway that other machines reach as well."""
    port = free_port()
    listen = ("--listen", f"127.0.0.1:{port}", "--listen", f"{ADDRESS}:{port}")
    running = Daemon(tmp_path, *listen, port=port)
    yield running
    running.stop()


@pytest.mark.skipif(ADDRESS is None, reason="this machine has no address but loopback")
def test_a_device_from_elsewhere(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a person does on two machines to pair one with the other, in the words of gatewayctl."""
    for name in ("GATEWAY_URL", "GATEWAY_TOKEN", "GATEWAY_CONFIG", "GATEWAY_LISTEN"):
        monkeypatch.delenv(name, raising=False)
    here = Ctl({"GATEWAY_STATE_DIR": str(daemon.state)})
    local = ("--url", f"ws://127.0.0.1:{daemon.port}")
    laptop = Ctl(
        {
            "GATEWAY_URL": f"ws://{ADDRESS}:{daemon.port}",
            "GATEWAY_IDENTITY": str(tmp_path / "laptop" / "device.key"),
            "GATEWAY_STATE_DIR": str(tmp_path / "nothing"),
        }
    )
    token = (daemon.state / "token").read_text().strip()

    line = one_line(laptop("--token", token, "chat", "hello"))
    assert "run on the gateway's host: gatewayctl devices approve " in line
    request_id = line.split()[-1]
    assert here("devices", "approve", request_id, *local).stdout.startswith("approved ")
    assert laptop("--token", token, "chat", "hello").stdout == "hello\n"
    assert laptop("chat", "hello again").stdout == "hello again\n", "by its own token alone"

    (paired,) = json.loads(here("devices", "--json", *local).stdout)["paired"]
    assert token not in json.dumps(paired)
    assert here("devices", "remove", paired["deviceId"], *local).exit_code == 0
    assert "AUTH_DEVICE_TOKEN_MISMATCH" in one_line(laptop("chat", "still there?"))

    public = ("--public-url", laptop.environ["GATEWAY_URL"])
    made = here("pair", "--role", "operator", "--json", *public, *local).stdout
    code = json.loads(made)["setupCode"]
    assert laptop("pair", "--use", "-", stdin=code).stdout.startswith("paired with ")
    assert laptop("chat", "back").stdout == "back\n"
    assert "AUTH_BOOTSTRAP_TOKEN_INVALID" in one_line(laptop("pair", "--use", code))
    written = [daemon.output, *map(Path.read_text, (daemon.state / "logs").iterdir())]
    for secret in (token, code, decode_setup_code(code).secret):
        assert not any(secret in text for text in written)
