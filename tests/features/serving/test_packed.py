"""The packed column: what goes in comes out, and nothing else does."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from features.serving.packed import BODY_FROM, SOURCES, PackedLayout, PackedRows, definition_code

LAYOUT = PackedLayout(("calm", "funny", "tone"), ("boolean", "score(0 to 5)", "category(a, b)"))


def make(rows: int, source: np.ndarray, values: np.ndarray) -> PackedRows:
    shape = (rows, len(LAYOUT.names))
    return PackedRows(
        values.astype(np.float32),
        np.full(shape, 1_700_000_000, np.uint32),
        np.full(shape, 0xDEADBEEF, np.uint32),
        source.astype(np.uint8),
        np.arange(rows, dtype=np.int64),
    )


def sample(rows: int = 4) -> PackedRows:
    rng = np.random.default_rng(0)
    return make(rows, rng.integers(0, len(SOURCES), (rows, 3)), rng.random((rows, 3)))


finite = st.floats(-1e6, 1e6, width=32)


@given(arrays(np.float32, (5, 3), elements=finite), arrays(np.uint8, (5, 3), elements=st.integers(0, len(SOURCES) - 1)))
def test_what_goes_in_comes_out(values: np.ndarray, source: np.ndarray) -> None:
    rows = make(5, source, values)
    decoded = LAYOUT.decode_many(LAYOUT.encode_many(rows))
    present = source != 0
    assert np.array_equal(decoded.source, source) and decoded.unreadable == 0
    assert np.array_equal(decoded.values[present], values[present]) and np.isnan(decoded.values[~present]).all()
    assert (decoded.annotated_at[present] == 1_700_000_000).all() and (decoded.definition[present] == 0xDEADBEEF).all()
    assert decoded.as_of.tolist() == [0, 1, 2, 3, 4]


def test_the_format_is_what_the_module_says() -> None:
    """Read by hand with struct: another reader in another language must be able to do the same."""
    rows = make(1, np.array([[1, 0, 5]]), np.array([[0.5, 9.0, 1.0]]))
    (blob,) = LAYOUT.encode_many(rows)
    assert len(blob) == 20 + 3 * 13
    assert struct.unpack_from("<8s", blob)[0] == LAYOUT.key
    assert struct.unpack_from("<q", blob, 12)[0] == 0
    assert struct.unpack_from("<3f", blob, BODY_FROM) == (0.5, 0.0, 1.0)
    assert struct.unpack_from("<3B", blob, BODY_FROM + 36) == (1, 0, 5)


def test_a_missing_row_is_absent_and_not_unreadable() -> None:
    first, second = LAYOUT.encode_many(sample(2))
    decoded = LAYOUT.decode_many([None, first, None, second])
    assert decoded.as_of.tolist() == [-1, 0, -1, 1] and decoded.unreadable == 0
    assert (decoded.source[[0, 2]] == 0).all() and np.isnan(decoded.values[[0, 2]]).all()


def test_rows_of_an_older_layout_are_matched_by_name_and_signature() -> None:
    older = PackedLayout(("tone", "funny", "gone"), ("category(a, b)", "boolean", "boolean"))
    rows = PackedRows.absent(1, 3)
    rows.values[:], rows.source[:], rows.as_of[:] = [[1.0, 0.25, 0.75]], 3, 8
    decoded = LAYOUT.decode_many([*older.encode_many(rows), *LAYOUT.encode_many(sample(1))], [older])
    assert decoded.unreadable == 0 and decoded.as_of.tolist() == [8, 0]
    assert decoded.values[0, 2] == 1.0 and decoded.source[0].tolist() == [0, 0, 3], "funny had another meaning then"


def test_an_unknown_layout_is_absent_and_counted() -> None:
    other = PackedLayout(("calm",), ("boolean",))
    rows = PackedRows.absent(1, 1)
    rows.values[:], rows.source[:] = 1, 1
    decoded = LAYOUT.decode_many(other.encode_many(rows))
    assert decoded.unreadable == 1 and (decoded.source == 0).all()


@given(st.data())
def test_a_damaged_row_is_absent_and_counted_and_its_neighbours_stand(data: st.DataObject) -> None:
    good, victim = LAYOUT.encode_many(sample(2))
    at = data.draw(st.integers(0, len(victim) - 1))
    damaged = data.draw(
        st.sampled_from(
            [victim[:at], victim + b"x", victim[:at] + bytes([victim[at] ^ data.draw(st.integers(1, 255))]) + victim[at + 1 :]]
        )
    )
    decoded = LAYOUT.decode_many([damaged, good])
    assert decoded.unreadable == 1 and (decoded.source[0] == 0).all() and np.isnan(decoded.values[0]).all()
    assert np.array_equal(decoded.source[1], sample(2).source[0])


@given(st.binary(max_size=80))
def test_any_bytes_are_survived(blob: bytes) -> None:
    decoded = LAYOUT.decode_many([blob])
    assert decoded.unreadable == 1 and (decoded.source == 0).all()


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_is_never_encoded(number: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        LAYOUT.encode_many(make(1, np.ones((1, 3)), np.array([[0.0, number, 0.0]])))


def test_the_key_depends_on_names_signatures_and_order() -> None:
    keys = {
        LAYOUT.key,
        PackedLayout(LAYOUT.names[::-1], LAYOUT.signatures[::-1]).key,
        PackedLayout(("calm", "funny", "mood"), LAYOUT.signatures).key,
        PackedLayout(LAYOUT.names, ("boolean", "score(0 to 6)", "category(a, b)")).key,
    }
    assert len(keys) == 4
    assert PackedLayout.of(LAYOUT.pairs) == LAYOUT and PackedLayout.of(()).names == ()
    with pytest.raises(ValueError, match="distinct"):
        PackedLayout(("calm", "calm"), ("boolean", "boolean"))


def test_definition_code() -> None:
    assert definition_code("deadbeef" + "0" * 24) == 0xDEADBEEF and definition_code("") == 0
    assert definition_code("0" * 32) == 1, "0 says that nothing current was answered"
