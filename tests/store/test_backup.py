"""gateway.store.backup: written, verified, put back, without a running gateway."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from gateway.errors import StoreError
from gateway.store import backup, sqlite
from gateway.store.store import SQLStore
from gateway.store.tables import REVISIONS, SCHEMA_REVISION
from gateway.testing import result_of

from .harness import a_message, inline_store
from .test_upgrade import leave_behind


@pytest.fixture
def database(tmp_path: Path) -> str:
    """Return the path of a database, in a directory of its own."""
    directory = tmp_path / "state dir"
    directory.mkdir()
    return str(directory / "gate way 100%.db")


@pytest.fixture
def store(database: str) -> Iterator[SQLStore]:
    """Return a store on the database, with one message."""
    store = inline_store(sqlite.url_of(database))
    result_of(store.append_messages("s", [a_message("one")]))
    yield store
    result_of(store.stopService())


@pytest.fixture
def target(tmp_path: Path) -> str:
    """Return the path of a backup that is not there yet."""
    return str(tmp_path / "backup.db")


def texts(path: str) -> list[str]:
    """Return the ids of the messages in a database."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT message_id FROM messages ORDER BY seq")
        return [message_id for (message_id,) in rows]


def names(path: str) -> list[str]:
    """Return what lies in the directory of a file."""
    return sorted(os.listdir(os.path.dirname(path)))


def refused(call: Callable[[], object]) -> str:
    """Return the line with which something is refused."""
    with pytest.raises(StoreError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line
    return line


class TestWrite:
    """Backups of a database in use."""

    def test_what_was_committed_is_in_it(self, store: SQLStore, database: str, target: str) -> None:
        """A backup of a database in use is one private file with all that was committed."""
        backup.write(database, target)
        result_of(store.append_messages("s", [a_message("two")]))

        assert texts(target) == ["m one"]
        assert os.stat(target).st_mode & 0o777 == 0o600
        assert names(target) == ["backup.db", "state dir"]
        assert backup.verify(target) == backup.Verified(SCHEMA_REVISION, os.path.getsize(target))

    def test_older_backup_is_replaced(self, store: SQLStore, database: str, target: str) -> None:
        """A second backup under the name of the first takes its place."""
        backup.write(database, target)
        result_of(store.append_messages("s", [a_message("two")]))

        backup.write(database, target)

        assert texts(target) == ["m one", "m two"]

    def test_writers_during_a_backup(self, store: SQLStore, database: str, target: str) -> None:
        """What is written while a backup goes on is stored, and is not in the backup."""
        result_of(store.append_messages("s", [a_message("x" * 3_000_000)]))
        written: list[int] = []

        def meanwhile() -> bool:
            (message,) = result_of(store.append_messages("s", [a_message("late")]))
            written.append(message.seq)
            return False

        backup.write(database, target, unwanted=meanwhile)

        assert len(written) >= 3
        assert len(texts(target)) == 2
        assert len(texts(database)) == 2 + len(written)
        assert backup.verify(target).revision == SCHEMA_REVISION

    def test_large_backups_are_synced_as_they_grow(
        self, store: SQLStore, database: str, target: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A copy is synced in parts, so that its end does not hold up everybody's disk."""
        result_of(store.append_messages("s", [a_message("x" * 5_000_000)]))
        synced: list[int] = []
        real = os.fsync

        def fsync(descriptor: int) -> None:
            synced.append(descriptor)
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(sqlite, "COPY_SYNC_PAGES", 512)

        backup.write(database, target)

        assert len(synced) >= 4

    def test_given_up(self, store: SQLStore, database: str, target: str) -> None:
        """A backup that is not wanted any more leaves nothing, and an older one as it was."""
        backup.write(database, target)
        before = Path(target).read_bytes()

        line = refused(lambda: backup.write(database, target, unwanted=lambda: True))

        assert line == f"backup {target}: given up"
        assert Path(target).read_bytes() == before
        assert names(target) == ["backup.db", "state dir"]

    def test_leftovers_are_removed(self, store: SQLStore, database: str, target: str) -> None:
        """What a backup left behind that was killed does not matter, whatever it points to."""
        elsewhere = Path(f"{target}.elsewhere")
        elsewhere.write_text("not to be touched")
        os.symlink(elsewhere, f"{target}.partial")

        backup.write(database, target)

        assert elsewhere.read_text() == "not to be touched"
        assert texts(target) == ["m one"]

    def test_nothing_else_is_replaced(
        self, store: SQLStore, database: str, target: str, tmp_path: Path
    ) -> None:
        """A file that is no backup, a link and a directory stay what they are."""
        Path(target).write_text("token " * 100)
        link = tmp_path / "link"
        link.symlink_to(tmp_path / "nowhere")

        for path in (target, str(link), str(tmp_path)):
            line = refused(partial(backup.write, database, path))
            assert line == f"backup {path}: there is something else, which is no backup"
        assert Path(target).read_text() == "token " * 100

    @pytest.mark.parametrize("end", ["", "-wal", "-shm"])
    def test_the_database_itself_is_not_replaced(
        self, store: SQLStore, database: str, end: str
    ) -> None:
        """A database, or a file of it, is no place for its backup; its locks stay what they are."""
        assert os.path.exists(database + end)

        line = refused(lambda: backup.write(database, database + end))

        assert line == f"backup {database}{end}: that is the database itself"
        result_of(store.append_messages("s", [a_message("two")]))
        assert texts(database) == ["m one", "m two"]

    def test_missing_places(self, store: SQLStore, database: str, tmp_path: Path) -> None:
        """A directory or a database that is not there is said in one line, and nothing is made."""
        nowhere = str(tmp_path / "missing" / "backup.db")
        target = str(tmp_path / "backup.db")

        assert refused(lambda: backup.write(database, nowhere)) == (
            f"backup {nowhere}: No such file or directory"
        )
        assert refused(lambda: backup.write(nowhere, target)) == (
            f"backup {target}: the database can not be opened (unable to open database file)"
        )
        assert names(target) == ["state dir"]


class TestSave:
    """Written and checked before it has its name."""

    def test_checked_copy(self, store: SQLStore, database: str, target: str) -> None:
        """A backup of a database in use is what verify() says of it, private, and alone."""
        saved = backup.save(database, target)

        assert saved == backup.verify(target)
        assert saved.revision == SCHEMA_REVISION
        assert os.stat(target).st_mode & 0o777 == 0o600
        assert texts(target) == ["m one"]
        assert not os.path.exists(f"{target}.unchecked")

    def test_damaged_database_keeps_the_last_good_backup(
        self, store: SQLStore, database: str, target: str
    ) -> None:
        """Where the database is damaged, the backup from before stays, and nothing else is left."""
        backup.save(database, target)
        result_of(store.stopService())
        with open(database, "r+b") as stream:
            stream.seek(8192)
            stream.write(b"\xa5" * 4096)
        before = Path(target).read_bytes()

        line = refused(lambda: backup.save(database, target))

        assert line.startswith(f"backup {target}: ")
        assert "damaged" in line
        assert Path(target).read_bytes() == before
        assert names(target) == sorted([os.path.basename(target), "state dir"])

    def test_no_database(self, database: str, target: str) -> None:
        """Nothing is made of nothing."""
        line = refused(lambda: backup.save(database, target))

        assert line == f"backup {target}: there is no database {database}"
        assert not os.path.exists(database)

    def test_something_else(self, store: SQLStore, database: str, target: str) -> None:
        """What is no backup, the database itself included, is not replaced."""
        Path(target).write_text("dear")

        assert "no backup" in refused(lambda: backup.save(database, target))
        assert "the database itself" in refused(lambda: backup.save(database, database))


class TestVerify:
    """Files that are backups, and files that are not."""

    @pytest.mark.parametrize("revision", REVISIONS[:-1])
    def test_older_revisions_are_sound(self, target: str, revision: str) -> None:
        """The backup of an older gateway is sound: a start upgrades it."""
        leave_behind(revision, target)

        assert backup.verify(target).revision == revision

    @pytest.mark.parametrize(
        ("statement", "line"),
        [
            ("PRAGMA application_id=7", "it is no database of a gateway"),
            (
                "UPDATE alembic_version SET version_num = '0999'",
                "it was written by a newer gateway (revision 0999)",
            ),
            ("DELETE FROM alembic_version", "it was written by a newer gateway (revision None)"),
            (
                "INSERT INTO device_tokens VALUES ('x', 'nobody', 'node', '[]', 1, NULL)",
                "it is damaged: rows refer to rows that do not exist",
            ),
        ],
    )
    def test_not_ours(self, target: str, statement: str, line: str) -> None:
        """A database of another program, of a newer gateway, or with loose ends is refused."""
        leave_behind("0001", target)
        with closing(sqlite3.connect(target)) as connection:
            connection.execute(statement)
            connection.commit()

        assert refused(lambda: backup.verify(target)) == f"{target}: {line}"

    def test_no_database(self, target: str) -> None:
        """A file that is no database, and one that is not there, are refused."""
        assert refused(lambda: backup.verify(target)) == (
            f"{target}: the database can not be opened (unable to open database file)"
        )
        Path(target).write_text("port = 18789\n" * 100)
        assert refused(lambda: backup.verify(target)) == (
            f"{target}: the database is damaged (file is not a database)"
        )

    def test_damage_is_found(self, target: str) -> None:
        """One page that is not what it was is found."""
        leave_behind("0001", target)
        with open(target, "r+b") as stream:
            stream.seek(4096 * 3)
            stream.write(b"\xa5" * 4096)

        line = refused(lambda: backup.verify(target))

        assert line.startswith((f"{target}: it is damaged: ", f"{target}: the database is damaged"))


class TestRestore:
    """Backups that are put back."""

    @pytest.fixture
    def saved(self, store: SQLStore, database: str, target: str) -> str:
        """Write a backup, and one message after it; stop the store."""
        backup.write(database, target)
        result_of(store.append_messages("s", [a_message("two")]))
        result_of(store.stopService())
        return target

    def test_put_back(self, saved: str, database: str) -> None:
        """The backup's content is the database's, the old one is kept, and a store opens it."""
        restored = backup.restore(saved, database)

        assert restored == backup.Restored(SCHEMA_REVISION, f"{database}.before-restore")
        assert texts(database) == ["m one"]
        assert texts(f"{database}.before-restore") == ["m one", "m two"]
        assert texts(saved) == ["m one"]
        assert os.stat(database).st_mode & 0o777 == 0o600
        store = inline_store(sqlite.url_of(database))
        assert result_of(store.append_messages("s", [a_message("three")]))[0].seq == 2
        result_of(store.stopService())
        assert len(names(database)) == 2

    def test_older_kept_ones_stay(self, saved: str, database: str) -> None:
        """A second restore keeps what it replaces under another name than the first."""
        backup.restore(saved, database)

        assert backup.restore(saved, database).kept == f"{database}.before-restore.2"
        assert texts(f"{database}.before-restore") == ["m one", "m two"]

    def test_kept_under_a_mark(self, saved: str, database: str) -> None:
        """What is replaced is kept under a name with the caller's mark."""
        kept = backup.restore(saved, database, mark="-20231114").kept

        assert kept == f"{database}.before-restore-20231114"
        assert texts(kept) == ["m one", "m two"]

    def test_where_nothing_was(self, saved: str, database: str) -> None:
        """Without a database, as on a new machine, nothing is kept."""
        os.unlink(database)

        assert backup.restore(saved, database).kept is None
        assert names(database) == [os.path.basename(database)]
        assert texts(database) == ["m one"]

    def test_log_of_a_killed_gateway(
        self, store: SQLStore, database: str, target: str, tmp_path: Path
    ) -> None:
        """What a killed gateway left in its log is in the database that is kept."""
        backup.write(database, target)
        result_of(store.append_messages("s", [a_message("two")]))
        killed = str(tmp_path / "killed.db")
        for end in ("", "-wal"):
            shutil.copy(database + end, killed + end)

        kept = backup.restore(target, killed).kept

        assert kept is not None
        assert texts(kept) == ["m one", "m two"]
        assert texts(killed) == ["m one"]
        assert not os.path.exists(f"{killed}-wal")

    def test_stray_log_is_not_applied(self, saved: str, database: str, tmp_path: Path) -> None:
        """A log that lies where no database is belongs to something else: it is set aside."""
        os.unlink(database)
        Path(f"{database}-wal").write_bytes(b"stray")
        Path(f"{database}-journal").write_bytes(b"stray too")

        assert backup.restore(saved, database).kept is None

        kept = f"{database}.before-restore"
        assert Path(f"{kept}-wal").read_bytes() == b"stray"
        assert Path(f"{kept}-journal").read_bytes() == b"stray too"
        assert texts(database) == ["m one"]

    def test_damaged_database_is_replaced(self, saved: str, database: str) -> None:
        """A database that can not be read any more is kept as it is; nothing of it is applied."""
        Path(database).write_bytes(b"\xa5" * 8192)
        Path(f"{database}-wal").write_bytes(b"its log")

        kept = backup.restore(saved, database).kept

        assert kept is not None
        assert Path(kept).read_bytes() == b"\xa5" * 8192
        assert texts(database) == ["m one"]
        assert not os.path.exists(f"{database}-wal")

    def test_database_in_use(self, store: SQLStore, database: str, target: str) -> None:
        """A database that somebody has open is not replaced under their feet."""
        backup.write(database, target)
        result_of(store.append_messages("s", [a_message("two")]))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sqlite, "BUSY_TIMEOUT_MS", 50)
            line = refused(lambda: backup.restore(target, database))

        assert line == (
            f"restore {database}: another program has locked the database (database is locked)"
        )
        assert result_of(store.append_messages("s", [a_message("three")]))[0].seq == 3
        assert texts(database) == ["m one", "m two", "m three"]
        assert not os.path.exists(f"{database}.restoring")

    def test_bad_backup_changes_nothing(self, saved: str, database: str) -> None:
        """A backup that is not sound is refused before anything is touched."""
        with open(saved, "r+b") as stream:
            stream.seek(4096)
            stream.write(b"\xa5" * 4096)
        before = names(database)

        line = refused(lambda: backup.restore(saved, database))

        assert line.startswith(f"restore {database}: {saved}: ")
        assert "damaged" in line
        assert names(database) == before
        assert texts(database) == ["m one", "m two"]

    def test_missing_backup(self, database: str, store: SQLStore, target: str) -> None:
        """A backup that is not there is named."""
        assert refused(lambda: backup.restore(target, database)) == (
            f"restore {database}: {target}:"
            " the database can not be opened (unable to open database file)"
        )

    def test_database_is_no_backup_of_itself(self, saved: str, database: str) -> None:
        """A database can not be put in its own place."""
        line = refused(lambda: backup.restore(database, database))

        assert line == f"restore {database}: the backup is the database itself"

    def test_replaced_whole_or_not_at_all(
        self, saved: str, database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Until the one step that replaces it, the database is there, and stays when that fails."""

        def no_replace(source: str, target: str) -> None:
            if target == database:
                assert texts(database) == ["m one", "m two"]
                raise OSError(28, "No space left on device")
            real(source, target)

        real = os.replace
        monkeypatch.setattr(os, "replace", no_replace)

        line = refused(lambda: backup.restore(saved, database))

        assert line == f"restore {database}: No space left on device"
        assert texts(database) == ["m one", "m two"]
        assert not os.path.exists(f"{database}.restoring")
