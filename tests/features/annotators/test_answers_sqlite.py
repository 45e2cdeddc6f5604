from __future__ import annotations

import dataclasses
import pathlib
import signal
import sqlite3
import subprocess
import sys
import threading

import pytest

from features.annotators.answers import SqliteAnswers
from features.annotators.protocol import Usage
from features.errors import InvalidInput, Transient
from tests.features.annotators.answer_stores import ANSWER, ONE, stored

VERSION_1 = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, attribute TEXT NOT NULL, value TEXT NOT NULL, probability REAL, rationale TEXT NOT NULL,
    input_tokens INTEGER NOT NULL, cached_input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
    cost_usd REAL NOT NULL, answered_at REAL NOT NULL, source TEXT NOT NULL, model TEXT NOT NULL, prompt TEXT NOT NULL,
    parameters TEXT NOT NULL, video_id TEXT NOT NULL, content_key TEXT NOT NULL, definition_hash TEXT NOT NULL
) WITHOUT ROWID
"""
PUT_1 = """
INSERT INTO answers (key, attribute, value, probability, rationale, input_tokens, cached_input_tokens, output_tokens, cost_usd,
    answered_at, source, model, prompt, parameters, video_id, content_key, definition_hash)
VALUES (?, 'calm', 'true', 0.75, 'slow waves', 900, 800, 12, 0.001, 1764000000.5, 'llm', 'model-1', 'prompt-1', 'temperature=0',
    'v1', 'content', 'definition') ON CONFLICT (key) DO NOTHING
"""


def version_1(path: pathlib.Path, rows: int = 3) -> sqlite3.Connection:
    """A store as the first version made it."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN")
    connection.execute(VERSION_1)
    connection.execute("PRAGMA application_id = 1986098292")
    connection.execute("PRAGMA user_version = 1")
    connection.executemany(PUT_1, [(f"old-{number}",) for number in range(rows)])
    connection.execute("COMMIT")
    return connection


def version(path: pathlib.Path) -> int:
    with sqlite3.connect(path) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def test_a_store_of_the_first_version_is_brought_up_to_date(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "answers.sqlite"
    older = version_1(path)
    store = SqliteAnswers(str(path))
    old = dataclasses.replace(ANSWER, moments=(), model="")
    assert store.get_many(["old-0"]) == {"old-0": dataclasses.replace(old, reused=True)} and version(path) == 2
    assert next(store.rows()) == stored("old-0", old)
    store.put_many([stored("new")], {"run": ONE})
    older.execute(PUT_1, ("late",))  # a process of the older version that still runs
    assert len(store) == 5 and store.get_many(["late", "new"]).keys() == {"late", "new"} and store.spent("run") == ONE


def test_many_bring_it_up_to_date_at_the_same_moment(repo_root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "answers.sqlite"
    version_1(path).close()
    script = """
import sys
from features.annotators.answers_sqlite import SqliteAnswers
print("ready", flush=True)
sys.stdin.readline()
assert len(SqliteAnswers(sys.argv[1])) == 3
"""
    children = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(path)],
            cwd=repo_root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for child in children:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    for child in children:
        _, problems = child.communicate()
        assert child.returncode == 0, problems
    assert version(path) == 2


@pytest.mark.parametrize("statements", range(1, 7))
def test_killed_while_it_is_brought_up_to_date(repo_root: pathlib.Path, tmp_path: pathlib.Path, statements: int) -> None:
    """Either version is left, whole; the next one goes on from there."""
    path = tmp_path / "answers.sqlite"
    version_1(path).close()
    script = """
import os, signal, sqlite3, sys
from features.annotators import answers_sqlite
left = int(sys.argv[2])
class Dying(sqlite3.Connection):
    def execute(self, statement, *values):
        global left
        if statement.startswith(("ALTER", "CREATE", "PRAGMA user_version =", "COMMIT")) and self.changing:
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
        self.changing = statement.startswith("BEGIN IMMEDIATE") or self.changing
        return super().execute(statement, *values)
    changing = False
connect = sqlite3.connect
sqlite3.connect = lambda *values, **options: connect(*values, factory=Dying, **options)
answers_sqlite.SqliteAnswers(sys.argv[1]).get_many(["a"])
"""
    child = subprocess.run([sys.executable, "-c", script, str(path), str(statements)], cwd=repo_root)
    assert child.returncode == -signal.SIGKILL
    assert version(path) == 1
    store = SqliteAnswers(str(path))
    assert len(store) == 3 and version(path) == 2


def test_a_locked_store_is_worth_another_try(tmp_path: pathlib.Path) -> None:
    """Fault 13 of the answers store: another process holds it."""
    store = SqliteAnswers(str(tmp_path / "answers.sqlite"), busy_timeout_s=0.05)
    store.put(stored("a"))
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Transient, match=r"locked the answers for 0\.05 s; try again"):
        store.put_many([stored("b")], {"run": ONE})
    assert set(store.get_many(["a", "b"])) == {"a"}, "reading goes on"
    other.execute("ROLLBACK")
    assert store.spent("run") == Usage()
    store.put(stored("b"))
    assert len(store) == 2 and store.spent("run") == ONE, "what could not be noted is noted with what comes next"


def test_a_full_disk_stores_nothing_and_says_so(tmp_path: pathlib.Path) -> None:
    store = SqliteAnswers(str(tmp_path / "answers.sqlite"))
    store.put(stored("a"))
    with store._connected() as connection:  # what a quota does to this file
        connection.execute(f"PRAGMA max_page_count = {connection.execute('PRAGMA page_count').fetchone()[0]}")
    big = dataclasses.replace(ANSWER, rationale="x" * 1_000_000)
    with pytest.raises(InvalidInput, match="disk is full; free some space"):
        store.put_many([stored("b"), stored("c", big)])
    assert set(store.get_many("abc")) == {"a"}


def test_a_damaged_file_and_a_foreign_one_are_refused(tmp_path: pathlib.Path) -> None:
    damaged = tmp_path / "damaged.sqlite"
    damaged.write_bytes(b"not a database" * 1000)
    with pytest.raises(InvalidInput, match="damaged"):
        SqliteAnswers(str(damaged)).get_many(["a"])
    assert damaged.read_bytes() == b"not a database" * 1000
    foreign = sqlite3.connect(tmp_path / "foreign.sqlite")
    foreign.execute("CREATE TABLE songs (title TEXT)")
    foreign.close()
    with pytest.raises(InvalidInput, match=r"something else \(songs\)"):
        SqliteAnswers(str(tmp_path / "foreign.sqlite")).get_many(["a"])
    store = SqliteAnswers(str(tmp_path / "newer.sqlite"))
    store.put(stored("a"))
    store.close()
    newer = sqlite3.connect(store.path)
    newer.execute("PRAGMA user_version = 9")
    newer.close()
    with pytest.raises(InvalidInput, match="newer version"):
        store.get_many(["a"])


def test_a_damaged_page_is_reported_with_the_remedy(tmp_path: pathlib.Path) -> None:
    store = SqliteAnswers(str(tmp_path / "answers.sqlite"))
    store.put_many([stored(str(number), dataclasses.replace(ANSWER, rationale="x" * 500)) for number in range(200)])
    store.close()
    path = tmp_path / "answers.sqlite"
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match="move the file away to ask everything again"):
        store.get_many([str(number) for number in range(200)])


def test_a_place_that_cannot_be_written(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "answers.sqlite", tmp_path):
        with pytest.raises(InvalidInput, match="cannot be written"):
            SqliteAnswers(str(path)).put(stored("a"))


def test_a_store_that_many_make_at_the_same_moment_is_one_store(tmp_path: pathlib.Path) -> None:
    problems: list[BaseException] = []

    def look(path: str) -> None:
        try:
            SqliteAnswers(path).get_many(["a"])
        except BaseException as error:
            problems.append(error)

    for turn in range(25):
        threads = [threading.Thread(target=look, args=(str(tmp_path / f"{turn}.sqlite"),)) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert problems == []
