from __future__ import annotations

import asyncio
import pathlib
import pickle
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from features.annotators import plugins
from features.annotators.protocol import AnnotationRequest
from features.annotators.settings import ModelSettings, PromptSettings
from features.attributes.definition import AttributeDefinition
from features.errors import InvalidInput
from features.records import VideoFeatures
from tests.features.annotators.installed import entry_points_of, install

Install = Callable[[str, Mapping[str, str], Mapping[str, str]], None]
SILENT = """
from features.annotators.protocol import AnnotationReply, AnnotatorIdentity

class Silent:
    identity = AnnotatorIdentity("llm", "silent")
    def __init__(self, *given): self.given = given
    def open(self): ...
    async def annotate(self, request): return AnnotationReply()
    async def close(self): ...
"""


@pytest.fixture
def installs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    def put(name: str, files: Mapping[str, str], entry_points: Mapping[str, str]) -> None:
        install(tmp_path, monkeypatch, name, files, entry_points)

    return put


def test_an_installed_annotator_is_found_and_made(installs: Install) -> None:
    installs("quiet", {"quiet.py": SILENT}, {"silent": "quiet:Silent", "Also.this-1": "quiet:Silent"})
    assert {"silent", "Also.this-1"} <= set(plugins.names()) and list(plugins.names()) == sorted(plugins.names())
    settings, prompts = ModelSettings(name="m"), PromptSettings()
    made: Any = plugins.load("silent")(settings, prompts, {"a": "b"})
    assert made.given == (settings, prompts, {"a": "b"}) and type(made).__name__ == "Silent"
    assert pickle.loads(pickle.dumps(made)).given == made.given


def test_nothing_is_imported_to_list_names(installs: Install) -> None:
    installs("quiet", {"quiet.py": SILENT}, {"silent": "quiet:Silent"})
    plugins.names()
    assert "quiet" not in sys.modules


def test_an_unknown_name_is_told_the_nearest(installs: Install) -> None:
    installs("quiet", {"quiet.py": SILENT}, {"silent": "quiet:Silent", "loud": "quiet:Silent"})
    with pytest.raises(InvalidInput, match=r"called 'silnt'.*loud, silent.*Did you mean 'silent'\?"):
        plugins.load("silnt")
    with pytest.raises(InvalidInput) as raised:
        plugins.load("x")
    assert "Did you mean" not in str(raised.value)


def test_no_package_at_all() -> None:
    if not plugins.names():
        with pytest.raises(InvalidInput, match="none is installed"):
            plugins.load("silent")


@pytest.mark.parametrize(
    ("code", "value", "says"),
    [
        ("import a_module_that_is_not_there", "broken:build", "ModuleNotFoundError: No module named 'a_module_that_is_not_there'"),
        ("build = (", "broken:build", "SyntaxError"),
        ("raise RuntimeError('no licence sk-abcdefghijkl')", "broken:build", "RuntimeError: no licence ***"),
        ("raise SystemExit('bye')", "broken:build", "SystemExit: bye"),
        ("", "broken:build", "AttributeError"),
        ("", "elsewhere:build", "No module named 'elsewhere'"),
        ("build = 5", "broken:build", "not a function but int"),
    ],
)
def test_a_broken_package_is_named_with_its_error(installs: Install, code: str, value: str, says: str) -> None:
    installs("broken", {"broken.py": code}, {"bad": value})
    with pytest.raises(InvalidInput, match=re.escape(says)) as raised:
        plugins.load("bad")
    assert "broken 1.0" in str(raised.value) and "'bad'" in str(raised.value)
    assert "bad" in plugins.names(), "the others can still be listed"


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def build(settings): ...", "TypeError"),
        ("def build(settings, prompts, options): return options['colour']", "KeyError: 'colour'"),
        ("def build(settings, prompts, options): ...", "NoneType without identity, open, annotate, close"),
        ("class build:\n  identity = 1\n  def __init__(self, *a): ...\n  def open(self): ...", "build without annotate, close"),
    ],
)
def test_a_factory_that_makes_no_annotator(installs: Install, code: str, says: str) -> None:
    installs("broken", {"broken.py": code}, {"bad": "broken:build"})
    with pytest.raises(InvalidInput, match=re.escape(says)) as raised:
        plugins.load("bad")(ModelSettings(), PromptSettings(), {})
    assert "broken 1.0" in str(raised.value)


def test_a_factory_s_own_words_go_through(installs: Install) -> None:
    code = "from features.errors import InvalidInput\ndef build(*given): raise InvalidInput('colour is missing')"
    installs("choosy", {"choosy.py": code}, {"choosy": "choosy:build"})
    with pytest.raises(InvalidInput, match="^colour is missing$"):
        plugins.load("choosy")(ModelSettings(), PromptSettings(), {})


def test_a_name_that_two_packages_give(installs: Install) -> None:
    installs("one", {"one.py": SILENT}, {"silent": "one:Silent"})
    installs("two", {"two.py": SILENT}, {"silent": "two:Silent"})
    with pytest.raises(InvalidInput, match=r"several packages.*one 1\.0, two 1\.0"):
        plugins.load("silent")


# The recipe in the docs


@pytest.fixture
def recipe(repo_root: pathlib.Path) -> list[tuple[str, str]]:
    text = (repo_root / "docs" / "add-an-annotator.md").read_text()
    return re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_recipe_works_as_it_is_written(installs: Install, recipe: list[tuple[str, str]]) -> None:
    (_, module), (kind, pyproject), (_, test), (_, use) = recipe
    assert kind == "toml"
    installs("loudness", {"loudness/__init__.py": "", "loudness/annotator.py": module}, entry_points_of(pyproject))
    tested: dict[str, Any] = {}
    exec(compile(test, "the recipe's test", "exec"), tested)
    for name in [name for name in tested if name.startswith("test_")]:
        tested[name]()
    used: dict[str, Any] = {}
    exec(compile(use, "the recipe's use", "exec"), used)
    annotator = used["annotator"]
    annotator.open()
    loud = VideoFeatures("v", "h", "c", "1", sound_stats=(-10.0,))
    reply = asyncio.run(
        annotator.annotate(AnnotationRequest(loud, (tested["ENERGETIC"], AttributeDefinition("x", "X", "x?", "x."))))
    )
    assert [(answer.attribute, answer.value, answer.rationale) for answer in reply.answers] == [
        ("energetic", "true", "loudness -10 dBFS")
    ]
    with pytest.raises(InvalidInput, match="threshold is 'much'"):
        plugins.load("loud")(ModelSettings(), PromptSettings(), {"threshold": "much"})


def test_the_places_that_the_recipe_names_exist(repo_root: pathlib.Path) -> None:
    text = (repo_root / "docs" / "add-an-annotator.md").read_text()
    for path in re.findall(r"`((?:features|tests)/[\w/]+\.py)`", text):
        assert (repo_root / path).exists(), path
