"""Who is asked, under which keys answers count, and that a process shares one annotator."""

from __future__ import annotations

import pathlib

import pytest

from features.annotators.fallback import Fallback
from features.annotators.model_server import ServerConfig, running
from features.annotators.protocol import AnnotatorIdentity
from features.annotators.settings import ModelSettings, PaceSettings
from features.errors import InvalidInput
from features.workspace import Workspace
from pipelines import annotators
from pipelines.annotators import AnnotatorConfig, Whose, acquire, build_annotator, configured, release
from pipelines.configuration import Configuration, FallbackSettings, with_flags
from tests.pipelines.hand_made import definition

FIRST, SECOND = AnnotatorIdentity("llm", "one"), AnnotatorIdentity("llm", "two")
ASKED = (definition("funny"),)


def test_an_answer_of_the_fallback_counts_only_where_the_first_was_asked_too() -> None:
    alone, second_alone, both = Whose(FIRST), Whose(SECOND), Whose(FIRST, SECOND)
    assert both.key("c", "d") == alone.key("c", "d"), "a fallback changes nothing about what the first answers"
    from_second = both.key("c", "d", SECOND)
    assert from_second not in (alone.key("c", "d"), second_alone.key("c", "d"))
    assert set(both.accepted("c", "d")) == {("llm", alone.key("c", "d")), ("llm", from_second)}
    assert ("llm", second_alone.key("c", "d")) not in both.accepted("c", "d")
    assert alone.refused_key("c", "d") != both.refused_key("c", "d"), "a fallback is a reason to ask again"


def test_settings_and_flags_say_who_is_asked() -> None:
    settings = with_flags(
        Configuration(annotator="openai", fallback=FallbackSettings("gemini")),
        {"model": {"name": "m", "base_url": "http://127.0.0.1:1/v1"}, "pace": {"max_cost": 2.0}},
    )
    config = configured(settings, ASKED)
    assert config.asks_model and config.model.name == "m" and config.pace.max_cost == 2.0
    assert config.fallback is not None and config.fallback.kind == "gemini"
    assert config.fallback.model == ModelSettings(), "a fallback has a model and an address of its own"
    assert config.fallback.pace == config.pace


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (lambda: AnnotatorConfig("oracle"), "'oracle' is no annotator: choose one of baseline, gemini, openai, replay"),
        (lambda: AnnotatorConfig("replay"), "pass --recording FILE.jsonl"),
        (
            lambda: AnnotatorConfig(fallback=AnnotatorConfig(fallback=AnnotatorConfig())),
            "a fallback has no fallback of its own",
        ),
    ],
)
def test_mistakes_are_named(config: object, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        config()  # type: ignore[operator]


def test_a_cap_on_cost_needs_a_price(tmp_path: pathlib.Path) -> None:
    config = AnnotatorConfig("openai", model=ModelSettings(name="nobody-knows"), pace=PaceSettings(max_cost=1.0), asked=ASKED)
    with pytest.raises(InvalidInput, match=r"max_cost is 1, but there is no price for 'nobody-knows'"):
        build_annotator(config, Workspace(str(tmp_path)))


def test_a_model_must_be_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InvalidInput, match="pass --model NAME"):
        build_annotator(AnnotatorConfig("openai", asked=ASKED), Workspace(str(tmp_path)))


def test_a_process_has_one_annotator_for_all_that_ask(tmp_path: pathlib.Path) -> None:
    workspace = Workspace(str(tmp_path))
    with running(ServerConfig()) as server:
        model = ModelSettings(name="gpt-4.1-mini", base_url=server.openai_url)
        config = AnnotatorConfig("openai", model=model, asked=ASKED)
        one, two = acquire(config, workspace), acquire(config, workspace)
        other = acquire(AnnotatorConfig("openai", model=model, asked=(definition("calm"),)), workspace)
        assert one is two and other is not one
        _ = ASKED[0].definition_hash  # kept by the definition from now on, which must not make it another configuration
        release(config, workspace)
        assert acquire(config, workspace) is one
        release(config, workspace)
        release(config, workspace)
        release(AnnotatorConfig("openai", model=model, asked=(definition("calm"),)), workspace)
    assert not annotators._held


def test_a_fallback_has_answers_of_its_own(tmp_path: pathlib.Path) -> None:
    model = ModelSettings(name="gpt-4.1-mini", base_url="http://127.0.0.1:1/v1")
    second = AnnotatorConfig("openai", model=ModelSettings(name="gpt-4.1-nano", base_url="http://127.0.0.1:1/v1"), asked=ASKED)
    built = build_annotator(AnnotatorConfig("openai", model=model, asked=ASKED, fallback=second), Workspace(str(tmp_path)))
    assert isinstance(built, Fallback)
    assert [identity.model for identity in built.identities] == ["gpt-4.1-mini", "gpt-4.1-nano"]
