"""The server's own way to cut text into tokens and to count what pictures are worth; clients estimate by other means."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache

_LEADS = bytes(range(0xE0, 0xF8))
"""First bytes of characters of three and four bytes in UTF-8: East Asian scripts, and pictographs."""
_TOKEN = re.compile(r" ?[^\W\d_]{1,10}|\d{1,3}| ?[^\w\s]{1,3}|_|\s+")
"""In the manner of GPT-2's first pass: words with the space before them (long ones in pieces of ten letters), up to three digits,
up to three signs, white space."""


def _kinds() -> bytes:
    kinds = bytearray(b"." * 256)
    for code in range(128):
        sign = chr(code)
        if sign.isspace():
            kinds[code] = ord(" " if sign == " " else "n")
        elif sign.isalpha():
            kinds[code] = ord("a")
        elif sign.isdigit():
            kinds[code] = ord("0")
        elif sign == "_":
            kinds[code] = ord("_")
    return bytes(kinds)


_KINDS = _kinds()
_LETTERS = bytes(97 if code == 97 else 45 for code in range(256))
_BLANKS = bytes(32 if code in b" n" else 45 for code in range(256))
_AFTER_A_SPACE = bytes(code if code in b" n" else 120 if code in b"aA.P" else 45 for code in range(256))


def cut(text: str) -> list[str]:
    """`text` in tokens; joined they are `text` again."""
    return _TOKEN.findall(text)


def count(text: str, keep: bool = False) -> int:
    """Tokens of a text; scripts without spaces count their characters.

    Args:
        text: any.
        keep: remember the result, for texts that come again.
    """
    return _kept(text) if keep else _counted(text)


def _counted(text: str) -> int:
    if text.isascii():
        return _ascii(text.encode())
    data = text.encode("utf-8", "surrogatepass")
    return len(_TOKEN.findall(text)) + round(0.6 * (len(data) - len(data.translate(None, _LEADS))))


def _ascii(data: bytes) -> int:
    """As many as `_TOKEN` finds, by counting in bytes, which is ten times as fast.

    Each byte becomes a letter for its kind; full pieces become capitals; then what is left of a kind is counted by its beginnings.
    """
    kinds = data.translate(_KINDS).replace(b"a" * 10, b"A").replace(b"000", b"D").replace(b"...", b"P")
    letters = kinds.count(b"A") + (b"-" + kinds).translate(_LETTERS).count(b"-a")
    digits = kinds.count(b"D") + kinds.count(b"0") - kinds.count(b"00")
    signs = kinds.count(b"P") + kinds.count(b".") - kinds.count(b"..")
    blanks = (b"-" + kinds).translate(_BLANKS).count(b"- ")
    # A single space before a word or a sign belongs to it.
    before = kinds.translate(_AFTER_A_SPACE)
    own = before.count(b" x") - before.count(b"  x") - before.count(b"n x")
    return letters + digits + signs + kinds.count(b"_") + blanks - own


_kept = lru_cache(maxsize=512)(_counted)


_TILES: Mapping[str, tuple[int, int]] = {"gpt-4o-mini": (2833, 5667), "": (85, 170)}
_PATCHES: Mapping[str, float] = {
    "gpt-4.1-mini": 1.62,
    "gpt-4.1-nano": 2.46,
    "gpt-5-mini": 1.62,
    "gpt-5-nano": 2.46,
    "o4-mini": 1.72,
}
_MOST_PATCHES = 1536


@lru_cache(maxsize=4096)
def picture_tokens(width: int, height: int, model: str, low: bool = False) -> int:
    """What a picture of `width` x `height` pixels is billed as.

    Sources: "Understand and count tokens" of the Gemini API: up to 384 x 384 pixels 258 tokens, else 258 for each tile of 768 x 768
    (64 at low resolution), and its page on media resolution for Gemini 3: 1,120 (280 at low). "Images and vision" of the OpenAI
    API: small models count patches of 32 x 32 pixels, at most 1,536, times a factor; others have a base, and at high detail,
    fitted into 2048 x 2048 and to a shorter side of 768, so much for each tile of 512 x 512. Models of others are counted as
    Qwen2.5-VL counts: 28 x 28 pixels a token.
    """
    if model.startswith("gemini-3"):
        return 280 if low else 1120
    if model.startswith("gemini"):
        if low:
            return 64
        return 258 if max(width, height) <= 384 else 258 * math.ceil(width / 768) * math.ceil(height / 768)
    for name, factor in _PATCHES.items():
        if model.startswith(name):
            return math.ceil(factor * min(math.ceil(width / 32) * math.ceil(height / 32), _MOST_PATCHES))
    if not model.startswith(("gpt-", "o1", "o3")):
        return math.ceil(width / 28) * math.ceil(height / 28)
    base, tile = next(worth for name, worth in _TILES.items() if model.startswith(name))
    if low:
        return base
    fit = min(1.0, 2048 / max(width, height))
    fit *= min(1.0, 768 / (min(width, height) * fit))
    return base + tile * math.ceil(round(width * fit, 6) / 512) * math.ceil(round(height * fit, 6) / 512)
