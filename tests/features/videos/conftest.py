from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest


@pytest.fixture(scope="session")
def clip_sound(shared_data: pathlib.Path) -> Callable[[str], npt.NDArray[np.float32]]:
    """Decodes the sound of a clip to mono at 16 kHz."""
    import av

    def decode(name: str) -> npt.NDArray[np.float32]:
        resampler = av.AudioResampler("flt", "mono", 16_000)
        with (shared_data / "clips" / name).open("rb") as file, av.open(file, metadata_errors="ignore") as container:
            frames = [*container.decode(audio=0), None]
            parts = [part.to_ndarray()[0] for frame in frames for part in resampler.resample(frame)]
        return np.concatenate(parts)

    return decode


@pytest.fixture(scope="session")
def clip_frames(shared_data: pathlib.Path) -> Callable[[str], list[npt.NDArray[np.uint8]]]:
    """Decodes four frames of a clip, evenly spread, as RGB."""
    import av

    def decode(name: str) -> list[npt.NDArray[np.uint8]]:
        with (shared_data / "clips" / name).open("rb") as file, av.open(file, metadata_errors="ignore") as container:
            frames = list(container.decode(video=0))
        return [frames[len(frames) * part // 8].to_ndarray(format="rgb24") for part in (1, 3, 5, 7)]

    return decode
