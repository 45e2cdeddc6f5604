from __future__ import annotations

import os
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features import storage
from features.errors import InvalidInput


@pytest.fixture(params=["local", "gs"])
def root(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    return str(tmp_path / "w") if request.param == "local" else f"{request.getfixturevalue('bucket')}/{tmp_path.name}"


def test_what_is_written_is_read_listed_and_deleted(root: str) -> None:
    name = storage.join(root, "a[1]", "b*.txt")
    assert not storage.exists(name) and list(storage.list_names(root)) == []
    storage.write_bytes(name, b"one")
    storage.write_bytes(name, b"two")
    assert storage.exists(name) and storage.read_bytes(name) == b"two"
    assert list(storage.list_names(root)) == [name] and storage.size(name) == 3
    storage.delete(name)
    storage.delete(name)
    assert not storage.exists(name)
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(name)


def test_a_sibling_with_the_same_beginning_is_not_listed(root: str) -> None:
    storage.write_bytes(root + "/runs/a", b"")
    storage.write_bytes(root + "/runs-old/b", b"")
    assert list(storage.list_names(root + "/runs")) == [root + "/runs/a"]


def test_an_object_is_downloaded(bucket: str, tmp_path: pathlib.Path) -> None:
    storage.write_bytes(f"{bucket}/x", b"content")
    storage.download(f"{bucket}/x", str(tmp_path / "x"))
    assert (tmp_path / "x").read_bytes() == b"content"


def test_a_bucket_that_is_not_there_is_said(bucket: str) -> None:
    with pytest.raises(FileNotFoundError, match="no such object"):
        list(storage.list_names("gs://no-such-bucket/x"))
    with pytest.raises(FileNotFoundError):
        storage.size(f"{bucket}/nothing")


def test_a_failed_write_leaves_what_was_there(tmp_path: pathlib.Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidInput, match="cannot be written"):
        storage.write_bytes(str(tmp_path / "folder"), b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("name", ["gs://", "gs://bucket", "gs://bucket/"])
def test_a_bucket_alone_is_no_object(name: str) -> None:
    with pytest.raises(InvalidInput, match="gs://BUCKET/KEY"):
        storage.read_bytes(name)


@given(st.lists(st.sampled_from(["..", ".", "a", "b/c", "../a"]), min_size=1, max_size=5))
def test_join_stays_below_its_root(parts: list[str]) -> None:
    for root in ("/some/space", "gs://bucket/space"):
        try:
            name = storage.join(root, *parts)
        except InvalidInput:
            continue
        assert os.path.normpath(name.removeprefix("gs:/")).startswith(os.path.normpath(root.removeprefix("gs:/")))
