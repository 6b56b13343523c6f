"""Agents made from a configuration."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.agents.demo import DemoConfig, DemoFactory
from gateway.app.agents import AgentDirectory
from gateway.backends import make_agents
from gateway.config import LoadedConfig, load
from gateway.errors import ConfigError
from gateway.interfaces import BackendEnvironment
from gateway.testing import FakeClock, FakeEntropy
from tests.app.harness import ScriptedBackend


class Forgetful:
    """A factory of backends that can not run a turn again, as those of before there was that question."""

    name = "forgetful"
    summary = "Forgets."
    config_type = DemoConfig

    def make(self, config: DemoConfig, environment: BackendEnvironment) -> Any:
        backend = ScriptedBackend()
        backend.reruns = False
        return backend


def made(on_restart: str, backend: str) -> AgentDirectory:
    """Make the agent ``main`` of some backend."""
    loaded = load(None, {})
    table = {"backend": backend, "on_restart": on_restart}
    config = loaded.config.__class__(agents={"main": table})
    factories: Any = {"demo": DemoFactory(), "forgetful": Forgetful()}
    return make_agents(
        LoadedConfig(config, None, "", {}, ()),
        reactor=None,
        clock=FakeClock(),
        entropy=FakeEntropy(),
        state_dir="/nonexistent",
        factories=factories,
    )


def test_runs_that_are_run_again() -> None:
    """An agent's runs are run again after a crash where its table says so."""
    assert made("rerun", "demo").default.reruns
    assert not made("interrupt", "demo").default.reruns
    assert not made("interrupt", "forgetful").default.reruns


def test_a_backend_that_can_not() -> None:
    """A table that asks for it is refused where the backend can not run a turn again."""
    with pytest.raises(ConfigError, match='on_restart: backend "forgetful" can not run a turn'):
        made("rerun", "forgetful")
