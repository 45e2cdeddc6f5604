"""The Feast objects that a registration means: one entity, a wide view for people and a packed view for machines.

Both views read the same Parquet files and are written from the same resolved row, so they cannot disagree. This is the only
module of its room that imports Feast.

The wide view has for each attribute `NAME` (Float32, `AttributeDefinition.number`), `NAME_source` (who said so, `absent` when
nobody does) and for a category `NAME_label`. The packed view has one Bytes column, see `features.serving.packed`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import timedelta
from functools import lru_cache
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq

from features.attributes.definition import AttributeDefinition
from features.attributes.registry import (
    ENTITY,
    JOIN_KEY,
    MATERIALIZE_LOCK,
    OFFLINE_BASE,
    OFFLINE_FOLDER,
    PACKED_COLUMN,
    PACKED_VIEW,
    WIDE_VIEW,
    RegisteredAttribute,
    Registration,
    columns_of,
    exclusive,
    next_registration,
    plan,
    registered_attributes,
)
from features.errors import InvalidInput
from features.feast_api import Bytes, Entity, FeatureStore, FeatureView, Field, FileSource, Float32, String, ValueType
from features.records import Source

NO_EXPIRY = timedelta(days=36_500)
"""Feast joins history within `ttl`; attributes do not expire, and online age is checked by `features.serving.online`."""

_STAMP = pa.timestamp("us", "UTC")


def entity() -> Entity:
    """A video, by its id."""
    return Entity(name=ENTITY, join_keys=[JOIN_KEY], value_type=ValueType.STRING, description="a short video")


def offline_folder(store_folder: str) -> str:
    """Where the history of both views lies, below WORKSPACE/feast."""
    return os.path.join(store_folder, OFFLINE_FOLDER, WIDE_VIEW)


@lru_cache(maxsize=8)
def _source(folder: str) -> FileSource:
    """One object for both views: `feast apply` takes two equal ones for a clash of names."""
    return FileSource(
        name=f"{WIDE_VIEW}_history",
        path=offline_folder(folder),
        timestamp_field="event_timestamp",
        description="every resolved row ever published, oldest files first",
    )


def _fields(attribute: RegisteredAttribute) -> list[Field]:
    tags = {
        "definition_hash": attribute.definition_hash,
        "value_signature": attribute.value_signature,
        "owner": attribute.owner,
        "stage": attribute.stage,
        "title": attribute.title,
    }
    meanings = {
        attribute.name: (Float32, f"{attribute.title}: {attribute.value_signature}"),
        f"{attribute.name}_source": (String, f"who says so: {', '.join(get_args(Source))} or absent"),
        f"{attribute.name}_label": (String, f"the label of {attribute.name}"),
    }
    fields = []
    for column in columns_of(attribute):
        dtype, description = meanings[column]
        fields.append(Field(name=column, dtype=dtype, description=description, tags=tags if column == attribute.name else {}))
    return fields


def wide_view(registered: Registration, folder: str) -> FeatureView:
    """One column group for each attribute, for people and for plain Feast clients."""
    return FeatureView(
        name=WIDE_VIEW,
        entities=[entity()],
        ttl=NO_EXPIRY,
        source=_source(folder),
        online=True,
        schema=[Field(name=JOIN_KEY, dtype=String), *(column for each in registered.attributes for column in _fields(each))],
        description="attributes of videos, one column group each",
    )


def packed_view(registered: Registration, folder: str) -> FeatureView:
    """The same rows as one Bytes column each; its tags are the registered state."""
    tags = {f"attribute.{attribute.name}": attribute.to_json() for attribute in registered.attributes}
    tags |= {f"retired.{name}": signature for name, signature in registered.retired.items()}
    tags |= {f"layout.{number}": json.dumps(layout) for number, layout in enumerate(registered.layouts)}
    return FeatureView(
        name=PACKED_VIEW,
        entities=[entity()],
        ttl=NO_EXPIRY,
        source=_source(folder),
        online=True,
        schema=[
            Field(name=JOIN_KEY, dtype=String),
            Field(name=PACKED_COLUMN, dtype=Bytes, description="all attributes of a video, see features.serving.packed"),
        ],
        description="attributes of videos for machines: one column, its layouts in the tags",
        tags=tags,
    )


def offline_schema(registered: Registration) -> pa.Schema:
    """Columns of the history: those of both views, retired attributes included so that their past stays readable."""
    columns: dict[str, pa.DataType] = {JOIN_KEY: pa.string()}
    for attribute in registered.attributes:
        columns |= {column: pa.float32() if column == attribute.name else pa.string() for column in columns_of(attribute)}
    for name, signature in registered.retired.items():
        columns |= {name: pa.float32(), f"{name}_source": pa.string()}
        if signature.startswith("category("):
            columns[f"{name}_label"] = pa.string()
    columns |= {PACKED_COLUMN: pa.binary(), "event_timestamp": _STAMP}
    return pa.schema([pa.field(name, kind) for name, kind in columns.items()])


def register(store: FeatureStore, registered: Registration) -> None:
    """Writes the state to the registry, the packed view first: killed in between, it is seen as incomplete and mended.

    Called under MATERIALIZE_LOCK, see `prepare_offline`.
    """
    folder = str(store.repo_path)
    prepare_offline(folder, registered)
    store.apply([entity(), packed_view(registered, folder)])
    store.apply([entity(), wide_view(registered, folder)])


def prepare_offline(folder: str, registered: Registration) -> None:
    """Makes the history readable before its first row and after every change of its columns.

    Readers take a folder's columns from its first file and want them in all of them, so files that lack a new column are
    rewritten with nulls in it, each whole or not at all. Called under MATERIALIZE_LOCK: a file that a compaction replaces
    between being read and being rewritten here would lose what was merged into it.
    """
    history = offline_folder(folder)
    os.makedirs(history, exist_ok=True)
    schema = offline_schema(registered)
    for name in sorted({OFFLINE_BASE, *(name for name in os.listdir(history) if name.endswith(".parquet"))}):
        path = os.path.join(history, name)
        present = pq.read_schema(path) if os.path.exists(path) else pa.schema([])
        if set(schema.names) <= set(present.names):
            continue
        rows = pq.ParquetFile(path).read() if os.path.exists(path) else schema.empty_table()
        columns = [
            rows[each.name].cast(each.type) if each.name in present.names else pa.nulls(len(rows), each.type) for each in schema
        ]
        partial = os.path.join(folder, f".partial-{os.getpid()}-{name}")
        pq.write_table(pa.Table.from_arrays(columns, schema=schema), partial)
        os.replace(partial, path)


def objects_for_apply(
    store: FeatureStore, folder: str, definitions: Sequence[AttributeDefinition], lock_timeout_s: float = 60.0
) -> tuple[Entity, FeatureView, FeatureView]:
    """What `feast apply` may register for these definitions, for those who use plain Feast: entity, packed view, wide view.

    Args:
        store: where the present state is registered.
        folder: absolute, WORKSPACE/feast.
        definitions: all of them.
        lock_timeout_s: how long to wait for a materialisation.

    Raises:
        InvalidInput: `vidattr register` would refuse them too, or asks for a confirmation that Feast cannot give.
        Transient: a materialisation of this workspace is running.
    """
    registered = registered_attributes(store)
    planned = plan(registered, definitions)
    if planned.refused:
        raise InvalidInput("; ".join(planned.refused))
    if planned.retired:
        raise InvalidInput(f"{', '.join(planned.retired)}: no longer defined; withdraw with `vidattr register --retire`")
    after = next_registration(registered, definitions)
    with exclusive(os.path.join(folder, MATERIALIZE_LOCK), lock_timeout_s, "materialisation"):
        prepare_offline(folder, after)
    return entity(), packed_view(after, folder), wide_view(after, folder)
