"""Files inside one directory: what is found there, and every way out of it that is shut."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from gateway.workspace import DEPTH_MAX, Refused, Workspace, WorkspaceError


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret.txt").write_text("secret")
    return folder


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "root" / "sub").mkdir(parents=True)
    (tmp_path / "root" / "sub" / "a.txt").write_text("one\ntwo\nthree\n")
    return Workspace(tmp_path / "root")


def test_a_file_is_read_by_relative_and_absolute_path(workspace: Workspace) -> None:
    """A path may start at the root of the workspace, or be absolute and lie under it."""
    assert workspace.read("sub/a.txt") == b"one\ntwo\nthree\n"
    assert workspace.read("./sub//a.txt") == b"one\ntwo\nthree\n"
    assert workspace.read_text(f"{workspace.root}/sub/a.txt") == "one\ntwo\nthree\n"


def test_a_root_that_is_a_link_is_the_operators_choice(
    workspace: Workspace, tmp_path: Path
) -> None:
    """The root itself may be a symbolic link, and absolute paths may name what it leads to."""
    (tmp_path / "alias").symlink_to(workspace.root)

    assert Workspace(tmp_path / "alias").read(f"{workspace.root}/sub/a.txt").startswith(b"one")


@pytest.mark.parametrize(
    ("line", "limit", "text"),
    [
        (2, None, "two\nthree\n"),
        (None, 2, "one\ntwo\n"),
        (2, 1, "two\n"),
        (0, 1, "one\n"),
        (9, None, ""),
        (1, 0, ""),
    ],
)
def test_lines_of_a_file(
    workspace: Workspace, line: int | None, limit: int | None, text: str
) -> None:
    """``line`` and ``limit`` give a part of the text, in lines from 1."""
    assert workspace.read_text("sub/a.txt", line=line, limit=limit) == text


@pytest.mark.parametrize(
    "path",
    [
        "../outside/secret.txt",
        "sub/../../outside/secret.txt",
        "/etc/passwd",
        "link.txt",
        "folder/secret.txt",
        "sub/a.txt\0",
    ],
)
def test_no_path_leads_out(workspace: Workspace, outside: Path, path: str) -> None:
    """Neither ``..`` nor an absolute path nor a link at any component leads out of the workspace."""
    (workspace.root / "link.txt").symlink_to(outside / "secret.txt")
    (workspace.root / "folder").symlink_to(outside)

    for use in (
        workspace.read,
        lambda p: workspace.read_text(p, line=1),
        lambda p: workspace.write(p, b"changed"),
    ):
        with pytest.raises(WorkspaceError) as caught:
            use(path)
        assert caught.value.reason is Refused.OUTSIDE
    assert (outside / "secret.txt").read_text() == "secret"
    assert os.listdir(outside) == ["secret.txt"]


def test_a_root_with_a_similar_name_is_another_one(workspace: Workspace) -> None:
    """A directory whose name begins as the root's does lies outside."""
    Path(f"{workspace.root}-other").mkdir()
    Path(f"{workspace.root}-other", "a").write_text("x")

    with pytest.raises(WorkspaceError, match="outside"):
        workspace.read(f"{workspace.root}-other/a")


def test_an_exchange_for_a_link_never_shows_the_outside(
    workspace: Workspace, outside: Path
) -> None:
    """While a directory and a link take turns under one name, no read gets what is outside."""
    (outside / "a.txt").write_text("secret")
    real, link, name = (workspace.root / each for each in ("real", "link", "turn"))
    real.mkdir()
    (real / "a.txt").write_text("fine")
    link.symlink_to(outside)
    done = threading.Event()

    def exchange() -> None:
        for _ in range(300):
            for each in (real, link):
                each.rename(name)
                name.rename(each)
        done.set()

    thread = threading.Thread(target=exchange)
    thread.start()
    seen: set[bytes | Refused] = set()
    while not done.is_set():
        try:
            seen.add(workspace.read("turn/a.txt"))
        except WorkspaceError as error:
            seen.add(error.reason)
    thread.join()

    assert seen <= {b"fine", Refused.OUTSIDE, Refused.NOT_FOUND}


def test_what_is_no_file_is_not_opened(workspace: Workspace) -> None:
    """A FIFO, a socket or a directory is refused at once, to read and to write."""
    os.mkfifo(workspace.root / "fifo")
    listener = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(workspace.root)
    try:
        listener.bind("socket")
    finally:
        os.chdir(here)
        listener.close()

    for path in ("fifo", "socket", "sub", "", "sub/"):
        for use in (workspace.read, lambda p: workspace.write(p, b"x")):
            with pytest.raises(WorkspaceError) as caught:
                use(path)
            assert caught.value.reason is Refused.NOT_A_FILE


def test_sizes_are_bounded(workspace: Workspace) -> None:
    """A file over the bound is refused, to read whole, to read by lines, and to write."""
    for use in (
        lambda: workspace.read("sub/a.txt", max_bytes=5),
        lambda: workspace.read_text("sub/a.txt", line=1, max_bytes=5),
        lambda: workspace.write("b", b"123456", max_bytes=5),
    ):
        with pytest.raises(WorkspaceError) as caught:
            use()
        assert caught.value.reason is Refused.TOO_LARGE
    assert workspace.read_text("sub/a.txt", line=2, limit=1, max_bytes=5) == "two\n"


def test_text_has_to_be_text(workspace: Workspace) -> None:
    """A file that is not UTF-8 is refused as text, so that nobody writes it back mangled."""
    (workspace.root / "binary").write_bytes(b"ok\xff")

    with pytest.raises(WorkspaceError, match="not UTF-8 at byte 2"):
        workspace.read_text("binary")


def test_a_write_replaces_the_file_as_a_whole(workspace: Workspace) -> None:
    """A write makes directories, keeps the permissions of what it replaces, and leaves nothing else."""
    script = workspace.root / "sub" / "a.txt"
    script.chmod(0o750)

    workspace.write("sub/a.txt", b"new")
    workspace.write("deep/er/b.txt", b"there")

    assert (script.read_text(), script.stat().st_mode & 0o777) == ("new", 0o750)
    assert (workspace.root / "deep" / "er" / "b.txt").read_text() == "there"
    assert os.listdir(workspace.root / "sub") == ["a.txt"]
    with pytest.raises(WorkspaceError) as caught:
        workspace.write("no/such/b.txt", b"", parents=False)
    assert caught.value.reason is Refused.NOT_FOUND


def test_a_write_passes_over_what_a_crash_left(workspace: Workspace) -> None:
    """A temporary file of an earlier process with the same id is no obstacle."""
    (workspace.root / f".{os.getpid()}-0.gateway-tmp").write_text("left")

    workspace.write("b.txt", b"new")

    assert (workspace.root / "b.txt").read_text() == "new"


def test_a_write_that_fails_leaves_the_old_file(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk fails in the middle, the old content stays and no other file does."""

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WorkspaceError, match="No space left") as caught:
        workspace.write("sub/a.txt", b"new")

    assert caught.value.reason is Refused.FAILED
    assert os.listdir(workspace.root / "sub") == ["a.txt"]
    assert workspace.read("sub/a.txt").startswith(b"one")


def test_entries_and_what_they_are(workspace: Workspace) -> None:
    """A directory lists names, kinds and sizes, links unfollowed; the list is bounded."""
    (workspace.root / "link").symlink_to("/etc")
    os.mkfifo(workspace.root / "fifo")

    entries = {entry.name: (entry.kind, entry.size) for entry in workspace.entries("sub")}
    kinds = [(entry.name, entry.kind) for entry in workspace.entries()]

    assert entries == {"a.txt": ("file", 14)}
    assert kinds == [("fifo", "other"), ("link", "link"), ("sub", "directory")]
    assert len(workspace.entries(limit=2)) == 2
    assert workspace.stat("sub/a.txt").size == 14
    assert workspace.stat("link").kind == "link"
    assert workspace.stat("").kind == "directory"


def test_what_is_not_there_is_said(workspace: Workspace, tmp_path: Path) -> None:
    """A name that is missing, or that no file can have, is refused with a reason."""
    for use in (workspace.read, workspace.stat, workspace.entries):
        with pytest.raises(WorkspaceError) as caught:
            use("nope")
        assert caught.value.reason is Refused.NOT_FOUND
    with pytest.raises(WorkspaceError, match="File name too long"):
        workspace.read("x" * 300)
    with pytest.raises(WorkspaceError, match="not a name"):
        workspace.read("\ud800")
    with pytest.raises(WorkspaceError, match="too many directories"):
        workspace.read("a/" * DEPTH_MAX + "a")
    with pytest.raises(WorkspaceError, match="a directory of it is none"):
        workspace.read("sub/a.txt/b")
    Workspace(tmp_path / "made" / "later").write("a", b"x")
    assert (tmp_path / "made" / "later" / "a").read_text() == "x"


def test_a_subdirectory_by_its_absolute_path(workspace: Workspace) -> None:
    """A directory of the workspace is named absolutely; a link or a file is none."""
    (workspace.root / "link").symlink_to("/etc")

    assert workspace.subdirectory(None) == str(workspace.root)
    assert workspace.subdirectory("sub") == f"{workspace.root}/sub"
    for path in ("link", "sub/a.txt", "../x"):
        with pytest.raises(WorkspaceError) as caught:
            workspace.subdirectory(path)
        assert caught.value.reason is Refused.OUTSIDE
