"""What strangers wrote is shown and does nothing: neither to the terminal nor to the shell that a command is copied into."""

from __future__ import annotations

import shlex
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import terminal

TITLE = "a\x1b]0;PWNED\x07\x1b[2Jb\x9b31m\u202egnp.exe\r\x7f\ud800"


def commands(text: str) -> list[str]:
    """The characters that would command a terminal, those that rich writes itself not being any."""
    bidi = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    return [
        character
        for character in text
        if (unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t")
        or unicodedata.bidirectional(character) in bidi
    ]


def test_everything_that_is_shown_is_cleaned(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(commands(TITLE)) == 8
    terminal.table(TITLE, ["video", "title"], [["v", TITLE], [TITLE, 3]])
    terminal.say(TITLE)
    terminal.tell(TITLE)
    terminal.next_command(f"vidattr get {TITLE}\nrm")
    with terminal.progress(TITLE, 2, lambda: {"annotated": 1}, quiet=False):
        pass
    shown = capsys.readouterr()
    assert commands(shown.out) == commands(shown.err) == []
    assert shown.out.count(r"\x1b]0;PWNED\x07\x1b[2Jb\x9b31m\u202egnp.exe") == 5
    assert r"\nrm" in shown.out and shown.err.count("PWNED") == 2


def test_words_of_all_languages_stay_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    title = "שלום 👩\u200d🍳 café [bold]日本語[/bold]"
    terminal.say(title)
    assert capsys.readouterr().out == f"{title}\n"


@given(st.text(min_size=1).filter(lambda text: "\0" not in text), st.text(min_size=1).filter(lambda text: "\0" not in text))
def test_a_shell_reads_back_what_a_command_was_made_of(video_id: str, workspace: str) -> None:
    words = shlex.split(terminal.command("get", video_id, workspace=workspace))
    if video_id.startswith("-"):
        assert words == ["vidattr", "get", "--workspace", workspace, "--", video_id]
    else:
        assert words == ["vidattr", "get", video_id, "--workspace", workspace]


def test_a_plain_command_stays_plain() -> None:
    assert terminal.command("runs show", "20261125T-1", workspace="w") == "vidattr runs show 20261125T-1 --workspace w"
    assert terminal.command("register", feature_repo="") == "vidattr register"


def test_progress_counts_what_every_stage_calls_done(capsys: pytest.CaptureFixture[str]) -> None:
    counts = {"done": 3, "reused": 2, "dead_lettered": 1}
    with terminal.progress("materialize", 6, lambda: counts, quiet=False):
        pass
    assert "6 of 6, 1 failed, 0 s" in capsys.readouterr().err
    with terminal.progress("materialize", 0, lambda: {"annotated": 2, "pending": 4}, quiet=False):
        pass
    assert "2 done, 0 failed, 4 pending" in capsys.readouterr().err, "what waits is not done"
