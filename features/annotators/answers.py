"""The answers store: no answer is lost and none is paid for twice (law 2).

`Answers` is what every store does. `open_answers` chooses one by its location: an sqlite file that the processes of one machine
share (`answers_sqlite`), or Redis for many machines (`answers_redis`). `StoredAnswers` is the annotator around an annotator that
looks there before it asks and writes there before it replies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Protocol

from features.annotators.answer_records import ALL, Group, Selection, Stats, StoredAnswer
from features.annotators.answers_sqlite import SqliteAnswers
from features.annotators.protocol import Answer, Usage
from features.annotators.stored_answers import StoredAnswers
from features.errors import InvalidInput

__all__ = [
    "Answers",
    "Group",
    "Selection",
    "SqliteAnswers",
    "Stats",
    "StoredAnswer",
    "StoredAnswers",
    "open_answers",
]


class Answers(Protocol):
    """Answers by key. Safe to share between threads and processes, and to send to a worker, where it connects anew.

    An answer never changes: whoever puts a key second gets what stands. Every method raises Transient (busy or away: try again)
    or InvalidInput (full, damaged, not writable: a person has to do something).
    """

    @property
    def location(self) -> str:
        """Where it is, fit to be shown: no password in it."""
        ...

    def get_many(self, keys: Iterable[str]) -> dict[str, Answer]:
        """The answers that are there, by key, each marked `reused`."""
        ...

    def put_many(self, answers: Sequence[StoredAnswer], spent: Mapping[str, Usage] | None = None) -> dict[str, Answer]:
        """Stores answers, and notes what runs have paid, together.

        Args:
            answers: what to store. When this raises, none of it counts as stored: put it again.
            spent: by run id, to be added to the spend journal. When this raises, it is kept and noted by the next call that
                succeeds: do not hand it in again.

        Returns:
            By key what stands instead of the answer given, where somebody else was first and says something else.
        """
        ...

    def note_spent(self, run_id: str, usage: Usage) -> None:
        """Adds to the spend journal alone; see `put_many`."""
        ...

    def spent(self, run_id: str) -> Usage:
        """Everything that the run has paid for so far, in all its processes, as far as it is noted."""
        ...

    def __len__(self) -> int: ...

    def stats(self, selection: Selection = ALL) -> Stats:
        """What it holds."""
        ...

    def rows(self, selection: Selection = ALL) -> Iterator[StoredAnswer]:
        """Every answer once, in no order. What is put or deleted meanwhile may be in it or not."""
        ...

    def delete_many(self, keys: Iterable[str]) -> int:
        """Forgets answers and says how many were there: they will be asked for, and paid for, again. The spend journal stays."""
        ...

    def close(self) -> None:
        """Closes this process's connections; the next use opens new ones."""
        ...


def open_answers(location: str) -> Answers:
    """The store at a location; nothing is read or made before its first use.

    Args:
        location: the path of an sqlite file, or redis://[USER[:PASSWORD]@]HOST[:PORT][/DB][?prefix=PREFIX] (rediss:// for TLS).

    Raises:
        InvalidInput: it is neither, or the Redis client is not installed.
    """
    scheme, mark, _ = location.partition("://")
    if mark and scheme.lower() in ("redis", "rediss"):
        if find_spec("redis") is None:
            raise InvalidInput("answers in Redis need its client: pip install 'vidattr[redis]'")
        from features.annotators.answers_redis import RedisAnswers

        return RedisAnswers(location)
    if mark or not location.strip() or "\0" in location:
        shown = f"{scheme}://..." if mark else repr(location)
        raise InvalidInput(f"answers cannot be kept at {shown}: name an sqlite file, or redis://HOST:PORT[/DB][?prefix=PREFIX]")
    return SqliteAnswers(location)
