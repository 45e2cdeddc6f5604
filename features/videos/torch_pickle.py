"""Reading the tensors of a legacy torch checkpoint without torch, and without letting the pickle run anything.

The format (torch before 1.6): three header pickles (magic number, protocol, machine), a pickle of the state dict whose tensors
name their storages, a pickle of the list of storage keys, then each storage in that order as an int64 count and raw values.
"""

from __future__ import annotations

import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from features.errors import Permanent

MAGIC = 0x1950A86A20F9469CFC6C
"""First value of every legacy checkpoint (torch.serialization.MAGIC_NUMBER)."""
PROTOCOL = 1001
"""Second value (torch.serialization.PROTOCOL_VERSION)."""

_STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
}


@dataclass(frozen=True)
class _Tensor:
    """Where a tensor's values lie: densely from `offset` in storage `key`, its axes stored in the order `axes`."""

    key: str
    kind: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def values(self, storage: npt.NDArray[Any]) -> npt.NDArray[Any]:
        stored = storage[self.offset : self.offset + self.size].reshape([self.shape[axis] for axis in self.axes])
        return np.ascontiguousarray(stored.transpose(np.argsort(self.axes)))


def _refuse(reason: str) -> NoReturn:
    raise Permanent(f"{reason}; this is no plain checkpoint of tensors: use another file", "hostile_pickle")


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, requires_grad: Any = False, hooks: Any = None) -> _Tensor:
    """Stands in for torch._utils._rebuild_tensor_v2; admits tensors that are dense, whatever the order of their axes."""
    match storage:
        case (str(key), np.dtype() as kind):
            pass
        case _:
            _refuse("a tensor names no storage")
    sizes, steps = tuple(shape), tuple(strides)
    if len(sizes) != len(steps) or not all(isinstance(size, int) and size >= 0 for size in (offset, *sizes, *steps)):
        _refuse(f"a tensor has shape {sizes!r} and strides {steps!r} at {offset!r}")
    axes = sorted(range(len(sizes)), key=lambda axis: (sizes[axis] > 1) * -steps[axis])
    expected = 1
    for axis in reversed([axis for axis in axes if sizes[axis] > 1]):
        if steps[axis] != expected:
            _refuse(f"a tensor of shape {sizes} has strides {steps}")
        expected *= sizes[axis]
    return _Tensor(key, kind, offset, sizes, tuple(axes))


class _TensorsOnly(pickle.Unpickler):
    """Knows ordered dictionaries, tensors and storages, and refuses every other name before it is imported."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        _refuse(f"the pickle asks for {module}.{name}")

    def persistent_load(self, reference: Any) -> tuple[str, np.dtype[Any]]:
        match reference:
            case ("storage", np.dtype() as kind, str(key), str(), int(), None):
                return key, kind
            case _:
                _refuse("the pickle refers to something that is no storage")


def _next_pickle(file: io.BytesIO) -> Any:
    try:
        return _TensorsOnly(file).load()
    except Permanent:
        raise
    except Exception as error:  # a malformed pickle may raise anything
        message = f"not a torch checkpoint ({type(error).__name__}: {error}); use another file"
        raise Permanent(message, "hostile_pickle") from error


def _read_storages(file: io.BytesIO, keys: Sequence[str], kinds: dict[str, np.dtype[Any]]) -> dict[str, npt.NDArray[Any]]:
    storages = {}
    for key in keys:
        if key not in kinds:
            _refuse(f"no tensor says of what kind storage {key!r} is")
        count = int.from_bytes(file.read(8), "little", signed=True)
        raw = file.read(count * kinds[key].itemsize) if count >= 0 else b""
        if count < 0 or len(raw) != count * kinds[key].itemsize:
            _refuse(f"storage {key!r} is cut off")
        storages[key] = np.frombuffer(raw, kinds[key])
    return storages


def read_state_dict(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The tensors of a legacy checkpoint by name, C-ordered.

    Raises:
        Permanent: kind `hostile_pickle`, when the file asks for anything but tensors or is no legacy checkpoint.
    """
    file = io.BytesIO(path.read_bytes())
    if (_next_pickle(file), _next_pickle(file)) != (MAGIC, PROTOCOL):
        _refuse("the file does not begin like a checkpoint of torch before 1.6")
    _next_pickle(file)
    state, keys = _next_pickle(file), _next_pickle(file)
    if not isinstance(state, dict) or not isinstance(keys, list) or not all(isinstance(t, _Tensor) for t in state.values()):
        _refuse("the state dict holds something else than tensors")
    storages = _read_storages(file, keys, {tensor.key: tensor.kind for tensor in state.values()})
    tensors = {}
    for name, tensor in state.items():
        if tensor.key not in storages:
            _refuse(f"{name} lies in a storage that is missing")
        if tensor.offset + tensor.size > storages[tensor.key].size:
            _refuse(f"{name} reaches beyond its storage")
        tensors[str(name)] = tensor.values(storages[tensor.key])
    return tensors
