"""The Feast objects: generated from the definitions, for our readers and for those of plain Feast."""

from __future__ import annotations

import os
import pathlib
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.attributes import registry, views
from features.attributes.loading import load_definitions
from features.errors import InvalidInput, Transient
from features.feast_api import Bytes, Float32, String
from features.serving.publish import compact_history
from tests.features.serving.stores import FUNNY, TONE, define, register, registered_store


def test_the_views_follow_from_the_definitions(tmp_path: pathlib.Path) -> None:
    store = registered_store(tmp_path, [define("funny", owner="editors", stage="priority"), TONE])
    wide = store.get_feature_view(registry.WIDE_VIEW)
    columns = {column.name: column for column in wide.schema}
    assert {name: column.dtype for name, column in columns.items()} == {
        "video_id": String,
        "funny": Float32,
        "funny_source": String,
        "tone": Float32,
        "tone_source": String,
        "tone_label": String,
    }
    assert columns["funny"].tags == {
        "definition_hash": FUNNY.definition_hash,
        "value_signature": "boolean",
        "owner": "editors",
        "stage": "priority",
        "title": "Funny",
    }
    assert columns["tone"].description == "Tone: category(calm, neutral, loud)"
    packed = store.get_feature_view(registry.PACKED_VIEW)
    assert [(column.name, column.dtype) for column in packed.features] == [(registry.PACKED_COLUMN, Bytes)]
    entity = store.get_entity(registry.ENTITY)
    assert entity.join_key == "video_id" and entity.value_type.name == "STRING"
    with closing(sqlite3.connect(store.config.online_store.path)) as connection:
        assert connection.execute("pragma journal_mode").fetchone() == ("wal",)


def test_older_files_of_the_history_gain_new_columns(tmp_path: pathlib.Path) -> None:
    store = registered_store(tmp_path, [FUNNY])
    folder = str(store.repo_path)
    path = pathlib.Path(views.offline_folder(folder)) / "run.parquet"
    registered = registry.registered_attributes(store)
    rows = [{"video_id": "a", "funny": 0.5, "funny_source": "llm"}]
    pq.write_table(pa.Table.from_pylist(rows, schema=views.offline_schema(registered)), path)
    after = register(store, [TONE], retire=True)
    table = pq.read_table(path)
    assert table.schema.equals(views.offline_schema(after)) and {"funny", "tone_label"} <= set(table.column_names)
    assert table["funny"].to_pylist() == [0.5] and table["tone"].to_pylist() == [None]


def test_files_are_rewritten_under_the_lock_of_materialisation_and_under_names_of_ones_own(tmp_path: pathlib.Path) -> None:
    store = registered_store(tmp_path, [FUNNY])
    folder = str(store.repo_path)
    (pathlib.Path(folder) / f".partial-{registry.OFFLINE_BASE}").mkdir()
    with registry.exclusive(os.path.join(folder, registry.MATERIALIZE_LOCK), 1, "materialisation"):
        with pytest.raises(Transient, match="another materialisation"):
            views.objects_for_apply(store, folder, [FUNNY, TONE], lock_timeout_s=0.1)
    views.objects_for_apply(store, folder, [FUNNY, TONE])
    history = pathlib.Path(views.offline_folder(folder))
    assert "tone" in pq.read_schema(history / registry.OFFLINE_BASE).names
    shutil.copy(history / registry.OFFLINE_BASE, history / "run.parquet")
    compact_history(folder)
    assert [name.name for name in history.iterdir()] == [registry.OFFLINE_BASE]


def test_plain_feast_can_apply_the_repository(tmp_path: pathlib.Path, repo_root: pathlib.Path) -> None:
    """`feast apply` registers what `vidattr register` would, keeps what it needs later, and refuses the same."""
    repo, folder = tmp_path / "repo", tmp_path / "workspace" / "feast"
    shutil.copytree(repo_root / "feature_repo", repo)
    definitions = load_definitions(str(repo / "attributes"))
    command = [str(pathlib.Path(sys.executable).parent / "feast"), "--chdir", str(repo), "apply"]
    environment = {"PATH": "/usr/bin:/bin", "VIDATTR_FEAST": str(folder), "TZ": "UTC", "PYTHONPATH": str(repo_root)}
    environment |= {"HOME": str(tmp_path), "FEAST_USAGE": "False", "PYTHONWARNINGS": "ignore", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    store = registry.open_store(str(tmp_path / "workspace"))
    registered = registry.registered_attributes(store)
    assert not registry.plan(registered, definitions).changes_anything and registered.layouts == (registered.layout,)
    registered.check_served()
    another = define(definitions[0].name, value_type="score", score_range=(0.0, 9.0))
    with pytest.raises(InvalidInput, match=f"{definitions[0].name}_v2"):
        views.objects_for_apply(store, str(folder), [another, *definitions[1:]])
    with pytest.raises(InvalidInput, match="vidattr register --retire"):
        views.objects_for_apply(store, str(folder), definitions[1:])
