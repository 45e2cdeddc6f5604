"""Bytes under a name, in a local folder or on Google Cloud Storage, written whole or not at all.

Names are absolute local paths or `gs://bucket/key`. Characters such as `[` and `*` are never patterns here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from features.errors import InvalidInput, Permanent, Transient

if TYPE_CHECKING:
    from google.cloud.storage import Blob, Client

GCS_TIMEOUT_S = 60
GCS_CHUNK_BYTES = 1 << 20


def is_gcs(name: str) -> bool:
    """Whether `name` lies on Google Cloud Storage."""
    return name.startswith("gs://")


def join(root: str, *parts: str) -> str:
    """A name below `root`. Raises InvalidInput when a part would climb out of it."""
    name = posixpath.join(root, *parts)
    below = posixpath.relpath(name[5:], root[5:]) if is_gcs(root) else os.path.relpath(name, root)
    if below.startswith(".."):
        raise InvalidInput(f"{'/'.join(parts)!r} lies outside {root}: name something below it")
    return name


@lru_cache(maxsize=1)
def _client() -> Client:
    from google.cloud import storage

    return storage.Client()


def _blob(name: str) -> Blob:
    bucket, _, key = name[5:].partition("/")
    if not bucket or not key:
        raise InvalidInput(f"{name!r} names no object: write gs://BUCKET/KEY")
    return _client().bucket(bucket).blob(key)


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turns Google's errors about `name` into ours."""
    from google.api_core import exceptions
    from google.auth.exceptions import GoogleAuthError

    try:
        yield
    except exceptions.NotFound as error:
        raise FileNotFoundError(errno.ENOENT, "no such object", name) from error
    except (exceptions.Forbidden, exceptions.Unauthorized, GoogleAuthError) as error:
        raise Permanent(f"{name}: access refused; check the credentials and the bucket's permissions", "forbidden") from error
    except (exceptions.ServerError, exceptions.TooManyRequests, exceptions.RetryError, OSError) as error:
        raise Transient(f"{name}: storage did not answer ({type(error).__name__}); try again") from error


def _gcs(name: str, call: str, *arguments: Any, **options: Any) -> Any:
    """Calls one method of an object."""
    with _explained(name):
        return getattr(_blob(name), call)(*arguments, timeout=GCS_TIMEOUT_S, **options)


def read_bytes(name: str) -> bytes:
    """The whole content. Raises FileNotFoundError, Permanent or Transient."""
    if is_gcs(name):
        return bytes(_gcs(name, "download_as_bytes"))
    with open(name, "rb") as file:
        return file.read()


def open_binary(name: str) -> BinaryIO:
    """For reading here and there without reading all. Raises FileNotFoundError, Permanent or Transient."""
    if not is_gcs(name):
        return open(name, "rb")
    if not exists(name):
        raise FileNotFoundError(errno.ENOENT, "no such object", name)
    return cast(BinaryIO, _blob(name).open("rb", chunk_size=GCS_CHUNK_BYTES))


def download(name: str, local_path: str) -> None:
    """Copies an object to a local file, which must not matter if this fails half-way."""
    if is_gcs(name):
        _gcs(name, "download_to_filename", local_path)
    else:
        raise InvalidInput(f"{name!r} is local already")


def write_bytes(name: str, content: bytes) -> None:
    """Writes `content` so that `name` holds all of it or what it held before, whatever happens in between.

    Raises:
        InvalidInput: the place cannot be written, or its disk is full.
        Permanent, Transient: Google Cloud Storage refused, or did not answer.
    """
    if is_gcs(name):
        _gcs(name, "upload_from_string", content, content_type="application/octet-stream")
        return
    folder = os.path.dirname(name)
    partial = ""
    try:
        os.makedirs(folder, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(prefix=".partial-", dir=folder)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, name)
    except OSError as error:
        if partial and os.path.exists(partial):
            os.unlink(partial)
        raise unwritable(name, error) from error


def unwritable(name: str, error: OSError) -> InvalidInput:
    """What to tell a person whose disk said no."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InvalidInput(f"{name}: the disk is full; free some space or choose another --workspace, then run again")
    return InvalidInput(f"{name}: cannot be written ({error.strerror or error}); choose another --workspace")


def size(name: str) -> int:
    """Bytes of a file or an object. Raises FileNotFoundError, Permanent or Transient."""
    if not is_gcs(name):
        return os.path.getsize(name)
    blob = _blob(name)
    with _explained(name):
        blob.reload(timeout=GCS_TIMEOUT_S)
    return int(blob.size or 0)


def exists(name: str) -> bool:
    """Whether there is a file or an object of this name."""
    return bool(_gcs(name, "exists")) if is_gcs(name) else os.path.isfile(name)


def delete(name: str) -> None:
    """Removes a file or an object; one that is gone already is no error."""
    try:
        if is_gcs(name):
            _gcs(name, "delete")
        else:
            os.unlink(name)
    except FileNotFoundError:
        pass


def list_names(folder: str) -> Iterator[str]:
    """Every file below a folder, in order, partial ones left out; nothing when there is no such folder."""
    if is_gcs(folder):
        bucket, _, prefix = folder[5:].partition("/")
        prefix = prefix.rstrip("/") + "/" if prefix.rstrip("/") else ""
        with _explained(folder):
            keys = [blob.name for blob in _client().list_blobs(bucket, prefix=prefix, timeout=GCS_TIMEOUT_S)]
        yield from (f"gs://{bucket}/{key}" for key in keys)
        return
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            if not file.startswith(".partial-"):
                yield os.path.join(parent, file)
