"""Words and pairs of words as numbers, for what a Golden Set shows that no definition says."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.sparse import csr_matrix

LEAST_DOCUMENTS = 2
MOST_TERMS = 5000
_WORD = re.compile(r"\w\w+")


def terms_of(sentences: Sequence[str]) -> Counter[str]:
    """How often each word of two letters or more, and each pair of neighbours within a sentence, occurs."""
    found: Counter[str] = Counter()
    for sentence in sentences:
        words = _WORD.findall(sentence.lower())
        found.update(words)
        found.update(f"{first} {second}" for first, second in pairwise(words))
    return found


@dataclass(frozen=True)
class NGrams:
    """TF-IDF as scikit-learn's TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2) defines it.

    Attributes:
        weights: of each known term its column and its inverse document frequency, ln((1 + n) / (1 + documents)) + 1.
    """

    weights: dict[str, tuple[int, float]]

    @classmethod
    def fit(cls, documents: Sequence[Sequence[str]]) -> NGrams:
        """Learns the terms that at least two documents share, at most MOST_TERMS, the most frequent first.

        Args:
            documents: each a list of sentences.
        """
        counts = Counter(term for document in documents for term in terms_of(document))
        shared = sorted((-count, term) for term, count in counts.items() if count >= LEAST_DOCUMENTS)[:MOST_TERMS]
        size = len(documents)
        return cls({term: (column, math.log((1 + size) / (1 - count)) + 1) for column, (count, term) in enumerate(shared)})

    def rows(self, documents: Sequence[Sequence[str]]) -> csr_matrix:
        """Shape (documents, terms), rows of unit length, or of zeros where no term is known."""
        values: list[float] = []
        columns: list[int] = []
        ends = [0]
        for document in documents:
            known = {term: count for term, count in terms_of(document).items() if term in self.weights}
            row = np.array([(1 + math.log(count)) * self.weights[term][1] for term, count in known.items()])
            values += (row / (np.linalg.norm(row) or 1.0)).tolist()
            columns += [self.weights[term][0] for term in known]
            ends.append(len(columns))
        return csr_matrix((values, columns, ends), shape=(len(documents), len(self.weights)))
