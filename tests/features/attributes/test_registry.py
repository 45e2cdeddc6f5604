"""Registration: what a change means, and that nothing stored is ever misread because of one."""

from __future__ import annotations

import json
import os
import pathlib
import threading

import pytest
import yaml

from features.attributes import registry
from features.attributes.registry import RegisteredAttribute, Registration, RegistrationPlan, next_registration, plan
from features.errors import InvalidInput, Transient
from tests.features.serving.stores import FUNNY, PACE, TONE, define, register, registered_store


def state(*definitions, **changes) -> Registration:
    return next_registration(Registration(**changes), definitions)


def test_what_is_new_changed_gone_and_the_same() -> None:
    registered = state(FUNNY, TONE, PACE, define("calm"), column_types=dict.fromkeys(["funny", "tone", "pace", "calm"], "Float32"))
    wanted = [define("funny", question="Would one laugh?"), define("calm", owner="someone", stage="full"), PACE, define("cozy")]
    planned = plan(registered, wanted)
    assert planned == RegistrationPlan(
        added=("cozy",), changed=("calm", "funny"), retired=("tone",), unchanged=("pace",), asked_again=("funny",)
    )
    text = "\n".join(planned.sentences())
    assert "cozy is new" in text and "funny changed: it will be asked again" in text
    assert "calm changed in words for people only: nothing is asked again" in text and "tone is no longer defined" in text
    assert not plan(registered, [FUNNY, TONE, PACE, define("calm")]).changes_anything


@pytest.mark.parametrize(
    "changes",
    [{"owner": "x"}, {"title": "x"}, {"stage": "full"}, {"serving_threshold": 0.7}],
)
def test_what_annotators_do_not_see_asks_nobody_again(changes: dict) -> None:
    planned = plan(state(FUNNY, column_types={"funny": "Float32"}), [define("funny", **changes)])
    assert planned.changed == ("funny",) and planned.asked_again == ()


@pytest.mark.parametrize(
    ("before", "after", "remedy"),
    [
        (FUNNY, define("funny", value_type="score", score_range=(0.0, 5.0)), "funny_v2"),
        (TONE, define("tone", value_type="category", labels=("calm", "loud")), "tone_v2"),
        (TONE, define("tone", value_type="category", labels=("loud", "neutral", "calm")), "tone_v2"),
        (PACE, define("pace", value_type="score", score_range=(1.0, 10.0)), "pace_v2"),
        (define("funny_v2"), define("funny_v2", value_type="score", score_range=(0.0, 1.0)), "funny_v3"),
    ],
)
def test_another_kind_of_value_is_refused_with_a_new_name(before, after, remedy) -> None:
    (reason,) = plan(state(before), [after]).refused
    assert reason.endswith(remedy) and before.value_signature in reason
    withdrawn = next_registration(state(before), [])
    (reason,) = plan(withdrawn, [after]).refused
    assert reason.endswith(remedy) and "withdrawn" in reason
    assert plan(withdrawn, [before]).added == (before.name,)


def test_columns_that_would_collide_are_refused() -> None:
    assert "funny_source is taken by funny" in plan(state(), [FUNNY, define("funny_source")]).refused[0]
    assert "packed is taken by the system itself" in plan(state(), [define("packed")]).refused[0]
    assert "defined twice" in plan(state(), [FUNNY, FUNNY]).refused[0]


def test_every_layout_is_remembered_once_and_the_present_one_is_last() -> None:
    one = state(FUNNY)
    two = next_registration(one, [FUNNY, TONE])
    assert next_registration(two, [FUNNY]).layouts == (two.layout, one.layout)
    assert two.layouts == (one.layout, two.layout) and two.retired == {}
    assert next_registration(two, [FUNNY]).retired == {"tone": TONE.value_signature}


def test_a_registered_attribute_survives_json() -> None:
    attribute = RegisteredAttribute.of(TONE)
    assert RegisteredAttribute.from_json(attribute.to_json()) == attribute


def test_registering_twice_withdrawing_and_coming_back(tmp_path: pathlib.Path) -> None:
    store = registered_store(tmp_path, [FUNNY, TONE])
    assert not plan(registry.registered_attributes(store), [FUNNY, TONE]).changes_anything
    planned = plan(registry.registered_attributes(store), [FUNNY])
    with pytest.raises(InvalidInput, match="tone: registered, but no longer defined; pass --retire"):
        registry.apply(store, [FUNNY], planned)
    after = registry.apply(store, [FUNNY], planned, retire=True)
    assert [each.name for each in after.attributes] == ["funny"] and after.retired == {"tone": TONE.value_signature}
    assert "tone" not in after.column_types and registry.registered_attributes(store) == after
    assert register(store, [FUNNY, TONE]).retired == {}
    note = json.loads((tmp_path / "workspace/feast/registered.json").read_text())
    assert note["attributes"] == ["funny", "tone"]


def test_a_plan_that_no_longer_holds_is_refused_and_one_that_is_done_is_fine(tmp_path: pathlib.Path) -> None:
    store = registered_store(tmp_path, [FUNNY])
    first = plan(registry.registered_attributes(store), [FUNNY, TONE])
    registry.apply(store, [FUNNY, TONE], first)
    assert len(registry.apply(store, [FUNNY, TONE], first).attributes) == 2
    stale = plan(registry.registered_attributes(store), [FUNNY, TONE, PACE])
    register(store, [FUNNY, TONE, define("cozy")])
    with pytest.raises(InvalidInput, match="changed since this plan was made"):
        registry.apply(store, [FUNNY, TONE, PACE], stale)
    with pytest.raises(InvalidInput, match="funny_v2"):
        register(store, [define("funny", value_type="score", score_range=(0.0, 1.0)), TONE, define("cozy")])


def test_an_interrupted_registration_is_noticed_and_mended(tmp_path: pathlib.Path) -> None:
    """Killed between the two views: the packed one knows an attribute that the wide one lacks."""
    from features.attributes import views

    store = registered_store(tmp_path, [FUNNY])
    after = next_registration(registry.registered_attributes(store), [FUNNY, TONE])
    store.apply([views.entity(), views.packed_view(after, str(store.repo_path))])
    registered = registry.registered_attributes(store)
    assert registered.incomplete == ("tone",)
    with pytest.raises(InvalidInput, match="interrupted: run `vidattr register` again"):
        registered.check_served()
    assert plan(registered, [FUNNY, TONE]).repaired == ("tone",)
    register(store, [FUNNY, TONE]).check_served()


def test_a_lock_is_waited_for_and_given_up(tmp_path: pathlib.Path) -> None:
    path, entered = str(tmp_path / "lock"), []
    with registry.exclusive(path, 1, "registration"):
        with pytest.raises(Transient, match="another registration has held"), registry.exclusive(path, 0.1, "registration"):
            entered.append("too early")
        waiting = threading.Thread(target=lambda: entered.append(_enter(path)))
        waiting.start()
    waiting.join()
    assert entered == ["in time"]


def test_a_registration_waits_for_a_materialisation(tmp_path: pathlib.Path) -> None:
    """Both rewrite files of the history: at once, what one has just merged would be lost to the other."""
    store = registered_store(tmp_path, [FUNNY])
    planned = plan(registry.registered_attributes(store), [FUNNY, TONE])
    with registry.exclusive(os.path.join(str(store.repo_path), registry.MATERIALIZE_LOCK), 1, "materialisation"):
        with pytest.raises(Transient, match="another materialisation has held"):
            registry.apply(store, [FUNNY, TONE], planned, materialize_timeout_s=0.1)
    assert [each.name for each in registry.apply(store, [FUNNY, TONE], planned).attributes] == ["funny", "tone"]


def _enter(path: str) -> str:
    with registry.exclusive(path, 10, "registration"):
        return "in time"


def test_the_configuration_is_absolute_and_holds_no_secret(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = registry.open_store("here")
    file = tmp_path / "here/feast/feature_store.yaml"
    configuration = yaml.safe_load(file.read_text())
    assert configuration["registry"]["path"] == f"sqlite:///{tmp_path}/here/feast/registry.db"
    assert configuration["online_store"] == {"type": "sqlite", "path": f"{tmp_path}/here/feast/online.db"}
    assert configuration["entity_key_serialization_version"] == 3 and store.project == "vidattr" and os.environ["TZ"] == "UTC"
    monkeypatch.setenv("VIDATTR_REDIS_PASSWORD", "hunter2")
    store = registry.open_store("here", "rediss://me@cache.example:7000/3")
    text = yaml.safe_load(file.read_text())["online_store"]["connection_string"]
    assert text.startswith("cache.example:7000,db=3,") and "ssl=true" in text and "username=me" in text
    assert "hunter2" not in file.read_text() and store.config.online_store.connection_string.endswith("password=hunter2")


@pytest.mark.parametrize(
    "online", ["postgres://x", "redis://", "redis://host:port", "redis://host:1/x", "", "redis://u:secret@host"]
)
def test_an_address_that_makes_no_sense_is_refused(tmp_path: pathlib.Path, online: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        registry.open_store(str(tmp_path), online)
    assert "secret" not in str(raised.value)


def test_a_registry_needs_a_local_workspace() -> None:
    with pytest.raises(InvalidInput, match="pass --workspace FOLDER"):
        registry.open_store("gs://bucket/workspace")
