from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from features.annotators.evidence import MAX_CHARACTERS, MAX_SENTENCES, MAX_WORDS, gathered, sentences_of, spread
from features.records import Tag, VideoFeatures


def video(**fields: object) -> VideoFeatures:
    return VideoFeatures("v", "h", "c", "e", **fields)  # type: ignore[arg-type]


def test_every_place_is_read_and_named() -> None:
    found = gathered(
        video(
            title="Slow wings in the sun",
            description="A butterfly. It opens its wings!\nFilmed at noon",
            hashtags=("#SlowMorning", "macro_mia", "calm"),
            transcript="so this is it",
            onscreen_text="DAY 3",
            visual_tags=(Tag("admiral butterfly", 0.6), Tag("toaster", 0.1)),
            visual_stats=(0.1, 0.2, 0.3, 0.0, 0.3, 2.5, 0.01, 0.0),
            duration_s=20.0,
        )
    )
    by_place: dict[str, list[str]] = {}
    for sentence in found:
        by_place.setdefault(sentence.place, []).append(sentence.text)
    assert by_place["title"] == ["Slow wings in the sun"]
    assert by_place["description"] == ["A butterfly.", "It opens its wings!", "Filmed at noon"]
    assert by_place["hashtags"] == ["Slow Morning", "macro mia", "calm"]
    assert by_place["transcript"] == ["so this is it"] and by_place["onscreen_text"] == ["DAY 3"]
    assert by_place["tags"] == ["admiral butterfly"]
    assert "dark, dim pictures" in by_place["measurements"] and "no sound at all" in by_place["measurements"]


def test_a_long_transcript_is_sampled_evenly_and_leaves_room_for_the_rest() -> None:
    speech = " ".join(f"Sentence {number}." for number in range(1000))
    found = gathered(video(title="T", description=speech, transcript=speech, hashtags=tuple("abcdefghijklmnopq")))
    assert len(found) == MAX_SENTENCES
    said = [sentence.text for sentence in found if sentence.place == "transcript"]
    assert said[0] == "Sentence 0." and int(said[-1].split()[1][:-1]) > 950
    assert found[0].text == "T"


def test_speech_without_punctuation_is_cut_at_words() -> None:
    pieces = sentences_of("word " * 100)
    assert [len(piece.split()) for piece in pieces] == [MAX_WORDS, MAX_WORDS, 20]


def test_sentences_in_other_scripts() -> None:
    assert sentences_of("今日は雨。明日は晴れ。") == ["今日は雨。", "明日は晴れ。"]


@given(st.text(max_size=2000))
def test_sentences_are_bounded_and_on_one_line(text: str) -> None:
    for sentence in sentences_of(text):
        assert 0 < len(sentence) <= MAX_CHARACTERS and len(sentence.splitlines()) == 1


@given(st.lists(st.text()), st.integers(0, 70))
def test_spreading_keeps_order_and_the_bound(items: list[str], most: int) -> None:
    positions = [int(text) for text in spread([str(number) for number in range(len(items))], most)]
    assert positions == sorted(set(positions)) and len(positions) == min(len(items), most)
