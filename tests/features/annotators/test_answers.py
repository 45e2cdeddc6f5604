"""What every answers store does."""

from __future__ import annotations

import dataclasses
import pathlib
import pickle
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.annotators.answers import Answers, Selection, open_answers
from features.annotators.protocol import AnnotatorIdentity, Answer, Usage
from features.errors import InvalidInput
from features.records import Moment, digest, digest_of, prefixed
from tests.features.annotators.answer_stores import ANSWER, IDENTITY, ONE, location, redis_for_all, store, stored

__all__ = ["location", "redis_for_all", "store"]  # fixtures

OTHER = dataclasses.replace(ANSWER, value="false", probability=0.1)


def test_an_answer_comes_back_as_it_was(store: Answers) -> None:
    empty = Answer("calm", "false", None, "")
    assert store.put_many([stored("a")]) == {}
    store.put_many([stored("b", empty)])
    assert store.get_many(["a", "b", "c", "a"]) == {
        "a": dataclasses.replace(ANSWER, reused=True),
        "b": dataclasses.replace(empty, reused=True),
    }
    assert store.get_many([]) == {} and len(store) == 2
    store.close()
    assert len(store) == 2, "and opens again"


def test_an_answer_never_changes(store: Answers) -> None:
    store.put_many([stored("a")])
    stands = store.put_many([stored("b"), stored("a", OTHER), stored("c"), stored("c", OTHER)])
    assert stands["a"].value == "true" and store.get_many(["a"])["a"].probability == 0.75
    assert stands["c"].value == "true" and set(stands) == {"a", "c"}, "also within a batch"
    assert store.put_many([stored("a")]) == {}, "nobody said anything else"


def test_it_says_whose_an_answer_is(store: Answers) -> None:
    learned = AnnotatorIdentity("baseline", "m", "p", "x\ny", (("definition", "golden 7"), ("other", "golden 8")))
    store.put_many([stored("a"), stored("b", identity=learned, video_id="v2", content_key="c2")])
    rows = {row.key: row for row in store.rows()}
    assert rows["a"] == stored("a")
    kept = dataclasses.replace(learned, parameters_by_definition=(("definition", "golden 7"),))
    assert rows["b"] == stored("b", identity=kept, video_id="v2", content_key="c2")
    assert kept.answer_key("c2", "definition") == learned.answer_key("c2", "definition"), "the key can be computed from the row"


keys = st.text(st.characters(exclude_categories=("Cs",)))
answers = st.dictionaries(
    keys,
    st.tuples(keys, keys, st.none() | st.floats(0, 1), st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), max_size=3)),
    max_size=12,
)


@given(rows=answers, others=st.lists(keys, max_size=5))
@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_any_keys_and_texts(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, kind: str, rows: dict[str, Any], others: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("answers")
    if kind == "redis":
        answers = open_answers(f"{request.getfixturevalue('redis_for_all').url}/0?prefix={folder.name}:")
    else:
        answers = open_answers(str(folder / "answers.sqlite"))
    given = {
        key: Answer("calm", value, probability, text, moments=tuple(Moment(*pair) for pair in moments), model=text)
        for key, (value, text, probability, moments) in rows.items()
    }
    answers.put_many([stored(key, answer) for key, answer in given.items()])
    found = answers.get_many([*others, *given])
    assert found == {key: dataclasses.replace(answer, reused=True) for key, answer in given.items()}
    assert {row.key: row.answer for row in answers.rows()} == given
    answers.close()


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
    assert (
        plain.answer_key("c", "d2")
        == learned.answer_key("c", "d2")
        == digest_of(prefixed("c") + digest("d2", "", "m", "").encode())
    )


def test_many_keys_at_once(store: Answers) -> None:
    store.put_many([stored(f"{number}") for number in range(5000)], {"run": ONE})
    assert len(store.get_many(f"{number}" for number in range(7000))) == 5000
    assert sorted(int(row.key) for row in store.rows()) == list(range(5000))
    assert store.spent("run") == ONE


def test_spend_is_noted_with_the_answers_of_a_run(store: Answers) -> None:
    store.put_many([stored("a")], {"run1": ONE})
    store.put_many([stored("b")], {"run1": ONE, "run2": Usage(1, 10, 0, 1, 0.0000005)})
    store.note_spent("run1", ONE)
    assert store.spent("run1") == Usage(3, 2700, 2400, 36, 0.003)
    assert store.spent("run2").cost_usd == 5e-7 and store.spent("run3") == Usage()
    assert list(store.stats().spent) == ["run1", "run2"]


def test_spend_of_several_writers_adds_up(location: str) -> None:
    stores = [open_answers(location) for _ in range(4)]

    def note(answers: Answers) -> None:
        for _ in range(25):
            answers.note_spent("run", ONE)

    threads = [threading.Thread(target=note, args=(answers,)) for answers in stores for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert open_answers(location).spent("run") == Usage(200, 180_000, 160_000, 2400, 0.2)
    for answers in stores:
        answers.close()


def fill(store: Answers) -> None:
    second = AnnotatorIdentity("llm", "model-2")
    store.put_many(
        [
            stored("a"),
            stored("b", dataclasses.replace(ANSWER, answered_at=1764000100.0)),
            stored("c", dataclasses.replace(ANSWER, attribute="funny", answered_at=0.0)),
            stored("d", identity=second),
        ]
    )


def test_stats_add_up_by_model_prompt_and_attribute(store: Answers) -> None:
    assert store.stats().groups == ()
    fill(store)
    groups = {(group.model, group.prompt, group.attribute): group for group in store.stats().groups}
    assert list(groups) == [("model-1", "prompt-1", "calm"), ("model-1", "prompt-1", "funny"), ("model-2", "", "calm")]
    calm = groups["model-1", "prompt-1", "calm"]
    assert (calm.answers, calm.usage, calm.since, calm.until) == (2, Usage(0, 1800, 1600, 24, 0.002), 1764000000.5, 1764000100.0)
    assert (groups["model-1", "prompt-1", "funny"].since, groups["model-1", "prompt-1", "funny"].until) == (0, 0)
    assert store.stats().size_bytes > 1000


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(), "abcd"),
        (Selection(model="model-2"), "d"),
        (Selection(attribute="calm"), "abd"),
        (Selection(before=1764000050.0), "ad"),
        (Selection("model-1", "calm", 1764000050.0), "a"),
        (Selection("model-3"), ""),
    ],
)
def test_a_selection(store: Answers, selection: Selection, expected: str) -> None:
    """Of an unknown time is not before any."""
    fill(store)
    assert sorted(row.key for row in store.rows(selection)) == list(expected)
    assert sum(group.answers for group in store.stats(selection).groups) == len(expected)


def test_deleted_answers_are_gone_and_what_they_cost_is_not(store: Answers) -> None:
    store.put_many([stored(f"{number}") for number in range(1200)], {"run": ONE})
    assert store.delete_many([*(f"{number}" for number in range(1100)), "none"]) == 1100
    assert len(store) == 100 and store.get_many(["1", "1150"]).keys() == {"1150"} and store.spent("run") == ONE
    for row in store.rows():  # while it is read
        store.delete_many([row.key])
    assert len(store) == 0


_WRITER = """
import sys
from features.annotators.answers import StoredAnswer, open_answers
from features.annotators.protocol import AnnotatorIdentity, Answer, Usage
location, name, count = sys.argv[1:]
store = open_answers(location)
for number in range(int(count)):
    answer, identity = Answer("calm", "true", 0.5, name), AnnotatorIdentity("llm", "m")
    store.put_many([StoredAnswer(f"{name}-{number}", answer, identity, "v", "c", "d")], {"run": Usage(1)})
    store.put_many([StoredAnswer(f"both-{number}", answer, identity, "v", "c", "d")], {"run": Usage(1)})
print("stored", flush=True)
sys.stdin.read()
"""


def test_several_processes_write_and_a_killed_one_loses_nothing(repo_root: pathlib.Path, location: str) -> None:
    """Faults 2 and 3: killed after the reply was stored, and before anything was closed."""
    names = ("one", "two", "three")
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, location, name, "40"],
            cwd=repo_root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    for child in children:
        assert child.stdout is not None and child.stdout.readline() == "stored\n"
        child.send_signal(signal.SIGKILL)
    for child in children:
        with child:
            assert child.wait() == -signal.SIGKILL
    store = open_answers(location)
    assert len(store) == 160 and store.spent("run").requests == 240
    last = {f"{name}-39" for name in (*names, "both")}
    assert store.get_many(last).keys() == last
    store.close()


def test_many_threads_share_one_store(store: Answers) -> None:
    def put(name: str) -> None:
        for number in range(20):
            store.put_many([stored(f"{name}{number}")], {"run": ONE})

    threads = [threading.Thread(target=put, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store) == 80 and store.spent("run").requests == 80


def test_it_travels_to_a_worker(store: Answers) -> None:
    store.put_many([stored("a")], {"run": ONE})
    copy = pickle.loads(pickle.dumps(store))
    copy.put_many([stored("b")], {"run": ONE})
    assert store.get_many(["a", "b"]).keys() == copy.get_many(["a", "b"]).keys() == {"a", "b"}
    assert store.spent("run").requests == 2 and copy == store
    copy.close()


@pytest.mark.parametrize("location", ["gs://bucket/answers", "http://127.0.0.1/", "", "  ", "a\0b", "postgres://u:secret@h/db"])
def test_a_place_that_is_no_store_is_refused(location: str) -> None:
    with pytest.raises(InvalidInput, match=r"name an sqlite file, or redis://HOST:PORT") as caught:
        open_answers(location)
    assert "secret" not in str(caught.value)


def test_the_identity_is_stored_whole(store: Answers) -> None:
    store.put_many([stored("a")])
    (row,) = store.rows()
    assert row.identity == IDENTITY and row.answer.model == "model-1-0611"
