"""The rules of the project that a machine can hold: layers, sizes, state, plugins, tests, text."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.application.service import IServiceMaker
from twisted.plugin import IPlugin, getPlugins
from zope.interface.verify import verifyObject

import gateway.plugins
from gateway import settings
from gateway.config import AgentConfig
from gateway.interfaces import IAgentBackendFactory

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gateway"
MODULES = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}
TREES = {path: ast.parse(file.read_text(encoding="utf-8")) for path, file in MODULES.items()}
TESTS = sorted((ROOT / "tests").rglob("*.py"))

MAX_LINES = 400
MAX_FUNCTION_LINES = 50

LONG_FILES: dict[str, str] = {}
"""Modules over 400 lines, and why."""

LONG_FUNCTIONS = {
    "service.py:__init__": "the composition root: a third of it is the names of what it is given",
}
"""Functions over 50 lines, and why."""

TESTED_ELSEWHERE = {
    "cli/security.py": "tests/cli/test_audit.py",
    "core/surfaceshapes.py": "tests/rpc/test_nodepairing.py",
    "core/admitting.py": "tests/app/test_admission.py",
    "app/devices.py": "tests/rpc/test_devices.py",
    "app/pairingnotices.py": "tests/rpc/test_devices.py",
    "core/deviceshapes.py": "tests/rpc/test_devices.py",
    "agents/acp_access.py": "tests/agents/test_acp_config.py",
    "agents/acp_session.py": "tests/agents/test_acp.py",
    "agents/processconfig.py": "tests/agents/test_acp_config.py",
    "agents/workers/acp_server.py": "tests/agents/test_llm_worker.py",
    "agents/llmconfig.py": "tests/agents/test_llm.py",
    "agents/llmspec.py": "tests/agents/test_llm.py",
    "agents/workers/agent.py": "tests/agents/test_llm_worker.py",
    "agents/workers/content.py": "tests/agents/test_llm_worker.py",
    "agents/workers/files.py": "tests/agents/test_llm_tools.py",
    "agents/workers/instructions.py": "tests/agents/test_llm_tools.py",
    "agents/workers/shell.py": "tests/agents/test_llm_tools.py",
    "agents/workers/store.py": "tests/agents/test_llm_store.py",
    "agents/workers/tools.py": "tests/agents/test_llm_tools.py",
    "agents/workers/toolservers.py": "tests/agents/test_llm_toolservers.py",
    "agents/workers/toolspec.py": "tests/agents/test_llm_tools.py",
    "agents/workers/usage.py": "tests/agents/test_llm_worker.py",
    "agents/workers/conversation.py": "tests/agents/test_llm_worker.py",
    "agents/workers/listing.py": "tests/agents/test_llm_listing.py",
    "agents/workers/llm.py": "tests/agents/test_llm_process.py",
    "agents/workers/models.py": "tests/agents/test_llm_worker.py",
    "agents/llmpolicy.py": "tests/agents/test_llm.py",
    "agents/workers/attempts.py": "tests/agents/test_llm_chain.py",
    "agents/workers/chain.py": "tests/agents/test_llm_chain.py",
    "agents/workers/context.py": "tests/agents/test_llm_context.py",
    "agents/workers/faults.py": "tests/agents/test_llm_faults.py",
    "agents/workers/recovery.py": "tests/agents/test_llm_context.py",
    "agents/workers/summary.py": "tests/agents/test_llm_context.py",
    "agents/workers/transcript.py": "tests/agents/test_llm_context.py",
    "agents/workers/turn.py": "tests/agents/test_llm_worker.py",
    "agents/workers/llm_errors.py": "tests/agents/test_llm_errors.py",
    "app/acceptance.py": "tests/app/test_run_keys.py",
    "app/compacting.py": "tests/rpc/test_compacting.py",
    "app/coming.py": "tests/rpc/test_early_aborts.py",
    "app/inspection.py": "tests/rpc/test_inspect.py",
    "app/logshapes.py": "tests/app/test_follow.py",
    "app/usage.py": "tests/rpc/test_usage.py",
    "app/noting.py": "tests/app/test_recovery.py",
    "app/nodeturns.py": "tests/app/test_nodeagent.py",
    "app/nodereports.py": "tests/app/test_nodeevents.py",
    "core/incoming.py": "tests/rpc/test_common.py",
    "cli/approvals.py": "tests/cli/test_approvals_command.py",
    "cli/policy.py": "tests/cli/test_policy_command.py",
    "app/agentadmin.py": "tests/rpc/test_agentadmin.py",
    "app/agentfiles.py": "tests/rpc/test_agentfiles.py",
    "app/modelhealth.py": "tests/rpc/test_models.py",
    "app/runquestions.py": "tests/app/test_approvals.py",
    "model/execpolicy.py": "tests/core/test_execpolicy.py",
    "app/stopping.py": "tests/app/test_run_stop.py",
    "cli/agents.py": "tests/cli/test_agents_command.py",
    "cli/checks.py": "tests/cli/test_local.py",
    "cli/common.py": "tests/cli/test_cli_session.py",
    "cli/listing.py": "tests/cli/test_inspect_commands.py",
    "cli/nodes.py": "tests/cli/test_nodes_command.py",
    "cli/maintenance.py": "tests/cli/test_maintenance_commands.py",
    "client/actions.py": "tests/client/test_client_core.py",
    "client/errors.py": "tests/client/test_client_end.py",
    "client/websocket.py": "tests/client/test_twisted.py",
    "core/catalogue.py": "tests/security/test_refusals.py",
    "core/causes.py": "tests/cli/test_explain.py",
    "core/refusals.py": "tests/core/test_connect.py",
    "core/outcome.py": "tests/core/test_run_failures.py",
    "limits.py": "tests/test_config.py",
    "model/agents.py": "tests/test_model.py",
    "model/base.py": "tests/test_model.py",
    "model/devices.py": "tests/test_model.py",
    "model/nodes.py": "tests/test_model.py",
    "model/people.py": "tests/test_model.py",
    "model/runs.py": "tests/test_model.py",
    "model/sessions.py": "tests/test_model.py",
    "net/closing.py": "tests/net/test_websocket.py",
    "net/edge.py": "tests/net/test_websocket.py",
    "net/factory.py": "tests/net/test_websocket.py",
    "net/sending.py": "tests/net/test_websocket.py",
    "rpc/invocations.py": "tests/app/test_invocations.py",
    "rpc/asking.py": "tests/rpc/test_turns.py",
    "rpc/listings.py": "tests/rpc/test_rest.py",
    "service.py": "tests/integration/test_daemon_service.py",
    "rpc/approval_params.py": "tests/rpc/test_approvals.py",
    "store/changes.py": "tests/store/contract.py",
    "store/nodes.py": "tests/store/contract_pairings.py",
    "store/pairings.py": "tests/store/contract_pairings.py",
    "store/migrate.py": "tests/store/test_schema.py",
    "model/usage.py": "tests/store/contract_usage.py",
    "store/migrations/versions/0001_initial.py": "tests/store/test_schema.py",
    "store/migrations/versions/0002_run_requests.py": "tests/store/test_upgrade.py",
    "store/migrations/versions/0003_usage.py": "tests/store/test_upgrade.py",
    "store/migrations/versions/0004_devices.py": "tests/store/test_upgrade.py",
    "store/runs.py": "tests/store/contract_runs.py",
    "store/sessions.py": "tests/store/contract_sessions.py",
    "tap.py": "tests/integration/test_daemon_settings.py",
    "testing.py": "tests/test_docs.py",
    "wiring/base.py": "tests/integration/test_daemon_service.py",
    "wiring/door.py": "tests/integration/test_daemon_service.py",
    "wiring/nodes.py": "tests/integration/test_daemon_service.py",
    "wiring/pairing.py": "tests/integration/test_daemon_service.py",
    "wiring/whole.py": "tests/integration/test_daemon_service.py",
}
"""Modules without a test file of their own name, and the file that tests them."""

NOT_TESTED = {
    "app/operations.py": "a record of what the process was started with",
    "app/threads.py": "one line that calls a function",
    "app/turn.py": "records that are handed from requests to runs",
    "interfaces/backends.py": "contracts: verifyObject and mypy hold to them those who provide them",
    "interfaces/base.py": "contracts: verifyObject and mypy hold to them those who provide them",
    "interfaces/storage.py": "contracts: verifyObject and mypy hold to them those who provide them",
    "rpc/families.py": "a list of the families; the tests of the table go through all of it",
    "rpc/session_params.py": "schemas, held to the recorded cases with their methods",
    "rpc/turn_params.py": "schemas, held to the recorded cases with their methods",
}
"""Modules that have nothing to test by themselves, and why."""

CONTAINERS = {"dict", "list", "set", "deque", "defaultdict", "OrderedDict", "Counter"}
MUTATORS = {
    "add",
    "append",
    "appendleft",
    "clear",
    "discard",
    "extend",
    "insert",
    "pop",
    "popitem",
} | {"popleft", "remove", "setdefault", "update"}
LITERALS = (ast.Dict, ast.List, ast.Set, ast.DictComp, ast.ListComp, ast.SetComp)


def test_imports_only_point_down():
    """Every layer imports only what lies below it, and the core does no I/O."""
    program = Path(sys.executable).with_name("lint-imports")
    if not program.exists():
        pytest.skip("import-linter is not installed: the extra dev has it, and .ci/run uses it")

    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_has_its_layer():
    """The contract of import-linter places every module and package of the gateway in a layer."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    placed = set(re.findall(r"gateway\.(\w+)", config["importlinter:contract:layers"]["layers"]))
    found = {Path(path).parts[0].removesuffix(".py") for path in MODULES} - {"__init__"}

    assert placed == found


def lines_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return how many lines a function takes, without its decorators."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Yield every function of the package with the path of its module."""
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path, node


def test_modules_are_short():
    """No module has more than 400 lines, but for those that are listed with a reason."""
    long = {
        path
        for path, file in MODULES.items()
        if file.read_text(encoding="utf-8").count("\n") > MAX_LINES
    }

    assert long == set(LONG_FILES)


def test_functions_are_short():
    """No function has more than 50 lines, but for those that are listed with a reason."""
    long = {
        f"{path}:{node.name}" for path, node in functions() if lines_of(node) > MAX_FUNCTION_LINES
    }

    assert long == set(LONG_FUNCTIONS)


def has_test(path: str) -> bool:
    """Whether a module has a test file of its own name, in the directory that mirrors its own."""
    module = Path(path)
    stem = module.parent.name if module.stem in ("__init__", "__main__") else module.stem
    folders = (ROOT / "tests" / module.parent, ROOT / "tests" / "integration")
    patterns = (f"test_{stem}.py", f"test_{stem}_*.py", f"test_{module.parent.name}_{stem}.py")
    return any(any(folder.glob(name)) for folder in folders for name in patterns)


def has_code(path: str) -> bool:
    """Whether a module is more than a docstring and constants."""
    return any(
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        for node in ast.walk(TREES[path])
    )


def test_every_module_has_its_test_file():
    """A module with code in it has a test file, or is listed with what stands in for one."""
    without = {path for path in MODULES if has_code(path) and not has_test(path)}

    assert sorted(without - set(TESTED_ELSEWHERE) - set(NOT_TESTED)) == []
    assert {*TESTED_ELSEWHERE, *NOT_TESTED} <= set(MODULES)
    assert [name for name in TESTED_ELSEWHERE.values() if not (ROOT / name).is_file()] == []


def module_containers(tree: ast.Module) -> Iterator[str]:
    """Yield the names that a module binds to a mutable container at its top level."""
    for node in tree.body:
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            targets, value = [node.target], node.value
        else:
            continue
        made = isinstance(value, ast.Call) and getattr(value.func, "id", "") in CONTAINERS
        if made or isinstance(value, LITERALS):
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def changed_names(tree: ast.Module) -> Iterator[str]:
    """Yield the names that a module changes in place, wherever it does so."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in MUTATORS and isinstance(node.func.value, ast.Name):
                yield node.func.value.id
        elif (
            isinstance(node, ast.Subscript)
            and isinstance(node.ctx, ast.Store | ast.Del)
            and isinstance(node.value, ast.Name)
        ):
            yield node.value.id


@pytest.mark.parametrize("path", sorted(MODULES))
def test_no_module_holds_live_state(path):
    """A module's containers are constants: written in capitals, and changed by nobody."""
    tree = TREES[path]
    containers = {name for name in module_containers(tree) if not name.startswith("__")}
    statements = {
        name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names
    }

    assert {name for name in containers if name != name.upper()} == set()
    assert containers & set(changed_names(tree)) == set()
    assert statements == set()


@pytest.mark.parametrize("path", sorted(MODULES))
def test_no_cache_is_without_bound(path):
    """No function is cached for ever: a cache is live state of its module."""
    decorators = {
        ast.unparse(decorator)
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for decorator in node.decorator_list
    }

    assert {name for name in decorators if re.search(r"\b(lru_)?cache\b", name)} == set()


def test_every_package_is_shipped():
    """setup.cfg lists every package there is, so that a wheel has all of them."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = config["options"]["packages"].split()
    found = [
        path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for path in PACKAGE.rglob("__init__.py")
    ]

    assert sorted(listed) == sorted([*found, "twisted.plugins"])


def test_the_twistd_plugin_holds_strings_only():
    """Every twistd command imports the plugin, so it imports nothing but ServiceMaker."""
    (path,) = (ROOT / "twisted").rglob("*.py")
    docstring, imported, made = ast.parse(path.read_text(encoding="utf-8")).body

    assert path.name == "gateway_plugin.py"
    assert isinstance(docstring, ast.Expr)
    assert ast.unparse(imported) == "from twisted.application.service import ServiceMaker"
    assert isinstance(made, ast.Assign)
    assert isinstance(made.value, ast.Call)
    assert all(isinstance(argument, ast.Constant) for argument in made.value.args)
    assert made.value.keywords == []


def test_twistd_knows_the_gateway():
    """The gateway is one of twistd's commands, made by gateway.tap."""
    makers: list[Any] = [m for m in getPlugins(IServiceMaker) if m.tapname == "gateway"]
    (maker,) = makers

    assert verifyObject(IServiceMaker, maker)
    assert maker.module == "gateway.tap"


PLUGINS = sorted(getPlugins(IAgentBackendFactory, gateway.plugins), key=lambda p: str(p.name))


def test_the_built_in_backends_are_found():
    """The backends that come with the gateway are discovered as any other plugin."""
    assert {"acp", "demo", "llm"} <= {plugin.name for plugin in PLUGINS}


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin.name)
def test_every_plugin_provides_its_interface(plugin):
    """A discovered backend factory has the attributes and signatures of its interface."""
    assert verifyObject(IAgentBackendFactory, plugin)
    assert IPlugin.providedBy(plugin)


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin.name)
def test_every_plugin_documents_its_keys(plugin):
    """The configuration of a backend extends the common one, and each key says what it means."""
    undocumented = [doc.key for doc in settings.describe(plugin.config_type) if not doc.doc]

    assert issubclass(plugin.config_type, AgentConfig)
    assert plugin.config_type.__struct_config__.forbid_unknown_fields
    assert undocumented == []
    assert plugin.summary


def imported(tree: ast.Module) -> set[str]:
    """Return the names of the modules that a file imports."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_test_states_a_behaviour(path):
    """A test has a docstring, which is a sentence, and patches nothing by unittest.mock."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tests = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    ]

    assert [node.name for node in tests if not ast.get_docstring(node)] == []
    assert {name for name in imported(tree) if name.startswith("unittest.mock")} == set()


@pytest.mark.parametrize(
    "path", sorted((ROOT / "tests" / "core").glob("*.py")), ids=lambda path: path.name
)
def test_tests_of_the_core_need_no_twisted(path):
    """What is tested of the core is tested by values, without a reactor anywhere near."""
    names = imported(ast.parse(path.read_text(encoding="utf-8")))

    assert {name for name in names if name.split(".")[0] in ("twisted", "autobahn")} == set()


FORBIDDEN = {
    "a path of somebody's machine": r"(?<![\w.])/(?:work|opt/dev|root)/",
    "a file outside of the project": r"\.\./shared\b",
    "the host of a package registry": r"\b(?:pypi|registry\.npmjs|(?:files\.)?pythonhosted)\.(?:org|com)\b",
}
"""What no text of the project says, and the pattern that finds it."""

TEXT = {".py", ".md", ".cfg", ".toml", ".html", ".json", ".sh", ""}
SKIPPED = {".git", "_build", "__pycache__", "data"}
"""What is built, what names the place of a work tree, and recordings, whose text is other people's."""


def texts() -> Iterator[Path]:
    """Yield every text file of the project, this one excepted."""
    for path in ROOT.iterdir():
        if path.is_file() and path.suffix in TEXT and path.name not in SKIPPED:
            yield path
    for folder in ("gateway", "twisted", "tests", "docs", "bench", ".ci"):
        for path in sorted((ROOT / folder).rglob("*")):
            known = path.is_file() and path.suffix in TEXT and path != Path(__file__)
            if known and SKIPPED.isdisjoint(path.parts):
                yield path


@pytest.mark.parametrize("what", FORBIDDEN)
def test_project_text_stands_by_itself(what):
    """No file names a place that exists on one machine only, or a registry by its host."""
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in texts()
        for match in re.finditer(
            FORBIDDEN[what], path.read_text(encoding="utf-8", errors="replace")
        )
    ]

    assert found == []
