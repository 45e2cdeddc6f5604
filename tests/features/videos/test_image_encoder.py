"""What a video shows, in numbers: the built-in network, and networks of one's own by path."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper

from features.errors import InvalidInput
from features.videos import image_encoder
from features.videos.image_encoder import VisualSettings
from features.weights import WeightsConfig

Frames = Callable[[str], list[npt.NDArray[np.uint8]]]


@pytest.fixture(scope="module")
def visual(weights_folder: pathlib.Path) -> image_encoder.ImageEncoder:
    return image_encoder.load_visual_encoder()


class TestVisual:
    """What the image network sees."""

    def test_agrees_with_the_same_network_run_by_tensorflow(self, visual: image_encoder.ImageEncoder) -> None:
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
        self, visual: image_encoder.ImageEncoder, clip_frames: Frames, clip: str, label: str, least: float
    ) -> None:
        _, probabilities = visual.encode(clip_frames(clip))
        mean = dict(zip(visual.labels, probabilities.mean(axis=0), strict=True))
        assert mean[label] > least
        assert label in sorted(mean, key=lambda name: -mean[name])[:2]

    def test_any_size_will_do_and_batches_change_nothing(self, visual: image_encoder.ImageEncoder) -> None:
        random = np.random.default_rng(1)
        sizes = [(224, 224), (1, 1), (720, 1280), (17, 400), (300, 30)]
        images = [random.integers(0, 256, (*size, 3)).astype(np.uint8) for size in sizes]
        features, probabilities = visual.encode(images)
        assert features.shape == (5, 1280) and probabilities.shape == (5, 1000)
        assert features.dtype == probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
        for row, image in enumerate(images):
            np.testing.assert_allclose(visual.encode([image])[0][0], features[row], atol=1e-4)

    def test_no_image_is_no_row(self, visual: image_encoder.ImageEncoder) -> None:
        assert [part.shape for part in visual.encode([])] == [(0, 1280), (0, 1000)]

    def test_labels_are_words(self, visual: image_encoder.ImageEncoder) -> None:
        assert len(visual.labels) == 1000
        assert (visual.labels[0], visual.labels[309], visual.labels[999]) == ("tench", "bee", "toilet tissue")

    def test_labels_must_fit_the_network(self, weights_folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
        (tmp_path / "labels.txt").write_text("cat\ndog\n")
        with pytest.raises(InvalidInput, match=r"names 2 classes.*knows 1000"):
            image_encoder.load_visual_encoder(WeightsConfig(labels=str(tmp_path / "labels.txt"))).warm()


def test_the_square_is_the_middle_one() -> None:
    image = np.zeros((10, 30, 3), np.uint8)
    image[:, 10:20] = 200
    assert (image_encoder.middle(image, 4, 4) == 200).all()
    assert (image_encoder.middle(image.transpose(1, 0, 2), 12, 12) == 200).all()

    wide = image_encoder.middle(image, 5, 10)
    assert wide.shape == (5, 10, 3) and (wide[:, 4:6] == 200).all() and not (wide == 200).all()


Shape = tuple[int | str, ...]


def write_network(
    path: pathlib.Path, shape: Shape, number: int = TensorProto.FLOAT, more_inputs: int = 0, flat: bool = True
) -> pathlib.Path:
    """An ONNX network whose embedding is the mean of each channel; its second output, `classes`, is twice that."""
    first = shape[1] == 3
    nodes = [helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT)]
    nodes.append(helper.make_node("ReduceMean", ["numbers", "axes"], ["embedding"], keepdims=0 if flat else 1))
    nodes.append(helper.make_node("Add", ["embedding", "embedding"], ["classes"]))
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3] if first else [1, 2])
    inputs = [helper.make_tensor_value_info("image", number, shape)]
    inputs += [helper.make_tensor_value_info(f"words_{at}", TensorProto.INT64, ["n", 77]) for at in range(more_inputs)]
    answer = (shape[0], 3) if flat else (shape[0], 3, 1, 1) if first else (shape[0], 1, 1, 3)
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, answer) for name in ("embedding", "classes")]
    graph = helper.make_graph(nodes, "means", inputs, outputs, [axes])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), str(path))
    return path


RED = np.full((90, 160, 3), (255, 51, 0), np.uint8)


def encoded(path: pathlib.Path, **settings: object) -> npt.NDArray[np.float32]:
    encoder = image_encoder.load_visual_encoder(WeightsConfig(visual=str(path)), VisualSettings(**settings))
    rows, probabilities = encoder.encode([RED] * 5)
    assert probabilities.shape == (5, 0) and encoder.labels == (), "another network's class names would be lies"
    assert np.ptp(rows, axis=0) == pytest.approx(0, abs=1e-5)
    return rows[0]


class TestOwn:
    """Any network by path, shown pictures as it was trained on."""

    @pytest.mark.parametrize(
        ("shape", "number", "settings", "seen"),
        [
            (("n", 3, 8, 8), TensorProto.FLOAT, {}, (1, 0.2, 0)),
            (("n", 8, 8, 3), TensorProto.FLOAT, {"mean": [0.5], "std": [0.5]}, (1, -0.6, -1)),
            ((1, 3, "h", "w"), TensorProto.FLOAT, {"mean": (1, 0.2, 0), "std": (1, 1, 0.1), "side": 16}, (0, 0, 0)),
            ((3, 6, 12, 3), TensorProto.UINT8, {}, (255, 51, 0)),
            (("n", 3, 8, 8), TensorProto.FLOAT16, {"output": "classes"}, (2, 0.4, 0)),
        ],
    )
    def test_layout_size_and_numbers_are_the_networks(
        self, tmp_path: pathlib.Path, shape: Shape, number: int, settings: dict[str, object], seen: tuple[float, ...]
    ) -> None:
        assert encoded(write_network(tmp_path / "own.onnx", shape, number), **settings) == pytest.approx(seen, abs=2e-3)

    def test_a_saved_model_too(self, tmp_path: pathlib.Path) -> None:
        tf = pytest.importorskip("tensorflow")

        class Means(tf.Module):
            @tf.function(input_signature=[tf.TensorSpec([None, 10, 10, 3], tf.float32, name="pixels")])
            def serve(self, pixels: object) -> object:
                return {"embedding": tf.reduce_mean(pixels, axis=[1, 2]), "map": pixels}

        module = Means()
        tf.saved_model.save(module, str(tmp_path / "own"), signatures={"serving_default": module.serve})
        assert encoded(tmp_path / "own") == pytest.approx((1, 0.2, 0), abs=1e-5)
        (tmp_path / "own" / "saved_model.pb").write_bytes(b"nonsense")
        with pytest.raises(InvalidInput, match="no SavedModel"):
            encoded(tmp_path / "own")

    def test_named_classes_need_labels_that_fit(self, tmp_path: pathlib.Path) -> None:
        path = str(write_network(tmp_path / "own.onnx", ("n", 8, 8, 3)))
        (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
        named = image_encoder.load_visual_encoder(WeightsConfig(visual=path, labels=str(tmp_path / "labels.txt")))
        assert named.encode([RED])[1] == pytest.approx(np.array([[2, 0.4, 0]]), abs=1e-5) and named.labels[0] == "red"
        (tmp_path / "labels.txt").write_text("red\n")
        with pytest.raises(InvalidInput, match="names 1 classes.*knows 3"):
            image_encoder.load_visual_encoder(WeightsConfig(visual=path, labels=str(tmp_path / "labels.txt"))).warm()

    @pytest.mark.parametrize(
        ("how", "settings", "words"),
        [
            ({"shape": ("n", 4, 8, 8)}, {}, "no batch of RGB images"),
            ({"shape": ("n", 3, 8, 8), "number": TensorProto.INT64}, {}, "uint8, float32, float16"),
            ({"shape": ("n", 3, 8, 8), "more_inputs": 2}, {}, "3 inputs.*words_0"),
            ({"shape": ("n", 3, 8, 8), "flat": False}, {}, "no output of shape"),
            ({"shape": ("n", 3, 8, 8)}, {"output": "pooled"}, "no output pooled; there are: embedding, classes"),
            ({"shape": ("n", 3, 8, 8)}, {"side": 16}, "leave that out"),
        ],
    )
    def test_what_is_no_image_network_is_refused_with_what_was_found(
        self, tmp_path: pathlib.Path, how: dict[str, object], settings: dict[str, object], words: str
    ) -> None:
        with pytest.raises(InvalidInput, match=words):
            encoded(write_network(tmp_path / "own.onnx", **how), **settings)

    def test_settings_are_part_of_the_version_and_checked(self, tmp_path: pathlib.Path) -> None:
        config = WeightsConfig(visual=str(write_network(tmp_path / "own.onnx", ("n", 3, 8, 8))))
        versions = {image_encoder.load_visual_encoder(config, VisualSettings(mean=mean)).version for mean in ((0.0,), (0.5,))}
        assert len(versions) == 2 and all(version.startswith("visual-custom-") for version in versions)
        for wrong in ({"mean": (1, 2)}, {"std": (0,)}, {"std": ("x",)}, {"mean": [float("nan")]}, {"side": -1}):
            with pytest.raises(InvalidInput, match=r"visual\."):
                VisualSettings(**wrong)
