"""The commands ``approvals`` of both generations, on the policy of a real gateway."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .clients import OpenClaw

pytestmark = [pytest.mark.interop, pytest.mark.timeout(150, func_only=True)]


def test_the_policy_is_read_changed_and_replaced(openclaw: OpenClaw, tmp_path: Path) -> None:
    """The commands show the policy, add and remove an entry, and replace it by a file."""
    done = openclaw.approvals("get", "--json")
    assert done.stdout.startswith("{"), done
    shown = json.loads(done.stdout)
    shown = shown.get("approvals", shown)
    assert shown["file"]["version"] == 1, done

    done = openclaw.approvals("allowlist", "add", "--agent", "main", "/usr/bin/uptime")
    assert done.status == 0, done
    assert "/usr/bin/uptime" in openclaw.approvals("get").stdout
    done = openclaw.approvals("allowlist", "remove", "--agent", "main", "/usr/bin/uptime")
    assert done.status == 0, done
    assert "/usr/bin/uptime" not in openclaw.approvals("get").stdout

    file = tmp_path / "policy.json"
    file.write_text(json.dumps({"version": 1, "defaults": {"security": "deny"}}))
    done = openclaw.approvals("set", "--file", str(file))
    assert done.status == 0, done
    assert "deny" in openclaw.approvals("get", "--json").stdout
