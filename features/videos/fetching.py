"""A video's bytes on the local disk, and their identity."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from features import storage
from features.errors import Permanent
from features.videos.decoding import open_media
from features.videos.probe import Limits


@dataclass(frozen=True)
class Fetched:
    """A video's bytes on the local disk.

    Attributes:
        path: where; temporary for objects of gs://.
        content_hash: SHA-256 of the bytes, 64 hex digits.
        bytes: how many.
        modified_ns: the file's time stamp when it was hashed.
    """

    path: str
    content_hash: str
    bytes: int
    modified_ns: int


def hash_file(path: str, limits: Limits | None = None) -> Fetched:
    """Reads a local file once for its digest. Raises Permanent as `open_media` does."""
    with open_media(path, limits or Limits()) as file:
        facts = os.fstat(file.fileno())
        return Fetched(
            path, hashlib.file_digest(cast(io.BufferedReader, file), "sha256").hexdigest(), facts.st_size, facts.st_mtime_ns
        )


def content_hash(path: str) -> str:
    """SHA-256 of a local file's bytes, 64 hex digits. Raises Permanent as `open_media` does."""
    return hash_file(path).content_hash


@contextmanager
def on_disk(uri: str, limits: Limits) -> Iterator[str]:
    """The path of a video's bytes, for as long as the context lasts; an object of gs:// is downloaded and removed again.

    Raises:
        Permanent: `missing` or `file_too_large`, of an object.
        Transient: storage did not answer.
    """
    if not storage.is_gcs(uri):
        yield uri
        return
    with tempfile.TemporaryDirectory(prefix="vidattr-") as folder:
        path = os.path.join(folder, "video")
        try:
            found = storage.size(uri)
            if found > limits.max_bytes:
                raise Permanent(
                    f"{uri}: {found} bytes, and limits.max_bytes is {limits.max_bytes}; raise it in vidattr.yaml", "file_too_large"
                )
            storage.download(uri, path)
        except FileNotFoundError as error:
            raise Permanent(f"{uri}: no such object; correct the manifest's uri", "missing") from error
        yield path
