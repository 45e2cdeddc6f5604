"""EfficientNet-Lite0 as an ONNX graph, drawn from the tensors of its torch checkpoint.

Architecture: Tan and Le 2019 (B0) with the changes of EfficientNet-Lite (2020): no squeeze-excitation, ReLU6 for swish.
Convolutions pad as TensorFlow's "same" does, which puts the odd pixel at the end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from features.videos.onnx_graph import Graph
from features.videos.torch_pickle import read_state_dict

SIZE = 224
"""Width and height that the network was trained on, in pixels."""
EMBEDDING_SIZE = 1280
CLASSES = 1000
BATCH_NORM_EPSILON = 1e-3
BLOCK_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)
"""Stride of each of the 16 inverted-residual blocks; every other number can be read off the weights."""

State = dict[str, npt.NDArray[Any]]


def _convolution(graph: Graph, state: State, image: str, conv: str, norm: str, stride: int = 1, relu6: bool = True) -> str:
    """Convolution, batch normalisation folded into it, and ReLU6 where wanted."""
    kernel = state[f"{conv}.weight"].astype(np.float64)  # (out, in, height, width); in = 1 of a depthwise one
    scale = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"].astype(np.float64) + BATCH_NORM_EPSILON)
    bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
    out = graph.node(
        "Conv",
        image,
        graph.weight(f"{conv}.kernel", (kernel * scale[:, None, None, None]).astype(np.float32)),
        graph.weight(f"{conv}.bias", bias.astype(np.float32)),
        auto_pad="SAME_UPPER",
        strides=[stride, stride],
        kernel_shape=kernel.shape[2:],
        group=kernel.shape[0] if "depthwise" in conv else 1,
    )
    return graph.node("Clip", out, graph.number(0.0), graph.number(6.0)) if relu6 else out


def _block(graph: Graph, state: State, image: str, name: str, stride: int) -> str:
    """Expand, filter each channel, project, and add the input where shapes allow."""
    inner = image
    channels = state[f"{name}._depthwise_conv.weight"].shape[0]
    if f"{name}._expand_conv.weight" in state:
        channels = state[f"{name}._expand_conv.weight"].shape[1]
        inner = _convolution(graph, state, inner, f"{name}._expand_conv", f"{name}._bn0")
    inner = _convolution(graph, state, inner, f"{name}._depthwise_conv", f"{name}._bn1", stride)
    inner = _convolution(graph, state, inner, f"{name}._project_conv", f"{name}._bn2", relu6=False)
    same = stride == 1 and state[f"{name}._project_conv.weight"].shape[0] == channels
    return graph.node("Add", image, inner) if same else inner


def write_onnx(state: State, path: Path) -> None:
    """Draws the network and writes it.

    Input `images` is (n, 224, 224, 3) uint8 RGB; outputs are `embedding` (n, 1280), the pooled features, and `probabilities`
    (n, 1000) over the ImageNet classes.
    """
    graph = Graph("efficientnet_lite0")
    pixels = graph.node("Cast", "images", to=TensorProto.FLOAT)
    pixels = graph.node("Div", graph.node("Sub", pixels, graph.number(127.0)), graph.number(128.0))
    image = graph.node("Transpose", pixels, perm=[0, 3, 1, 2])
    image = _convolution(graph, state, image, "_conv_stem", "_bn0", stride=2)
    for index, stride in enumerate(BLOCK_STRIDES):
        image = _block(graph, state, image, f"_blocks.{index}", stride)
    image = _convolution(graph, state, image, "_conv_head", "_bn1")
    embedding = graph.node("Flatten", graph.node("GlobalAveragePool", image), output="embedding")
    logits = graph.node(
        "Gemm", embedding, graph.weight("fc.kernel", state["_fc.weight"]), graph.weight("fc.bias", state["_fc.bias"]), transB=1
    )
    graph.node("Softmax", logits, axis=-1, output="probabilities")
    graph.save(
        path,
        {"images": (TensorProto.UINT8, ("n", SIZE, SIZE, 3))},
        {"embedding": ("n", EMBEDDING_SIZE), "probabilities": ("n", CLASSES)},
    )


def build(source: Path, target: Path) -> None:
    """Turns the checkpoint in `source` into `target`/model.onnx."""
    checkpoint = next(source.glob("*.pth"))
    write_onnx(read_state_dict(checkpoint), target / "model.onnx")
