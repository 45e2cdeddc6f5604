from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from features.annotators.matching import Encode


def encode_words(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """A stand-in for a language model: each word adds to one of 512 places."""
    rows = np.zeros((len(texts), 512), np.float32)
    for row, text in enumerate(texts):
        for word in re.findall(r"\w+", text.lower()):
            rows[row, zlib.crc32(word.encode()) % 512] += 1
    return rows


@pytest.fixture(scope="session")
def encode() -> Encode:
    """Sentences that share words are close; needs no weights."""
    return encode_words
