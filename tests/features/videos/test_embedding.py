from __future__ import annotations

import os
import pathlib
import shutil
import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from features import weights
from features.errors import InvalidInput
from features.videos import embedding, image_encoder
from features.weights import WeightsConfig

Frames = Callable[[str], list[npt.NDArray[np.uint8]]]


@pytest.fixture(scope="module")
def text(weights_folder: pathlib.Path) -> embedding.MiniLmTextEncoder:
    return embedding.load_text_encoder()


@pytest.fixture(scope="module")
def visual(weights_folder: pathlib.Path) -> image_encoder.ImageEncoder:
    return image_encoder.load_visual_encoder()


class TestText:
    """Sentence embeddings."""

    def test_agrees_with_figures_published_for_the_model(self, text: embedding.MiniLmTextEncoder) -> None:
        """The similarities printed in the sentence-transformers documentation and on the model's card."""
        rows = text.encode(["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."])
        np.testing.assert_allclose(rows @ rows.T, [[1, 0.6660, 0.1046], [0.6660, 1, 0.1411], [0.1046, 0.1411, 1]], atol=6e-5)
        happy = ["That is a happy person", "That is a happy dog", "That is a very happy person", "Today is a sunny day"]
        rows = text.encode(happy)
        np.testing.assert_allclose(rows[0] @ rows[1:].T, [0.695, 0.943, 0.257], atol=6e-4)

    def test_rows_have_unit_length_and_keep_their_order(self, text: embedding.MiniLmTextEncoder) -> None:
        texts = [
            "",
            "cat",
            "a " * 300,
            "cat",
            "\N{CAT FACE} \x00\n",
            "ein Satz auf Deutsch",
            *(f"number {n} " * n for n in range(70)),
        ]
        rows = text.encode(texts)
        assert rows.shape == (len(texts), 384) and rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
        fresh = embedding.load_text_encoder()
        alone = np.concatenate([fresh.encode([one]) for one in reversed(texts)])[::-1]
        np.testing.assert_allclose(rows, alone, atol=2e-6)
        np.testing.assert_array_equal(rows[1], rows[3])

    def test_reads_256_tokens_and_no_more(self, text: embedding.MiniLmTextEncoder) -> None:
        start = "word " * 200
        a, b, c, d = text.encode([start, f"{start} funny dogs", "word " * 254, "word " * 254 + "funny dogs"])
        assert a @ b < 0.9999
        np.testing.assert_allclose(c, d, atol=2e-6)

    def test_no_text_is_no_row(self, text: embedding.MiniLmTextEncoder) -> None:
        assert text.encode([]).shape == (0, 384)

    def test_remembers_and_forgets(self, text: embedding.MiniLmTextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(embedding, "REMEMBERED_TEXTS", 2)
        first = text.encode(["one", "two", "three", "four"])
        assert len(text._known) == 2
        np.testing.assert_allclose(text.encode(["four", "one"]), first[[3, 0]], atol=2e-6)

    def test_threads_may_share_one(self, weights_folder: pathlib.Path) -> None:
        encoder = embedding.load_text_encoder()
        results: dict[int, npt.NDArray[np.float32]] = {}
        threads = [
            threading.Thread(target=lambda n=n: results.__setitem__(n, encoder.encode([f"{n} cats", "a dog"]))) for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number, rows in results.items():
            np.testing.assert_allclose(rows, encoder.encode([f"{number} cats", "a dog"]), atol=2e-6)
        assert len(results) == 4

    def test_a_model_of_ones_own_stands_in(
        self, text: embedding.MiniLmTextEncoder, weights_folder: pathlib.Path, tmp_path: pathlib.Path
    ) -> None:
        shutil.copytree(weights.locate("text"), tmp_path / "mine")
        own = embedding.load_text_encoder(WeightsConfig(text=str(tmp_path / "mine")))
        np.testing.assert_allclose(own.encode(["cat"]), text.encode(["cat"]), atol=2e-6)
        assert own.version.startswith("text-custom-") and own.version != text.version

    def test_a_file_that_is_no_model_is_refused(self, weights_folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
        shutil.copy(weights.locate("text") / "tokenizer.json", tmp_path)
        with pytest.raises(InvalidInput, match=r"model\.onnx"):
            embedding.load_text_encoder(WeightsConfig(text=str(tmp_path))).warm()
        (tmp_path / "model.onnx").write_bytes(b"nonsense")
        with pytest.raises(InvalidInput, match="not an ONNX model"):
            embedding.load_text_encoder(WeightsConfig(text=str(tmp_path), text_sha256=weights.digest_of(tmp_path))).warm()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_models_opened_before_a_fork_work_after_it(text: embedding.MiniLmTextEncoder, visual: image_encoder.ImageEncoder) -> None:
    text.warm()
    visual.warm()
    child = os.fork()
    if child == 0:
        try:
            text.encode(["said in the child"])
            visual.encode([np.zeros((50, 50, 3), np.uint8)])
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def test_nothing_is_downloaded_when_weights_are_missing(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDATTR_WEIGHTS", str(tmp_path))
    for load in (embedding.load_text_encoder, image_encoder.load_visual_encoder):
        with pytest.raises(InvalidInput, match="vidattr weights install"):
            load()
    assert list(tmp_path.iterdir()) == []
