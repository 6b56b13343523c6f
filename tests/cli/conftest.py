"""A scripted gateway, and a gatewayctl in an environment of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.ctl import Ctl, abort, echo
from tests.client.scripted import TOKEN, Script
from tests.client.served import served


@pytest.fixture
def script() -> Script:
    return Script(chat_send=echo, chat_abort=abort)


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment without any setting of the gateway, and a state directory that has a token."""
    for name in list(os.environ):
        if name.startswith("GATEWAY_"):
            monkeypatch.delenv(name)
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    (state / "token").write_text(TOKEN + "-of-the-state\n")
    (state / "token").chmod(0o600)
    identity = tmp_path / "own" / "device.key"
    return {"GATEWAY_STATE_DIR": str(state), "GATEWAY_IDENTITY": str(identity)}


@pytest.fixture
def url(script: Script) -> Iterator[str]:
    with served(script) as url:
        yield url


@pytest.fixture
def ctl(environ: dict[str, str]) -> Ctl:
    return Ctl(environ)


@pytest.fixture
def to_script(ctl: Ctl, url: str) -> Ctl:
    """A gatewayctl that knows where the scripted gateway is."""
    ctl.environ.update(GATEWAY_URL=url, GATEWAY_TOKEN=TOKEN)
    return ctl
