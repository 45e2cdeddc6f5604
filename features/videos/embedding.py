"""Numbers for what a video says: a sentence embedding, run by onnxruntime.

Models open at first use; `warm` opens them ahead, for a process that is about to lock itself in. Sessions run on the calling
thread unless told otherwise, since several videos go in parallel; so one that was opened before a fork works after it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

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

MAX_TOKENS = 256
"""As its sentence_bert_config.json says (its tokenizer file says 128). The rest of a text is cut off."""
TOKENS_A_CALL = 1024
"""Padding included; bounds what a call takes (40 MB). Larger calls are no faster on one core."""
REMEMBERED_TEXTS = 4096
"""Embeddings kept for texts that come again (definitions, hashtags), about 7 MB."""


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


def load_text_encoder(config: WeightsConfig = weights.BUILT_IN, threads: int = 1) -> MiniLmTextEncoder:
    """The configured text encoder, its files checked, not opened yet. Raises what `weights.locate` raises."""
    return MiniLmTextEncoder(weights.locate("text", config), weights.version_of("text", config), threads)
