"""Numbers for what a video says and shows: a sentence embedding and an image network, both run by onnxruntime.

Models open at first use; `warm` opens them ahead, for a process that is about to lock itself in. Sessions run on the calling
thread unless told otherwise, since several videos go in parallel; so one that was opened before a fork works after it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from features import weights
from features.errors import InvalidInput
from features.records import digest
from features.weights import WeightsConfig

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from tokenizers import Tokenizer

Floats = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]

MAX_TOKENS = 256
"""As its sentence_bert_config.json says (its tokenizer file says 128). The rest of a text is cut off."""
TOKENS_A_CALL = 1024
"""Padding included; bounds what a call takes (40 MB). Larger calls are no faster on one core."""
REMEMBERED_TEXTS = 4096
"""Embeddings kept for texts that come again (definitions, hashtags), about 7 MB."""
IMAGE_SIZE = 224
IMAGES_A_CALL = 2
"""Larger calls are no faster on one core, and take 10 MB an image."""


def open_session(path: Path, threads: int) -> InferenceSession:
    """Opens an ONNX file on the CPU. Raises InvalidInput when onnxruntime cannot read it."""
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf, NotImplemented

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except (Fail, InvalidGraph, InvalidProtobuf, NotImplemented) as error:
        raise InvalidInput(f"{path}: not an ONNX model that can be run ({error}); name another in `weights:`") from error


class MiniLmTextEncoder:
    """Sentence embeddings: mean of the last layer's tokens, scaled to unit length.

    Args:
        place: a folder with model.onnx, whose output is (n, tokens, d), and tokenizer.json.
        version: identity of those files.
        threads: cores for one call.
    """

    def __init__(self, place: Path, version: str, threads: int = 1) -> None:
        self.version = version
        self._place = place
        self._threads = threads
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Floats] = OrderedDict()

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        from tokenizers import Tokenizer

        tokenizer: Tokenizer = Tokenizer.from_file(str(weights.file_in(self._place, "tokenizer.json")))
        tokenizer.enable_truncation(MAX_TOKENS)
        tokenizer.no_padding()
        return tokenizer

    @cached_property
    def _session(self) -> InferenceSession:
        with self._lock:
            return open_session(weights.file_in(self._place, "model.onnx"), self._threads)

    def warm(self) -> None:
        """Opens the model and runs it once."""
        self.encode(["warm"])

    def encode(self, texts: Sequence[str]) -> Floats:
        """Embeds texts; only the first 256 tokens (about 1,200 letters) of each count.

        Args:
            texts: any, empty ones too.

        Returns:
            (len(texts), d) float32, each row of unit length; d is 384 for the built-in model.
        """
        keys = [digest(text) for text in texts]
        with self._lock:
            rows = {key: self._known[key] for key in keys if key in self._known}
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in rows}
        # One text at a time: the tokenizer's own threads would not survive a fork.
        tokens = {key: self._tokenizer.encode(text).ids for key, text in new.items()}
        left = sorted(new, key=lambda key: len(tokens[key]))
        while left:
            size = max(1, TOKENS_A_CALL // len(tokens[left[-1]]))
            batch, left = left[-size:], left[:-size]
            rows.update(zip(batch, self._embed([tokens[key] for key in batch]), strict=True))
        self._remember(rows)
        return np.stack([rows[key] for key in keys]) if keys else np.zeros((0, self._size), np.float32)

    def _remember(self, rows: dict[str, Floats]) -> None:
        with self._lock:
            for key, row in rows.items():
                self._known[key] = row
                self._known.move_to_end(key)
            while len(self._known) > REMEMBERED_TEXTS:
                self._known.popitem(last=False)

    @property
    def _size(self) -> int:
        return int(self._session.get_outputs()[0].shape[-1])

    def _embed(self, tokens: list[list[int]]) -> Floats:
        ids = np.zeros((len(tokens), max(map(len, tokens))), np.int64)
        mask = np.zeros_like(ids)
        for row, one in enumerate(tokens):
            ids[row, : len(one)] = one
            mask[row, : len(one)] = 1
        offered = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        feed = {wanted.name: offered[wanted.name] for wanted in self._session.get_inputs()}
        states = self._session.run(None, feed)[0]
        means = np.einsum("nth,nt->nh", states, mask.astype(np.float32)) / mask.sum(1, keepdims=True)
        return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True), np.float32)


class EfficientNetVisualEncoder:
    """What an image network sees: its pooled features, and probabilities of the ImageNet classes.

    Below about 0.4 a class name is mostly nonsense.

    Args:
        place: model.onnx or the folder that holds it; input (n, 224, 224, 3) uint8 RGB, outputs (n, d) and (n, classes).
        labels: labels.txt or the folder that holds it, a class name a line.
        version: identity of both.
        threads: cores for one call.
    """

    def __init__(self, place: Path, labels: Path, version: str, threads: int = 1) -> None:
        self.version = version
        self._place = place
        self._labels = labels
        self._threads = threads
        self._lock = threading.Lock()

    @cached_property
    def labels(self) -> Sequence[str]:
        """Class names in words, in the order of the probabilities."""
        return tuple(weights.file_in(self._labels, "labels.txt").read_text("utf-8").splitlines())

    @cached_property
    def _session(self) -> InferenceSession:
        with self._lock:
            session = open_session(weights.file_in(self._place, "model.onnx"), self._threads)
            classes = session.get_outputs()[1].shape[-1]
            if classes != len(self.labels):
                raise InvalidInput(
                    f"{self._labels} names {len(self.labels)} classes and {self._place} knows {classes}: name files that "
                    "belong together in `weights: visual:` and `labels:`"
                )
            return session

    def warm(self) -> None:
        """Opens the model and runs it once."""
        self.encode([np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)])

    def encode(self, images: Sequence[Image]) -> tuple[Floats, Floats]:
        """Looks at images.

        Args:
            images: RGB, (height, width, 3) uint8 of any size; the central square is what is seen.

        Returns:
            (n, 1280) features and (n, 1000) probabilities, both float32.
        """
        session = self._session
        parts = []
        for start in range(0, len(images), IMAGES_A_CALL):
            batch = np.stack([central_square(image) for image in images[start : start + IMAGES_A_CALL]])
            parts.append(session.run(None, {session.get_inputs()[0].name: batch}))
        if not parts:
            width, classes = (int(output.shape[-1]) for output in session.get_outputs())
            return np.zeros((0, width), np.float32), np.zeros((0, classes), np.float32)
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def central_square(image: npt.NDArray[Any], size: int = IMAGE_SIZE) -> Image:
    """The largest square in the middle of a (height, width, 3) image, resized to (size, size, 3)."""
    import cv2

    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = np.ascontiguousarray(image[top : top + side, left : left + side])
    method = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(square, (size, size), interpolation=method), np.uint8)


def load_text_encoder(config: WeightsConfig = weights.BUILT_IN, threads: int = 1) -> MiniLmTextEncoder:
    """The configured text encoder, its files checked, not opened yet. Raises what `weights.locate` raises."""
    return MiniLmTextEncoder(weights.locate("text", config), weights.version_of("text", config), threads)


def load_visual_encoder(config: WeightsConfig = weights.BUILT_IN, threads: int = 1) -> EfficientNetVisualEncoder:
    """The configured visual encoder, its files checked, not opened yet. Raises what `weights.locate` raises."""
    version = f"{weights.version_of('visual', config)}+{weights.version_of('labels', config)}"
    return EfficientNetVisualEncoder(weights.locate("visual", config), weights.locate("labels", config), version, threads)
