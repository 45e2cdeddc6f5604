"""Near-duplicates lie close, different pictures far apart."""

from __future__ import annotations

import itertools
import pathlib

import cv2
import imagehash
import numpy as np
import pytest
from PIL import Image as PillowImage

from features.videos.fingerprint import distance, fingerprint
from features.videos.frames import Image, decode_pictures
from features.videos.probe import Limits, open_container, probe


def drawing(seed: int) -> Image:
    """A few soft shapes, as different from another seed's as two photographs are."""
    generator = np.random.default_rng(seed)
    image = np.full((288, 512, 3), generator.integers(0, 256, 3), np.uint8)
    for _ in range(12):
        centre = (int(generator.integers(0, 512)), int(generator.integers(0, 288)))
        cv2.circle(
            image, centre, int(generator.integers(20, 120)), tuple(int(value) for value in generator.integers(0, 256, 3)), -1
        )
    return cv2.GaussianBlur(image, (9, 9), 0)


def changed(image: Image) -> dict[str, Image]:
    _, small = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 25])
    return {
        "half size": cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
        "larger": cv2.resize(image, None, fx=1.7, fy=1.7, interpolation=cv2.INTER_CUBIC),
        "jpeg 25": cv2.imdecode(small, cv2.IMREAD_COLOR),
        "brighter": np.clip(image.astype(int) + 20, 0, 255).astype(np.uint8),
        "noise": np.clip(image + np.random.default_rng(0).normal(0, 6, image.shape), 0, 255).astype(np.uint8),
    }


@pytest.mark.parametrize("seed", range(5))
def test_changed_copies_stay_close(seed: int) -> None:
    image = drawing(seed)
    for name, copy in changed(image).items():
        assert distance(fingerprint(image), fingerprint(copy)) <= 8, name


def test_different_pictures_lie_far_apart() -> None:
    hashes = [fingerprint(drawing(seed)) for seed in range(20)]
    apart = [distance(one, other) for one, other in itertools.combinations(hashes, 2)]
    assert min(apart) > 10 and np.mean(apart) == pytest.approx(32, abs=4)


def test_shrinking_first_leaves_imagehash_practically_as_it_is() -> None:
    for seed in range(10):
        image = drawing(seed)
        whole = imagehash.phash(PillowImage.fromarray(image))
        assert distance(fingerprint(image), bytes.fromhex(str(whole))) <= 4


def test_any_picture_has_eight_bytes() -> None:
    for shape in ((1, 1), (1, 512), (512, 1), (64, 64)):
        assert len(fingerprint(np.zeros((*shape, 3), np.uint8))) == 8


def test_real_duplicates(shared_data: pathlib.Path) -> None:
    def hashes(name: str) -> list[bytes]:
        with open(shared_data / "clips" / name, "rb") as file, open_container(file) as container:
            pictures = decode_pictures(container, probe(container, Limits()), Limits())
        return [fingerprint(still.image) for still in pictures.stills]

    squirrel, silent, other = hashes("squirrel-on-rail.mp4"), hashes("squirrel-on-rail-silent.mp4"), hashes("sign-yes.mkv")
    assert max(distance(one, two) for one, two in zip(squirrel, silent, strict=True)) <= 6
    assert min(distance(one, two) for one in squirrel for two in other) > 12
