"""A pencil for drawing ONNX graphs node by node, used once, when weights are installed."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 20
"""The first with Gelu; onnxruntime from 1.17 runs it."""
IR_VERSION = 9
"""The file format that goes with OPSET, so that onnxruntime need not be newer than that."""

Shape = Sequence[int | str]
"""Sizes of a tensor; a word stands for a size that differs from call to call."""


class Graph:
    """Nodes and weights in the order they are added.

    Args:
        name: the graph's name, seen by who opens the file.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, onnx.TensorProto] = {}
        self._numbers = itertools.count()

    def weight(self, name: str, values: npt.NDArray[Any]) -> str:
        """A constant tensor, stored once under its name. Returns the name."""
        self._weights[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def integers(self, *values: int) -> str:
        """A small vector of int64, such as a shape or axes. Returns its name."""
        return self.weight("integers_" + "_".join(map(str, values)), np.array(values, np.int64))

    def number(self, value: float) -> str:
        """A float32 scalar. Returns its name."""
        return self.weight(f"number_{value!r}", np.array(value, np.float32))

    def node(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """One step of the computation. Returns the name of its output, made up unless given."""
        output = output or f"{operator}_{next(self._numbers)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def save(self, path: Path, inputs: Mapping[str, tuple[TensorProto.DataType, Shape]], outputs: Mapping[str, Shape]) -> None:
        """Checks the graph and writes it. Outputs are float32."""
        graph = helper.make_graph(
            self._nodes,
            self._name,
            [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            list(self._weights.values()),
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="vidattr"
        )
        onnx.checker.check_model(model, full_check=True)
        path.write_bytes(model.SerializeToString(deterministic=True))
