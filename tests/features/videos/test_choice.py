"""Which pictures of a video are kept, by times and thumbnails alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from features.videos.choice import Candidate, Candidates, Looks, Shot, choose, is_blank, places
from features.videos.rgb import Image
from features.videos.shots import Cuts


def scene(number: int, moved: int = 0) -> Image:
    """A soft picture of its own for each scene."""
    generator = np.random.default_rng(number)
    soft = cv2.resize(generator.integers(0, 256, (3, 4, 3)).astype(np.uint8), (64, 36), interpolation=cv2.INTER_CUBIC)
    return np.roll(soft, moved, axis=1)


def chosen(shown: Callable[[float], Image], end_s: float, fps: int = 25, capacity: int = 64, number: int = 8) -> list[float]:
    """Times of the stills of a video whose picture at each time is given: what decoding does, without a decoder."""
    held: Candidates[float] = Candidates(capacity)
    cuts, thumbnails = Cuts(), []
    for at in range(round(end_s * fps)):
        time = at / fps
        if at % (fps // 5) == 0:
            thumbnails.append((time, shown(time)))
            cut = cuts.see(*thumbnails[-1])
            if cut is not None:
                held.cut(cut)
        held.add(time, time)
        assert sum(len(shot.held) for shot in held.shots) <= capacity
    times = [item for _, item in choose(held.shots, Looks(thumbnails), number, end_s)]
    assert times == sorted(set(times)) and len(times) <= number
    return times


def shots_of(*lengths: float) -> Callable[[float], Image]:
    """A video of scenes that long, cut hard."""
    starts = [0.0, *itertools.accumulate(lengths)]
    return lambda time: scene(3 + sum(time >= start - 1e-6 for start in starts), round(4 * time))


def per_shot(times: list[float], *lengths: float) -> list[int]:
    starts = [0.0, *itertools.accumulate(lengths)]
    return [sum(start <= time < end for time in times) for start, end in itertools.pairwise(starts)]


# --- what is held -------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 3000), st.integers(16, 64))
def test_eight_of_any_number_are_spread_evenly(count: int, capacity: int) -> None:
    held: Candidates[int] = Candidates(capacity)
    for at in range(count):
        held.add(at / 25, at)
        assert len(held.shots[0].held) <= capacity
    found = [item for _, item in choose(held.shots, Looks([(0.0, scene(0))]), 8, count / 25)]
    assert len(found) == len(set(found)) == min(8, count) and found == sorted(found)
    if count >= 8:
        for at, item in enumerate(found):
            assert abs(item - (at + 0.5) * count / 8) <= max(2.0, 3 * count / capacity)


@given(
    st.lists(st.tuples(st.floats(0, 1000), st.booleans()), min_size=1, max_size=300),
    st.integers(2, 40),
    st.integers(1, 8),
)
def test_any_times_and_cuts_keep_memory_bounded_and_order(moments: list[tuple[float, bool]], capacity: int, number: int) -> None:
    held: Candidates[int] = Candidates(capacity)
    moments.sort()
    for at, (time, cut) in enumerate(moments):
        if cut and time > held.shots[-1].start_s:
            held.cut(time)
        held.add(time, at)
        assert 1 <= sum(len(shot.held) for shot in held.shots) <= capacity
    in_all = sum(len(shot.held) for shot in held.shots)
    found = choose(held.shots, Looks([(0.0, scene(0))]), number, moments[-1][0])
    assert len({item for _, item in found}) == len(found) == min(number, in_all)
    assert [time for time, _ in found] == sorted(time for time, _ in found)


def test_a_short_shot_in_a_long_video_keeps_its_pictures() -> None:
    held: Candidates[int] = Candidates(16)
    for at in range(25 * 600):
        if at in (25 * 300, 25 * 301):
            held.cut(at / 25)
        held.add(at / 25, at)
    assert [len(shot.held) >= 4 for shot in held.shots] == [True] * 3
    assert all(shot.start_s <= entry.time_s for shot in held.shots for entry in shot.held)


# --- shots --------------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0.1, 100), st.integers(0, 20)), min_size=1, max_size=30), st.integers(1, 12))
def test_every_shot_has_a_picture_before_any_has_two(shots: list[tuple[float, int]], number: int) -> None:
    durations, available = [duration for duration, _ in shots], [count for _, count in shots]
    given_ = places(durations, available, number)
    assert sum(given_) == min(number, sum(available)) and all(one <= most for one, most in zip(given_, available, strict=True))
    worthy = [at for at, duration in enumerate(durations) if duration >= 0.5 and available[at]]
    if any(count > 1 for count in given_):
        assert all(given_[at] for at in worthy)
    for one, other in itertools.permutations(worthy, 2):
        if durations[one] > durations[other] and len(worthy) <= number:
            assert given_[one] >= min(given_[other], available[one]), "a longer shot has no fewer"


def test_shots_are_shown_by_length_and_near_their_middles() -> None:
    lengths = (1.0, 9.6, 1.0, 4.0)
    times = chosen(shots_of(*lengths), 15.6)
    assert per_shot(times, *lengths) == [1, 4, 1, 2]
    assert abs(times[0] - 0.5) <= 0.3 and abs(times[5] - 11.1) <= 0.3
    assert all(abs(time - middle) < 0.7 for time, middle in zip(times[1:5], (2.2, 4.6, 7.0, 9.4), strict=True))


def test_more_shots_than_places_are_spread_over_the_video() -> None:
    lengths = (1.0,) * 24
    times = chosen(shots_of(*lengths), 24)
    shown = [at for at, count in enumerate(per_shot(times, *lengths)) if count]
    assert len(times) == len(shown) == 8 and max(np.diff(shown)) <= 4 and shown[0] <= 3 and shown[-1] >= 20


def test_no_still_lies_at_a_cut() -> None:
    """Cuts fall between thumbnails: what is up to 0.2 s before the one that sees it may be the next shot already."""
    cuts = (2.1, 4.3, 6.5)
    times = chosen(shots_of(2.1, 2.2, 2.2, 3.1), 9.6)
    assert per_shot(times, 2.1, 2.2, 2.2, 3.1) == [2, 2, 2, 2]
    assert all(not cut - 0.1 < time < cut + 0.1 for time in times for cut in cuts)
    shots = [Shot(0.0, [Candidate(0.15, "a"), Candidate(0.78, "b")]), Shot(1.0, [Candidate(1.5, "c")])]
    assert [item for _, item in choose(shots, Looks([(at / 5, scene(at // 5)) for at in range(10)]), 2, 2.0)] == ["a", "c"]


# --- what is seen -------------------------------------------------------------------------------------------------------------


def test_a_dissolve_is_avoided_and_what_moves_is_not() -> None:
    def shown(time: float) -> Image:
        share = np.clip((time - 4.5) / 1.0, 0, 1)
        return np.rint((1 - share) * scene(1) + share * scene(2)).astype(np.uint8)

    times = chosen(shown, 10, number=1)
    assert not 4.6 < times[0] < 5.4

    fading = [(at / 5, (scene(1) * (1 - at / 4) + scene(2) * (at / 4)).astype(np.uint8)) for at in range(5)]
    moving = [(at / 5, np.hstack([scene(2)[:, : 16 * at], scene(1)[:, 16 * at :]])) for at in range(5)]
    assert Looks(fading).is_mixed(0.4) and not Looks(moving).is_mixed(0.4) and not Looks([(0.0, scene(1))]).is_mixed(0)


def test_blank_pictures_are_left_out() -> None:
    def shown(time: float) -> Image:
        return np.full((36, 64, 3), 20, np.uint8) if time < 5 else scene(1, round(20 * time))

    times = chosen(shown, 10)
    assert len(times) == 8 and all(time >= 5 for time in times)
    assert len(chosen(lambda time: np.zeros((36, 64, 3), np.uint8), 10)) == 8, "where there is nothing else"
    assert is_blank(np.full((36, 64, 3), 255, np.uint8)) and is_blank(scene(1) // 10) and not is_blank(scene(1))
    letter = np.zeros((36, 64, 3), np.uint8)
    letter[18, 30:33] = 200
    assert not is_blank(letter), "white on black may be a word"


def test_a_repeat_gives_way_to_what_is_not_shown_yet() -> None:
    """Ten seconds of nothing new, but for one second in which somebody walks by, faded in and out so that there is no cut."""

    def shown(time: float) -> Image:
        share = np.clip(min(time - 3.8, 6.2 - time), 0, 1)
        return np.rint((1 - share) * scene(1) + share * scene(2)).astype(np.uint8)

    assert sum(4.5 <= time <= 5.5 for time in chosen(shown, 10, number=4)) == 1
    assert len(chosen(lambda time: scene(1), 10)) == 8, "where nothing differs, the same fills up"


def test_the_only_picture_of_a_shot_stays_even_if_another_shot_looks_the_same() -> None:
    lengths = (2.0, 2.0, 2.0)
    times = chosen(lambda time: scene(1 if 2 <= time < 4 else 0), 6, number=3)
    assert per_shot(times, *lengths) == [1, 1, 1]


def test_what_may_be_damaged_gives_way_to_what_is_near_and_whole() -> None:
    held: Candidates[float] = Candidates(200)
    for at in range(100):
        held.add(at / 10, at / 10, doubtful=30 <= at < 40)
    looks = Looks([(at / 5, scene(1, at)) for at in range(50)])
    times = [item for _, item in choose(held.shots, looks, 8, 10.0)]
    assert len(times) == 8 and not any(3 <= time < 4 for time in times)
