"""The llm agent's table and command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from zope.interface.verify import verifyObject

from gateway.agents.llm import LlmConfig, LlmFactory, import_path, worker_argv
from gateway.config import decode_agent
from gateway.errors import ConfigError
from gateway.interfaces import IAgentBackend, IAgentBackendFactory
from gateway.model import ModelInfo
from gateway.testing import FakeClock
from tests.agents.fakes import FakeReactor, make_environment

MODEL = {"backend": "llm", "model": "openai-chat:small", "base_url": "http://127.0.0.1:1/v1"}


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The worker's libraries, as far as the factory looks at them: it must not import them."""
    for name in ("pydantic_ai", "openai"):
        (tmp_path / "lib" / name).mkdir(parents=True)
        (tmp_path / "lib" / name / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    return tmp_path


def test_the_factory_makes_an_agent_of_our_worker(libraries: Path) -> None:
    """The key goes in the environment, never on the command line; nothing heavy is imported."""
    (libraries / "key").write_text("sk-12345\n")
    table = MODEL | {"api_key": {"file": "key"}, "system_prompt": "Be brief.", "max_tokens": 9}
    reactor = FakeReactor()
    factory = LlmFactory()

    config = decode_agent("main", table, factory.config_type, None)
    backend = factory.make(config, make_environment(libraries, FakeClock(), reactor))
    backend.startService()

    (process,) = reactor.processes
    assert verifyObject(IAgentBackendFactory, factory)
    assert verifyObject(IAgentBackend, backend)
    assert process.argv[:4] == [sys.executable, "-P", "-m", "gateway.agents.workers.llm"]
    assert process.argv[4:] == [
        "--model=openai-chat:small",
        "--base-url=http://127.0.0.1:1/v1",
        "--system-prompt=Be brief.",
        "--max-tokens=9",
    ]
    assert process.env["GATEWAY_LLM_API_KEY"] == "sk-12345"
    assert backend.models == (ModelInfo(id="small", name="small", provider="openai-chat"),)


def test_a_server_of_ones_own_needs_no_key(libraries: Path) -> None:
    """With a base_url and no key, none is in the environment."""
    reactor = FakeReactor()
    config = decode_agent("main", MODEL, LlmConfig, None)

    LlmFactory().make(config, make_environment(libraries, FakeClock(), reactor)).startService()

    assert "GATEWAY_LLM_API_KEY" not in reactor.processes[0].env


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({"model": "small"}, "PROVIDER:NAME"),
        ({"backend": "llm"}, "PROVIDER:NAME"),
        ({"model": "openai-chat:small"}, "api_key"),
        (MODEL | {"temperature": 3}, r"agents\.main\.temperature"),
        (MODEL | {"modle": "x"}, 'did you mean "model"'),
    ],
)
def test_a_wrong_table_is_named(table: dict[str, Any], text: str) -> None:
    """Mistakes in the table are refused with the key."""
    with pytest.raises(ConfigError, match=text):
        decode_agent("main", table, LlmConfig, None)


def test_a_missing_key_is_named(libraries: Path) -> None:
    """A secret that is not there is refused with the key of the table, not with its variable."""
    config = decode_agent("main", MODEL | {"api_key": {"env": "NO_SUCH_KEY"}}, LlmConfig, None)

    with pytest.raises(ConfigError, match=r"agents\.main\.api_key: .*NO_SUCH_KEY is not set"):
        LlmFactory().make(config, make_environment(libraries, FakeClock()))


def test_missing_libraries_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the worker's libraries the line says what to install."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for name in [
        name for name in sys.modules if name.partition(".")[0] in ("pydantic_ai", "openai")
    ]:
        monkeypatch.delitem(sys.modules, name)
    config = decode_agent("main", MODEL, LlmConfig, None)

    with pytest.raises(ConfigError, match=r"txgateway\[llm\]"):
        LlmFactory().make(config, make_environment(tmp_path, FakeClock()))


def test_a_text_that_looks_like_an_option_stays_a_text() -> None:
    """A system prompt may begin with a dash."""
    config = decode_agent("main", MODEL | {"system_prompt": "-v --help"}, LlmConfig, None)

    assert "--system-prompt=-v --help" in worker_argv(config)


def test_the_worker_finds_this_package() -> None:
    """From a source tree the worker gets its root, from an installation nothing."""
    path = import_path().get("PYTHONPATH")

    assert path is None or (Path(path) / "gateway" / "agents" / "llm.py").exists()
