"""The documentation agrees with the code: generated pages, tables, examples, links."""

from __future__ import annotations

import ast
import configparser
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from twisted.internet.defer import succeed
from zope.interface.verify import verifyObject

import gateway.plugins
from gateway import interfaces
from gateway.app.context import Caller
from gateway.backends import backend_factories, make_agents
from gateway.config import AgentConfig, load
from gateway.core.access import KNOWN_SCOPES, Peer
from gateway.core.causes import EXPLANATIONS
from gateway.core.deviceproof import ProofFailure
from gateway.core.events import EVENTS
from gateway.core.frames import decode_request
from gateway.core.refusals import unauthorized
from gateway.errors import BackendError, CloseCause, CloseCode, ErrorCode
from gateway.interfaces import IAgentBackend, IAgentBackendFactory
from gateway.metrics import Metrics
from gateway.model import ClientInfo, Decision, Principal, Role, RunRequest
from gateway.settings import convert
from gateway.testing import FakeClock, FakeEntropy, environment, memory_gateway, result_of
from tests.app.harness import Gate

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
PEER_CODES = {"the peer's", "1006"}
"""What stands for a close code that the gateway did not choose."""


def page(name: str) -> str:
    """Return the text of a page of the documentation."""
    return (DOCS / name).read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    """Return the part of a page under a heading, up to the next one of that level."""
    match = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert match is not None, f"no section {title}"
    return match[1]


def rows(text: str, head: str) -> list[list[str]]:
    """Return the cells of the table whose first column is called ``head``."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {head} |"))
    found = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split(" |")])
    return found


def names(cell: str) -> set[str]:
    """Return what stands in backquotes in a cell."""
    return set(re.findall(r"`([^`]+)`", cell))


def blocks(text: str, language: str) -> list[str]:
    """Return the code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def generator() -> ModuleType:
    """Return docs/generate.py as a module, wherever the tests are run."""
    spec = importlib.util.spec_from_file_location("generate_docs", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["configuration.md", "methods.md"])
def test_a_generated_page_is_what_the_code_says(name):
    """The committed page equals what docs/generate.py makes of the code."""
    generated = generator().PAGES[name]()

    assert page(name) == generated, f"run: python docs/generate.py ({name} is out of date)"


def test_every_event_is_documented_as_it_is():
    """The table of events names exactly the events there are, with their scope and class."""
    found = {}
    for name, audience, delivery, *_ in rows(page("protocol.md"), "event"):
        (event,) = names(name)
        found[event] = (names(audience), re.findall("`([^`]+)`", delivery)[0])

    assert found == {spec.name: (set(spec.scopes), spec.delivery.value) for spec in EVENTS.values()}


def test_every_scope_is_documented():
    """The table of scopes names exactly the scopes there are."""
    found = set()
    for name, *_ in rows(page("protocol.md"), "scope"):
        found |= names(name)

    assert found == KNOWN_SCOPES


def test_every_close_cause_and_code_is_documented():
    """The table of ends names exactly the causes there are, and only codes that there are."""
    ends = section(page("protocol.md"), "Ends of a connection")
    causes, codes = set(), set()
    for cause, code, *_ in rows(ends, "cause"):
        causes |= names(cause)
        codes |= set(code.split(", "))

    known = {str(int(code)) for code in CloseCode}
    assert causes == {cause.value for cause in CloseCause}
    assert codes <= known | PEER_CODES
    assert all(code in ends for code in known)


def detail_codes() -> Iterator[str]:
    """Yield every ``details.code`` of a refusal."""
    reasons = [
        *(f"{kind}_{what}" for kind in ("token", "password") for what in ("missing", "mismatch")),
        *("token_missing_config", "password_missing_config"),
        *("device_token_mismatch", "scope_mismatch"),
    ]
    for reason in reasons:
        error = unauthorized(reason, 4).error
        assert error is not None
        yield error["details"]["code"]
    for failure in ProofFailure:
        yield from (failure.detail_code(3), failure.detail_code(4))
    source = "".join(
        (ROOT / "gateway" / name).read_text() for name in ("core/connect.py", "errors.py")
    )
    yield from re.findall(r'"code": "([A-Z_]+)"', source)


def test_every_refusal_is_documented():
    """Every error code and every details.code stands in the section on refusals."""
    refusals = names(section(page("protocol.md"), "Refusals").replace("\n", " "))

    assert {code.value for code in ErrorCode} <= refusals
    assert set(detail_codes()) <= refusals


def test_every_refusal_has_something_that_mends_it():
    """Troubleshooting has a line for every details.code and every close cause."""
    trouble = section(page("operations.md"), "Troubleshooting")
    named = names(trouble.replace("\n", " "))
    open_ended = tuple(name.removesuffix("…") for name in named if name.endswith("_…"))

    missing = [c for c in detail_codes() if c not in named and not c.startswith(open_ended)]
    assert missing == []
    assert {cause.value for cause in CloseCause} <= named


def test_causes_are_explained_as_the_command_line_does():
    """The table of causes in Troubleshooting is, word for word, what gatewayctl why says."""
    trouble = section(page("operations.md"), "Troubleshooting")
    explained = [
        [f"`{cause.value}`", meaning, remedy] for cause, (meaning, remedy) in EXPLANATIONS.items()
    ]

    assert rows(trouble, "cause") == explained


def test_every_metric_is_documented():
    """The table of metrics names exactly what a scrape shows, with its labels."""
    documented: dict[str, set[str]] = {}
    for metric, _kind, labels, *_ in rows(page("operations.md"), "metric"):
        documented |= dict.fromkeys(names(metric), names(labels))
    metrics = Metrics()
    shown = {}
    for family in metrics.collect():
        total = "_total" if family.type == "counter" else ""
        shown[family.name + total] = set(getattr(family, "_labelnames", ()))

    assert documented == shown


def logged_keys(path: Path) -> Iterator[str]:
    """Yield the keys of the structured lines that a module logs at level info or above."""
    levels = {"info", "warn", "error", "critical", "failure"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name == "log_closed":
            for inner in ast.walk(node):
                if isinstance(inner, ast.Dict):
                    keys = [key.value for key in inner.keys if isinstance(key, ast.Constant)]
                    yield from (key for key in keys if isinstance(key, str))
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        logger = node.func.value
        name = logger.attr if isinstance(logger, ast.Attribute) else getattr(logger, "id", "")
        if node.func.attr in levels and name in ("log", "_log"):
            yield from (word.arg for word in node.keywords if word.arg not in (None, "failure"))


def test_every_key_of_a_structured_log_line_is_documented():
    """Whoever reads the log finds every key of the gateway's own lines explained."""
    documented = names(section(page("operations.md"), "The log").replace("\n", " "))
    found = {
        key
        for path in (ROOT / "gateway").rglob("*.py")
        if path.relative_to(ROOT / "gateway").parts[0] not in ("cli", "client")
        for key in logged_keys(path)
    }

    assert "queuedBytes" in found
    assert sorted(found - documented) == []


def test_the_layers_are_drawn_as_they_are():
    """The picture of the layers names every one of them, from the top down as they are enforced."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    enforced = re.findall(r"gateway\.\w+", config["importlinter:contract:layers"]["layers"])
    (picture, *_) = blocks(page("architecture.md"), "text")

    assert re.findall(r"gateway\.\w+", picture) == enforced


# -- the worked example of plugins.md


def example() -> dict[str, Any]:
    """Run the code blocks of plugins.md, as one module would be."""
    namespace: dict[str, Any] = {"__name__": "backwards"}
    for block in blocks(page("plugins.md"), "python"):
        exec(compile(block, "docs/plugins.md", "exec"), namespace)
    return namespace


class Conversation:
    """An operator of a gateway in memory whose only agent is the example's."""

    def __init__(self) -> None:
        module = example()
        self.factory = module["backwards"]
        self.clock = FakeClock()
        config = module["BackwardsConfig"](pause_ms=100)
        self.backend = self.factory.make(config, environment(self.clock))
        self.wiring = memory_gateway(clock=self.clock, backends={"main": self.backend})
        self.backend.startService()
        caller = Caller(
            conn_id="c",
            protocol=4,
            principal=Principal(
                role=Role.OPERATOR, scopes=("operator.write",), auth_method="token"
            ),
            client=ClientInfo(id="cli", version="1", platform="test", mode="cli"),
            peer=Peer("127.0.0.1"),
        )
        self.context = self.wiring.edge.dispatcher.context(caller)

    def call(self, method: str, **params: Any) -> Any:
        """Call a method that answers at once; return its payload."""
        frame = json.dumps({"type": "req", "id": "1", "method": method, "params": params})
        answers: list[bytes] = []
        dispatcher = self.wiring.edge.dispatcher
        dispatcher.handle(
            self.context, decode_request(frame.encode()), lambda data, _: answers.append(data)
        )
        (answer,) = map(json.loads, answers)
        assert answer["ok"], answer
        return answer["payload"]

    def say(self, text: str) -> None:
        """Send a message; its run is called ``run``."""
        self.call("chat.send", sessionKey="main", message=text, idempotencyKey="run")

    def state(self) -> Any:
        """Return how the run ended, as agent.wait tells it."""
        return self.call("agent.wait", runId="run")


def test_the_example_provides_the_interfaces():
    """The worked backend and its factory provide what the gateway asks of them."""
    conversation = Conversation()

    assert verifyObject(IAgentBackendFactory, conversation.factory)
    assert verifyObject(IAgentBackend, conversation.backend)


def test_the_example_answers_in_a_gateway():
    """The worked backend's answer reaches the transcript, and its pauses are kept."""
    conversation = Conversation()

    conversation.say("one two three")
    conversation.clock.advance(0.1)
    assert conversation.backend.running
    conversation.clock.pump([0.1, 0.1, 0.1])

    assert conversation.state()["status"] == "ok"
    history = conversation.call("chat.history", sessionKey="main")["messages"]
    assert [m["content"][0]["text"] for m in history] == ["one two three", "three two one "]


def test_the_example_stops_when_it_is_aborted():
    """Aborting a run of the worked backend leaves nothing of it on the clock."""
    conversation = Conversation()
    conversation.say("one two three")
    scheduled = len(conversation.clock.getDelayedCalls())

    conversation.call("chat.abort", sessionKey="main")
    conversation.clock.advance(60)

    assert conversation.state()["status"] == "timeout"
    assert scheduled > 0
    assert conversation.clock.getDelayedCalls() == []


def test_the_example_fails_as_it_says():
    """The worked backend's own error is what the user reads."""
    conversation = Conversation()

    conversation.say("one")

    assert conversation.state()["error"] == "one word has no other end"


def test_the_examples_own_test_passes():
    """The test that plugins.md shows for the backend runs and passes."""
    module = example()
    tests = [name for name in module if name.startswith("test_")]

    for name in tests:
        module[name]()

    assert tests == ["test_the_last_word_comes_first"]


def test_the_example_is_found_by_its_name(tmp_path):
    """A directory with the module on the path is enough: config check knows the backend."""
    package = tmp_path / "gateway" / "plugins"
    package.mkdir(parents=True)
    (package / "backwards.py").write_text(blocks(page("plugins.md"), "python")[0])
    (tmp_path / "gateway.toml").write_text(blocks(page("plugins.md"), "toml")[0])
    check = [sys.executable, "-P", "-m", "gateway.cli", "config", "check", "gateway.toml"]
    path = os.pathsep.join([str(ROOT), str(tmp_path)])

    without = subprocess.run(
        check, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
    )
    found = subprocess.run(
        check, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": path}
    )

    assert "unknown backend" in without.stderr
    assert (found.returncode, found.stdout) == (0, "gateway.toml: ok\n"), found.stderr


def test_the_example_is_short():
    """The worked backend has thirty lines, imports and all."""
    source = blocks(page("plugins.md"), "python")[0]

    assert len([line for line in source.splitlines() if line.strip()]) <= 30


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Return a configuration whose agent's backend is the example, installed as a plugin."""
    package = tmp_path / "gateway" / "plugins"
    package.mkdir(parents=True)
    (package / "backwards.py").write_text(blocks(page("plugins.md"), "python")[0])
    monkeypatch.setattr(gateway.plugins, "__path__", [*gateway.plugins.__path__, str(package)])
    file = tmp_path / "gateway.toml"
    file.write_text(blocks(page("plugins.md"), "toml")[0])
    yield load(file, {})
    sys.modules.pop("gateway.plugins.backwards", None)


def test_the_example_as_a_plugin(installed, tmp_path):
    """Installed as a plugin and named in the configuration, the worked backend answers a client."""
    gate = Gate()
    gate.close()
    clock = gate.clock
    how: dict[str, Any] = {
        "reactor": None,
        "clock": clock,
        "entropy": FakeEntropy(),
        "state_dir": str(tmp_path),
    }
    gate.wiring = memory_gateway(
        clock=clock, config=installed.config, agents=make_agents(installed, **how)
    )
    gate.services, gate.runs = gate.wiring.services, gate.wiring.services.runs
    agent = gate.services.agents.default
    agent.backend.startService()
    client = gate.client()

    assert agent.kind == "backwards"
    client.send("one two three")
    clock.pump([0.1, 0.1, 0.1, 1])

    (final,) = [each for each in client.events("chat") if each["state"] == "final"]
    assert final["message"]["content"][0]["text"] == "three two one "
    (model,) = client.ok("models.list", {})["models"]
    assert (model["provider"], model["id"], model["available"]) == ("example", "backwards", True)


@pytest.mark.parametrize(
    ("decision", "outcome"),
    [(Decision.ALLOW_ONCE, "b a "), (Decision.DENY, BackendError), (None, BackendError)],
)
def test_the_example_that_asks_first(decision, outcome):
    """The backend that asks answers if it may, fails if it may not, and remembers its conversation."""
    module, clock = example(), FakeClock()
    asked: list[str] = []
    bound: list[str] = []
    said: list[str] = []

    class Sink:
        def ask(self, request):
            asked.append(request.command)
            return succeed(decision)

        bind = staticmethod(bound.append)
        text = staticmethod(said.append)

    careful = module["Careful"](module["BackwardsConfig"](), environment(clock))
    request = RunRequest(run_id="r", session_key="k", session_id="s", agent_id="main", text="a b")
    running = careful.start(request, Sink())
    clock.pump([0.05, 0.05])

    if outcome is BackendError:
        with pytest.raises(BackendError):
            result_of(running)
    else:
        result_of(running)
        assert "".join(said) == outcome
    assert (asked, bound) == (["say 2 words backwards"], ["conversation-1"])


def test_the_optional_interfaces_are_listed():
    """Every interface that a backend may provide beside the one it must is in the table."""
    listed = {cells[0].strip("`") for cells in rows(page("plugins.md"), "interface")}
    optional = {
        name
        for name, found in vars(interfaces).items()
        if name.endswith("Backend") and found is not IAgentBackend
    }

    assert listed == optional


# -- examples, links, commands


@pytest.mark.parametrize("name", ["README.md", "docs/plugins.md"])
def test_configurations_that_are_shown_are_valid(name, tmp_path):
    """Every TOML example is a file that the gateway takes."""
    known = {name: factory.config_type for name, factory in backend_factories().items()}
    known["backwards"] = example()["BackwardsConfig"]
    shown = blocks((ROOT / name).read_text(encoding="utf-8"), "toml")
    assert shown

    for text in shown:
        file = tmp_path / "gateway.toml"
        file.write_text(text)
        loaded = load(file, {})
        for agent_id, table in loaded.config.agents.items():
            agent: Any = convert(table, known[table["backend"]], name, ("agents", agent_id))
            assert isinstance(agent, AgentConfig)


def test_the_readme_attaches_a_model_and_a_program():
    """The README attaches a real model, and an agent program, by at most five lines of TOML each."""
    shown = blocks((ROOT / "README.md").read_text(encoding="utf-8"), "toml")
    backends = [next(iter(tomllib.loads(text)["agents"].values()))["backend"] for text in shown]

    assert backends == ["llm", "acp"]
    assert all(len(text.strip().splitlines()) <= 5 for text in shown)


def test_the_readme_has_two_commands_to_set_up():
    """The README sets up the gateway by exactly two commands: one runs it, one tests it."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [line for block in blocks(readme, "sh") for line in block.splitlines()]

    commands = [line for line in lines if "-m venv" in line]

    assert commands == [
        "python3.11 -m venv .venv && .venv/bin/pip install -e . && .venv/bin/twistd -n gateway",
        "python3.11 -m venv .venv && .venv/bin/pip install -e '.[test]' "
        "&& .venv/bin/python -m pytest",
    ]


@pytest.mark.parametrize("name", ["README.md", *(f"docs/{page}" for page in PAGES)])
def test_links_lead_somewhere(name):
    """Every relative link of a page leads to a file that exists."""
    path = ROOT / name
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))

    missing = [
        target for target in targets if "://" not in target and not (path.parent / target).is_file()
    ]

    assert missing == []


def test_every_page_is_in_the_table_of_contents():
    """No page of the documentation is left out of the index."""
    (toctree,) = re.findall(r"```\{toctree\}\n(.*?)```", page("index.md"), re.DOTALL)

    listed = {line for line in toctree.splitlines() if line and not line.startswith(":")}

    assert listed == {name.removesuffix(".md") for name in PAGES} - {"index"}


def test_news_fragments_can_be_rendered():
    """Every news fragment is of a known kind, has no issue's number, and ends with a full stop."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    kinds = {kind["directory"] for kind in project["tool"]["towncrier"]["type"]}
    fragments = [
        path
        for path in (DOCS / "changes").iterdir()
        if path.name not in ("README.md", "template.md")
    ]

    for path in fragments:
        assert re.fullmatch(rf"\+[a-z0-9-]+\.({'|'.join(kinds)})\.md", path.name), path.name
        assert path.read_text(encoding="utf-8").rstrip().endswith("."), path.name
