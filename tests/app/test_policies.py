"""The policy decides what is asked at all: of runs, of clients, and for how long an answer lasts."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from gateway.app.policies import SETTING, USED_CHARS
from gateway.core.approval import MAX_QUESTION_CHARS
from gateway.core.execpolicy import MAX_ENTRIES
from gateway.core.execpolicyfile import EMPTY
from gateway.errors import StoreError, Unavailable
from gateway.model import ApprovalRequest, Decision
from gateway.testing import result_of
from tests.app.faults import Lines
from tests.app.harness import Client, Gate

UI: dict[str, Any] = {"client": "openclaw-control-ui", "display_name": "Ann"}
GIT = {"pattern": "/usr/bin/git"}


def put(gate: Gate, **file: Any) -> dict[str, Any]:
    """Replace the policy as an admin does; return the new snapshot."""
    admin = gate.client(client="admin")
    base = admin.ok("exec.approvals.get")["hash"]
    params = {"file": {"version": 1, **file}, "baseHash": base}
    snapshot: dict[str, Any] = admin.ok("exec.approvals.set", params)
    admin.leave()
    return snapshot


def main(*entries: Any, **values: Any) -> dict[str, Any]:
    """Return the agents of a policy in which main has a list."""
    return {"main": {"allowlist": list(entries), **values}}


def asked(gate: Gate, command: str = "/usr/bin/git status", **what: Any) -> Any:
    """Let the run r1 ask; its command is certain unless told otherwise."""
    request = ApprovalRequest(**{"command": command, "certain": True, **what})
    return gate.live("r1").sink.ask(request)


@pytest.fixture
def ui(gate: Gate) -> Client:
    """Return an operator's client that shows questions, and has started a run."""
    client = gate.client(**UI)
    client.send("hello")
    return client


def approvals(client: Client) -> list[dict[str, Any]]:
    """Return every event about approvals that a client was sent."""
    return [f for f in client.frames if "approval" in f["event"]] + [
        e for e in client.events("agent") if e["stream"] == "approval"
    ]


# -- what runs ask


def test_without_a_policy_everything_is_asked(gate: Gate, ui: Client) -> None:
    """As long as nobody has set a policy, each question goes to the operators."""
    answer = asked(gate)

    (event,) = ui.events("exec.approval.requested")
    ui.ok("exec.approval.resolve", {"id": event["id"], "decision": "allow-once"})
    assert result_of(answer) is Decision.ALLOW_ONCE


def test_what_the_list_names_is_not_asked(gate: Gate, ui: Client) -> None:
    """An allowed command of a run goes at once, quietly, and is in the history and the log."""
    put(gate, agents=main(GIT))
    with Lines() as lines:
        assert result_of(asked(gate)) is Decision.ALLOW_ONCE

    assert approvals(ui) == []
    (item,) = ui.ok("approval.history")["items"]
    assert (item["status"], item["resolver"]) == ("allowed", {"kind": "system", "id": "policy"})
    assert any("outcome=allow-once" in text for text in lines.texts)


@pytest.mark.parametrize(
    "what",
    [
        {"certain": False},
        {"command": "git status"},
        {"command": "/usr/bin/git status; rm x"},
        {"argv": ("/bin/rm", "x")},
        {"argv": ("/bin/rm",)},
        {"command": "", "argv": ()},
    ],
)
def test_what_is_not_certain_is_asked(gate: Gate, ui: Client, what: dict[str, Any]) -> None:
    """A title that reads like an allowed command, or words that say something else, are asked."""
    put(gate, agents=main(GIT))

    asked(gate, **what)

    assert len(ui.events("exec.approval.requested")) == 1


def test_what_is_too_long_to_be_shown_is_not_asked(gate: Gate, ui: Client) -> None:
    """Nobody is asked to allow what he can not see whole."""
    with Lines() as lines:
        assert result_of(asked(gate, "x" * MAX_QUESTION_CHARS)) is None
    assert any("it can not be shown" in text for text in lines.texts)
    assert approvals(ui) == []


def test_words_of_a_run(gate: Gate, ui: Client) -> None:
    """Words count as they are; one word alone is a line for a shell."""
    put(gate, agents=main(GIT))

    assert result_of(asked(gate, "/usr/bin/git x", argv=("/usr/bin/git", "x"))) is not None
    assert result_of(asked(gate, "/usr/bin/git x", argv=("/usr/bin/git x",))) is not None
    assert approvals(ui) == []


def test_what_is_denied_is_not_asked(gate: Gate, ui: Client) -> None:
    """A denied command is refused at once, whoever could have allowed it."""
    put(gate, agents=main(GIT, security="deny"))

    assert result_of(asked(gate)) is Decision.DENY
    assert approvals(ui) == []
    (item,) = ui.ok("approval.history")["items"]
    assert (item["status"], item["decision"], item["reason"]) == ("denied", "deny", "user")


def test_a_policy_of_another_agent_counts_for_nothing(gate: Gate, ui: Client) -> None:
    """A run is judged as its own agent."""
    put(gate, agents={"other": {"security": "full"}})

    asked(gate)

    assert len(ui.events("exec.approval.requested")) == 1


def test_a_change_counts_at_once(gate: Gate, ui: Client) -> None:
    """The question after a change is judged by the new policy."""
    put(gate, agents=main(GIT))
    assert result_of(asked(gate)) is Decision.ALLOW_ONCE
    put(gate, agents=main(security="deny"))
    assert result_of(asked(gate)) is Decision.DENY


def change_in_vain(gate: Gate) -> None:
    """Change the policy while the store says that it failed."""
    gate.store.failing["update_setting"] = StoreError("the answer was lost")
    with pytest.raises(StoreError):
        result_of(Deferred.fromCoroutine(gate.services.policies.replace(EMPTY, "any", 4)))
    gate.store.failing.clear()


def stored(gate: Gate, **file: Any) -> bytes:
    """Return the policy as the store has it."""
    put(gate, **file)
    data: bytes = result_of(gate.store.get_setting(SETTING))
    return data


def test_a_change_that_fails_and_is_stored_all_the_same(gate: Gate, ui: Client) -> None:
    """Nothing is allowed by what the store has replaced, though the gateway was told that it failed."""
    denying = stored(gate, agents=main(GIT, security="deny"))
    put(gate, agents=main(GIT))
    assert result_of(asked(gate)) is Decision.ALLOW_ONCE

    change_in_vain(gate)
    result_of(gate.store.update_setting(SETTING, lambda _: denying))

    assert result_of(asked(gate)) is Decision.DENY


def test_what_is_read_while_it_changes_is_read_again(gate: Gate, ui: Client) -> None:
    """A reading that began before a change does not bring back what was there before it."""
    denying = stored(gate, agents=main(GIT, security="deny"))
    put(gate, agents=main(GIT))
    change_in_vain(gate)
    gate.store.hanging.add("get_setting")
    answer = asked(gate)
    change_in_vain(gate)
    gate.store.held.pop()()
    result_of(gate.store.update_setting(SETTING, lambda _: denying))
    gate.store.release()

    assert result_of(answer) is Decision.DENY


def test_a_policy_outlives_the_gateway(gates: Any) -> None:
    """What was set counts after a restart."""
    gate = gates()
    put(gate, agents=main(GIT))
    again = gate.restarted()
    client = again.client(**UI)
    client.send("hello")

    assert result_of(asked(again)) is Decision.ALLOW_ONCE


@pytest.mark.parametrize("error", [StoreError("broken"), Unavailable("no store")])
def test_a_policy_that_can_not_be_read_allows_nothing(
    gate: Gate, ui: Client, error: Exception
) -> None:
    """While the store fails, a run is told that nobody could answer, and a client that it failed."""
    gate.store.failing["get_setting"] = error
    with Lines() as lines:
        assert result_of(asked(gate)) is None
    assert any("approval not asked run=r1" in text for text in lines.texts)
    gate.store.failing.clear()

    asked(gate)
    assert len(ui.events("exec.approval.requested")) == 1


def test_a_policy_that_is_damaged_allows_nothing(gate: Gate, ui: Client) -> None:
    """A stored policy that is none is said to be so; nothing is taken for it."""
    result_of(gate.store.update_setting(SETTING, lambda _: b'{"file": 5}'))

    assert result_of(asked(gate)) is None
    assert ui.refused("exec.approvals.get") == {
        "code": "UNAVAILABLE",
        "message": "the stored exec approvals can not be read",
    }


def test_a_run_that_ends_while_its_policy_is_read(gate: Gate, ui: Client) -> None:
    """A question of a run that is over by then is not asked any more."""
    gate.store.hanging.add("get_setting")
    answer = asked(gate)
    gate.runs.abort("r1", "test")
    gate.store.hanging.clear()
    for go in gate.store.held:
        go()

    assert result_of(answer) is None
    assert approvals(ui) == []


def test_a_policy_that_changes_while_it_is_read(gate: Gate, ui: Client) -> None:
    """What was stored meanwhile is not replaced by what was read before."""
    gate.store.hanging.add("get_setting")
    asked(gate)
    gate.store.hanging.clear()
    put(gate, agents=main(security="deny"))
    for go in gate.store.held:
        go()

    assert result_of(asked(gate)) is Decision.DENY


def test_a_question_that_is_taken_back(gate: Gate, ui: Client) -> None:
    """An agent that takes its question back is not answered, and nobody is left with it."""
    answer: Deferred[Any] = asked(gate)
    answer.cancel()

    with pytest.raises(CancelledError):
        result_of(answer)
    (event,) = ui.events("exec.approval.resolved")
    assert event["reason"] == "run-aborted"


# -- without an answer


@pytest.mark.parametrize(
    ("values", "decision"),
    [
        ({"security": "full", "askFallback": "full"}, Decision.ALLOW_ONCE),
        ({"security": "full", "askFallback": "deny"}, None),
        ({"askFallback": "allowlist"}, Decision.ALLOW_ONCE),
        ({"askFallback": "full"}, Decision.ALLOW_ONCE),
        ({}, None),
    ],
)
@pytest.mark.parametrize("seen", [True, False])
def test_what_goes_unanswered(
    gate: Gate, ui: Client, seen: bool, values: dict[str, Any], decision: Decision | None
) -> None:
    """A run's question without an answer ends as askFallback says, and everybody is told so."""
    put(gate, agents=main(GIT, ask="always", **values))
    if not seen:
        ui.leave()
    answer = asked(gate, timeout_s=120.0)
    gate.clock.advance(60)
    if seen:
        assert not answer.called
        gate.clock.advance(60)
        (event,) = ui.events("exec.approval.resolved")
        assert event["decision"] == (decision and decision.value)

    assert result_of(answer) is decision


@pytest.mark.parametrize("routed", [True, False])
def test_what_goes_unanswered_once_the_policy_is_another(
    gate: Gate, ui: Client, routed: bool
) -> None:
    """What the policy let go unanswered when it was asked is not let go by another policy."""
    put(gate, agents=main(ask="always", askFallback="full", security="full"))
    if not routed:
        ui.leave()
    answer = asked(gate, timeout_s=120.0)
    put(gate, agents=main(security="deny"))
    gate.clock.advance(120)

    assert result_of(answer) is None


# -- what clients ask

ASK: dict[str, Any] = {"command": "/usr/bin/git status", "timeoutMs": 5000}
ANY = {"*": {"allowlist": [GIT]}}


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_client_is_answered_by_the_policy(gate: Gate, ui: Client, protocol: int) -> None:
    """What any agent may run, or none, is answered at once; in two phases too."""
    put(gate, agents=ANY)
    client = gate.client(protocol, client="cli")

    for params in (ASK, {**ASK, "twoPhase": True}):
        assert client.ok("exec.approval.request", params)["decision"] == "allow-once"
    put(gate, defaults={"security": "deny"})
    assert client.ok("exec.approval.request", ASK)["decision"] == "deny"
    assert approvals(ui) == []
    assert approvals(client) == []


@pytest.mark.parametrize(
    ("agents", "claims", "decision"),
    [
        ({"lax": {"security": "full"}}, {"agentId": "lax"}, None),
        ({"main": {"allowlist": [GIT]}}, {"agentId": "main"}, None),
        (ANY, {"agentId": "main"}, "allow-once"),
        (ANY, {"agentId": ""}, "allow-once"),
        ({**ANY, "main": {"security": "deny"}}, {"agentId": "Main"}, "deny"),
        ({**ANY, "main": {"ask": "always"}}, {"agentId": "main"}, None),
        ({}, {"security": "full", "ask": "off"}, None),
        (ANY, {"security": "full", "ask": "off"}, "allow-once"),
        (ANY, {"ask": "always"}, None),
        (ANY, {"security": "deny"}, "deny"),
        ({}, {"resolvedPath": "/usr/bin/git"}, None),
        (ANY, {"command": "git x", "resolvedPath": "/usr/bin/git"}, "allow-once"),
        (ANY, {"command": "rm x", "resolvedPath": "/usr/bin/git"}, None),
        (ANY, {"commandArgv": ["/usr/bin/git", "status"]}, "allow-once"),
        (ANY, {"commandArgv": ["/bin/rm", "x"]}, None),
        (ANY, {"env": {}}, "allow-once"),
        (ANY, {"env": {"GIT_PAGER": "rm"}}, None),
        (ANY, {"systemRunPlan": {"argv": ["/usr/bin/git", "status"]}}, "allow-once"),
        (ANY, {"systemRunPlan": {"argv": ["/bin/rm"]}}, None),
        (ANY, {"systemRunPlan": {"argv": [5]}}, None),
        (ANY, {"systemRunPlan": {"argv": []}}, None),
        (ANY, {"systemRunPlan": {}}, None),
        (
            ANY,
            {"commandArgv": ["/usr/bin/git"], "systemRunPlan": {"argv": ["/bin/rm"]}},
            None,
        ),
    ],
)
def test_what_a_client_claims_loosens_nothing(
    gate: Gate, agents: Any, claims: dict[str, Any], decision: str | None
) -> None:
    """The agent, the security and the paths that a client names can only make the policy stricter."""
    put(gate, agents=agents)
    call = gate.client(client="cli").call("exec.approval.request", {**ASK, **claims})
    gate.client(**UI)

    assert call.payload["decision"] == decision
    if decision is None:
        assert gate.client(client="cli").ok("approval.history")["items"][0]["reason"] == "no-route"


def test_words_without_a_text(gate: Gate) -> None:
    """Words alone are judged as they are."""
    put(gate, agents=ANY)
    client = gate.client(client="cli")

    def decision(*argv: str) -> Any:
        return client.ok("exec.approval.request", {"commandArgv": list(argv)})["decision"]

    assert decision("/usr/bin/git", "a; b") == "allow-once"
    assert decision("/usr/bin/git", "a\nb") is None


# -- answers that last


def always(gate: Gate, ui: Client, *, command: str = "/bin/rm -rf 'a b'", **what: Any) -> Any:
    """Let the run ask, answer it for always, and return what the answer says."""
    answer = asked(gate, command, **what)
    asked_id = ui.events("exec.approval.requested")[-1]["id"]
    said = ui.ok("exec.approval.resolve", {"id": asked_id, "decision": "allow-always"})
    assert result_of(answer) is Decision.ALLOW_ALWAYS
    return said


def test_an_answer_for_always_lasts(gate: Gate, ui: Client) -> None:
    """It makes an entry for exactly that command, with whose answer it was, and when."""
    said = always(gate, ui)

    snapshot = ui.ok("exec.approvals.get")
    (entry,) = snapshot["file"]["agents"]["main"]["allowlist"]
    assert said == {"ok": True, "policyEntryId": entry["id"]}
    assert entry == {
        "id": entry["id"],
        "pattern": "/bin/rm",
        "commandText": "/bin/rm -rf 'a b'",
        "source": "allow-always",
    }
    grant = snapshot["grants"][entry["id"]]
    assert (grant["by"], grant["atMs"]) == ("Ann", gate.clock.now_ms())
    told = len(approvals(ui))
    assert result_of(asked(gate, "/bin/rm -rf 'a b'")) is Decision.ALLOW_ONCE
    assert len(approvals(ui)) == told
    asked(gate, "/bin/rm -rf a b")
    assert len(approvals(ui)) > told


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("changed", [{}, {"pattern": "/bin/sh"}])
def test_an_entry_that_is_changed_is_nobodys_answer(
    gate: Gate, ui: Client, protocol: int, changed: dict[str, Any]
) -> None:
    """Whose answer made an entry is told of it as long as it is what was answered."""
    always(gate, ui)
    client = gate.client(protocol, client="admin")
    snapshot = client.ok("exec.approvals.get")
    snapshot["file"]["agents"]["main"]["allowlist"][0] |= changed
    client.ok("exec.approvals.set", {"file": snapshot["file"], "baseHash": snapshot["hash"]})

    assert ("grants" in ui.ok("exec.approvals.get")) is not bool(changed)


@pytest.mark.parametrize("method", ["exec.approval.resolve", "approval.resolve"])
def test_both_methods_let_it_last(gate: Gate, ui: Client, method: str) -> None:
    """The method for approvals of any kind makes an entry as well."""
    asked(gate, "/bin/rm x")
    (event,) = ui.events("exec.approval.requested")
    kind = {"kind": "exec"} if method == "approval.resolve" else {}
    ui.ok(method, {"id": event["id"], "decision": "allow-always", **kind})

    assert list(ui.ok("exec.approvals.get")["file"]["agents"]) == ["main"]


def test_version_3_is_told_nothing_new(gate: Gate, ui: Client) -> None:
    """A client of version 3 gets the answer that its schema has; the entry is made all the same."""
    asked(gate, "/bin/rm x")
    (event,) = ui.events("exec.approval.requested")
    old = gate.client(3)
    params = {"id": event["id"], "decision": "allow-always"}

    assert old.ok("exec.approval.resolve", params) == {"ok": True}
    assert len(ui.ok("exec.approvals.get")["file"]["agents"]["main"]["allowlist"]) == 1


@pytest.mark.parametrize(
    "what",
    [
        {"command": "rm x"},
        {"command": "/bin/rm $x"},
        {"certain": False},
        {"command": "/bin/a\u200bb"},
    ],
)
def test_what_can_not_last(gate: Gate, ui: Client, what: dict[str, Any]) -> None:
    """Without a path, or where the command is not certain, the answer stays with the agent's session."""
    assert always(gate, ui, **what) == {"ok": True}
    assert not ui.ok("exec.approvals.get")["exists"]


def test_the_answer_to_a_client_is_its_own_affair(gate: Gate, ui: Client) -> None:
    """A client that asks keeps its answers itself: what it claims to be makes no entry."""
    asker = gate.client(3, client="cli")
    call = asker.call("exec.approval.request", {**ASK, "agentId": "main"})
    (row,) = ui.ok("exec.approval.list")
    said = ui.ok("exec.approval.resolve", {"id": row["id"], "decision": "allow-always"})

    assert call.payload["decision"] == "allow-always"
    assert said == {"ok": True}
    assert not ui.ok("exec.approvals.get")["exists"]


def test_an_answer_that_can_not_be_kept(gate: Gate, ui: Client) -> None:
    """Where the store fails, or the list is full, the answer counts for this time, and it is logged."""
    gate.store.failing["update_setting"] = StoreError("broken")
    with Lines() as lines:
        assert always(gate, ui) == {"ok": True}
    assert any("allow-always not kept" in text for text in lines.texts)
    gate.store.failing.clear()

    put(gate, agents=main(*({"pattern": f"/bin/a{n}"} for n in range(MAX_ENTRIES))))
    assert always(gate, ui) == {"ok": True}


# -- uses


def test_uses_are_told_at_once_and_stored_together(gate: Gate, ui: Client) -> None:
    """When an entry was last used is shown at once, written by the sweep, and does not change the hash."""
    before = put(gate, agents=main(GIT))
    asked(gate, "/usr/bin/git " + "x" * 300)
    writes = gate.store.calls.count("update_setting")
    shown = ui.ok("exec.approvals.get")
    (entry,) = shown["file"]["agents"]["main"]["allowlist"]
    assert (entry["lastUsedAt"], len(entry["lastUsedCommand"])) == (
        gate.clock.now_ms(),
        USED_CHARS,
    )
    assert entry["lastResolvedPath"] == "/usr/bin/git"
    assert shown["hash"] == before["hash"]

    policies = gate.services.policies
    assert len(policies) == 1
    assert policies.sweep(0.0) == 0
    assert policies.sweep(0.0) == 0
    assert gate.store.calls.count("update_setting") == writes + 1
    assert len(policies) == 0
    assert ui.ok("exec.approvals.get") == shown


def test_uses_that_could_not_be_stored_are_kept(gate: Gate, ui: Client) -> None:
    """A sweep while the store fails loses nothing, and one that hangs is not begun again."""
    put(gate, agents=main(GIT))
    asked(gate)
    policies = gate.services.policies
    gate.store.failing["update_setting"] = StoreError("broken")
    with Lines() as lines:
        policies.sweep(0.0)
    assert any("not stored" in text for text in lines.texts)
    assert len(policies) == 1
    gate.store.failing.clear()

    gate.store.hanging.add("update_setting")
    policies.sweep(0.0)
    asked(gate)
    policies.sweep(0.0)
    assert len(gate.store.held) == 1
    gate.store.hanging.clear()
    gate.store.held.pop()()
    policies.sweep(0.0)
    assert len(policies) == 0


def test_uses_of_entries_that_are_gone_are_dropped(gate: Gate, ui: Client) -> None:
    """With an entry goes what was known of it."""
    always(gate, ui)
    asked(gate, "/bin/rm -rf 'a b'")
    put(gate, agents=main(GIT))
    gate.services.policies.sweep(0.0)

    snapshot = ui.ok("exec.approvals.get")
    assert "grants" not in snapshot
    stored = result_of(gate.store.get_setting(SETTING))
    assert b"usage" not in stored
