"""What a model server has seen: requests, paid calls of each pair, tokens, faults, over time."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from features.annotators.model_server.asked import Asked, Shown
from features.annotators.model_server.prefixes import PrefixBook
from features.annotators.model_server.questions import Judged
from features.annotators.model_server.said import Written


class Ledger:
    """Counts for `stats`.

    Args:
        marker: see `ServerConfig.marker`.
        keep: how many requests are kept.
        clock: seconds, monotonic.
    """

    def __init__(self, marker: str, keep: int, clock: Callable[[], float]) -> None:
        self._marker = re.compile(marker) if marker else None
        self._clock = clock
        self._keep = keep
        self.in_flight = 0
        self.reset()

    def reset(self) -> None:
        """Forgets everything but what is being worked on."""
        self.started = self._clock()
        self.by_path: Counter[str] = Counter()
        self.by_status: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.pairs: dict[str, dict[str, int]] = {}
        self.prefixes = PrefixBook()
        self.generations = self.accepted = self.rejected = self.batch_items = self.repairs = self.cancelled = 0
        self.input_tokens = self.cached_tokens = self.output_tokens = self.thinking_tokens = self.images = 0
        self.most_in_flight = self.in_flight
        self.timeline: dict[int, list[int]] = {}
        self.requests: deque[dict[str, Any]] = deque(maxlen=self._keep)

    def answered(self, path: str, status: int) -> None:
        """Counts an HTTP answer; of a request whose client has gone, status is 499."""
        self.by_path[path] += 1
        self.by_status[str(status)] += 1

    def rejection(self) -> None:
        """Counts a 429."""
        self.rejected += 1
        self._second()[1] += 1

    def paid(self, asked: Asked, judged: Judged, written: Written, batch: bool) -> None:
        """Counts a reply that is billed, under each (video, attribute) that it was asked about."""
        self.accepted += 1
        self.batch_items += batch
        self.repairs += asked.is_repair
        self.input_tokens += written.input_tokens
        self.cached_tokens += written.cached_tokens
        self.output_tokens += written.output_tokens
        self.thinking_tokens += written.thinking_tokens
        self.images += asked.images
        self._second()[0] += 1
        counts: dict[str, int] = {}
        video = name = ""
        for verdict in judged.verdicts:
            question = verdict.question
            if question.video != video:
                video = question.video
                name = self.name_of(question.shown)
                counts = self.pairs.setdefault(name, {})
            counts[question.attribute] = counts.get(question.attribute, 0) + 1
        self.prefixes.note(asked, judged, name)

    def name_of(self, shown: Shown) -> str:
        """The video's marker, or the digest of what is shown of it."""
        found = self._marker.search(shown.text) if self._marker else None
        return found[found.re.groups and 1] if found else shown.content.hex()[:16]

    def keep(self, asked: Asked, path: str, status: int, reply: str, fault: str) -> None:
        """Keeps a request for looking at."""
        if self._keep:
            self.requests.append(
                {
                    "protocol": asked.protocol,
                    "path": path,
                    "model": asked.model,
                    "document": asked.document,
                    "system": asked.system,
                    "turns": len(asked.turns),
                    "status": status,
                    "reply": reply,
                    "fault": fault,
                }
            )

    def _second(self) -> list[int]:
        return self.timeline.setdefault(int(self._clock() - self.started), [0, 0])

    def document(self) -> dict[str, Any]:
        """All counts, as JSON."""
        return {
            "seconds": self._clock() - self.started,
            "requests": {"total": sum(self.by_path.values()), "by_path": dict(self.by_path), "by_status": dict(self.by_status)},
            "generations": self.generations,
            "accepted": self.accepted,
            "batch_items": self.batch_items,
            "repairs": self.repairs,
            "rejected": self.rejected,
            "cancelled": self.cancelled,
            "pairs": {name: dict(counts) for name, counts in self.pairs.items()},
            "paid_pairs": sum(sum(counts.values()) for counts in self.pairs.values()),
            "tokens": {
                "input": self.input_tokens,
                "cached": self.cached_tokens,
                "output": self.output_tokens,
                "thinking": self.thinking_tokens,
            },
            "images": self.images,
            "faults": dict(self.faults),
            "in_flight": self.in_flight,
            "most_in_flight": self.most_in_flight,
            **self.prefixes.document(),
            "timeline": [
                {"second": second, "accepted": counts[0], "rejected": counts[1]} for second, counts in sorted(self.timeline.items())
            ],
        }
