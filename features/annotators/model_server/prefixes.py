"""Which beginnings of requests were seen before: a provider's prefix cache, and how stable the prefixes of a run are."""

from __future__ import annotations

from collections import Counter, OrderedDict
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from features.annotators.model_server.asked import Asked, Said, raw
from features.annotators.model_server.counting import count
from features.annotators.model_server.questions import Judged


class PrefixCache:
    """Remembers request prefixes block by block, the least recently used forgotten first.

    A block's key is a digest of all bytes up to its end, the model and the reply's schema among them; a picture counts as one
    block of its own.

    Args:
        block_bytes: size of a block of text.
        blocks: how many are kept.
        minimum_tokens: a shorter prefix is not read from the cache.
    """

    def __init__(self, block_bytes: int, blocks: int, minimum_tokens: int) -> None:
        self.block_bytes, self.blocks, self.minimum_tokens = block_bytes, blocks, minimum_tokens
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._of_system = lru_cache(maxsize=256)(self._system_chain)

    def cached(self, asked: Asked) -> int:
        """How many tokens of the request's beginning are cached; remembers the request."""
        seen = self._seen
        start = self._of_system(asked.model, asked.schema_key, asked.system, asked.schema_tokens)
        key, tokens = start[-1]
        # A run's system text is looked up as a whole.
        chain = [start[-1]] if key in seen else list(start)
        counts = iter(asked.part_tokens)
        for turn in asked.turns:
            key = _next(key, turn.role.encode())
            for part in turn.parts:
                worth = next(counts)
                if isinstance(part, str):
                    chain += self._text_chain(key, part, tokens, worth)
                else:
                    chain.append((_next(key, raw(part)), tokens + worth))
                key, tokens = chain[-1]
        found, hit = 0, True
        for key, tokens in chain:
            hit = hit and key in seen
            if hit:
                found = tokens
            seen[key] = None
            seen.move_to_end(key)
        while len(seen) > self.blocks:
            seen.popitem(last=False)
        # A provider always reads at least the end anew.
        found = min(found, asked.input_tokens - 1)
        return found if found >= self.minimum_tokens else 0

    def _system_chain(self, model: str, schema: bytes, system: str, schema_tokens: int) -> tuple[tuple[bytes, int], ...]:
        start = _next(model.encode(), schema)
        chain = [(start, schema_tokens)]
        chain += self._text_chain(start, system, schema_tokens, count(system, keep=True))
        return tuple(chain)

    def _text_chain(self, key: bytes, text: str, before: int, tokens: int) -> list[tuple[bytes, int]]:
        data = text.encode("utf-8", "surrogatepass")
        chain, size = [], self.block_bytes
        for start in range(0, max(len(data), 1), size):
            key = _next(key, data[start : start + size])
            chain.append((key, before + tokens * min(start + size, len(data)) // max(len(data), 1)))
        return chain


def _next(key: bytes, block: bytes) -> bytes:
    return blake2b(block, digest_size=16, key=key[:64]).digest()


class PrefixBook:
    """Whether what requests have in common is the same, byte for byte, over a run.

    `prefixes` counts system texts, each with its model. `prefixes_by_definitions` counts them for each set of attributes that was
    asked together, ` (packed)` after the names where a request held several videos: one digest a set means that the shared prefix
    is stable, over repairs too. `video_prefixes` is about questions that were asked one by one, where everything before the
    question is shared: how many videos, and how many later requests repeated what was sent before the question, or changed it.
    `repair_first_turns` counts repairs that repeated the system text and first turn of a request before, or changed them.
    """

    MOST = 200_000

    def __init__(self) -> None:
        self.systems: Counter[str] = Counter()
        self.schemas: Counter[str] = Counter()
        self.by_definitions: dict[tuple[bool, tuple[str, ...]], Counter[str]] = {}
        self.repairs_same = self.repairs_changed = self.videos_same = self.videos_changed = 0
        self._first_turns: OrderedDict[bytes, None] = OrderedDict()
        self._videos: OrderedDict[str, bytes] = OrderedDict()

    def note(self, asked: Asked, judged: Judged, video: str) -> None:
        """Counts one request.

        Args:
            asked: the request.
            judged: what was asked in it.
            video: the name of its (last) video in the ledger.
        """
        system = digest_of(asked.model, asked.system)
        self.systems[system] += 1
        if asked.schema_key:
            self.schemas[asked.schema_key.hex()[:16]] += 1
        if any(verdict.path for verdict in judged.verdicts[:1]):
            self._together(judged, system)
        else:
            self._each(asked, system, video)
        self._repairs(asked, system)

    def _together(self, judged: Judged, system: str) -> None:
        first = judged.verdicts[0].question.video if judged.verdicts else ""
        names = tuple([verdict.question.attribute for verdict in judged.verdicts if verdict.question.video == first])
        found = self.by_definitions.setdefault((len(names) < len(judged.verdicts), names), Counter())
        found[system] += 1

    def _each(self, asked: Asked, system: str, video: str) -> None:
        prefix = _next(system.encode(), Said("user", asked.turns[0].parts[:-1]).digest)
        video = f"{asked.model} {video}"
        known = self._videos.get(video)
        if known is None:
            self._videos[video] = prefix
            if len(self._videos) > self.MOST:
                self._videos.popitem(last=False)
        elif known == prefix:
            self.videos_same += 1
        else:
            self.videos_changed += 1

    def _repairs(self, asked: Asked, system: str) -> None:
        first = _next(system.encode(), asked.turns[0].digest)
        if asked.is_repair:
            if first in self._first_turns:
                self.repairs_same += 1
            else:
                self.repairs_changed += 1
        else:
            self._first_turns[first] = None
            if len(self._first_turns) > self.MOST:
                self._first_turns.popitem(last=False)

    def document(self) -> dict[str, Any]:
        """All counts, as JSON."""
        return {
            "prefixes": dict(self.systems),
            "prefixes_by_definitions": {
                ",".join(sorted(names)) + (" (packed)" if packed else ""): dict(found)
                for (packed, names), found in self.by_definitions.items()
            },
            "schemas": dict(self.schemas),
            "video_prefixes": {"videos": len(self._videos), "same": self.videos_same, "changed": self.videos_changed},
            "repair_first_turns": {"same": self.repairs_same, "changed": self.repairs_changed},
        }


@lru_cache(maxsize=512)
def digest_of(model: str, system: str) -> str:
    """16 hex digits that stand for a model's system text."""
    return _next(model.encode(), system.encode("utf-8", "surrogatepass")).hex()[:16]
