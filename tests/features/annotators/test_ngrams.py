from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.annotators.ngrams import NGrams

DOCUMENTS = [
    "The cat sat on the mat",
    "the cat and the dog, the DOG again",
    "a dog sat down",
    "nothing in common",
    "ça va? ça va bien",
]


def test_it_is_what_scikit_learn_computes() -> None:
    text = pytest.importorskip("sklearn.feature_extraction.text")
    theirs = text.TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2).fit(DOCUMENTS)
    ours = NGrams.fit([[document] for document in DOCUMENTS])
    assert set(ours.weights) == set(theirs.vocabulary_)
    order = [ours.weights[term][0] for term in theirs.get_feature_names_out()]
    rows = ours.rows([[document] for document in DOCUMENTS]).toarray()[:, order]
    np.testing.assert_allclose(rows, theirs.transform(DOCUMENTS).toarray(), atol=1e-12)


def test_pairs_do_not_cross_sentences() -> None:
    assert "mat the" not in NGrams.fit([["on the mat", "the cat"]] * 2).weights
    assert "mat the" in NGrams.fit([["on the mat the cat"]] * 2).weights


@given(st.lists(st.lists(st.text(), max_size=3), max_size=4))
def test_any_text(documents: list[list[str]]) -> None:
    rows = NGrams.fit(documents).rows([*documents, []]).toarray()
    length = np.linalg.norm(rows, axis=1)
    assert np.all((np.abs(length - 1) < 1e-9) | (length == 0)) and length[-1] == 0
