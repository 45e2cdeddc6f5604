"""What a person or a script reads: tables and progress for the one, a JSON document for the other."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
import tempfile
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from features.errors import VidattrError

WIDE = 140
"""Columns where output goes to a file or a pipe, which have no edge."""

out = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
err = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else WIDE)


_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def clean(text: object, kept: str = "\n\t") -> str:
    """`text` with every character that would command a terminal instead of being shown written out, as `\\x1b`.

    Titles, ids and paths come from strangers. Written out are control characters (C0, C1 and delete), those that turn the
    direction of writing, and halves of surrogate pairs, which no terminal can encode.

    Args:
        text: anything; its `str` is taken.
        kept: control characters that stay.
    """
    return "".join(
        character.encode("unicode_escape").decode()
        if (unicodedata.category(character) in ("Cc", "Cs") and character not in kept) or character in _BIDI
        else character
        for character in str(text)
    )


def plain(text: object) -> Text:
    """Text for rich that is neither markup nor a command to the terminal; everything that is shown to a person goes through it."""
    return Text(clean(text))


def command(words: str, *places: str, **options: str) -> str:
    """A command to copy into a shell: `command("get", "v 1", workspace="w")` -> `vidattr get 'v 1' --workspace w`.

    Args:
        words: of `vidattr`, written by us.
        places: positional arguments, quoted where a shell would read more into them.
        options: their values, quoted too; empty ones are left out.
    """
    named = [word for name, value in options.items() if value for word in (f"--{name.replace('_', '-')}", value)]
    split = any(place.startswith("-") for place in places)
    quoted = [*named, "--", *places] if split else [*places, *named]
    return " ".join(["vidattr", words, *map(shlex.quote, quoted)])


def emit(document: Mapping[str, Any]) -> None:
    """Prints the one JSON document of a `--json` run."""
    sys.stdout.write(json.dumps(document, indent=1, default=str, allow_nan=False) + "\n")
    sys.stdout.flush()


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[int] = ()) -> None:
    """Prints a table; cells are plain text, never markup, since titles and paths come from strangers."""
    grid = Table(
        title=plain(title) if title else None,
        title_justify="left",
        header_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for number, column in enumerate(columns):
        grid.add_column(column, justify="right" if number in right else "left", overflow="fold", no_wrap=number == 0)
    for row in rows:
        grid.add_row(*map(plain, row))
    out.print(grid)


def say(sentence: str) -> None:
    """One line for a person, on standard output."""
    out.print(plain(sentence), soft_wrap=True)


def tell(sentence: str) -> None:
    """One line for a person, on standard error."""
    sys.stderr.write(f"{clean(sentence)}\n")


def next_command(line: str) -> None:
    """The command that a person most likely wants now."""
    out.print(Text.assemble("\nNext: ", (clean(line, kept=""), "bold")), soft_wrap=True)


@contextlib.contextmanager
def progress(
    stage: str,
    total: int,
    counts: Callable[[], Mapping[str, int]],
    quiet: bool,
    trouble: Callable[[], str] = lambda: "",
) -> Iterator[None]:
    """Shows on standard error how far a stage is while it blocks: a bar on a terminal, a line every 15 seconds elsewhere.

    Args:
        stage: its name.
        total: things to do; 0: as many as are counted as `in`, if any.
        counts: the live counts of the stage by outcome.
        quiet: show nothing (for --json).
        trouble: what else a person should know now; empty: nothing.
    """
    if quiet:
        yield
        return
    ended, began = threading.Event(), time.monotonic()

    def line() -> str:
        now = counts()
        failed, pending = now.get("dead_lettered", 0), now.get("pending", 0)
        good = sum(now.get(name, 0) for name in ("annotated", "done", "reused"))
        done, elapsed = good + failed + pending, time.monotonic() - began
        whole = total or now.get("in", 0)
        words = [f"{done} of {whole}" if whole else f"{good} done", f"{failed} failed"]
        words += [f"{pending} pending"] if pending else []
        if now.get("input_tokens"):
            words.append(f"{now['input_tokens'] + now.get('output_tokens', 0):,} tokens")
        if now.get("cost_nano_usd"):
            words.append(f"${now['cost_nano_usd'] / 1e9:.4f}")
        words.append(f"{elapsed:.0f} s")
        if whole and 0 < done < whole:
            words.append(f"about {elapsed / done * (whole - done):.0f} s left")
        sentence = trouble()
        return f"{stage:<12}" + ", ".join(words) + (f"; {sentence}" if sentence else "")

    def watch() -> None:
        if err.is_terminal:
            with err.status(plain(line())) as status:
                while not ended.wait(0.25):
                    status.update(plain(line()))
        else:
            while not ended.wait(15):
                err.print(plain(line()), soft_wrap=True)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        err.print(plain(line()), soft_wrap=True)


@contextlib.contextmanager
def chatter_aside() -> Iterator[None]:
    """Keeps what C++ libraries write on descriptor 2 (drivers not found, optimisations on) away from the person's terminal.

    Python's own `sys.stderr` goes where it went. If the process ends in an error nobody meant, the last lines are shown after all.
    """
    sys.stderr.flush()
    ours, before = os.dup(2), sys.stderr
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        sys.stderr = os.fdopen(os.dup(ours), "w", buffering=1)
        try:
            yield
        except VidattrError:
            raise
        except Exception:
            aside.seek(max(0, aside.seek(0, os.SEEK_END) - 4000))
            sys.stderr.write(aside.read().decode(errors="replace"))
            raise
        finally:
            sys.stderr.flush()
            os.dup2(ours, 2)
            os.close(ours)
            sys.stderr = before


def counts_line(name: str, counts: Mapping[str, int]) -> list[object]:
    """A row of a counts table."""
    return [name, *(counts[key] for key in ("in", "annotated", "reused", "dead_lettered", "pending"))]
