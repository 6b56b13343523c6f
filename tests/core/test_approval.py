"""The record of an approval: one end, who may see it, and texts in which nothing is hidden."""

from __future__ import annotations

import unicodedata
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.approval import (
    ALL_DECISIONS,
    ONCE_OR_NOT,
    Approval,
    ApprovalState,
    Asker,
    Question,
    Reason,
    Verdict,
    Viewer,
    by_prefix,
    visible_question,
    visible_text,
)
from gateway.model import Decision

RUN = Asker(actor="run:r1")
REASONS = [reason for reason in Reason if reason is not Reason.USER]


def approval(asker: Asker = RUN, **asked: Any) -> Approval:
    """Return a pending approval."""
    return Approval(
        id="a1",
        question=Question(command="ls", **asked),
        asker=asker,
        created_at_ms=1000,
        expires_at_ms=2000,
        deadline=1.0,
    )


def viewer(conn_id: str = "c", protocol: int = 4, **who: Any) -> Viewer:
    """Return an operator."""
    facts = {"device_id": None, "client_id": "cli", **who}
    return Viewer(conn_id=conn_id, protocol=protocol, **facts)


step = st.one_of(
    st.sampled_from(ALL_DECISIONS).map(lambda decision: ("resolve", decision)),
    st.sampled_from(REASONS).map(lambda reason: ("end", reason)),
    st.floats(0, 9).map(lambda deadline: ("extend", deadline)),
)


@given(st.lists(step), st.sampled_from([ALL_DECISIONS, ONCE_OR_NOT]))
def test_one_end(steps: list[tuple[str, Any]], decisions: tuple[Decision, ...]) -> None:
    """Whatever is tried in whatever order, the first end stays, and only an answer is a decision."""
    subject = approval(decisions=decisions)
    end: tuple[Any, ...] | None = None
    for now_ms, (what, value) in enumerate(steps):
        before = (subject.deadline, subject.expires_at_ms)
        if what == "extend":
            subject.extend(deadline=value, expires_at_ms=9000)
            assert subject.deadline >= before[0]
            assert end is None or (subject.deadline, subject.expires_at_ms) == before
        elif what == "end":
            assert subject.end(value, now_ms) is (end is None)
            end = end or (None, value, now_ms)
        else:
            verdict = subject.resolve(value, by="Ann", resolver="d1", now_ms=now_ms)
            if end is not None:
                same = end[0] is value
                assert verdict is (Verdict.REPEATED if same else Verdict.CONFLICT)
            elif value in decisions:
                assert verdict is Verdict.APPLIED
                end = (value, Reason.USER, now_ms)
            else:
                assert verdict is Verdict.NOT_ALLOWED
        assert subject.pending is (end is None)
        if end is not None:
            assert (subject.decision, subject.reason, subject.resolved_at_ms) == end
            assert (subject.resolved_by == "Ann") is (end[1] is Reason.USER)


def test_the_state_says_how_it_ended() -> None:
    """Every reason has its state."""
    states = {}
    for reason in Reason:
        subject = approval()
        subject.end(reason, 5)
        states[reason.value] = subject.state
    assert states == {
        "user": ApprovalState.DECIDED,
        "policy": ApprovalState.DECIDED,
        "timeout": ApprovalState.EXPIRED,
        "no-route": ApprovalState.NO_ROUTE,
        "run-aborted": ApprovalState.WITHDRAWN,
        "gateway-restart": ApprovalState.WITHDRAWN,
    }


def test_who_sees_it() -> None:
    """What a version 4 client asks is for admins, its device, its connection and whom it names."""
    asker = Asker(
        actor="d1", conn_id="own", device_id="d1", protocol=4, reviewers=frozenset({"d2"})
    )
    private, shared = approval(asker), approval()
    cases = [
        (viewer("own"), True),
        (viewer(device_id="d1"), True),
        (viewer(device_id="d2"), True),
        (viewer(device_id="d3"), False),
        (viewer(admin=True), True),
        (viewer(), False),
        (viewer(protocol=3), False),
    ]
    for who, sees in cases:
        assert private.visible_to(who) is sees, who
        assert shared.visible_to(who)


def test_who_is_told() -> None:
    """Version 3 tells all, version 4 those whose client shows questions, and not who asks."""
    asked_by_3 = approval(Asker(actor="x", conn_id="own", protocol=3))
    asked_by_4 = approval(Asker(actor="x", conn_id="own", protocol=4))
    assert asked_by_3.reaches(viewer("own", 3))
    assert not asked_by_4.reaches(viewer("own", client_id="openclaw-control-ui", admin=True))
    for client in ("openclaw-control-ui", "openclaw-macos", "openclaw-ios", "openclaw-android"):
        assert approval().reaches(viewer(client_id=client))
    for caps in ({"approvals"}, {"exec-approvals"}):
        assert approval().reaches(viewer(caps=frozenset(caps)))
    assert not approval().reaches(viewer(admin=True, caps=frozenset({"plugin-approvals"})))
    assert not asked_by_4.reaches(viewer(caps=frozenset({"approvals"})))


BLANK = "\u034f\u115f\u1160\u17b4\u180b\u2800\u3164\ufe00\uffa0\U000e0100"


@given(
    st.text(st.characters(exclude_characters="\ufe0e\ufe0f") | st.sampled_from(BLANK), max_size=50)
)
def test_nothing_is_hidden(text: str) -> None:
    """A shown text has no character that is not seen, and every other character as it is."""
    shown = visible_text(text)
    shown.encode()
    hidden = {"Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"}
    assert not [c for c in shown if unicodedata.category(c) in hidden and c not in "\n\t"]
    assert not [c for c in shown if c in BLANK]
    plain = "".join(c for c in text if unicodedata.category(c) not in hidden and c not in BLANK)
    remaining = iter(shown)
    assert all(c in remaining for c in plain)


def test_signs_keep_their_style() -> None:
    """What says how a sign is drawn is seen there, and nowhere else."""
    assert visible_text("rm \u2764\ufe0f git\ufe0f") == "rm \u2764\ufe0f git\\u{FE0F}"
    assert visible_text("\ufe0fx") == "\\u{FE0F}x"


def test_what_turns_text_around_is_shown() -> None:
    """A command that would read as another one is shown with what makes it do so."""
    assert visible_text("rm \u202etxt.a\x1b[2K\n\u00e9") == "rm \\u{202E}txt.a\\u{1B}[2K\n\u00e9"


def test_a_question_that_can_be_shown() -> None:
    """All its texts are visible; names by which things are found stay as they are."""
    question = visible_question(
        Question(command=" \t", argv=("a\u200b",), cwd="/\x00", run_id="r\u200b", host=None)
    )
    assert question.command == "(no command)"
    assert question.argv == ("a\\u{200B}",)
    assert (question.cwd, question.run_id, question.host) == ("/\\u{0}", "r\u200b", None)
    assert visible_question(Question(command="ls\n-l")).command == "ls\n-l"


def test_the_size_counts_every_text() -> None:
    """The size is that of all texts together, an argument counting one more."""
    question = Question(command="abc", argv=("d", ""), cwd="ef", run_id="g")
    assert question.size == 3 + 1 + 2 + 2 + 1


def test_ids_by_their_beginning() -> None:
    """A whole id is itself, also where others begin with it."""
    ids = ["ab", "abc", "abd", "x"]
    assert by_prefix(ids, "ab") == ["ab"]
    assert by_prefix(ids, "abc") == ["abc"]
    assert by_prefix(ids, "a") == ["ab", "abc", "abd"]
    assert by_prefix(ids, "y") == []
