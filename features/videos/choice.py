"""Which pictures of a video are kept: every shot is shown, none twice, and none that shows nothing.

A video's length and its shots are known only at its end, so pictures that may be chosen are held back, and the number of those
is bounded: `Candidates`. At the end `choose` picks from them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from features.videos.rgb import Image

LEAST_SHOT_S = 0.5
"""A shorter shot is no shot to look at but a flash."""
BLANK = 2.0
"""Standard deviation of each channel, 0 to 127, below which a picture is of one colour and shows nothing."""
DARK = 48
"""A picture without anything as bright as this, 0 to 255, shows nothing either: the first moments of a fade out of black."""
SAME = 2.0
DIFFERENT = 6.0
"""Mean difference, 0 to 255, of pictures of 16 x 9 below which they are practically the same, and from which they clearly differ:
people who talk or sign move by 2 to 9, still lifes by 1."""
NEAR_S = 0.25
"""A thumbnail stands for what lies as near."""
MIXED = 0.15
"""A dissolve is a weighted mean of what is before and after it, but for this share of how much those two differ; motion is not."""
OF_A_CUT, OF_DOUBT = 1.0, 2.0
"""How far from the middle of its part, in parts, a good picture is still better than one at a cut, or a doubtful one."""

Item = TypeVar("Item")
Floats = NDArray[np.float64]


class Candidate(NamedTuple, Generic[Item]):
    """A picture that may be chosen: seconds, and whether damage before it may show in it."""

    time_s: float
    item: Item
    doubtful: bool = False


@dataclass
class Shot(Generic[Item]):
    """A shot's beginning in seconds, and what is held of it, in time order."""

    start_s: float
    held: list[Candidate[Item]] = field(default_factory=list)
    step_s: float = 0.0

    def spacing(self) -> float:
        """Mean distance of what is held, seconds."""
        return (self.held[-1].time_s - self.held[0].time_s) / (len(self.held) - 1)

    def thin(self) -> None:
        """Drops about every second one."""
        if self.held[0].time_s == self.held[-1].time_s:
            self.held = self.held[: len(self.held) // 2]
            return
        self.step_s = max(self.step_s, 2 * self.spacing())
        kept = [] if len(self.held) == 2 else self.held[:1]
        for entry in self.held[1:]:
            if not kept or entry.time_s - kept[-1].time_s >= self.step_s - 1e-6:
                kept.append(entry)
        self.held = kept


class Candidates(Generic[Item]):
    """Holds a bounded number of pictures of a stream of unknown length: some of each shot, evenly spread in it.

    Args:
        capacity: most pictures ever held, at least 2.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = max(2, capacity)
        self._count = 0
        self.shots: list[Shot[Item]] = [Shot(0.0)]

    def wants(self, time_s: float) -> bool:
        """Whether a picture of this time would be kept; times do not decrease."""
        shot = self.shots[-1]
        return not shot.held or time_s - shot.held[-1].time_s >= shot.step_s - 1e-6

    def add(self, time_s: float, item: Item, doubtful: bool = False) -> None:
        """Takes a picture, and gives up others when that makes too many."""
        if not self.wants(time_s):
            return
        self.shots[-1].held.append(Candidate(time_s, item, doubtful))
        self._count += 1
        if self._count > self._capacity:
            self._thin()
            self._count = sum(len(shot.held) for shot in self.shots)

    def cut(self, at_s: float) -> None:
        """A shot began at this time, after the one before and not after the last picture that was offered."""
        before = self.shots[-1]
        after = Shot(at_s, [entry for entry in before.held if entry.time_s >= at_s])
        before.held = [entry for entry in before.held if entry.time_s < at_s]
        self.shots.append(after)

    def _thin(self) -> None:
        """Where pictures are closest; a shot keeps four, two, one as long as others have more."""
        for least in (4, 2, 1):
            rich = [shot for shot in self.shots if len(shot.held) > least]
            if rich:
                min(rich, key=Shot.spacing).thin()
                return
        ends = [shot.start_s for shot in self.shots[1:]]
        shortest = min(range(len(ends)), key=lambda at: ends[at] - self.shots[at].start_s if self.shots[at].held else np.inf)
        self.shots[shortest].held = []


class Looks:
    """What thumbnails tell about the pictures around them.

    Args:
        thumbnails: seconds and RGB, in time order, at least one.
    """

    def __init__(self, thumbnails: Sequence[tuple[float, Image]]) -> None:
        self.times: Floats = np.array([time for time, _ in thumbnails])
        self._blank = np.array([is_blank(image) for _, image in thumbnails])
        self._small = np.stack([cv2.resize(image, (16, 9), interpolation=cv2.INTER_AREA).ravel() for _, image in thumbnails])

    def shows_nothing(self, time_s: float) -> bool:
        """Whether it is blank at this time, or just before or after."""
        near = np.abs(self.times - time_s) <= NEAR_S
        near[self._nearest(time_s)] = True
        return bool(self._blank[near].any())

    def is_mixed(self, time_s: float) -> bool:
        """Whether two pictures shine through each other at this time: a dissolve, or a fade from or to one colour."""
        at = self._nearest(time_s)
        before, after = max(0, at - 2), min(len(self.times) - 1, at + 2)
        if not before < at < after or self.times[after] - self.times[before] > 5 * NEAR_S:
            return False
        start, now, end = (self._small[position].astype(np.float64) for position in (before, at, after))
        way = end - start
        if np.abs(way).mean() < DIFFERENT:
            return False
        share = float(way @ (now - start) / (way @ way))
        return 0.1 < share < 0.9 and float(np.abs(start + share * way - now).mean()) < MIXED * float(np.abs(way).mean())

    def differences(self, times: Sequence[float]) -> Floats:
        """How different pictures look from each other, 0 to 255, shape (n, n); not how much brighter one of them is."""
        small = self._small[[self._nearest(time) for time in times]].astype(np.float32)
        small -= small.mean(axis=1, keepdims=True)
        return np.stack([np.abs(small - one).mean(axis=1) for one in small]).astype(np.float64)

    def _nearest(self, time_s: float) -> int:
        return int(np.abs(self.times - time_s).argmin())


def is_blank(image: Image) -> bool:
    """Whether an RGB picture shows nothing: black before the first scene, white between two."""
    return int(image.max()) < DARK or float(cv2.meanStdDev(image)[1].max()) < BLANK


def choose(shots: Sequence[Shot[Item]], looks: Looks, number: int, end_s: float) -> list[tuple[float, Item]]:
    """Up to so many different pictures, in time order.

    Every shot of half a second or more is shown before any gets a second picture, and long ones get more; where there are more
    shots than that, they are spread over the video. In a shot, pictures lie near the middles of its equal parts, not in a dissolve,
    at a cut, or after damage, if others are near. A second picture of a shot that is practically the same as another one gives way
    to one that clearly differs from all, if there is any. Blank ones are left out if there are others, however few, and where a
    stream begins with damage, that is if there are enough.

    Args:
        shots: what is held of each, at least one picture in all.
        looks: of the same video.
        number: at most so many, at least 1.
        end_s: where the last shot ends, seconds.
    """
    ends = [*(shot.start_s for shot in shots[1:]), max([end_s, *(entry.time_s for shot in shots for entry in shot.held)])]
    telling = _worth_a_look(shots, looks, number)
    if sum(map(len, telling)) <= number:
        return [(entry.time_s, entry.item) for some in telling for entry in some]
    options: list[_Option[Item]] = []
    chosen: list[int] = []
    seats = places([end - shot.start_s for shot, end in zip(shots, ends, strict=True)], list(map(len, telling)), number)
    for at, (shot, end, some) in enumerate(zip(shots, ends, telling, strict=True)):
        mine = [_Option(entry, at, drawback) for entry, drawback in zip(some, _drawbacks(some, end, looks), strict=True)]
        chosen += [len(options) + best for best in _nearest_to_middles(mine, seats[at], shot.start_s, end)]
        options += mine
    _replace_repeats(options, chosen, looks)
    return [(options[at].entry.time_s, options[at].entry.item) for at in sorted(chosen)]


def _worth_a_look(shots: Sequence[Shot[Item]], looks: Looks, number: int) -> list[list[Candidate[Item]]]:
    """What is held of each shot, without what shows nothing, and what comes before the first picture that is not doubtful."""
    telling = [[entry for entry in shot.held if not looks.shows_nothing(entry.time_s)] for shot in shots]
    if not any(telling):
        telling = [list(shot.held) for shot in shots]
    start = min((entry.time_s for some in telling for entry in some if not entry.doubtful), default=0.0)
    led_in = [[entry for entry in some if entry.time_s >= start] for some in telling]
    return led_in if sum(map(len, led_in)) >= number else telling


class _Option(NamedTuple, Generic[Item]):
    entry: Candidate[Item]
    shot: int
    drawback: float


def places(durations: Sequence[float], available: Sequence[int], number: int) -> list[int]:
    """How many pictures each shot gets: one each, and more by length (D'Hondt's method, as seats are given to parties).

    Args:
        durations: of each shot, seconds.
        available: how many pictures there are of each.
        number: pictures in all.
    """
    given = [0] * len(durations)
    worthy = [at for at, duration in enumerate(durations) if duration >= LEAST_SHOT_S and available[at]]
    for at in _spread_over_time(durations, worthy, number) if len(worthy) > number else worthy:
        given[at] = 1
    for _ in range(number - sum(given)):
        left = [at for at in range(len(given)) if given[at] < available[at]]
        if not left:
            break
        given[max(left, key=lambda at: durations[at] / (given[at] + 1))] += 1
    return given


def _spread_over_time(durations: Sequence[float], worthy: Sequence[int], number: int) -> list[int]:
    """Of too many shots, for each equal part of the time the one that fills most of it; then the longest."""
    starts = [0.0, *itertools.accumulate(durations)]
    part = starts[-1] / number
    taken: list[int] = []
    for at in range(number):
        left = [shot for shot in worthy if shot not in taken]
        overlap = {shot: min(starts[shot + 1], (at + 1) * part) - max(starts[shot], at * part) for shot in left}
        best = max(overlap, key=lambda shot: overlap[shot])
        if overlap[best] > 0:
            taken.append(best)
    others = sorted((shot for shot in worthy if shot not in taken), key=lambda shot: -durations[shot])
    return taken + others[: number - len(taken)]


def _drawbacks(entries: Sequence[Candidate[Item]], end_s: float, looks: Looks) -> list[float]:
    """What speaks against each picture of a shot, in parts: see `OF_A_CUT`.

    Thumbnails see a cut up to `NEAR_S` late: a picture as near to the end of its shot may be of the next. Where most of a shot
    looks like a dissolve it is none, but slow.
    """
    mixed = [looks.is_mixed(entry.time_s) for entry in entries]
    if 2 * sum(mixed) > len(mixed):
        mixed = [False] * len(mixed)
    at_a_cut = [end_s - entry.time_s < NEAR_S and end_s <= looks.times[-1] for entry in entries]
    return [OF_A_CUT * (bad or cut) + OF_DOUBT * entry.doubtful for entry, bad, cut in zip(entries, mixed, at_a_cut, strict=True)]


def _nearest_to_middles(options: Sequence[_Option[Item]], number: int, start_s: float, end_s: float) -> list[int]:
    """For each of so many equal parts a picture, in time order, all different: those that together lie nearest to the middles."""
    if not number:
        return []
    part = max(end_s - start_s, 1e-9) / number
    times = np.array([option.entry.time_s for option in options])
    drawbacks = np.array([option.drawback for option in options])
    costs = [np.abs(times - (start_s + (at + 0.5) * part)) / part + drawbacks for at in range(number)]
    total, before = costs[0], []
    for cost in costs[1:]:
        best = np.minimum.accumulate(total)
        at_best = np.maximum.accumulate(np.where(total == best, np.arange(len(total)), 0))
        before.append(np.concatenate([[0], at_best[:-1]]))
        total = np.concatenate([[np.inf], best[:-1]]) + cost
    found = [int(np.argmin(total))]
    for earlier in reversed(before):
        found.append(int(earlier[found[-1]]))
    return found[::-1]


def _replace_repeats(options: Sequence[_Option[Item]], chosen: list[int], looks: Looks) -> None:
    """Changes `chosen`: a second picture of a shot that repeats another becomes one that differs from all, if there is any."""
    apart = looks.differences([option.entry.time_s for option in options])
    flawless = [at for at, option in enumerate(options) if not option.drawback]
    for place, at in enumerate(chosen):
        others = chosen[:place] + chosen[place + 1 :]
        if all(options[other].shot != options[at].shot for other in others) or apart[at, others].min() >= SAME:
            continue
        spare = [other for other in flawless if other not in chosen]
        if spare:
            gain = apart[np.ix_(spare, others)].min(axis=1)
            if gain.max() >= DIFFERENT:
                chosen[place] = spare[int(gain.argmax())]
