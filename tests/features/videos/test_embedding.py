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
from features.videos import embedding
from features.weights import WeightsConfig

Frames = Callable[[str], list[npt.NDArray[np.uint8]]]


@pytest.fixture(scope="module")
def text(weights_folder: pathlib.Path) -> embedding.MiniLmTextEncoder:
    return embedding.load_text_encoder()


@pytest.fixture(scope="module")
def visual(weights_folder: pathlib.Path) -> embedding.EfficientNetVisualEncoder:
    return embedding.load_visual_encoder()


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


class TestVisual:
    """What the image network sees."""

    def test_agrees_with_the_same_network_run_by_tensorflow(self, visual: embedding.EfficientNetVisualEncoder) -> None:
        """Values of tf.nn.conv2d, depthwise_conv2d ("SAME") and batch_normalization over the checkpoint's tensors."""
        y, x = np.mgrid[0:224, 0:224]
        features, probabilities = visual.encode([np.stack([y, x, (3 * y + 5 * x) % 256], -1).astype(np.uint8)])
        assert np.linalg.norm(features[0]) == pytest.approx(18.143198, abs=1e-3)
        assert features[0, 2] == pytest.approx(0.0320273, abs=1e-5)
        assert np.argsort(probabilities[0])[::-1][:3].tolist() == [418, 644, 626]
        np.testing.assert_allclose(np.sort(probabilities[0])[::-1][:3], [0.3192054, 0.1158604, 0.0552588], atol=1e-5)

    @pytest.mark.parametrize(
        ("clip", "label", "least"),
        [
            ("bee-on-thistle.mp4", "bee", 0.2),
            ("butterfly-in-sun.mp4", "admiral", 0.5),
            ("rooftop-drone-360p.mp4", "solar dish", 0.6),
            ("three-bottles.mp4", "water bottle", 0.2),
        ],
    )
    def test_names_what_clips_show(
        self, visual: embedding.EfficientNetVisualEncoder, clip_frames: Frames, clip: str, label: str, least: float
    ) -> None:
        _, probabilities = visual.encode(clip_frames(clip))
        mean = dict(zip(visual.labels, probabilities.mean(axis=0), strict=True))
        assert mean[label] > least
        assert label in sorted(mean, key=lambda name: -mean[name])[:2]

    def test_any_size_will_do_and_batches_change_nothing(self, visual: embedding.EfficientNetVisualEncoder) -> None:
        random = np.random.default_rng(1)
        sizes = [(224, 224), (1, 1), (720, 1280), (17, 400), (300, 30)]
        images = [random.integers(0, 256, (*size, 3)).astype(np.uint8) for size in sizes]
        features, probabilities = visual.encode(images)
        assert features.shape == (5, 1280) and probabilities.shape == (5, 1000)
        assert features.dtype == probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
        for row, image in enumerate(images):
            np.testing.assert_allclose(visual.encode([image])[0][0], features[row], atol=1e-4)

    def test_no_image_is_no_row(self, visual: embedding.EfficientNetVisualEncoder) -> None:
        assert [part.shape for part in visual.encode([])] == [(0, 1280), (0, 1000)]

    def test_labels_are_words(self, visual: embedding.EfficientNetVisualEncoder) -> None:
        assert len(visual.labels) == 1000
        assert (visual.labels[0], visual.labels[309], visual.labels[999]) == ("tench", "bee", "toilet tissue")

    def test_labels_must_fit_the_network(self, weights_folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
        (tmp_path / "labels.txt").write_text("cat\ndog\n")
        with pytest.raises(InvalidInput, match=r"names 2 classes.*knows 1000"):
            embedding.load_visual_encoder(WeightsConfig(labels=str(tmp_path / "labels.txt"))).warm()


def test_the_square_is_the_middle_one() -> None:
    image = np.zeros((10, 30, 3), np.uint8)
    image[:, 10:20] = 200
    assert (embedding.central_square(image, 4) == 200).all()
    assert (embedding.central_square(image.transpose(1, 0, 2), 12) == 200).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_models_opened_before_a_fork_work_after_it(
    text: embedding.MiniLmTextEncoder, visual: embedding.EfficientNetVisualEncoder
) -> None:
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
    for load in (embedding.load_text_encoder, embedding.load_visual_encoder):
        with pytest.raises(InvalidInput, match="vidattr weights install"):
            load()
    assert list(tmp_path.iterdir()) == []
