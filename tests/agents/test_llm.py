"""The llm agent's table and command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from zope.interface.verify import verifyObject

from gateway.agents.llm import LlmFactory, import_path, worker_secrets, worker_spec
from gateway.agents.llmconfig import LlmConfig
from gateway.agents.llmspec import SECRETS_VARIABLE, SPEC_VARIABLE, WorkerSecrets, WorkerSpec
from gateway.config import SecretRef, decode_agent
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


def told(process: Any) -> WorkerSpec:
    """What the worker's process was told."""
    return msgspec.json.decode(process.env[SPEC_VARIABLE], type=WorkerSpec)


def keys(process: Any) -> tuple[tuple[str, ...], ...]:
    """The keys that the worker's process was given, by model."""
    return msgspec.json.decode(process.env[SECRETS_VARIABLE], type=WorkerSecrets).models


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
    assert process.argv[4:] == []
    assert "sk-12345" not in process.env[SPEC_VARIABLE]
    spec = told(process)
    assert spec.system_prompt == "Be brief."
    (model,) = spec.models
    assert (model.ref, model.base_url) == ("openai-chat/small", "http://127.0.0.1:1/v1")
    assert model.max_tokens == 9
    assert keys(process) == (("sk-12345",),)
    assert backend.models == (ModelInfo(id="small", name="small", provider="openai-chat"),)


def test_a_server_of_ones_own_needs_no_key(libraries: Path) -> None:
    """With a base_url and no key, none is in the environment."""
    reactor = FakeReactor()
    config = decode_agent("main", MODEL, LlmConfig, None)

    LlmFactory().make(config, make_environment(libraries, FakeClock(), reactor)).startService()

    assert keys(reactor.processes[0]) == ((),)


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({"model": "small"}, "PROVIDER:NAME"),
        ({"backend": "llm"}, "PROVIDER:NAME"),
        ({"model": "openai-chat:small"}, "api_key"),
        (MODEL | {"base_url": "127.0.0.1:1/v1"}, "base_url: http://"),
        (MODEL | {"temperature": 3}, r"agents\.main\.temperature"),
        (MODEL | {"modle": "x"}, 'did you mean "model"'),
        (MODEL | {"models": [{"model": "ollama:x"}]}, "base_url: goes into|model: goes into"),
        (MODEL | {"fallbacks": ["ollama:x"]}, "another provider goes into models"),
        (MODEL | {"fallbacks": ["openai-chat:small"]}, "openai-chat/small is there twice"),
        ({"models": [{"model": "openai:x"}]}, "api_key"),
        ({"models": [{"model": "ollama:x", "thinking": "hard"}]}, "thinking"),
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


def test_a_chain_of_models_has_keys_of_its_own(libraries: Path) -> None:
    """Each model has its address, settings and keys; models.list shows all of them."""
    chain = [
        {"model": "openai:big", "api_key": "sk-1", "api_keys": ["sk-2"], "context_window": 400_000},
        {"model": "ollama:small", "thinking": "off"},
    ]
    reactor = FakeReactor()
    config = decode_agent("main", {"models": chain}, LlmConfig, None)

    backend = LlmFactory().make(config, make_environment(libraries, FakeClock(), reactor))
    backend.startService()

    (process,) = reactor.processes
    assert [model.ref for model in told(process).models] == ["openai/big", "ollama/small"]
    assert told(process).models[1].thinking == "off"
    assert keys(process) == (("sk-1", "sk-2"), ())
    assert backend.models == (
        ModelInfo(id="big", name="big", provider="openai", context_window=400_000),
        ModelInfo(id="small", name="small", provider="ollama"),
    )


def test_fallbacks_share_the_address_and_the_key() -> None:
    """The short form of a chain: more names of the same provider."""
    table = MODEL | {"api_key": "sk-1", "fallbacks": ["openai-chat:tiny"], "max_tokens": 7}

    config = decode_agent("main", table, LlmConfig, None)

    assert [model.model for model in config.chain()] == ["openai-chat:small", "openai-chat:tiny"]
    assert {model.base_url for model in config.chain()} == {"http://127.0.0.1:1/v1"}
    assert {model.max_tokens for model in config.chain()} == {7}


def test_a_key_of_a_model_may_lie_in_a_file(tmp_path: Path) -> None:
    """Files of secrets in the tables of models are relative to the configuration's directory."""
    chain = [{"model": "openai:big", "api_key": {"file": "key"}}]

    config = decode_agent("main", {"models": chain}, LlmConfig, tmp_path / "gateway.toml")

    assert config.models[0].api_key == SecretRef(file=str(tmp_path / "key"))


def test_a_table_that_is_too_large_is_refused(libraries: Path) -> None:
    """What does not fit into the worker's environment is refused at the start, with the key."""
    config = decode_agent("main", MODEL | {"system_prompt": "é" * 90_000}, LlmConfig, None)

    with pytest.raises(ConfigError, match=r"agents\.main\.system_prompt: .*too large"):
        LlmFactory().make(config, make_environment(libraries, FakeClock()))


def test_a_missing_library_of_a_provider_is_named(
    libraries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider that wants one more library says which extra has it."""
    monkeypatch.setattr(sys, "path", [str(libraries / "lib")])
    monkeypatch.delitem(sys.modules, "anthropic", raising=False)
    table = {"model": "anthropic:claude", "api_key": "sk-1"}
    config = decode_agent("main", table, LlmConfig, None)

    with pytest.raises(ConfigError, match=r"anthropic wants .*txgateway\[anthropic\]"):
        LlmFactory().make(config, make_environment(libraries, FakeClock()))


def test_tools_and_servers_of_an_agent(libraries: Path) -> None:
    """Which tools there are is no secret; what a server is told goes where the keys go."""
    library = libraries / "lib" / "fastmcp"
    library.mkdir()
    (library / "__init__.py").write_text("")
    servers = {
        "files": {"command": "mcp-files", "args": ["-x"], "env": {"TOKEN": "sk-12345"}},
        "web": {"url": "http://127.0.0.1:1/mcp", "headers": {"Authorization": "Bearer sk-6789"}},
    }
    table = MODEL | {"tools": ["read"], "shell": "off", "mcp_servers": servers, "cwd": "/srv/x"}
    table |= {"failover": {"budget_s": 9, "refusal": True}, "context": {"attempts": 1}}
    reactor = FakeReactor()
    config = decode_agent("main", table, LlmConfig, None)

    backend = LlmFactory().make(config, make_environment(libraries, FakeClock(), reactor))

    secrets = worker_secrets(config, make_environment(libraries, FakeClock()))
    spec = worker_spec(config, make_environment(libraries, FakeClock()))
    assert verifyObject(IAgentBackend, backend)
    assert (spec.tools, spec.shell, spec.workspace) == (("read",), "off", "/srv/x")
    assert (spec.failover.policy().budget_s, spec.failover.policy().failover_refusal) == (9, True)
    assert spec.context.attempts == 1
    assert msgspec.json.decode(msgspec.json.encode(spec), type=WorkerSpec) == spec
    assert "sk-" not in msgspec.json.encode(spec).decode()
    assert [server.name for server in secrets.mcp_servers] == ["files", "web"]
    assert {"sk-12345", "Bearer sk-6789"} <= set(secrets.all())


def test_servers_want_a_library(libraries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MCP servers without the library that speaks to them are refused with the command that mends it."""
    monkeypatch.setattr(sys, "path", [str(libraries / "lib")])
    monkeypatch.delitem(sys.modules, "fastmcp", raising=False)
    table = MODEL | {"mcp_servers": {"files": {"command": "mcp-files"}}}
    config = decode_agent("main", table, LlmConfig, None)

    with pytest.raises(ConfigError, match=r"mcp_servers: .*txgateway\[mcp\]"):
        LlmFactory().make(config, make_environment(libraries, FakeClock()))


def test_the_worker_finds_this_package() -> None:
    """From a source tree the worker gets its root, from an installation nothing."""
    path = import_path().get("PYTHONPATH")

    assert path is None or (Path(path) / "gateway" / "agents" / "llm.py").exists()
