"""Which parts of an extractor run."""

from __future__ import annotations

import pytest

from features.attributes.definition import Evidence
from pipelines.configuration import Configuration
from pipelines.encoders import DECODING_ALONE, NEEDED_FOR, encoders_of
from tests.pipelines.hand_made import definition


@pytest.mark.parametrize(
    ("evidence", "off"),
    [
        (("title", "hashtags"), set(NEEDED_FOR)),
        (("title", "transcript"), set(NEEDED_FOR) - {"speech"}),
        (("tags",), set(NEEDED_FOR) - {"visual"}),
        (("frames", "transcript", "onscreen_text", "tags", "measurements"), set()),
    ],
)
def test_what_no_attribute_admits_is_not_looked_for_where_that_is_asked(evidence: tuple[Evidence, ...], off: set[str]) -> None:
    definitions = (definition("a", evidence=evidence), definition("b", evidence=("title",)))
    narrow, whole = (encoders_of(Configuration(parts=parts), definitions) for parts in ("evidence", "all"))
    assert {name for name in NEEDED_FOR if not getattr(narrow, name)} == off
    assert all(getattr(whole, name) for name in NEEDED_FOR) and narrow.text
    assert encoders_of(Configuration(parts="evidence"), ()) == whole, "without a definition nothing is known to be needless"


def test_a_part_that_is_switched_off_stays_off() -> None:
    settings = Configuration(parts="evidence", speech=False)
    assert not encoders_of(settings, (definition("a", evidence=("transcript",)),)).speech


def test_decoding_alone_has_no_part_on() -> None:
    assert not [name for name, value in vars(DECODING_ALONE).items() if value is True]
