from __future__ import annotations

import asyncio
import dataclasses
import pathlib
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.annotators.answers import AnswersStore, StoredAnswer, StoredAnswers
from features.annotators.protocol import AnnotationReply, AnnotationRequest, AnnotatorIdentity, Answer, Refusal
from features.attributes.definition import AttributeDefinition
from features.errors import BudgetSpent, InvalidInput, Transient
from features.records import VideoFeatures, digest

IDENTITY = AnnotatorIdentity("llm", "model-1", "prompt-1", "temperature=0")
CALM = AttributeDefinition("calm", "Calm", "Is it calm?", "Calm is calm.")
FUNNY = AttributeDefinition("funny", "Funny", "Is it funny?", "Funny is funny.")
WARM = AttributeDefinition("warm", "Warm", "Is it warm?", "Warm is warm.")
ANSWER = Answer("calm", "true", 0.75, "slow waves", 900, 800, 12, 0.001, 1764000000.5)


def stored(key: str, answer: Answer = ANSWER) -> StoredAnswer:
    return StoredAnswer(key, answer, IDENTITY, "v1", "content", "definition")


def request(video: str, *definitions: AttributeDefinition) -> AnnotationRequest:
    return AnnotationRequest(VideoFeatures(video, "hash", "content of " + video, "extractor"), definitions)


class Asked:
    """An annotator that says true, keeps what it was asked, and first does what a test wants of it."""

    identity = IDENTITY

    def __init__(self, before: Callable[[AnnotationRequest], Coroutine[Any, Any, None]] | None = None) -> None:
        self.before = before
        self.asked: list[tuple[str, ...]] = []
        self.refused: set[str] = set()
        self.silent: set[str] = set()

    def open(self) -> None: ...

    async def annotate(self, request: AnnotationRequest) -> AnnotationReply:
        asked = tuple(definition.name for definition in request.definitions)
        self.asked.append(asked)
        if self.before is not None:
            await self.before(request)
        names = [name for name in asked if name not in self.silent]
        return AnnotationReply(
            tuple(dataclasses.replace(ANSWER, attribute=name) for name in names if name not in self.refused),
            tuple(Refusal(name, "refused", "no") for name in names if name in self.refused),
        )

    async def close(self) -> None: ...


def around(inner: Asked, path: pathlib.Path, busy_timeout_s: float = 30.0) -> StoredAnswers:
    annotator = StoredAnswers(inner, AnswersStore(str(path / "answers.sqlite"), busy_timeout_s))
    annotator.open()
    return annotator


def values(reply: AnnotationReply) -> dict[str, bool]:
    """Of each answered attribute, whether the answer was reused."""
    return {answer.attribute: answer.reused for answer in reply.answers}


# The store


def test_an_answer_comes_back_as_it_was(tmp_path: pathlib.Path) -> None:
    store = AnswersStore(str(tmp_path / "below" / "answers.sqlite"))
    empty = Answer("calm", "false", None, "")
    assert store.put(stored("a")) == dataclasses.replace(ANSWER, reused=True)
    store.put_many([stored("b", empty)])
    assert store.get_many(["a", "b", "c", "a"]) == {
        "a": dataclasses.replace(ANSWER, reused=True),
        "b": dataclasses.replace(empty, reused=True),
    }
    assert store.get_many([]) == {} and len(store) == 2
    store.close()
    assert len(store) == 2, "and opens again"


def test_an_answer_never_changes(tmp_path: pathlib.Path) -> None:
    store = AnswersStore(str(tmp_path / "answers.sqlite"))
    store.put(stored("a"))
    stands = store.put(stored("a", dataclasses.replace(ANSWER, value="false", probability=0.1)))
    assert stands.value == "true" and store.get_many(["a"])["a"].probability == 0.75


def test_it_says_whose_an_answer_is(tmp_path: pathlib.Path) -> None:
    store = AnswersStore(str(tmp_path / "answers.sqlite"))
    store.put(stored("a"))
    row = sqlite3.connect(store.path).execute("SELECT source, model, prompt, parameters, video_id, definition_hash FROM answers")
    assert row.fetchone() == ("llm", "model-1", "prompt-1", "temperature=0", "v1", "definition")


keys = st.text(st.characters(exclude_categories=("Cs",)))


@given(st.dictionaries(keys, st.tuples(keys, keys, st.none() | st.floats(0, 1)), max_size=12), st.lists(keys, max_size=5))
def test_any_keys_and_texts(tmp_path_factory: pytest.TempPathFactory, rows: dict[str, Any], others: list[str]) -> None:
    store = AnswersStore(str(tmp_path_factory.mktemp("answers") / "answers.sqlite"))
    answers = {key: Answer("calm", value, probability, text) for key, (value, text, probability) in rows.items()}
    store.put_many([stored(key, answer) for key, answer in answers.items()])
    found = store.get_many([*others, *answers])
    assert found == {key: dataclasses.replace(answer, reused=True) for key, answer in answers.items()}
    store.close()


parts = st.tuples(keys, keys, keys, keys, keys)


@given(parts, parts)
def test_different_questions_have_different_keys(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    def key(content: str, definition: str, prompt: str, model: str, parameters: str) -> str:
        return AnnotatorIdentity("llm", model, prompt, parameters).answer_key(content, definition)

    assert (key(*one) == key(*other)) == (one == other)


def test_what_only_one_definition_learned_from_is_in_no_other_key() -> None:
    plain, learned = (
        AnnotatorIdentity("baseline", "m"),
        AnnotatorIdentity("baseline", "m", parameters_by_definition=(("d1", "g1"),)),
    )
    assert plain.answer_key("c", "d1") != learned.answer_key("c", "d1")
    assert plain.answer_key("c", "d2") == learned.answer_key("c", "d2") == digest("c", "d2", "", "m", "")


def test_more_keys_than_sqlite_takes_at_once(tmp_path: pathlib.Path) -> None:
    store = AnswersStore(str(tmp_path / "answers.sqlite"))
    store.put_many([stored(str(number)) for number in range(3000)])
    assert len(store.get_many(str(number) for number in range(5000))) == 3000


_WRITER = """
import sys
from features.annotators.answers import AnswersStore, StoredAnswer
from features.annotators.protocol import AnnotatorIdentity, Answer
path, name, count = sys.argv[1:]
store = AnswersStore(path)
for number in range(int(count)):
    answer = Answer("calm", "true", 0.5, name)
    store.put(StoredAnswer(f"{name}-{number}", answer, AnnotatorIdentity("llm", "m"), "v", "c", "d"))
    store.put(StoredAnswer(f"both-{number}", answer, AnnotatorIdentity("llm", "m"), "v", "c", "d"))
print("stored", flush=True)
sys.stdin.read()
"""


def writer(repo_root: pathlib.Path, path: str, name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _WRITER, path, name, str(count)],
        cwd=repo_root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_several_processes_write_and_a_killed_one_loses_nothing(repo_root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Faults 2 and 3: killed after the reply was stored, and before anything was closed."""
    path = str(tmp_path / "answers.sqlite")
    children = [writer(repo_root, path, name, 40) for name in ("one", "two", "three")]
    for child in children:
        assert child.stdout is not None and child.stdout.readline() == "stored\n"
        child.send_signal(signal.SIGKILL)
    for child in children:
        with child:
            assert child.wait() == -signal.SIGKILL
    store = AnswersStore(path)
    assert len(store) == 160
    assert set(store.get_many([f"{name}-39" for name in ("one", "two", "three", "both")])) == {
        "one-39",
        "two-39",
        "three-39",
        "both-39",
    }


def test_many_threads_share_one_store(tmp_path: pathlib.Path) -> None:
    store = AnswersStore(str(tmp_path / "answers.sqlite"))
    threads = [
        threading.Thread(target=lambda name: [store.put(stored(f"{name}{number}")) for number in range(20)], args=(name,))
        for name in "abcd"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store) == 80


def test_a_locked_store_is_worth_another_try(tmp_path: pathlib.Path) -> None:
    """Fault 13 of the answers store: another process holds it."""
    store = AnswersStore(str(tmp_path / "answers.sqlite"), busy_timeout_s=0.05)
    store.put(stored("a"))
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Transient, match=r"locked the answers for 0\.05 s; try again"):
        store.put(stored("b"))
    assert set(store.get_many(["a", "b"])) == {"a"}, "reading goes on"
    other.execute("ROLLBACK")
    store.put(stored("b"))
    assert len(store) == 2


def test_a_full_disk_stores_nothing_and_says_so(tmp_path: pathlib.Path) -> None:
    store = AnswersStore(str(tmp_path / "answers.sqlite"))
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
        AnswersStore(str(damaged)).get_many(["a"])
    assert damaged.read_bytes() == b"not a database" * 1000
    foreign = sqlite3.connect(tmp_path / "foreign.sqlite")
    foreign.execute("CREATE TABLE songs (title TEXT)")
    foreign.close()
    with pytest.raises(InvalidInput, match=r"something else \(songs\)"):
        AnswersStore(str(tmp_path / "foreign.sqlite")).get_many(["a"])
    store = AnswersStore(str(tmp_path / "newer.sqlite"))
    store.put(stored("a"))
    store.close()
    newer = sqlite3.connect(store.path)
    newer.execute("PRAGMA user_version = 9")
    newer.close()
    with pytest.raises(InvalidInput, match="newer version"):
        store.get_many(["a"])


def test_a_damaged_page_is_reported_with_the_remedy(tmp_path: pathlib.Path) -> None:
    store = AnswersStore(str(tmp_path / "answers.sqlite"))
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
            AnswersStore(str(path)).put(stored("a"))


# The annotator around an annotator


def test_only_what_is_missing_is_asked(tmp_path: pathlib.Path) -> None:
    inner = Asked()

    async def walk() -> None:
        annotator = around(inner, tmp_path)
        assert values(await annotator.annotate(request("v", CALM, FUNNY))) == {"calm": False, "funny": False}
        assert values(await annotator.annotate(request("v", FUNNY, WARM, CALM))) == {"funny": True, "warm": False, "calm": True}
        edited = dataclasses.replace(CALM, definition="Calm is quiet.")
        assert values(await annotator.annotate(request("v", edited, FUNNY))) == {"calm": False, "funny": True}
        assert values(await annotator.annotate(request("w", CALM))) == {"calm": False}
        await annotator.close()
        again = around(inner, tmp_path)
        reply = await again.annotate(request("v", CALM))
        assert reply.answers == (dataclasses.replace(ANSWER, reused=True),), "what it cost then is kept"
        await again.close()

    asyncio.run(walk())
    assert inner.asked == [("calm", "funny"), ("warm",), ("calm",), ("calm",)]


def test_refusals_are_not_stored_and_silence_stays_pending(tmp_path: pathlib.Path) -> None:
    inner = Asked()
    inner.refused, inner.silent = {"calm"}, {"warm"}

    async def walk() -> None:
        annotator = around(inner, tmp_path)
        for _ in range(2):
            reply = await annotator.annotate(request("v", CALM, WARM, FUNNY))
            assert [refusal.attribute for refusal in reply.refusals] == ["calm"] and list(values(reply)) == ["funny"]
        assert len(annotator.store) == 1
        await annotator.close()

    asyncio.run(walk())
    assert inner.asked == [("calm", "warm", "funny"), ("calm", "warm")]


def test_answers_that_nobody_asked_for_are_dropped(tmp_path: pathlib.Path) -> None:
    """Fault 19: invented attributes in a reply."""

    class Inventive(Asked):
        async def annotate(self, request: AnnotationRequest) -> AnnotationReply:
            return AnnotationReply((ANSWER, dataclasses.replace(ANSWER, attribute="warm")), (Refusal("cold", "refused", ""),))

    async def walk() -> None:
        annotator = around(Inventive(), tmp_path)
        reply = await annotator.annotate(request("v", CALM, FUNNY))
        assert values(reply) == {"calm": False} and reply.refusals == () and len(annotator.store) == 1
        await annotator.close()

    asyncio.run(walk())


def test_concurrent_requests_for_one_key_ask_once(tmp_path: pathlib.Path) -> None:
    """Fault 1: a replayed bundle asks the same at the same time."""
    inner = Asked(lambda request: asyncio.sleep(0.01))

    async def walk() -> None:
        annotator = around(inner, tmp_path)
        replies = await asyncio.gather(
            *(annotator.annotate(request("v", CALM, FUNNY)) for _ in range(20)),
            *(annotator.annotate(request("v", FUNNY, WARM)) for _ in range(20)),
        )
        assert sum(not answer.reused for reply in replies for answer in reply.answers) == 3
        assert all(len(reply.answers) == 2 for reply in replies)
        await annotator.close()

    asyncio.run(walk())
    assert inner.asked == [("calm", "funny"), ("warm",)]


def test_whoever_waits_for_a_cancelled_request_asks_itself(tmp_path: pathlib.Path) -> None:
    """Fault 4: the deadline cancels the request, and only that one."""
    started = asyncio.Event()

    async def hang_first(request: AnnotationRequest) -> None:
        if len(inner.asked) == 1:
            started.set()
            await asyncio.Event().wait()

    inner = Asked(hang_first)

    async def walk() -> None:
        annotator = around(inner, tmp_path)
        first = asyncio.create_task(annotator.annotate(request("v", CALM)))
        await started.wait()
        second = asyncio.create_task(annotator.annotate(request("v", CALM, FUNNY)))
        await asyncio.sleep(0.01)
        first.cancel()
        assert values(await second) == {"funny": False, "calm": False}
        with pytest.raises(asyncio.CancelledError):
            await first
        await annotator.close()

    asyncio.run(walk())
    assert inner.asked == [("calm",), ("funny",), ("calm",)]


def test_an_error_reaches_the_one_who_asked(tmp_path: pathlib.Path) -> None:
    async def spent(request: AnnotationRequest) -> None:
        raise BudgetSpent("no money left")

    async def walk() -> None:
        annotator = around(Asked(spent), tmp_path)
        outcomes = await asyncio.gather(*(annotator.annotate(request("v", CALM)) for _ in range(3)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [BudgetSpent] * 3
        assert len(annotator.store) == 0
        await annotator.close()

    asyncio.run(walk())


def test_a_reply_that_cannot_be_stored_is_neither_passed_on_nor_paid_for_again(tmp_path: pathlib.Path) -> None:
    inner = Asked()

    async def walk() -> None:
        annotator = around(inner, tmp_path, busy_timeout_s=0.05)
        other = sqlite3.connect(annotator.store.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        for _ in range(2):
            with pytest.raises(Transient):
                await annotator.annotate(request("v", CALM))
        other.execute("ROLLBACK")
        assert len(annotator.store) == 0
        assert values(await annotator.annotate(request("v", CALM, FUNNY))) == {"calm": False, "funny": False}
        assert len(annotator.store) == 2
        await annotator.close()

    asyncio.run(walk())
    assert inner.asked == [("calm",), ("funny",)]


def test_a_request_cancelled_while_its_reply_is_stored_loses_nothing(tmp_path: pathlib.Path) -> None:
    inner = Asked()

    async def walk() -> None:
        annotator = around(inner, tmp_path)
        other = sqlite3.connect(annotator.store.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        task = asyncio.create_task(annotator.annotate(request("v", CALM)))
        while not annotator._unsaved:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        other.execute("ROLLBACK")
        assert values(await annotator.annotate(request("v", CALM))).keys() == {"calm"}
        await annotator.close()

    asyncio.run(walk())
    assert inner.asked == [("calm",)]


def test_a_waiting_writer_does_not_hold_up_the_event_loop(tmp_path: pathlib.Path) -> None:
    async def walk() -> None:
        annotator = around(Asked(), tmp_path)
        await annotator.annotate(request("known", CALM))
        other = sqlite3.connect(annotator.store.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(annotator.annotate(request("new", CALM)))
        await asyncio.sleep(0.01)
        assert values(await annotator.annotate(request("known", CALM))) == {"calm": True}
        assert not waiting.done()
        other.execute("ROLLBACK")
        assert values(await waiting) == {"calm": False}
        await annotator.close()

    asyncio.run(walk())


def test_it_travels_to_a_worker(tmp_path: pathlib.Path) -> None:
    async def walk() -> None:
        annotator = around(Asked(), tmp_path)
        await annotator.annotate(request("v", CALM))
        copy = StoredAnswers(Asked(), pickle.loads(pickle.dumps(annotator.store)))
        copy.open()
        assert values(await copy.annotate(request("v", CALM))) == {"calm": True}
        await copy.close()
        await annotator.close()

    asyncio.run(walk())


def test_a_store_that_many_make_at_the_same_moment_is_one_store(tmp_path: pathlib.Path) -> None:
    problems: list[BaseException] = []

    def look(path: str) -> None:
        try:
            AnswersStore(path).get_many(["a"])
        except BaseException as error:
            problems.append(error)

    for turn in range(25):
        threads = [threading.Thread(target=look, args=(str(tmp_path / f"{turn}.sqlite"),)) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert problems == []
