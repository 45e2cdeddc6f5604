"""Which videos are candidates, which of them match, and into which groups they fall."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import InvalidInput
from features.videos.apart import Apart, read_apart, take_apart
from features.videos.duplicate_candidates import MOST_TOGETHER, NEIGHBOURS, Block, band_keys, band_recall, candidates
from features.videos.duplicate_groups import components, split
from features.videos.duplicates import MEAN_BITS, Marks, compare, plainly_differ, verify
from features.videos.fingerprint import BITS, BYTES, HASH_BYTES, fingerprints
from features.videos.frames import decode_pictures
from features.videos.probe import Limits, open_container, probe
from features.workspace import Workspace
from tests.features.videos.hand_made_marks import film, marks, moved

FILM = film(1, 40)


def small(prints: Sequence[bytes]) -> list[bytes]:
    """As if 5 % were cropped: the large square is now what the small one was."""
    return [mark[16:32] + film(77, 1)[0][16:32] + mark[32:] for mark in prints]


@st.composite
def videos(draw: st.DrawFn) -> Marks:
    """Parts of one of a few films, a little damaged, at some step, published at some time or not."""
    name, seed = draw(st.text("abc", min_size=1, max_size=6)), draw(st.integers(1, 3))
    begin, pictures = draw(st.integers(0, 20)), draw(st.integers(0, 20))
    prints = moved(film(seed, 40)[begin : begin + pictures], draw(st.integers(0, 8)), draw(st.integers(0, 3)))
    return marks(name, prints, draw(st.integers(0, 8)) / 4, published=draw(st.sampled_from(["", "2026-01-01", "2026-02-02"])))


@settings(max_examples=25)
@given(videos(), videos())
def test_matching_is_symmetric_but_for_the_sign_of_the_shift(one: Marks, other: Marks) -> None:
    there, back = compare(one, other), compare(other, one)
    assert (there is None) == (back is None)
    if there is not None and back is not None:
        assert back.shift_s == -there.shift_s
        assert replace(back, shift_s=there.shift_s) == there
    assert plainly_differ(one, other) == plainly_differ(other, one)
    assert not (verify(one, other) and plainly_differ(one, other)), "what matches does not plainly differ"


@pytest.mark.parametrize(
    ("copy", "overlap", "shift"),
    [
        (marks("copy", moved(FILM, 4)), 1.0, 0.0),
        (marks("copy", FILM[:32]), 1.0, 0.0),
        (marks("copy", FILM[8:]), 1.0, 2.0),
        (marks("copy", FILM[8:], start_s=5.0), 1.0, -3.0),
        (marks("copy", [*film(9, 8), *FILM]), 1.0, -2.0),
        (marks("copy", small(FILM)), 1.0, 0.0),
        (marks("copy", FILM[1::4], start_s=0.25, step_s=1.0), 1.0, 0.0),
    ],
)
def test_copies_match(copy: Marks, overlap: float, shift: float) -> None:
    found = verify(marks("original", FILM), copy)
    assert found is not None and found.overlap == pytest.approx(overlap, abs=0.03)
    assert found.shift_s == pytest.approx(shift, abs=0.25) and found.distance_bits <= MEAN_BITS


@pytest.mark.parametrize(
    "other",
    [
        marks("other", film(2, 40)),
        marks("other", moved(FILM, 12)),
        marks("other", [*FILM[:16], *film(2, 24)]),
        marks("other", [*FILM[:30], *film(2, 10)]),
        marks("other", FILM[:6]),
        marks("other", list(reversed(FILM))),
        marks("other", []),
    ],
    ids=["another film", "a look-alike", "a common opening", "another end", "a short part", "backwards", "nothing"],
)
def test_what_is_no_copy_does_not_match(other: Marks) -> None:
    assert verify(marks("original", FILM), other) is None


def test_what_moved_between_two_pictures_counts_only_where_it_is_at_neither() -> None:
    """A copy that begins a fraction of a second later: each of its pictures lies between two of the original."""
    moving = np.unpackbits(np.frombuffer(FILM[0][:HASH_BYTES], np.uint8)).reshape(1, 2, BITS).repeat(20, axis=0)
    for at in range(20):
        moving[at, :, : 4 * at] ^= 1
    grey = b"\x80" * (BYTES - HASH_BYTES)
    prints = [np.packbits(each).tobytes() + grey for each in moving]
    halfway = [np.where(np.arange(BITS) < 2, later, now) for now, later in itertools.pairwise(moving)]
    between = [np.packbits(each).tobytes() + grey for each in halfway]
    found = compare(marks("original", prints), marks("copy", between, start_s=0.125))
    assert found is not None and found.distance_bits == 0 and found.overlap == 1.0


def test_another_shirt_is_another_video() -> None:
    """Hashes see no colour."""
    colours = np.frombuffer(b"".join(FILM), np.uint8).reshape(-1, BYTES).copy()
    colours[:, HASH_BYTES:] = np.clip(colours[:, HASH_BYTES:], 50, 200)
    original = marks("original", list(map(bytes, colours)))
    for change, same in ((5, True), (20, False)):
        colours[:, -4] += np.uint8(change)
        assert bool(verify(original, marks("other", list(map(bytes, colours))))) == same
        colours[:, -4] -= np.uint8(change)
    colours[:, HASH_BYTES:] = 128
    assert plainly_differ(original, marks("grey", list(map(bytes, colours))))


def test_a_still_picture_needs_to_be_nearer_than_a_film() -> None:
    still = film(5, 1) * 12
    near, further = marks("near", moved(film(5, 1), 3) * 12), marks("further", moved(film(5, 1), 5) * 12)
    assert verify(marks("still", still), near) and not verify(marks("still", still), further)
    assert verify(marks("film", FILM), marks("further", moved(FILM, 5)))
    assert verify(marks("one", film(5, 1)), marks("same", film(5, 1))), "a video of one picture and its copy"
    assert not verify(marks("one", FILM[:1]), marks("film", FILM)), "one picture of a film is not the film"


def test_marks_that_do_not_fit_are_refused_and_good_ones_survive_a_shuffle() -> None:
    with pytest.raises(ValueError, match="'v' has 1 times and 8 bytes"):
        Marks("v", "", "", (0.0,), b"8 bytes.")
    there = marks("v\n\x00é", FILM, published="2026")
    assert Marks.from_bytes(there.to_bytes()) == there


@settings(max_examples=20)
@given(st.integers(0, 12), st.integers(0, 2**32 - 1))
def test_pictures_within_three_bits_share_a_key_for_certain_and_others_as_often_as_it_says(bits: int, seed: int) -> None:
    original = film(seed, 200)
    copies = moved(original, bits, seed)
    shared = [
        bool(np.isin(band_keys(marks("a", [one[:16] * 2 + one[32:]])), band_keys(marks("b", [other[:16] * 2 + other[32:]]))).any())
        for one, other in zip(original[::2], copies[::2], strict=True)
    ]
    assert np.mean(shared) == pytest.approx(band_recall(bits), abs=0.2) and (bits > 3 or all(shared))


def test_of_many_keys_copies_keep_the_same() -> None:
    long = film(6, 2000)
    keys, of_part = band_keys(marks("long", long)), band_keys(marks("part", long[400:]))
    assert len(keys) == len(of_part) == 4 * 24 and len(np.intersect1d(keys, of_part)) > 50
    assert len(band_keys(marks("nothing", []))) == 0


def shared_keys(of: dict[str, np.ndarray]) -> set[tuple[str, str]]:
    """The pairs that share a key, the simple way."""
    return {(one, other) for one, other in itertools.combinations(sorted(of), 2) if set(of[one].tolist()) & set(of[other].tolist())}


@given(
    st.dictionaries(st.text("abcd", min_size=1, max_size=3), st.sets(st.integers(0, 2**34), max_size=5), max_size=12),
    st.integers(1, 5),
    st.integers(1, 3),
)
def test_candidates_are_the_pairs_that_share_a_key_however_work_is_cut_up(
    of: dict[str, set[int]], number: int, blocks: int
) -> None:
    keys = {name: np.array(sorted(each), np.uint64) % np.uint64(40) for name, each in of.items()}
    keys = {name: np.unique(each) for name, each in keys.items()}
    names = list(keys)
    found: set[tuple[str, str]] = set()
    parts: dict[int, list[Block]] = {}
    for at in range(blocks):
        block = Block.of({name: keys[name] for name in names[at::blocks]})
        for part, piece in block.parts(number).items():
            parts.setdefault(part, []).append(Block.from_bytes(piece.to_bytes()))
    for pieces in parts.values():
        found |= set(candidates(pieces).pairs)
    assert found == shared_keys(keys)


def test_a_key_that_very_many_share_makes_few_pairs_and_a_chain_of_them_all() -> None:
    many = {f"v{number:04}": np.array([7], np.uint64) for number in range(500)}
    found = candidates([Block.of(many)])
    assert found.capped == 1 and len(found.pairs) + found.left_out == 500 * 499 // 2
    assert len(found.pairs) < 500 * NEIGHBOURS and len(set(components(found.pairs).values())) == 1
    few = candidates([Block.of(dict(list(many.items())[:MOST_TOGETHER]))])
    assert (few.capped, few.left_out, len(few.pairs)) == (0, 0, MOST_TOGETHER * (MOST_TOGETHER - 1) // 2)


def naive(edges: list[tuple[str, str]]) -> dict[str, str]:
    """Components by spreading the least name until nothing changes."""
    least = {name: name for edge in edges for name in edge}
    while True:
        spread = dict(least)
        for one, other in edges:
            spread[one] = spread[other] = min(spread[one], spread[other])
        if spread == least:
            return least
        least = spread


@given(st.lists(st.tuples(*[st.text("abcdefgh", min_size=1, max_size=1)] * 2), max_size=20), st.randoms())
def test_components_are_those_of_a_naive_search_in_any_order(edges: list[tuple[str, str]], random: Random) -> None:
    shuffled = [pair if random.random() < 0.5 else pair[::-1] for pair in random.sample(edges, len(edges))]
    assert components(shuffled) == components(edges) == dict(sorted(naive(edges).items()))


@given(
    st.lists(videos(), max_size=6, unique_by=lambda each: each.video_id),
    st.sets(st.tuples(*[st.text("abc", max_size=2)] * 2)),
    st.randoms(),
)
def test_groups_keep_the_rule_in_any_order(given_: list[Marks], taken: set[tuple[str, str]], random: Random) -> None:
    apart = Apart.of([(one, other) for one, other in taken if one and other and one != other] + [("abc", "*")])
    members = split(given_, apart)
    assert split(random.sample(given_, len(given_)), apart) == members
    groups: dict[str, list[Marks]] = {}
    for member in members:
        groups.setdefault(member.lead.video_id, [member.lead]).append(member.marks)
        assert verify(member.lead, member.marks) == member.match and member.lead.seniority < member.marks.seniority
    ids = [each.video_id for group in groups.values() for each in group]
    assert len(ids) == len(set(ids)), "nobody is in two groups, or leads one and is in another"
    for group in groups.values():
        for one, other in itertools.combinations(group, 2):
            assert not plainly_differ(one, other) and not apart.are(one.video_id, other.video_id)


def test_a_chain_is_broken_where_its_ends_plainly_differ() -> None:
    one, both, other = marks("a", FILM[:24]), marks("b", FILM), marks("c", FILM[16:])
    assert verify(one, both) and verify(both, other) and plainly_differ(one, other)
    assert [(each.lead.video_id, each.marks.video_id) for each in split([one, both, other], Apart())] == [("a", "b")]
    # also where the one in between leads
    first = marks("0", FILM)
    assert [(each.lead.video_id, each.marks.video_id) for each in split([one, first, other], Apart())] == [("0", "a")]


def test_who_was_taken_apart_is_in_no_group_together() -> None:
    copies = [marks(name, FILM) for name in "abcd"]

    def shape(*rows: tuple[str, str]) -> list[tuple[str, str]]:
        return [(each.lead.video_id, each.marks.video_id) for each in split(copies, Apart.of(rows))]

    assert shape() == [("a", "b"), ("a", "c"), ("a", "d")]
    assert shape(("b", "a")) == [("a", "c"), ("a", "d")]
    assert shape(("c", "b")) == [("a", "b"), ("a", "d")], "two members apart from each other: the senior one stays"
    assert shape(("a", "*")) == [("b", "c"), ("b", "d")]


def test_who_was_taken_apart_is_kept_for_people_to_read(tmp_path: pathlib.Path) -> None:
    workspace = Workspace(str(tmp_path))
    assert read_apart(workspace) == Apart()
    assert take_apart(workspace, "b", "a") and take_apart(workspace, 'odd,"id"') and not take_apart(workspace, "a", "b")
    assert (tmp_path / "apart.csv").read_text() == 'video_id,apart_from\nb,a\n"odd,""id""",*\n'
    apart = read_apart(workspace)
    assert apart.are("a", "b") and apart.are('odd,"id"', "x") and not apart.are("a", "c")
    assert apart.still_members("a", ["b", "c", 'odd,"id"']) == ["c"]
    assert apart.still_members("lead", ["c", "b", "a"]) == ["c"], "two members apart from each other: neither belongs to the lead"
    for content, sentence in (
        (b"a\n", "line 1: 'a' is no pair"),
        (b"a,\n", "line 1"),
        (b"\xff,a\n", "not a CSV file"),
        (b'"a', "not a CSV"),
    ):
        (tmp_path / "apart.csv").write_bytes(content)
        with pytest.raises(InvalidInput, match=sentence):
            read_apart(workspace)
    (tmp_path / "apart.csv").write_bytes("\ufeffvideo_id,apart_from\r\na,b\r\n\r\n".encode())
    assert read_apart(workspace).pairs == {("a", "b")}, "as a spreadsheet writes it"


def test_the_real_pairs_match_and_real_look_alikes_do_not(shared_data: pathlib.Path) -> None:
    """People who sign in the same room, in the same clothes, are no duplicates; a short cut of a film is one."""

    def seen(name: str) -> Marks:
        with open(shared_data / "clips" / name, "rb") as file, open_container(file) as container:
            pictures = decode_pictures(container, probe(container, Limits()), Limits())
        found = fingerprints([(each.timestamp_s, each.image) for each in pictures.samples], pictures.width / pictures.height)
        return marks(name, []) if not found else Marks(name, "", name, tuple(at for at, _ in found), b"".join(m for _, m in found))

    signing = ("sign-bird.mkv", "sign-sorry.mkv", "sign-thanks.mkv")
    names = ("bunny-meadow-10s.mp4", "bunny-meadow-30s.webm", *signing, "pencil-sketch-1.mp4", "pencil-sketch-2.mp4")
    clips = [seen(name) for name in names]
    pairs = {(one.video_id, other.video_id) for one, other in itertools.combinations(clips, 2) if verify(one, other)}
    assert pairs == {("bunny-meadow-10s.mp4", "bunny-meadow-30s.webm")}
    match = verify(clips[0], clips[1])
    assert match is not None and match.shift_s == pytest.approx(-10, abs=0.25)
    assert np.isin(band_keys(clips[0]), band_keys(clips[1])).any()
