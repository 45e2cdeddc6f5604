"""Fault 12: a concurrent or torn registry. All views are kept, or the failure is loud."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from features.attributes import registry
from features.errors import InvalidInput
from features.serving.online import OnlineAttributes
from tests.features.serving.stores import FUNNY, TONE, define, publish, registered_store, say

APPLY = """
import sys
from features.attributes import registry
from features.errors import VidattrError
from tests.features.serving.stores import define

workspace, mine = sys.argv[1], [define(name) for name in sys.argv[2].split(",")]
store = registry.open_store(workspace)
planned = registry.plan(registry.registered_attributes(store), mine)
print("ready", flush=True)
sys.stdin.readline()
try:
    registry.apply(store, mine, planned)
    print("applied")
except VidattrError as error:
    print("refused:", error)
"""


@pytest.mark.parametrize("first", [(), ("calm",)])
def test_four_applies_at_once(tmp_path: pathlib.Path, repo_root: pathlib.Path, first: tuple[str, ...]) -> None:
    """Two with the same definitions, two with others of their own: whoever comes second with another plan is told so."""
    workspace = str(tmp_path / "workspace")
    if first:
        registered_store(tmp_path, [define(name) for name in first])
    wanted = [("funny", "cozy"), ("funny", "cozy"), ("sad",), ("epic", "sad")]
    children = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", APPLY, workspace, ",".join((*first, *names))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(repo_root)},
        )
        for names in wanted
    ]
    for child in children:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    outcomes = [child.communicate()[0].strip() for child in children]
    assert all(outcome == "applied" or outcome.startswith("refused: ") for outcome in outcomes), outcomes
    done = {names for names, outcome in zip(wanted, outcomes, strict=True) if outcome == "applied"}
    assert len(done) == 1, "exactly one set of definitions won"
    registered = registry.registered_attributes(registry.open_store(workspace))
    assert {each.name for each in registered.attributes} == {*first, *done.pop()}
    registered.check_served()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("served")
    store = registered_store(folder, [FUNNY, TONE])
    publish(store, [say("v", FUNNY, "true")], [FUNNY, TONE])
    return folder / "workspace"


@pytest.mark.parametrize("keep", [0, 50, 4096, 20000, None])
def test_a_torn_registry_is_a_loud_failure_and_never_an_empty_one(
    served: pathlib.Path, tmp_path: pathlib.Path, keep: int | None
) -> None:
    workspace = tmp_path / "workspace"
    shutil.copytree(served, workspace)
    path = workspace / "feast" / "registry.db"
    if keep is None:
        path.unlink()
    else:
        os.truncate(path, keep)
    for use in (registry.open_store, OnlineAttributes):
        with pytest.raises(InvalidInput, match=r"registry.db: the registry is damaged .* copy .*registry.last-good.db over it"):
            use(str(workspace))
    assert not path.exists() or path.stat().st_size == keep, "nothing was created in its place"
    text = (workspace / "feast" / "feature_store.yaml").read_text().replace(str(served), str(workspace))
    (workspace / "feast" / "feature_store.yaml").write_text(text)
    shutil.copy(workspace / "feast" / "registry.last-good.db", path)
    assert OnlineAttributes(str(workspace)).get(["v"]).row("v") == {"funny": 1.0}, "the remedy works"


def test_a_registry_torn_under_a_running_process_is_not_overwritten(served: pathlib.Path, tmp_path: pathlib.Path) -> None:
    shutil.copytree(served, tmp_path / "workspace")
    store = registry.open_store(str(tmp_path / "workspace"))
    planned = registry.plan(registry.registered_attributes(store), [FUNNY, TONE, define("cozy")])
    os.truncate(tmp_path / "workspace/feast/registry.db", 0)
    with pytest.raises(InvalidInput, match="damaged"):
        registry.apply(store, [FUNNY, TONE, define("cozy")], planned)


def test_views_that_somebody_deleted_are_noticed(served: pathlib.Path, tmp_path: pathlib.Path) -> None:
    shutil.copytree(served, tmp_path / "workspace")
    store = registry.open_store(str(tmp_path / "workspace"))
    store.registry.delete_feature_view(registry.WIDE_VIEW, store.project)
    with pytest.raises(InvalidInput, match="the registered views are missing"):
        registry.open_store(str(tmp_path / "workspace"))
