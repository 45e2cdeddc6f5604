from __future__ import annotations

import copy
import logging
import os
import pathlib
import pickle

import pytest

from features.annotators.secrets import Secret, api_key, redacted
from features.annotators.settings import ModelSettings
from features.errors import InvalidInput

KEY = "sk-abc123-XYZ_789-secret"
USUAL = ("USUAL_KEY", "OTHER_KEY")


def test_a_secret_is_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    secret = Secret(KEY)
    logging.getLogger("x").warning("%s %r %s", secret, secret, {"key": secret})
    said = f"{secret} {secret!r} {secret:>20} {[secret]} {secret!s}" + "%s" % secret + caplog.text  # noqa: UP031
    assert KEY not in said and "***" in said and secret.reveal() == KEY
    for away in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled") as raised:
            away(secret)  # type: ignore[operator]
        assert KEY not in str(raised.value)
    assert not hasattr(secret, "__dict__")


def test_the_file_counts_before_the_environment(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"\n  {KEY} \n")
    file.chmod(0o600)
    environment = {"MINE": "in-mine", "USUAL_KEY": "in-usual", "OTHER_KEY": "in-other"}
    cases = [
        (ModelSettings(api_key_file=str(file), api_key_env="MINE"), KEY, f"the file {file}"),
        (ModelSettings(api_key_env="MINE"), "in-mine", "the environment variable MINE"),
        (ModelSettings(), "in-usual", "the environment variable USUAL_KEY"),
    ]
    for settings, key, where in cases:
        secret, words = api_key(settings, USUAL, environment)
        assert (secret.reveal(), words) == (key, where)
    assert api_key(ModelSettings(), USUAL, environment | {"USUAL_KEY": " "})[0].reveal() == "in-other"


def test_a_file_that_others_can_read_is_used_and_said(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "key"
    file.write_text(KEY)
    file.chmod(0o644)
    monkeypatch.setenv("HOME", str(tmp_path))
    secret, words = api_key(ModelSettings(api_key_file="~/key"), USUAL, {})
    assert secret.reveal() == KEY and "chmod 600" in words


@pytest.mark.parametrize(
    ("settings", "environment", "says"),
    [
        ({}, {}, "USUAL_KEY or OTHER_KEY is not set"),
        ({"api_key_env": "MINE"}, {"USUAL_KEY": KEY}, "MINE is not set"),
        ({}, {"USUAL_KEY": "two\nlines"}, "the environment variable USUAL_KEY holds no API key"),
        ({}, {"USUAL_KEY": "a space"}, "holds no API key"),
        ({}, {"USUAL_KEY": "schl\u00fcssel"}, "holds no API key"),
        ({}, {"USUAL_KEY": "x" * 5000}, "holds no API key"),
    ],
)
def test_what_cannot_be_a_key_is_refused_without_quoting_it(
    settings: dict[str, str], environment: dict[str, str], says: str
) -> None:
    with pytest.raises(InvalidInput, match=says) as raised:
        api_key(ModelSettings(**settings), USUAL, environment)  # type: ignore[arg-type]
    assert "lines" not in str(raised.value) and "xxx" not in str(raised.value) and KEY not in str(raised.value)


@pytest.mark.parametrize(("content", "says"), [(b"", "it is empty"), (b" \n", "it is empty"), (b"\xff\xfe\x00k", "it is not text")])
def test_files_without_a_key(tmp_path: pathlib.Path, content: bytes, says: str) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(InvalidInput, match=says):
        api_key(ModelSettings(api_key_file=str(file)), USUAL, {"USUAL_KEY": KEY})
    with pytest.raises(InvalidInput, match="cannot be read .No such file"):
        api_key(ModelSettings(api_key_file=str(tmp_path / "absent")), USUAL, {})
    with pytest.raises(InvalidInput, match="cannot be read"):
        api_key(ModelSettings(api_key_file=str(tmp_path)), USUAL, {})


def test_the_environment_of_the_process_is_the_usual_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "USUAL_KEY", KEY)
    assert api_key(ModelSettings(), USUAL)[0].reveal() == KEY


@pytest.mark.parametrize(
    "text",
    [
        "Incorrect API key provided: sk-abcd****wxyz.",
        "Authorization: Bearer abc.def-123456",
        "authorization: basic dXNlcjpwYXNz",
        "https://host/v1?key=AbCdEf123456&x=1",
        "https://host/?api_key=AbCdEf123456",
        "API_KEY=AbCdEf123456 was refused",
        "key AIzaSyA1234567890abcdefghijklmno refused",
        "token ya29.a0AfH6SMBx-1234567890 expired",
        "token eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJh.c2lnbmF0dXJl refused",
        "hf_abcdwxyzABCDEFGHIJKLM is no token",
        "proxy http://user:hunter22@proxy.host:3128",
    ],
)
def test_what_looks_like_a_key_is_cut_out_of_what_others_say(text: str) -> None:
    found = redacted(text)
    assert "***" in found
    for piece in ("abcd", "wxyz", "abc.def", "dXNl", "AbCdEf", "A1234567890", "a0AfH", "eyJ", "c2ln", "hunter22"):
        assert piece not in found


def test_a_known_secret_is_cut_out_wherever_it_stands() -> None:
    assert redacted("xhunter2x", [Secret("hunter2"), Secret("")]) == "x***x"
    assert redacted("Nothing to hide, the key question is: why?") == "Nothing to hide, the key question is: why?"
