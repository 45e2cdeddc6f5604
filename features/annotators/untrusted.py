"""Words of strangers, made fit to stand in a prompt: cleaned, cut to a length, and fenced so that no text can leave its fence.

Titles, transcripts and captions are data (law 4). A fence is one JSON string on one line, in which everything that could end it,
or be read as a mark of the prompt or of a chat template, is written as an escape. What a model makes of the words inside is up to
the model; that they are data, and where they end, is up to this module.
"""

from __future__ import annotations

import json
import re
import unicodedata

CUT = "[cut]"
"""Stands where something was left out."""

# Written out instead of asked of `unicodedata`, whose tables grow with Python's version: an answer key must not.
_UNSEEN = re.compile(
    "["
    "\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"  # controls that are no white space
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"  # soft hyphen, joiners, fillers, Arabic and Mongolian marks
    "\u200b-\u200f\u202a-\u202e\u2060-\u206f"  # zero width, direction of writing, invisible operators
    "\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffc\ufffe\uffff"  # blanks that look like letters, variants, byte order
    "\ufdd0-\ufdef\ud800-\udfff"  # no characters, and halves of surrogate pairs
    "\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000110bd\U000110cd"  # format controls of scripts and music
    "\U000e0000-\U000e0fff"  # tags and variants: a second, invisible alphabet
    "]+"
)
_SPECIAL = re.compile(r"\[(?=/?[a-z]?[A-Z_]{3,24}\])|[<>]")
"""What tokenizers and chat templates give a meaning of its own: `<|im_end|>`, `</s>`, `<start_of_turn>`, `[INST]`, `[gMASK]`. The
prompt's own marks are made of angle brackets too."""
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "[": "\\u005b"}
_LOOKALIKES = {"<": "\u2039", ">": "\u203a", "[": "("}


def clean(text: str) -> str:
    """`text` in Unicode form NFC, white space made plain, without characters that are not seen.

    Left out are control and format characters (those that turn the direction of writing, zero width, tag characters), variation
    selectors, letters that look like nothing, and halves of surrogate pairs: a person who looks at the video sees none of them, and
    a model would. All white space, line breaks included, becomes single spaces. Nothing is folded that can be seen: NFKC
    would make ① and ﬁ other texts. `clean(clean(text)) == clean(text)`.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", _UNSEEN.sub("", text))
    elif not text.isprintable():
        text = _UNSEEN.sub("", text)
    return " ".join(text.split())


def bound(text: str, most: int, tail: int = 0) -> str:
    """`text` with at most `most` characters: cut at a word where one ends nearby, with CUT where something is missing.

    Args:
        text: cleaned.
        most: characters, CUT included; at least 32.
        tail: of which kept for the end of the text, as for transcripts, which often end in what they are about.
    """
    if len(text) <= most:
        return text
    if not tail:
        return f"{_at_word(text[: most - len(CUT) - 1])} {CUT}"
    head = _at_word(text[: most - tail - len(CUT) - 2])
    # The end is cut at a word too: mirrored, it is a beginning.
    return f"{head} {CUT} {_at_word(text[-tail:][::-1])[::-1]}"


def _at_word(text: str) -> str:
    """Without the last word where it may be half a one: unless that leaves less than three quarters, as without spaces."""
    end = text.rfind(" ", len(text) * 3 // 4)
    return text[:end] if end > 0 else text


def fence(text: str) -> str:
    """Cleaned text as one JSON string on one line, quotes included, which `json.loads` gives back exactly.

    It holds no `<` and no `>`, so neither a mark of the prompt nor a token of a chat template, and no bracketed word in capitals.
    """
    return _SPECIAL.sub(_escaped, json.dumps(text, ensure_ascii=False))


def _escaped(found: re.Match[str]) -> str:
    return _ESCAPES[found[0]]


def fenced(text: str, most: int, tail: int = 0) -> str:
    """`text` cleaned, bounded and fenced; an empty text for one that shows nothing."""
    cleaned = clean(text)
    return fence(bound(cleaned, most, tail)) if cleaned else ""


def plain(text: str) -> str:
    """Words of ours (definitions, messages) for a prompt: cleaned and on one line, with no mark that a tokenizer gives a meaning.

    Their author is trusted, yet may quote a chat template: such marks are replaced by lookalikes.
    """
    return _SPECIAL.sub(lambda found: _LOOKALIKES[found[0]], clean(text))
