"""Fault 12: a concurrent or torn registry. All views are kept, or the failure is loud."""

from __future__ import annotations

import json
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

RACE = """
import json, os, sys
from features.attributes import registry, views
from features.errors import VidattrError
from tests.features.serving.stores import define

WANTED = [("funny", "cozy"), ("funny", "cozy"), ("sad",), ("epic", "sad")]

def attempt(workspace, names, first):
    mine = [define(name) for name in (*first, *names)]
    os.read(start, 1)
    try:
        store = registry.open_store(workspace)
        registry.apply(store, mine, registry.plan(planned_from, mine))
        return "applied"
    except VidattrError as error:
        return f"refused: {error}"
    except BaseException as error:
        return f"broken: {error!r}"

for number, first in enumerate([(), ("calm",)]):
    workspace = os.path.join(sys.argv[1], str(number))
    planned_from = registry.Registration()
    if first:
        before = registry.open_store(workspace)
        mine = [define(name) for name in first]
        planned_from = registry.apply(before, mine, registry.plan(planned_from, mine))
    start, go = os.pipe()
    children = []
    for names in WANTED:
        result, tell = os.pipe()
        if os.fork() == 0:
            os.write(tell, attempt(workspace, names, first).encode())
            os._exit(0)
        os.close(tell)
        children.append((names, result))
    os.write(go, b"1234")
    outcomes = [[names, os.fdopen(result).read()] for names, result in children]
    for _ in children:
        os.wait()
    after = registry.registered_attributes(registry.open_store(workspace))
    after.check_served()
    print(json.dumps([first, outcomes, [each.name for each in after.attributes]]))
"""


def test_four_applies_at_once(tmp_path: pathlib.Path, repo_root: pathlib.Path) -> None:
    """Two with the same definitions, two with others of their own, on a new registry and on one in use.

    Whoever comes second with another plan is told so.
    """
    environment = {**os.environ, "PYTHONPATH": str(repo_root)}
    command = [sys.executable, "-W", "ignore", "-c", RACE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(lines) == 2
    for first, outcomes, registered in lines:
        assert all(outcome == "applied" or outcome.startswith("refused: ") for _, outcome in outcomes), outcomes
        won = {tuple(names) for names, outcome in outcomes if outcome == "applied"}
        assert len(won) == 1, outcomes
        assert registered == sorted([*first, *won.pop()])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("served")
    store = registered_store(folder, [FUNNY, TONE])
    publish(store, [say("v", FUNNY, "true")], [FUNNY, TONE])
    return folder / "workspace"


@pytest.mark.parametrize("keep", [0, 50, 4096, 20000, None])
def test_a_torn_registry_is_loud_and_never_empty(served: pathlib.Path, tmp_path: pathlib.Path, keep: int | None) -> None:
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


@pytest.mark.parametrize("keep", [0, 4096])
def test_a_registry_torn_under_a_running_reader_does_not_stop_what_served(
    served: pathlib.Path, tmp_path: pathlib.Path, keep: int, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(served, tmp_path / "workspace")
    now = [1000.0]
    reader = OnlineAttributes(str(tmp_path / "workspace"), clock=lambda: now[0])
    os.truncate(tmp_path / "workspace/feast/registry.db", keep)
    for _ in range(2):
        now[0] += 61
        assert reader.get(["v"]).row("v") == {"funny": 1.0}
    assert ["cannot be read" in record.getMessage() for record in caplog.records].count(True) == 1, "and it is said once"


def test_views_that_somebody_deleted_are_noticed(served: pathlib.Path, tmp_path: pathlib.Path) -> None:
    shutil.copytree(served, tmp_path / "workspace")
    store = registry.open_store(str(tmp_path / "workspace"))
    store.registry.delete_feature_view(registry.WIDE_VIEW, store.project)
    with pytest.raises(InvalidInput, match="the registered views are missing"):
        registry.open_store(str(tmp_path / "workspace"))
