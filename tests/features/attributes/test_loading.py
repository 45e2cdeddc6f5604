from __future__ import annotations

import pathlib
import textwrap

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from features.attributes.definition import Example
from features.attributes.loading import MAX_BYTES, load_definition, load_definitions, parse_definition, template
from features.errors import InvalidInput

GOOD = """\
name: cozy
title: Cozy
question: Is it cozy?
definition: >
  Warm and
  sheltered.
includes:
  - A fireplace
"""


def problems(text: str) -> list[str]:
    definition, found = parse_definition(textwrap.dedent(text), "p.yaml")
    assert (definition is None) == bool(found)
    return found


def problem(text: str) -> str:
    (found,) = problems(text)
    return found


def write(folder: pathlib.Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_the_six_definitions_that_come_along(repo_root: pathlib.Path) -> None:
    definitions = load_definitions(str(repo_root / "feature_repo" / "attributes"))
    assert [each.name for each in definitions] == ["authentic", "calming", "cozy", "energetic", "funny", "inspiring"]
    for each in definitions:
        assert 4 <= len(each.includes) <= 7 and 3 <= len(each.excludes) <= 6 and len(each.examples) >= 3
        assert {example.value for example in each.examples} == {"true", "false"}
        assert all(len(text) <= 120 for text in each.includes + each.excludes)
    authentic = definitions[0]
    assert "Genuine expression counts for more than the level of editing" in authentic.definition


def test_a_category_and_a_score() -> None:
    mood, _ = parse_definition(
        GOOD.replace("cozy", "mood", 1)
        + textwrap.dedent("""\
        value_type: category
        labels: [no, yes, on, 1]
        examples: [{video: A fire, value: no, reason: warm}]
        """),
        "",
    )
    assert mood is not None and mood.labels == ("no", "yes", "on", "1")
    assert mood.examples == (Example("A fire", "no", "warm"),)
    warmth, _ = parse_definition(GOOD + "value_type: score\nrange: [1, 5.5]\nserving_threshold: 1\n", "")
    assert warmth is not None and warmth.score_range == (1.0, 5.5) and warmth.serving_threshold == 1.0


@pytest.mark.parametrize(
    ("written", "meant"),
    [("true", "true"), ("True", "true"), ("yes", "true"), ('"true"', "true"), ("no", "false"), ("OFF", "false")],
)
def test_booleans_as_people_write_them(written: str, meant: str) -> None:
    definition, _ = parse_definition(GOOD + f"examples: [{{video: v, value: {written}, reason: r}}]\n", "")
    assert definition is not None and definition.examples[0].value == meant


def test_wrapping_a_paragraph_anew_asks_nobody_again() -> None:
    one, _ = parse_definition(GOOD, "")
    other, _ = parse_definition(GOOD.replace("Warm and\n  sheltered", "Warm\n  and   sheltered"), "")
    assert one is not None and other is not None and one.definition == "Warm and sheltered."
    assert one.definition_hash == other.definition_hash


def test_all_problems_come_together_each_with_its_line() -> None:
    found = problems("""\
        nam: Foo
        title: [a]
        question: huh
        value_type: bool
        labels: [a]
        serving_threshold: 1.2
        evidence: [frame, title]
        examples:
          - {video: x, value: maybe, reason: r}
          - {video: x, valu: true, reason: r}
        includes: [a, a]
        includes: [b]
        owner:
        stage: drft
        """)
    assert found == [
        "p.yaml:1: unknown key 'nam'; did you mean 'name'?",
        "p.yaml:1: name: is missing; add it",
        "p.yaml:1: definition: is missing; add it",
        "p.yaml:2: title: a list, where text is expected",
        "p.yaml:3: question: 'huh' does not end in a question mark",
        "p.yaml:4: value_type: 'bool' is not one of boolean, category, score; did you mean 'boolean'?",
        "p.yaml:5: labels: belong to a category, and this is a boolean; remove them, or set `value_type: category`",
        "p.yaml:6: serving_threshold: 1.2 is not a probability from 0 to 1",
        "p.yaml:7: evidence: 'frame' is not one of frames, title, description, hashtags, transcript, onscreen_text, tags, "
        "measurements; did you mean 'frames'?",
        "p.yaml:9: examples, number 1: value 'maybe' is neither true nor false",
        "p.yaml:10: examples, number 2: unknown key 'valu'; did you mean 'value'?",
        "p.yaml:10: examples, number 2: value is missing; add it",
        "p.yaml:11: includes: 'a' is given twice, first in line 11; keep one",
        "p.yaml:12: key 'includes' is given twice, first in line 11; keep one",
        "p.yaml:13: owner: is empty; write something, or remove the key",
        "p.yaml:14: stage: 'drft' is not one of draft, priority, distilled, full; did you mean 'draft'?",
    ]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("value_type: category\n", "labels: are missing"),
        ("value_type: category\nlabels: [one]\n", "at least two"),
        ("value_type: category\nlabels: [a, a, b]\n", "'a' is given twice"),
        ("value_type: category\nlabels: [a, '']\n", "is empty"),
        ("value_type: category\nlabels: ['a, b', c]\n", "comma"),
        ("value_type: category\nlabels: a\n", "where a list is expected"),
        (
            "value_type: category\nlabels: [cold, warm]\nexamples: [{video: v, value: warmer, reason: r}]\n",
            "did you mean 'warm'",
        ),
        ("value_type: score\n", "range: is missing"),
        ("value_type: score\nrange: [5, 1]\n", "not below"),
        ("value_type: score\nrange: [1, 1]\n", "not below"),
        ("value_type: score\nrange: [1]\n", "1 numbers"),
        ("value_type: score\nrange: [0, .inf]\n", "'.inf' is not a number"),
        ("value_type: score\nrange: [0, 1:30]\n", "'1:30' is not a number"),
        ("value_type: score\nrange: [0, '5']\n", "'5' is not a number"),
        ("value_type: score\nrange: [1, 5]\nexamples: [{video: v, value: 6, reason: r}]\n", "not within 1 to 5"),
        ("range: [1, 5]\n", "belongs to a score"),
        ("score_range: [1, 5]\n", "did you mean 'range'?"),
        ("xyzzy: 1\n", "known are name, title"),
        ("evidence: []\n", "evidence: is empty"),
        ("serving_threshold: high\n", "'high' is not a number"),
        ("serving_threshold: .nan\n", "'.nan' is not a number"),
        ("excludes: [A fireplace]\n", "among the includes too"),
        ("examples: [a fire]\n", "where `video:`, `value:` and `reason:` are expected"),
        ("stage: {a: b}\n", "a group of keys"),
    ],
)
def test_what_is_refused_and_why(more: str, said: str) -> None:
    assert any(said in found for found in problems(GOOD + more)), problems(GOOD + more)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", 2, "alias '*a' is refused"),
        ("name: x\ntitle: !!python/object/apply:os.system [ls]\n", 2, "is refused"),
        ("name: x\n\ttitle: y\n", 2, "is not YAML"),
        ("name: [x\n", 2, "is not YAML"),
        ("name: x\n---\nname: y\n", 2, "is not YAML"),
        ("name: x\ntitle: \x07\n", 2, "U+0007"),
        ("[" * 50_000, 1, "nested too deeply"),
        ("- a\n- b\n", 1, "holds no definition"),
        ("", 1, "holds no definition"),
        ("just text", 1, "holds no definition"),
    ],
)
def test_a_file_that_is_no_definition(text: str, line: int, said: str) -> None:
    (found,) = problems(text)
    assert found.startswith(f"p.yaml:{line}: ") and said in found


def test_files_that_cannot_be_read(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_definition(str(tmp_path / "none.yaml"))
    with pytest.raises(InvalidInput, match="larger than 256 KB"):
        load_definition(write(tmp_path, "big.yaml", GOOD + "#" * MAX_BYTES))
    (tmp_path / "latin.yaml").write_bytes(GOOD.encode() + b"owner: Ren\xe9\n")
    with pytest.raises(InvalidInput, match=r"latin\.yaml:9: is not UTF-8"):
        load_definition(str(tmp_path / "latin.yaml"))
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load_definition(str(tmp_path / "bom.yaml")).name == "cozy"


def test_a_folder_is_read_in_order_and_its_faults_together(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "zen.yaml", GOOD.replace("cozy", "zen", 1))
    write(tmp_path, "cozy.yaml", GOOD)
    write(tmp_path, ".hidden.yaml", "rubbish")
    write(tmp_path, "notes.txt", "rubbish")
    assert [each.name for each in load_definitions(str(tmp_path))] == ["cozy", "zen"]
    write(tmp_path, "cozy.yml", GOOD)
    write(tmp_path, "warm.yaml", GOOD.replace("cozy", "hot", 1))
    write(tmp_path, "bad.yaml", "name: bad\n")
    with pytest.raises(InvalidInput) as caught:
        load_definitions(str(tmp_path))
    said = str(caught.value).splitlines()
    assert len(said) == 5 and "bad.yaml:1: title: is missing" in said[0]
    assert "cozy.yml: the attribute 'cozy' is defined in" in said[3]
    assert "rename the file to hot.yaml" in said[4]


def test_an_empty_folder_and_a_missing_one(tmp_path: pathlib.Path) -> None:
    assert load_definitions(str(tmp_path)) == ()
    with pytest.raises(InvalidInput, match="no such folder"):
        load_definitions(str(tmp_path / "none"))


@pytest.mark.parametrize("value_type", ["boolean", "category", "score"])
@pytest.mark.parametrize("name", ["cozy", "feel_good", "on", "null", "x"])
def test_a_new_definition_loads_as_it_is(name: str, value_type: str, tmp_path: pathlib.Path) -> None:
    definition = load_definition(write(tmp_path, f"{name}.yaml", template(name, value_type)))  # type: ignore[arg-type]
    assert definition.name == name and definition.value_type == value_type and definition.stage == "draft"


def test_no_new_definition_under_a_bad_name() -> None:
    with pytest.raises(InvalidInput, match="'Feel Good' is not a name"):
        template("Feel Good")


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1).filter(
        lambda text: text.split() and text.strip() != "~"
    )
)
def test_any_text_survives_quoting(text: str) -> None:
    document = {**yaml.safe_load(GOOD), "title": text, "includes": [text]}
    definition, found = parse_definition(yaml.safe_dump(document, allow_unicode=True), "p.yaml")
    assert definition is not None, found
    assert definition.title == " ".join(text.split()) and definition.includes == (definition.title,)


@given(st.one_of(st.text(), st.text("abc:-[]{}&*!|>'\"%@#,? \n\t~")))
def test_whatever_is_in_a_file_it_is_a_definition_or_a_list_of_problems(text: str) -> None:
    definition, found = parse_definition(text, "p.yaml")
    assert (definition is None) == bool(found)
    assert all(line.startswith("p.yaml:") for line in found)
