from __future__ import annotations

import pathlib

import pytest

from features.errors import InvalidInput
from features.workspace import Workspace
from pipelines.configuration import Configuration, load_configuration


def load(folder: pathlib.Path, text: str | None, **flags: object) -> Configuration:
    if text is not None:
        (folder / "vidattr.yaml").write_text(text)
    return load_configuration(Workspace(str(folder)), **flags)


def test_without_a_file_the_defaults_hold(tmp_path: pathlib.Path) -> None:
    assert load(tmp_path, None) == Configuration() == load(tmp_path, "")


def test_the_file_is_read_and_flags_win(tmp_path: pathlib.Path) -> None:
    text = "workers: 3\nannotator: replay\nlimits: {max_duration_s: 30}\nmax_age_days: 7\n"
    settings = load(tmp_path, text, annotator="baseline", online_store=None)
    assert (settings.workers, settings.annotator, settings.limits.max_duration_s, settings.max_age_days) == (3, "baseline", 30, 7.0)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("worker: 3", r"worker is no setting; did you mean workers\?"),
        ("limits: {max_durations: 1}", r"limits\.max_durations is no setting; did you mean limits\.max_duration_s\?"),
        ("zzzz: 1", "zzzz is no setting; known: annotator"),
        ("workers: many", r"workers is 'many'; write a value of type int"),
        ("speech: 1", "speech is 1; write a value of type bool"),
        ("[1, 2]", "must hold name: value pairs"),
        ("a: [", "not YAML"),
        ("workers: 0", "workers is 0; write a number from 1 to 64"),
        ("frames: fast", "frames is 'fast'; write one of exact, keyframes"),
        ("visual: {mean: [1, 2]}", r"visual\.mean is \[1, 2\]; write one or three numbers"),
        ("parts: some", "parts is 'some'; write one of all, evidence"),
        ("workers: -1", "workers is -1; write a number from 1 to 64"),
        ("pace: {in_flight: 0}", "in_flight is 0; write a number from 1 to 4096"),
        ("pace: {inflight: 9}", r"pace\.inflight is no setting; did you mean pace\.in_flight\?"),
        ("prompt: {ask: twice}", "ask is 'twice'; choose together or each"),
        ("options: [1]", "options is \\[1\\]; write `NAME: VALUE` lines below it"),
        ("fallback: {model: {nam: x}}", r"fallback\.model\.nam is no setting; did you mean fallback\.model\.name\?"),
        ("max_age_days: -1", "max_age_days is -1.0; write a number from 0 to 36500"),
        ("max_age_days: .nan", "max_age_days is nan; write a number from 0 to 36500"),
        ("max_age_days: 1.0e+12", r"max_age_days is 1000000000000\.0; write a number from 0 to 36500"),
        ("limits: {wall_s: 0.0}", r"limit wall_s=0\.0: give a finite number above 0"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: pathlib.Path, text: str, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=r"vidattr\.yaml: .*" + sentence):
        load(tmp_path, text)
