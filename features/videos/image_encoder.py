"""Numbers for what a video shows: any image network, by path, with its pictures prepared as it was trained."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features import weights
from features.errors import InvalidInput
from features.records import digest
from features.videos.image_network import ImageInput, Network, open_network
from features.weights import WeightsConfig

Floats = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class VisualSettings:
    """How pictures are shown to an encoder of your own (`weights: visual:`), and what is kept of its answer.

    Attributes:
        side: pixels of the square it is shown; 0: as its signature says.
        mean, std: one or three numbers (R, G, B): a network of floats sees (pixel / 255 - mean) / std. Those of ImageNet are 0.485,
            0.456, 0.406 and 0.229, 0.224, 0.225; for -1 to 1 give 0.5 and 0.5. One of whole numbers sees 0 to 255.
        output: which of its outputs is the embedding; empty: the first of shape (n, width).
        per_frame: keep the embedding of each still too (`frame_embeddings`), and not only their mean.
    """

    side: int = 0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    output: str = ""
    per_frame: bool = False

    def __post_init__(self) -> None:
        """Raises InvalidInput naming what is out of its range."""
        for name in ("mean", "std"):
            value = getattr(self, name)
            numbers = tuple(value) if isinstance(value, list | tuple) else (value,)
            good = all(isinstance(each, int | float) and not isinstance(each, bool) and math.isfinite(each) for each in numbers)
            if len(numbers) not in (1, 3) or not good or (name == "std" and not all(each > 0 for each in numbers)):
                raise InvalidInput(f"visual.{name} is {value!r}; write one or three numbers" + ", above 0" * (name == "std"))
            object.__setattr__(self, name, tuple(float(each) for each in numbers))
        if not 0 <= self.side <= 1024:
            raise InvalidInput(f"visual.side is {self.side}; write 0, or pixels up to 1024")


class ImageEncoder:
    """What an image network sees: an embedding, and probabilities of named classes where it gives some.

    Below about 0.4 a class name of the built-in network is mostly nonsense.

    Args:
        place: as for `features.videos.image_network.open_network`.
        labels: labels.txt, a class name a line, or the folder that holds it; None: nothing is named.
        version: identity of both.
        settings: how it is shown pictures.
        threads: cores for one call.
    """

    def __init__(
        self, place: Path, labels: Path | None, version: str, settings: VisualSettings | None = None, threads: int = 1
    ) -> None:
        self._settings = settings or VisualSettings()
        self.version = version
        self._place = place
        self._labels = labels
        self._threads = threads
        self._lock = threading.Lock()
        self._outputs: tuple[str, str] | None = None

    @cached_property
    def labels(self) -> Sequence[str]:
        """Class names in words, in the order of the probabilities."""
        if self._labels is None:
            return ()
        return tuple(weights.file_in(self._labels, "labels.txt").read_text("utf-8").splitlines())

    @cached_property
    def _network(self) -> Network:
        network = open_network(self._place, self._threads, self._settings.side)
        self._outputs = self._chosen(network)
        return network

    def _chosen(self, network: Network) -> tuple[str, str]:
        """Names of the outputs that are the embedding and the probabilities, the latter empty without labels."""
        known, wanted = network.outputs, self._settings.output
        if not known or (wanted and wanted not in known):
            there = ", ".join(known) or "none"
            raise InvalidInput(
                f"{self._place}: no output {wanted or 'of shape (n, width)'}; there are: {there}; set `visual: output:`"
            )
        embedding = wanted or next(iter(known))
        if self._labels is None:
            return embedding, ""
        fitting = [name for name, width in known.items() if name != embedding and width == len(self.labels)]
        if not fitting:
            others = [str(width) for name, width in known.items() if name != embedding] or ["no"]
            raise InvalidInput(
                f"{self._labels} names {len(self.labels)} classes and {self._place} knows {' or '.join(others)}: name files that "
                "belong together in `weights: visual:` and `labels:`"
            )
        return embedding, fitting[0]

    def warm(self) -> None:
        """Opens the network and runs it once."""
        self.encode([np.zeros((8, 8, 3), np.uint8)])

    def encode(self, images: Sequence[Image]) -> tuple[Floats, Floats]:
        """Looks at images.

        Args:
            images: RGB, (height, width, 3) uint8 of any size; the part in the middle that has the network's shape is what is seen.

        Returns:
            (n, width) embeddings and (n, len(labels)) probabilities, both float32; for the built-in network 1280 and 1000.

        Raises:
            InvalidInput: the network cannot be opened, or answers otherwise than its signature says.
        """
        with self._lock:
            network = self._network
        assert self._outputs is not None
        embedding, classes = self._outputs
        if not images:
            return np.zeros((0, network.outputs[embedding]), np.float32), np.zeros((0, len(self.labels)), np.float32)
        size = network.image.batch
        rows: list[Floats] = []
        probabilities: list[Floats] = []
        for start in range(0, len(images), size):
            some = images[start : start + size]
            answers = network.run(prepared([*some, *[some[-1]] * (size - len(some))], network.image, self._settings))
            rows.append(self._checked(answers[embedding], len(some)))
            if classes:
                probabilities.append(self._checked(answers[classes], len(some)))
        nothing = np.zeros((len(images), 0), np.float32)
        return np.concatenate(rows), np.concatenate(probabilities) if classes else nothing

    def _checked(self, answer: npt.NDArray[Any], count: int) -> Floats:
        found = np.asarray(answer, np.float32)
        if found.ndim != 2 or len(found) < count or not np.isfinite(found[:count]).all():
            raise InvalidInput(f"{self._place}: answered with shape {found.shape}, or no finite numbers; set `visual: output:`")
        return found[:count]


def prepared(images: Sequence[Image], wanted: ImageInput, settings: VisualSettings) -> npt.NDArray[Any]:
    """Pictures as a network wants them: the middle of each, scaled, in its layout and numbers.

    Args:
        images: RGB, (height, width, 3) uint8.
        wanted: by the network.
        settings: mean and deviation of a network of floats.

    Returns:
        (n, height, width, 3) or (n, 3, height, width).
    """
    batch: npt.NDArray[Any] = np.stack([middle(image, wanted.height, wanted.width) for image in images])
    if wanted.number is not np.uint8:
        mean, std = np.array(settings.mean, np.float32), np.array(settings.std, np.float32)
        batch = ((batch.astype(np.float32) / np.float32(255) - mean) / std).astype(wanted.number)
    return np.ascontiguousarray(batch.transpose(0, 3, 1, 2)) if wanted.channels_first else batch


def middle(image: npt.NDArray[Any], height: int, width: int) -> Image:
    """The largest part in the middle of a (height, width, 3) image that has a wanted shape, scaled to that size."""
    import cv2

    there_h, there_w = image.shape[:2]
    scale = min(there_h / height, there_w / width)
    part_h, part_w = max(1, min(there_h, round(height * scale))), max(1, min(there_w, round(width * scale)))
    top, left = (there_h - part_h) // 2, (there_w - part_w) // 2
    part = np.ascontiguousarray(image[top : top + part_h, left : left + part_w])
    method = cv2.INTER_AREA if part_h > height else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(part, (width, height), interpolation=method), np.uint8)


def load_visual_encoder(
    config: WeightsConfig = weights.BUILT_IN, settings: VisualSettings | None = None, threads: int = 1
) -> ImageEncoder:
    """The configured visual encoder, its files checked, not opened yet. Raises what `weights.locate` raises.

    Tags come from the built-in network, or from one of your own for which `weights: labels:` names the classes.
    """
    settings = settings or VisualSettings()
    version = weights.version_of("visual", config)
    own = bool(config.location("visual"))
    labels = None
    if not own or config.location("labels"):
        labels = weights.locate("labels", config)
        version += f"+{weights.version_of('labels', config)}"
    if own:
        version += f"+{digest(repr(settings))[:8]}"
    return ImageEncoder(weights.locate("visual", config), labels, version, settings if own else VisualSettings(), threads)
