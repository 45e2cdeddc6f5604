"""Image networks by path: what an ONNX file or a TensorFlow SavedModel wants to be shown, and what it answers.

Both are told apart by what lies at the path, and described by their own signature; nothing is registered anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from features import weights
from features.errors import InvalidInput
from features.videos.embedding import open_session

USUAL_SIDE = 224
"""Pixels, for a network that takes any size."""
BATCH = 2
"""Images a call, where the network leaves it open: more are no faster on one core, and take 10 MB each."""
SAVED_MODEL = "saved_model.pb"
NUMBERS: dict[str, type[np.number[Any]]] = {
    "uint8": np.uint8,
    "float": np.float32,
    "float32": np.float32,
    "float16": np.float16,
    "half": np.float16,
}


@dataclass(frozen=True)
class ImageInput:
    """What a network wants to be shown.

    Attributes:
        name: of its input.
        channels_first: (n, 3, height, width) rather than (n, height, width, 3).
        height, width: pixels.
        batch: images a call; a network that fixes it gets exactly so many.
        number: type of a value; whole numbers are 0 to 255 as they come.
    """

    name: str
    channels_first: bool
    height: int
    width: int
    batch: int
    number: type[np.number[Any]]


class Network(Protocol):
    """A network that looks at images."""

    image: ImageInput
    outputs: Mapping[str, int]
    """Width of each output of shape (n, width), 0 where only a run will show it."""

    def run(self, images: npt.NDArray[Any]) -> Mapping[str, npt.NDArray[Any]]:
        """All outputs for a batch laid out as `image` says."""
        ...


def open_network(place: Path, threads: int, side: int = 0) -> Network:
    """Opens what lies at a path: an ONNX file, a folder with model.onnx, or the folder of a SavedModel.

    Args:
        place: where.
        threads: cores for one call, of ONNX; TensorFlow uses its own.
        side: pixels of the square it is shown; 0: as its signature says, 224 where that is open.

    Raises:
        InvalidInput: it is none of these, or its signature is not that of an image network.
    """
    if (place / SAVED_MODEL).is_file():
        return SavedModelNetwork(place, side)
    return OnnxNetwork(weights.file_in(place, "model.onnx"), threads, side)


def image_input(place: Path, name: str, shape: list[Any], number: str, side: int) -> ImageInput:
    """Reads a signature's (name, shape with None or words where it is open, type). Raises InvalidInput with what it found."""
    said = f"{place}: its input {name!r} of shape {tuple(shape)} and type {number}"
    if len(shape) != 4 or 3 not in (shape[1], shape[3]):
        raise InvalidInput(f"{said} is no batch of RGB images: export it with (n, height, width, 3) or (n, 3, height, width)")
    if number not in NUMBERS:
        raise InvalidInput(f"{said} is none of uint8, float32, float16: export it with one of these")
    channels_first = shape[3] != 3
    height, width = (shape[2], shape[3]) if channels_first else (shape[1], shape[2])
    given = [size if isinstance(size, int) and size > 0 else side or USUAL_SIDE for size in (height, width)]
    if side and given != [side, side]:
        raise InvalidInput(f"{said} is fixed, and `visual: side:` is {side}: leave that out")
    batch = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else BATCH
    return ImageInput(name, channels_first, given[0], given[1], batch, NUMBERS[number])


def _only(place: Path, inputs: list[Any]) -> Any:
    if len(inputs) != 1:
        names = ", ".join(sorted(each.name for each in inputs)) or "none"
        raise InvalidInput(f"{place}: wants {len(inputs)} inputs ({names}), not one image: export the half that sees by itself")
    return inputs[0]


class OnnxNetwork:
    """An ONNX graph with one input of images. See `open_network`."""

    def __init__(self, path: Path, threads: int, side: int) -> None:
        self._session = open_session(path, threads)
        asked = _only(path, self._session.get_inputs())
        number = asked.type.removeprefix("tensor(").removesuffix(")")
        self.image = image_input(path, asked.name, list(asked.shape), number, side)
        flat = [each for each in self._session.get_outputs() if len(each.shape) in (0, 2)]
        self.outputs: Mapping[str, int] = {each.name: _width(each.shape) for each in flat}
        self._names = [each.name for each in flat]

    def run(self, images: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """See `Network.run`."""
        answers = self._session.run(self._names, {self.image.name: images})
        return dict(zip(self._names, answers, strict=True))


def _width(shape: list[Any]) -> int:
    return shape[1] if len(shape) == 2 and isinstance(shape[1], int) else 0


class SavedModelNetwork:
    """The `serving_default` signature of a TensorFlow SavedModel. See `open_network`. TensorFlow is imported here."""

    def __init__(self, place: Path, side: int) -> None:
        import tensorflow as tf

        try:
            self._model = tf.saved_model.load(str(place))  # keeps the variables that the signature uses alive
            self._signature = self._model.signatures["serving_default"]
        except (OSError, ValueError, KeyError) as error:
            raise InvalidInput(f"{place}: no SavedModel with a serving_default signature ({error}); export it again") from error
        _, named = self._signature.structured_input_signature
        for name, spec in named.items():
            if spec.shape.rank is None:
                raise InvalidInput(f"{place}: its input {name!r} has no shape: export it with (n, height, width, 3)")
        asked_name = _only(place, [_Named(name) for name in named]).name
        asked = named[asked_name]
        self.image = image_input(place, asked_name, asked.shape.as_list(), asked.dtype.name, side)
        answers = self._signature.structured_outputs
        flat = {name: spec for name, spec in sorted(answers.items()) if spec.shape.rank in (None, 2)}
        self.outputs: Mapping[str, int] = {name: int(spec.shape[1] or 0) if spec.shape.rank else 0 for name, spec in flat.items()}
        self._tensor = tf.constant

    def run(self, images: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """See `Network.run`."""
        answers = self._signature(**{self.image.name: self._tensor(images)})
        return {name: answers[name].numpy() for name in self.outputs}


@dataclass(frozen=True)
class _Named:
    name: str
