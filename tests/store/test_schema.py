"""gateway.store.schema and gateway.store.migrate: databases made, checked, upgraded, refused."""

from __future__ import annotations

import os
import runpy
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlalchemy.schema import CreateTable

from gateway.errors import StartError, StoreError
from gateway.store import migrate, schema, sqlite
from gateway.store.store import SQLStore
from gateway.store.tables import REVISIONS, SCHEMA_REVISION, alembic_version
from gateway.testing import FakeClock, result_of

from .harness import KEY, call_nothing, inline_store, setting


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Return the path of a database that does not exist yet, with blanks and signs in it."""
    return str(tmp_path / "gate way 100%.db")


@pytest.fixture
def engine(path: str) -> Engine:
    """Return an engine on the database."""
    return sqlite.make_engine(sqlite.parse_url(sqlite.url_of(path)))


def dump(path: str) -> list[tuple[str, str, str | None]]:
    """Return the schema as SQLite keeps it."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY type, name")
        return list(rows)


def make_base(path: str, *statements: str) -> None:
    """Make a database of ours as it is before the first migration, and run statements on it."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA application_id={sqlite.APPLICATION_ID}")
        connection.execute(str(CreateTable(alembic_version)).strip())
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def refusal(path: str) -> str:
    """Return the line with which a store refuses to open the database."""
    store = SQLStore(
        sqlite.url_of(path), clock=FakeClock(), call_from_thread=call_nothing, threads=False
    )
    with pytest.raises(StartError) as caught:
        store.open()
    line = str(caught.value)
    assert path in line
    assert "\n" not in line
    return line.replace(path, "PATH")


class TestFresh:
    """A database that does not exist yet."""

    def test_revisions_are_alembics(self) -> None:
        """The revisions known without Alembic are those that have a script, in their order."""
        assert migrate.known_revisions() == REVISIONS
        assert REVISIONS[-1] == SCHEMA_REVISION

    @pytest.mark.parametrize("revision", [None, *REVISIONS])
    def test_upgraded_equals_fresh(
        self, tmp_path: Path, path: str, engine: Engine, revision: str | None
    ) -> None:
        """A database that was upgraded from any revision has the schema of one made today."""
        upgraded = str(tmp_path / "upgraded.db")
        if revision is not None:
            migrate.upgrade(sqlite.url_of(upgraded), revision)

        migrate.upgrade(sqlite.url_of(upgraded))
        schema.prepare_file(engine, path)

        assert dump(upgraded) == dump(path)
        assert sqlite.inspect_file(upgraded) == sqlite.inspect_file(path)

    def test_made_for_its_owner_only(self, path: str, engine: Engine) -> None:
        """A new database is marked as ours, has the newest revision and is read by its owner only."""
        schema.prepare_file(engine, path)

        assert os.stat(path).st_mode & 0o777 == 0o600
        assert sqlite.inspect_file(path) == sqlite.FileState(
            application_id=sqlite.APPLICATION_ID, empty=False, revision=SCHEMA_REVISION
        )

    def test_empty_file_is_taken(self, path: str, engine: Engine) -> None:
        """An empty file, as a start that was killed may leave it, becomes a database."""
        Path(path).touch()

        schema.prepare_file(engine, path)

        assert sqlite.inspect_file(path).revision == SCHEMA_REVISION

    def test_opening_again_changes_nothing(self, path: str, engine: Engine) -> None:
        """A database of this revision is opened as it is, without a copy."""
        schema.prepare_file(engine, path)
        before = dump(path)

        schema.prepare_file(engine, path)

        assert dump(path) == before
        assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]


class TestUpgrade:
    """A database of an older gateway."""

    def test_upgrade_in_a_child(
        self, tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A database of an older revision is copied, upgraded by a child process, and opened."""
        make_base(path)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("PYTHONPATH", "/nowhere")

        store = inline_store(sqlite.url_of(path))

        assert result_of(store.update_session(KEY, setting())) is not None
        result_of(store.stopService())
        fresh = str(tmp_path / "fresh.db")
        schema.prepare_file(sqlite.make_engine(sqlite.parse_url(sqlite.url_of(fresh))), fresh)
        assert dump(path) == dump(fresh)
        copy = sqlite.inspect_file(f"{path}.before-{SCHEMA_REVISION}")
        assert (copy.application_id, copy.revision) == (sqlite.APPLICATION_ID, None)

    def test_failed_upgrade_leaves_the_file(self, path: str) -> None:
        """An upgrade that fails half-way leaves the file as it was, and says where the copy is."""
        make_base(path, "CREATE TABLE runs (n)", "INSERT INTO runs VALUES (7)")
        before = dump(path)

        line = refusal(path)

        assert line == (
            f"database PATH: the upgrade from revision none to {SCHEMA_REVISION} failed:"
            " OperationalError: table runs already exists;"
            f" the file is unchanged, a copy is PATH.before-{SCHEMA_REVISION}"
        )
        assert dump(path) == before == dump(f"{path}.before-{SCHEMA_REVISION}")

    def test_upgrade_that_takes_too_long(self, path: str, engine: Engine) -> None:
        """An upgrade that does not end in time is killed, and the file is as it was."""
        make_base(path)
        before = dump(path)

        with pytest.raises(StartError, match=r"took longer than 0\.001 s; the file is unchanged"):
            schema.prepare_file(engine, path, timeout_s=0.001)

        assert dump(path) == before

    def test_upgrade_that_does_not_arrive(self, path: str, engine: Engine) -> None:
        """An upgrade that ends at another revision than the wanted one is refused."""
        make_base(path)

        with pytest.raises(StartError, match="did not reach it"):
            schema.prepare_file(engine, path, revisions=(*REVISIONS, "9999"))


class TestRefusals:
    """What can not be opened, each with one line that names the file."""

    def test_newer(self, path: str) -> None:
        """A database of a revision that is not known is left alone."""
        make_base(path, "INSERT INTO alembic_version VALUES ('0999')")

        assert refusal(path) == "database PATH was written by a newer gateway (revision 0999)"

    def test_another_programs(self, path: str) -> None:
        """A database that is not ours is left alone."""
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE theirs (n)")
        before = Path(path).read_bytes()

        assert refusal(path) == "database PATH belongs to another program"
        assert Path(path).read_bytes() == before

    def test_another_programs_empty_one(self, path: str) -> None:
        """An empty database that carries another program's mark is left alone."""
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA application_id=7")

        assert refusal(path) == "database PATH belongs to another program"

    def test_not_a_database(self, path: str) -> None:
        """A file that is no database is left alone."""
        Path(path).write_text("port = 18789\n" * 100)

        assert refusal(path) == (
            "database PATH: the database is damaged (file is not a database);"
            " stop the gateway and put a backup in its place"
        )
        assert Path(path).read_text() == "port = 18789\n" * 100

    def test_truncated(self, path: str, engine: Engine) -> None:
        """A database that was cut short is refused, with the command that mends it."""
        schema.prepare_file(engine, path)
        os.truncate(path, 4096)

        assert refusal(path) == (
            "database PATH: the database is damaged (database disk image is malformed);"
            " stop the gateway and put a backup in its place"
        )

    def test_missing_directory(self, tmp_path: Path) -> None:
        """A database in a directory that does not exist is refused."""
        line = refusal(str(tmp_path / "missing" / "gateway.db"))

        assert line == "database PATH: its directory does not exist"

    def test_directory(self, path: str) -> None:
        """A directory where the file should be is refused."""
        os.mkdir(path)

        assert refusal(path) == (
            "database PATH: the database can not be opened (unable to open database file)"
        )

    def test_read_only(self, path: str, engine: Engine) -> None:
        """A database that can not be written is refused at the start."""
        schema.prepare_file(engine, path)
        os.chmod(path, 0o400)
        if os.access(path, os.W_OK):
            pytest.skip("whoever runs this may write everything")

        assert refusal(path) == (
            "database PATH: the database can not be written (attempt to write a readonly database)"
        )

    def test_file_that_can_not_be_made(self, tmp_path: Path) -> None:
        """A file that the system refuses to make is refused."""
        line = refusal(str(tmp_path / ("x" * 300)))

        assert line.startswith("database PATH: ")
        assert "File name too long" in line

    def test_unreadable(self, path: str) -> None:
        """A file that may not be read is refused."""
        Path(path).touch(mode=0o000)
        if os.access(path, os.R_OK):
            pytest.skip("whoever runs this may read everything")

        assert refusal(path) == (
            "database PATH: the database can not be opened (unable to open database file)"
        )

    def test_log_can_not_be_written(self, path: str) -> None:
        """A database whose log can not be made is refused."""
        os.mkdir(f"{path}-shm")

        assert refusal(path) == (
            "database PATH: the database can not be written (attempt to write a readonly database)"
        )


class TestMigrate:
    """The command that the child runs."""

    def test_silent_success(self, path: str, capsys: pytest.CaptureFixture[str]) -> None:
        """A database is upgraded without a word."""
        status = migrate.main([sqlite.url_of(path)])

        assert (status, capsys.readouterr()) == (0, ("", ""))
        assert sqlite.inspect_file(path).revision == SCHEMA_REVISION

    def test_run_as_a_program(self, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """As a program it upgrades the database of its argument, and exits with the status."""
        monkeypatch.setattr("sys.argv", ["migrate", sqlite.url_of(path)])

        with pytest.raises(SystemExit) as caught:
            runpy.run_path(migrate.__file__, run_name="__main__")

        assert caught.value.code == 0
        assert sqlite.inspect_file(path).revision == SCHEMA_REVISION

    @pytest.mark.parametrize(
        ("arguments", "status", "line"),
        [
            ([], 2, "usage: python -m gateway.store.migrate URL\n"),
            (["a", "b"], 2, "usage: python -m gateway.store.migrate URL\n"),
            (["oracle://x"], 1, "store.url names oracle; only sqlite is supported\n"),
            (
                ["sqlite:////missing/x.db"],
                1,
                "OperationalError: unable to open database file\n",
            ),
        ],
    )
    def test_one_line_for_a_failure(
        self,
        capsys: pytest.CaptureFixture[str],
        arguments: list[str],
        status: int,
        line: str,
    ) -> None:
        """A failure is one line and an exit status."""
        assert migrate.main(arguments) == status
        assert capsys.readouterr() == ("", line)

    def test_broken_references_are_refused(self, path: str) -> None:
        """An upgrade after which rows refer to nothing is rolled back."""
        make_base(
            path,
            "CREATE TABLE a (n INTEGER PRIMARY KEY)",
            "CREATE TABLE b (n REFERENCES a (n))",
            "INSERT INTO b VALUES (1)",
        )
        before = dump(path)

        with pytest.raises(StoreError, match="1 rows refer to rows that do not exist"):
            migrate.upgrade(sqlite.url_of(path))

        assert dump(path) == before
