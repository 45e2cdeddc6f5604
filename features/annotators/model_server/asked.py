"""A request that was accepted, in neither provider's words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Any

from features.annotators.model_server.counting import count

_DURATION = re.compile(r"\bduration: (\d+(?:\.\d+)?)")
_MARK = re.compile(r"<<(end of )?video ([^<>\s]{1,40})>>")


@dataclass(frozen=True)
class Image:
    """A still that was checked.

    Attributes:
        digest: of its bytes.
        width, height: pixels.
        tokens: what it is billed as.
    """

    digest: bytes
    width: int
    height: int
    tokens: int


@dataclass(frozen=True)
class Film:
    """A video that a provider would fetch itself; it is not fetched here."""

    uri: str
    tokens: int


@dataclass(frozen=True)
class Said:
    """One turn; role is `user` or `model`."""

    role: str
    parts: tuple[str | Image | Film, ...]

    @cached_property
    def digest(self) -> bytes:
        """Of role and parts."""
        hashed = blake2b(self.role.encode(), digest_size=16)
        for part in self.parts:
            data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else raw(part)
            hashed.update(len(data).to_bytes(4, "big") + data)
        return hashed.digest()


def raw(part: Image | Film) -> bytes:
    """The bytes that stand for a picture or a film in digests."""
    return part.digest if isinstance(part, Image) else part.uri.encode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class Shown:
    """What a request shows of one video.

    Attributes:
        text: all its words.
        content: digest of words and pictures, the same whatever the video is called in the request.
    """

    text: str
    content: bytes

    @cached_property
    def number(self) -> int:
        """64 bits of the digest."""
        return int.from_bytes(self.content[:8], "big")

    @cached_property
    def duration_s(self) -> float:
        """As it is told; 1 where it is not."""
        found = _DURATION.search(self.text)
        return float(found[1]) if found else 1.0


@dataclass(frozen=True)
class Asked:
    """A request.

    Attributes:
        protocol: openai or gemini.
        model: as it was named.
        system: first instructions, empty for none.
        turns: at least one; the last is the user's.
        schema: JSON schema of the reply, with lower-case types; None: free text.
        wants_json: a JSON object is asked for, with or without a schema.
        max_output_tokens: where the reply is cut off.
        temperature: 0 to 2.
        seed: as sent.
        top_logprobs: alternatives at each place; None: no log-probabilities.
        thinking_tokens: hidden reasoning that this request costs.
        schema_key: digest of the schema, empty for none.
        schema_tokens: what the schema is billed as.
        document: the body as it came.
    """

    protocol: str
    model: str
    system: str
    turns: tuple[Said, ...]
    schema: Mapping[str, Any] | None = None
    wants_json: bool = False
    max_output_tokens: int = 65_536
    temperature: float = 1.0
    seed: int | None = None
    top_logprobs: int | None = None
    thinking_tokens: int = 0
    schema_key: bytes = b""
    schema_tokens: int = 0
    document: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_repair(self) -> bool:
        """Whether a reply of the model is quoted."""
        return len(self.turns) > 1

    @cached_property
    def part_tokens(self) -> tuple[int, ...]:
        """Of all parts of all turns, in order."""
        return tuple(count(part) if isinstance(part, str) else part.tokens for turn in self.turns for part in turn.parts)

    @cached_property
    def input_tokens(self) -> int:
        """What the request is billed as: system text, schema and parts, and 4 for each turn."""
        own = count(self.system, keep=True) if self.system else 0
        return own + self.schema_tokens + sum(self.part_tokens) + 4 * (len(self.turns) + bool(self.system))

    @property
    def images(self) -> int:
        return sum(isinstance(part, Image) for turn in self.turns for part in turn.parts)

    def holds(self, text: str) -> bool:
        """Whether the conversation holds `text`."""
        return any(text in part for turn in self.turns for part in turn.parts if isinstance(part, str))

    @cached_property
    def question(self) -> str:
        """The last words of the first turn, which ask."""
        last = self.turns[0].parts[-1]
        return last if isinstance(last, str) else ""

    @cached_property
    def videos(self) -> Mapping[str, Shown]:
        """What is shown of each video, by what it is called.

        A video stands between `<<video NAME>>` and `<<end of video NAME>>`. Where no such marks are found, everything but the
        first turn's last part is one video called `v1`, or all of it where there is no other part.
        """
        words: dict[str, list[str]] = {}
        hashes: dict[str, Any] = {}
        name = ""
        for part in self.turns[0].parts:
            if not isinstance(part, str):
                if name:
                    hashes[name].update(raw(part))
                continue
            start = 0
            for mark in _MARK.finditer(part):
                _add(words, hashes, name, part[start : mark.start()])
                start = mark.end()
                name = "" if mark[1] else mark[2]
                if name and name not in words:
                    words[name], hashes[name] = [], blake2b(digest_size=16)
            _add(words, hashes, name, part[start:])
        if words:
            return {name: Shown("\n".join(lines), hashes[name].digest()) for name, lines in words.items()}
        parts = self.turns[0].parts[:-1] or self.turns[0].parts
        text = "\n".join(part for part in parts if isinstance(part, str))
        return {"v1": Shown(text, Said("user", parts).digest)}


def _add(words: dict[str, list[str]], hashes: dict[str, Any], name: str, text: str) -> None:
    if name and text:
        words[name].append(text)
        hashes[name].update(text.encode("utf-8", "surrogatepass"))
