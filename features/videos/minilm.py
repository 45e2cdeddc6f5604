"""all-MiniLM-L6-v2 as an ONNX graph, drawn from its safetensors file.

Architecture: BERT (Devlin et al. 2019) as distilled by Wang et al. 2020 (MiniLM): six layers of 384 units and 12 heads. Input
and output have the names of the usual BERT export, so any sentence-transformers ONNX file may stand in its place.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto
from safetensors.numpy import load_file

from features.videos.onnx_graph import Graph

State = dict[str, npt.NDArray[Any]]


def _dense(graph: Graph, state: State, rows: str, name: str) -> str:
    """rows (..., in) times the kernel, plus the bias: (..., out)."""
    product = graph.node("MatMul", rows, graph.weight(f"{name}.kernel", state[f"{name}.weight"].T))
    return graph.node("Add", product, graph.weight(f"{name}.bias", state[f"{name}.bias"]))


def _normalise(graph: Graph, state: State, rows: str, name: str, epsilon: float, output: str = "") -> str:
    gain, bias = (graph.weight(f"{name}.{part}", state[f"{name}.{part}"]) for part in ("weight", "bias"))
    return graph.node("LayerNormalization", rows, gain, bias, axis=-1, epsilon=epsilon, output=output)


def _attend(graph: Graph, state: State, rows: str, bias: str, layer: str, heads: int) -> str:
    """Multi-head self-attention: rows (n, tokens, units) to the same."""
    units = state[f"{layer}.attention.self.query.weight"].shape[0]
    split = graph.integers(0, 0, heads, units // heads)

    def part(which: str, order: list[int]) -> str:
        dense = _dense(graph, state, rows, f"{layer}.attention.self.{which}")
        return graph.node("Transpose", graph.node("Reshape", dense, split), perm=order)

    query, key, value = part("query", [0, 2, 1, 3]), part("key", [0, 2, 3, 1]), part("value", [0, 2, 1, 3])
    scores = graph.node("Div", graph.node("MatMul", query, key), graph.number(math.sqrt(units // heads)))
    shares = graph.node("Softmax", graph.node("Add", scores, bias), axis=-1)
    mixed = graph.node("Transpose", graph.node("MatMul", shares, value), perm=[0, 2, 1, 3])
    return _dense(graph, state, graph.node("Reshape", mixed, graph.integers(0, 0, units)), f"{layer}.attention.output.dense")


def _embed(graph: Graph, state: State, epsilon: float) -> str:
    """Word, position and (constant) segment embeddings, normalised: (n, tokens, units)."""
    words = graph.node("Gather", graph.weight("words", state["embeddings.word_embeddings.weight"]), "input_ids")
    places = state["embeddings.position_embeddings.weight"] + state["embeddings.token_type_embeddings.weight"][0]
    tokens = graph.node("Shape", "input_ids", start=1, end=2)
    places_used = graph.node("Slice", graph.weight("places", places), graph.integers(0), tokens, graph.integers(0))
    return _normalise(graph, state, graph.node("Add", words, places_used), "embeddings.LayerNorm", epsilon)


def write_onnx(state: State, config: dict[str, Any], path: Path) -> None:
    """Draws the network and writes it.

    Inputs `input_ids` and `attention_mask` are (n, tokens) int64; output `last_hidden_state` is (n, tokens, units) float32.
    """
    epsilon, layers = float(config["layer_norm_eps"]), int(config["num_hidden_layers"])
    graph = Graph("minilm")
    mask = graph.node("Cast", graph.node("Unsqueeze", "attention_mask", graph.integers(1, 2)), to=TensorProto.FLOAT)
    bias = graph.node("Mul", graph.node("Sub", graph.number(1.0), mask), graph.number(-1e9))
    rows = _embed(graph, state, epsilon)
    for index in range(layers):
        layer = f"encoder.layer.{index}"
        attended = _attend(graph, state, rows, bias, layer, int(config["num_attention_heads"]))
        rows = _normalise(graph, state, graph.node("Add", rows, attended), f"{layer}.attention.output.LayerNorm", epsilon)
        inner = graph.node("Gelu", _dense(graph, state, rows, f"{layer}.intermediate.dense"))
        outer = graph.node("Add", rows, _dense(graph, state, inner, f"{layer}.output.dense"))
        output = "last_hidden_state" if index == layers - 1 else ""
        rows = _normalise(graph, state, outer, f"{layer}.output.LayerNorm", epsilon, output)
    ids = (TensorProto.INT64, ("n", "tokens"))
    states = ("n", "tokens", int(config["hidden_size"]))
    graph.save(path, {"input_ids": ids, "attention_mask": ids}, {"last_hidden_state": states})


def build(source: Path, target: Path) -> None:
    """Turns model.safetensors, config.json and tokenizer.json of `source` into model.onnx and tokenizer.json of `target`."""
    config = json.loads((source / "config.json").read_text("utf-8"))
    state = {name: values.astype(np.float32) for name, values in load_file(source / "model.safetensors").items() if values.ndim}
    write_onnx(state, config, target / "model.onnx")
    shutil.copyfile(source / "tokenizer.json", target / "tokenizer.json")
