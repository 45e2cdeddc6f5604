"""The pages about videos: their settings load, their commands exist, and every dead letter is explained."""

from __future__ import annotations

import pathlib
import re

import pytest

from features.workspace import Workspace
from pipelines.configuration import FILE, load_configuration
from tests.docs.test_models import ROOT, blocks, check_flags, documented, words_of
from tests.faults.test_mutated_media import KINDS

EXTRACTION, COPIES = ROOT / "docs" / "extraction.md", ROOT / "docs" / "near-duplicates.md"


@pytest.mark.parametrize("page", [EXTRACTION, COPIES], ids=lambda page: page.name)
def test_settings_load_and_commands_exist(page: pathlib.Path, tmp_path: pathlib.Path) -> None:
    written = [block.text for block in blocks(page) if block.language == "yaml"]
    for text in written:
        (tmp_path / FILE).write_text(text)
        load_configuration(Workspace(str(tmp_path)))
    assert written
    for line in documented(page):
        check_flags(words_of(line))


def test_every_kind_of_dead_letter_of_extract_is_explained() -> None:
    table = "\n".join(line for line in EXTRACTION.read_text().splitlines() if line.startswith("| `"))
    explained = set(re.findall(r"`(\w+)`", table))
    raised = KINDS | {"missing", "unreadable", "is_a_directory", "not_a_file", "file_too_large", "invalid_row", "duplicate_id"}
    assert raised <= explained
