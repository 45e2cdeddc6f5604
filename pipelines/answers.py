"""The answers store of a workspace, looked at and cleared out."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from features.annotators.answers import Answers, Selection, StoredAnswer, open_answers
from features.annotators.protocol import Usage
from features.attributes.definition import AttributeDefinition
from features.errors import InvalidInput
from features.records import VideoFeatures, from_table
from features.workspace import Workspace, latest, read_parquet
from pipelines import terminal

FILE = "answers.sqlite"
QUIET_S = 2.0
DELETE_BATCH = 500

T = TypeVar("T")


def answers_at(workspace: Workspace, location: str = "") -> Answers | None:
    """The store at a location, by default that of the workspace; None where it is a file that does not exist yet.

    Raises:
        InvalidInput: the location is no store, or names a file that is not there.
    """
    store = open_answers(location or workspace.local_path(FILE))
    if "://" not in store.location and not os.path.isfile(store.location):
        if location:
            raise InvalidInput(f"{location}: there are no answers; name the file or the Redis that a run was given")
        return None
    return store


class Asked:
    """What a workspace asks about now: every definition about the newest features of every video.

    Args:
        workspace: its features.
        definitions: of the feature repository.

    Raises:
        InvalidInput: there are no features, or no definitions: every answer would seem to be an orphan.
    """

    def __init__(self, workspace: Workspace, definitions: Sequence[AttributeDefinition]) -> None:
        columns = ["video_id", "content_hash", "content_key", "extractor_version", "extracted_at"]
        rows = (row for file in workspace.files("features") for row in from_table(read_parquet(file.path, columns), VideoFeatures))
        self._contents = {row.content_key for row in latest(rows).values()}
        self._definitions = {definition.definition_hash for definition in definitions}
        if not self._contents or not self._definitions:
            lacks = "no definitions" if self._contents else f"{workspace.root} holds no features"
            raise InvalidInput(f"{lacks}: every answer would be an orphan; name the --workspace and --feature-repo in use")

    def __contains__(self, stored: StoredAnswer) -> bool:
        """Whether the answer is about what is there now. Who answered plays no part: use `Selection.model` for that."""
        return stored.content_key in self._contents and stored.definition_hash in self._definitions


def prune(
    store: Answers, selection: Selection, asked: Asked | None = None, delete: bool = False, seen: Callable[[], None] = lambda: None
) -> tuple[int, Usage]:
    """Forgets answers, or says which would be forgotten.

    Args:
        store: where.
        selection: which.
        asked: spare the answers that are in it; None: spare none.
        delete: do it.
        seen: called for each answer that was looked at.

    Returns:
        How many, and what they had cost.
    """

    def doomed() -> Iterator[StoredAnswer]:
        for row in store.rows(selection):
            seen()
            if asked is None or row not in asked:
                yield row

    count, paid, rows = 0, Usage(), doomed()
    while some := list(itertools.islice(rows, DELETE_BATCH)):
        count += len(some)
        for row in some:
            answer = row.answer
            paid += Usage(0, answer.input_tokens, answer.cached_input_tokens, answer.output_tokens, answer.cost_usd)
        if delete:
            store.delete_many(row.key for row in some)
    return count, paid


def unknown(store: Answers, selection: Selection) -> str:
    """Why nothing was selected: a sentence that names what could have been."""
    groups = store.stats().groups
    models = sorted({group.model for group in groups})
    attributes = sorted({group.attribute for group in groups})
    if selection.model and selection.model not in models:
        return f"no answers of model {selection.model!r} in {store.location}: there are {', '.join(models) or 'none'}"
    if selection.attribute and selection.attribute not in attributes:
        return f"no answers to {selection.attribute!r} in {store.location}: there are {', '.join(attributes) or 'none'}"
    return f"no such answers in {store.location}"


class Watched:
    """Counts what passes, and tells a person about it once it takes longer than two seconds.

    Args:
        what: the word before the count.
        total: how many there will be; 0: unknown.
        quiet: tell nothing (for --json).
    """

    def __init__(self, what: str, total: int = 0, quiet: bool = False) -> None:
        self._what, self._total, self._quiet = what, total, quiet
        self._ended = threading.Event()
        self.count = 0

    def seen(self) -> None:
        self.count += 1

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """The items, counted."""
        for item in items:
            self.count += 1
            yield item

    def _line(self, elapsed: float) -> str:
        done = f"{self.count} of {self._total} answers" if self._total else f"{self.count} answers" if self.count else "answers"
        left = elapsed / self.count * (self._total - self.count) if self.count and self._total else 0
        return f"{self._what} {done}, {elapsed:.0f} s" + (f", about {left:.0f} s left" if left >= 1 else "")

    def _watch(self) -> None:
        began = time.monotonic()
        if self._ended.wait(QUIET_S):
            return
        if terminal.err.is_terminal:
            with terminal.err.status("") as status:
                while not self._ended.wait(0.25):
                    status.update(terminal.plain(self._line(time.monotonic() - began)))
        else:
            while True:
                terminal.tell(self._line(time.monotonic() - began))
                if self._ended.wait(15):
                    return

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """While this lasts."""
        if self._quiet:
            yield
            return
        watcher = threading.Thread(target=self._watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            self._ended.set()
            watcher.join()
