from __future__ import annotations

import collections
import os
import pickle
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import Permanent
from features.videos.torch_pickle import MAGIC, PROTOCOL, read_state_dict

torch = types.SimpleNamespace(
    FloatStorage=type("FloatStorage", (), {"__module__": "torch"}), LongStorage=type("LongStorage", (), {"__module__": "torch"})
)


def _rebuild_tensor_v2(*_: Any) -> None:
    """Stands for torch's function of this name while a checkpoint is written."""


class Tensor:
    """Pickles as torch's tensors do."""

    def __init__(self, storage: tuple[Any, ...], offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        self.call = (storage, offset, shape, strides, False, collections.OrderedDict())


class Storage(tuple[Any, ...]):
    """Pickles as a persistent id."""


class _Pickler(pickle._Pickler):  # the one in Python, whose globals can be named freely
    def persistent_id(self, thing: Any) -> Any:
        return tuple(thing) if isinstance(thing, Storage) else None

    def reducer_override(self, thing: Any) -> Any:
        return (_rebuild_tensor_v2, thing.call) if isinstance(thing, Tensor) else NotImplemented

    def save_global(self, thing: Any, name: str | None = None) -> None:
        known = {_rebuild_tensor_v2: "ctorch._utils\n_rebuild_tensor_v2\n", torch.FloatStorage: "ctorch\nFloatStorage\n"}
        known[torch.LongStorage] = "ctorch\nLongStorage\n"
        try:
            self.write(known[thing].encode())
        except (KeyError, TypeError):
            super().save_global(thing, name)

    dispatch = {**pickle._Pickler.dispatch, types.FunctionType: save_global, type: save_global}


def write_checkpoint(path: Path, state: Any, storages: dict[str, np.ndarray]) -> Path:
    with path.open("wb") as file:
        for header in (MAGIC, PROTOCOL, {"little_endian": True}):
            pickle.dump(header, file, 2)
        _Pickler(file, 2).dump(state)
        pickle.dump(list(storages), file, 2)
        for values in storages.values():
            file.write(len(values).to_bytes(8, "little") + values.tobytes())
    return path


def floats(key: str, count: int) -> Storage:
    return Storage(("storage", torch.FloatStorage, key, "cpu", count, None))


def test_reads_tensors_whatever_the_order_of_their_axes(tmp_path: Path) -> None:
    values = np.arange(24, dtype="<f4")
    state = collections.OrderedDict(
        plain=Tensor(floats("1", 24), 0, (2, 3, 4), (12, 4, 1)),
        turned=Tensor(floats("1", 24), 0, (4, 3, 2), (1, 4, 12)),
        part=Tensor(floats("1", 24), 4, (4,), (1,)),
        thin=Tensor(floats("1", 24), 0, (6, 1, 4), (4, 99, 1)),
        count=Tensor(Storage(("storage", torch.LongStorage, "2", "cpu", 1, None)), 0, (), ()),
    )
    read = read_state_dict(write_checkpoint(tmp_path / "m.pth", state, {"1": values, "2": np.array([7], "<i8")}))
    np.testing.assert_array_equal(read["plain"], values.reshape(2, 3, 4))
    np.testing.assert_array_equal(read["turned"], values.reshape(2, 3, 4).transpose(2, 1, 0))
    np.testing.assert_array_equal(read["part"], [4, 5, 6, 7])
    np.testing.assert_array_equal(read["thin"], values.reshape(6, 1, 4))
    assert read["count"] == 7 and read["count"].dtype == np.int64


class Command:
    """What an attacker would put into a checkpoint."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call = call, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("call", [os.system, eval, getattr, __import__, print, type], ids=lambda call: call.__name__)
def test_a_pickle_that_would_run_something_is_refused_before_it_does(tmp_path: Path, call: Any) -> None:
    ran = tmp_path / "ran"
    path = write_checkpoint(tmp_path / "m.pth", {"w": Command(call, f"touch {ran}")}, {})
    with pytest.raises(Permanent, match=call.__name__) as refusal:
        read_state_dict(path)
    assert refusal.value.kind == "hostile_pickle"
    assert not ran.exists()


def test_a_hostile_header_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    path.write_bytes(pickle.dumps(Command(os.system, f"touch {tmp_path / 'ran'}")))
    with pytest.raises(Permanent, match="system"):
        read_state_dict(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor(floats("1", 4), 0, (5,), (1,)),
        Tensor(floats("1", 4), 3, (2,), (1,)),
        Tensor(floats("1", 4), 0, (2, 2), (4, 1)),
        Tensor(floats("1", 4), 0, (1 << 40,), (0,)),
        Tensor(floats("1", 4), -1, (2,), (1,)),
        Tensor(floats("1", 4), 0, (2,), (-1,)),
        Tensor(floats("9", 4), 0, (2,), (1,)),
    ],
    ids=["too long", "offset too far", "gaps", "broadcast", "negative offset", "backwards", "no such storage"],
)
def test_a_tensor_that_reaches_beyond_its_storage_is_refused(tmp_path: Path, tensor: Tensor) -> None:
    path = write_checkpoint(tmp_path / "m.pth", {"w": tensor}, {"1": np.zeros(4, "<f4")})
    with pytest.raises(Permanent) as refusal:
        read_state_dict(path)
    assert refusal.value.kind == "hostile_pickle"


@given(st.integers(0, 400), st.integers(0, 255), st.integers(0, 60))
def test_a_spoiled_file_is_read_or_refused_and_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, position: int, byte: int, cut: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "spoiled.pth"
    write_checkpoint(path, {"w": Tensor(floats("1", 4), 0, (2, 2), (2, 1))}, {"1": np.zeros(4, "<f4")})
    content = bytearray(path.read_bytes())
    content[position % len(content)] = byte
    path.write_bytes(content[: len(content) - cut])
    try:
        assert isinstance(read_state_dict(path), dict)
    except Permanent as refusal:
        assert refusal.kind == "hostile_pickle"
