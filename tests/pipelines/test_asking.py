from __future__ import annotations

import asyncio
from concurrent.futures import Future

import pytest

from features.annotators.protocol import AnnotationReply, AnnotationRequest, AnnotatorIdentity, Refusal
from features.errors import Permanent
from features.records import VideoFeatures
from pipelines.asking import Window


class SlowAnnotator:
    """Answers each video after as many hundredths of a second as its title says."""

    identity = AnnotatorIdentity("llm", "slow")

    def __init__(self) -> None:
        self.now = self.most = 0

    def open(self) -> None: ...

    async def close(self) -> None: ...

    async def annotate(self, request: AnnotationRequest) -> AnnotationReply:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(int(request.video.title) / 100)
        self.now -= 1
        if request.video.title == "0":
            raise Permanent("no", "refused")
        return AnnotationReply(refusals=(Refusal("funny", "kind", request.video.video_id),))


def finish(about: str, future: Future[AnnotationReply]):
    try:
        yield about, future.result().refusals[0].message
    except Permanent as error:
        yield about, error.kind


def ask(titles: list[str], size: int) -> tuple[list[object], SlowAnnotator]:
    annotator = SlowAnnotator()
    window: Window[str] = Window(annotator, size, finish)
    out: list[object] = []
    for number, title in enumerate(titles):
        video = VideoFeatures(f"v{number}", "h", "k", "x", title=title)
        out.extend(window.ask(f"v{number}", AnnotationRequest(video, ())))
    out.extend(window.drain())
    return out, annotator


def test_every_request_comes_back_once_with_its_own_reply() -> None:
    out, _ = ask(["3", "1", "2"] * 10, 8)
    assert sorted(out) == sorted((f"v{n}", f"v{n}") for n in range(30))


def test_the_window_is_never_overfull_and_a_slow_one_holds_up_nobody() -> None:
    out, annotator = ask(["60", *["1"] * 20], 4)
    assert annotator.most == 4
    assert out[-1] == ("v0", "v0")


def test_an_error_is_handed_over_and_not_raised_into_neighbours() -> None:
    out, _ = ask(["1", "0", "1"], 2)
    assert dict(out) == {"v0": "v0", "v1": "refused", "v2": "v2"}


def test_settling_waits_for_what_is_in_flight_and_hands_nothing_over() -> None:
    annotator = SlowAnnotator()
    window: Window[str] = Window(annotator, 8, finish)
    for title in ("5", "0", "2"):
        list(window.ask(title, AnnotationRequest(VideoFeatures("v", "h", "k", "x", title=title), ())))
    window.settle()
    assert annotator.now <= 1 and list(window.drain()) == []  # the one that raised did not count itself out


@pytest.mark.parametrize("size", [1, 100])
def test_any_size_works(size: int) -> None:
    assert len(ask(["1"] * 5, size)[0]) == 5
