"""What is used of Feast, imported in two of its six seconds. Nothing else here imports Feast at run time.

Feast has typeguard check the arguments of its classes, for which typeguard compiles their source anew at every start: most of the
time. mypy checks the calls made here, so Feast's classes are loaded as they are written. They stay so for this process: whoever
uses Feast beside this gets its other errors, and not this one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typeguard


@contextmanager
def _unchecked() -> Iterator[None]:
    def as_written(target: Any = None, **_: Any) -> Any:
        return target if target is not None else as_written

    checked = typeguard.typechecked
    typeguard.typechecked = as_written
    try:
        yield
    finally:
        typeguard.typechecked = checked


with _unchecked():
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource
    from feast.infra.key_encoding_utils import serialize_entity_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value
    from feast.types import Bytes, Float32, String
    from feast.value_type import ValueType

__all__ = [
    "Bytes",
    "Entity",
    "EntityKey",
    "FeatureStore",
    "FeatureView",
    "Field",
    "FileSource",
    "Float32",
    "String",
    "Value",
    "ValueType",
    "serialize_entity_key",
]
