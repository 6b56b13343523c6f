"""The gateway is started so that everybody who reaches it is let in (attack 24)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.daemon import TWISTD, World

pytestmark = pytest.mark.integration


def test_s24_no_credential_and_an_open_address_do_not_start(tmp_path: Path) -> None:
    """Mode none on an address that others reach ends the start in one line that says how to mend it."""
    config = tmp_path / "gateway.toml"
    config.write_text("[auth]\nmode = 'none'\n")
    done = World(tmp_path).run(
        TWISTD, "-n", "gateway", "--config", str(config), "--listen", "0.0.0.0:0"
    )
    assert done.status == 1
    assert "loopback addresses only" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
