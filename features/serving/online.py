"""Attributes of videos at serving time: one array, with explicit masks for what is absent and what is stale.

Reads the packed view only. Feast does not enforce an age online, so it is checked here.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from features.attributes.registry import Registration, open_store, registered_attributes
from features.errors import InvalidInput
from features.serving.packed import SOURCES, PackedLayout, definition_code
from features.serving.rows import OnlineRows, open_rows
from features.workspace import Workspace

if TYPE_CHECKING:
    from feast import FeatureStore

REFRESH_S = 60.0
"""How long a registration is believed before it is read again."""
RETRY_S = REFRESH_S / 6
"""How long after a registration that could not be read the next attempt is made."""
CLOCK_SLACK_S = 300.0


@dataclass(frozen=True)
class AttributeTable:
    """Attributes of n videos.

    Attributes:
        video_ids: as asked, n.
        attributes: names, a.
        values: float32 (n, a), `AttributeDefinition.number`; NaN where absent.
        present: bool (n, a); somebody trusted says so.
        stale: bool (n, a); present, but too old, the answer to an older definition, or about content that has changed since.
        sources: uint8 (n, a), position in `features.serving.packed.SOURCES`; 0 where absent.
        annotated_at: int64 (n, a), seconds since 1970; 0 where absent or unknown.
        unreadable: how many of the videos have a damaged row, which reads as absent.
    """

    video_ids: tuple[str, ...]
    attributes: tuple[str, ...]
    values: NDArray[np.float32]
    present: NDArray[np.bool_]
    stale: NDArray[np.bool_]
    sources: NDArray[np.uint8]
    annotated_at: NDArray[np.int64]
    unreadable: int = 0

    @property
    def fresh(self) -> NDArray[np.bool_]:
        """Present and not stale."""
        return self.present & ~self.stale

    def row(self, video_id: str) -> dict[str, float]:
        """The attributes that are present of one video, by name. Raises KeyError for a video that was not asked."""
        if video_id not in self.video_ids:
            raise KeyError(video_id)
        at = self.video_ids.index(video_id)
        return {name: float(self.values[at, column]) for column, name in enumerate(self.attributes) if self.present[at, column]}

    def source_names(self, video_id: str) -> dict[str, str]:
        """Who speaks about each attribute of one video; `absent` where nobody does."""
        at = self.video_ids.index(video_id)
        return {name: SOURCES[self.sources[at, column]] for column, name in enumerate(self.attributes)}


@dataclass(frozen=True)
class _Known:
    """A registration as the reader needs it."""

    registration: Registration
    layout: PackedLayout
    older: tuple[PackedLayout, ...]
    definitions: NDArray[np.uint32]


class OnlineAttributes:
    """Reads attributes from a workspace's online store. Safe to share between threads: each gets its own connection.

    Args:
        source: a workspace (or its path), or a store that `open_store` gave.
        max_age: what was annotated longer ago is stale; None never is.
        online: which online store, when `source` is a workspace, see `open_store`.
        clock: seconds since 1970.

    Raises InvalidInput when nothing is registered there.
    """

    def __init__(
        self,
        source: FeatureStore | Workspace | str,
        max_age: timedelta | None = None,
        online: str = "sqlite",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = open_store(source, online) if isinstance(source, str | Workspace) else source
        self._max_age, self._clock = max_age, clock
        self._threads = threading.local()
        self._lock = threading.Lock()
        self._failing = False
        self.refresh()

    @property
    def registration(self) -> Registration:
        """What is registered, at most a minute old; older while it cannot be read."""
        return self._current().registration

    def _read_registration(self) -> _Known:
        registration = registered_attributes(self._store)
        registration.check_served()
        layout = PackedLayout.of(registration.layout)
        return _Known(
            registration,
            layout,
            tuple(PackedLayout.of(older) for older in registration.layouts),
            np.array([definition_code(attribute.definition_hash) for attribute in registration.attributes], np.uint32),
        )

    def _due(self) -> bool:
        return abs(self._clock() - self._asked_at) > (RETRY_S if self._failing else REFRESH_S)

    def _current(self) -> _Known:
        """What is known, read again when it is time; what served until now goes on serving while that fails."""
        if self._due():
            with self._lock:
                if self._due():
                    self._try_again()
        return self._known

    def _try_again(self) -> None:
        try:
            self._read()
        except Exception as error:  # whatever the registry's own backend raises as well
            if not self._failing:
                logging.getLogger(__name__).warning(
                    "the registration cannot be read (%s: %s); serving goes on with the one read before",
                    type(error).__name__,
                    error,
                )
            self._failing, self._asked_at = True, self._clock()

    def _read(self) -> None:
        self._known = self._read_registration()
        self._failing, self._asked_at = False, self._clock()

    def refresh(self) -> None:
        """Reads the registration again now rather than within a minute. Raises InvalidInput when there is none to serve."""
        with self._lock:
            self._read()

    def _rows(self) -> OnlineRows:
        rows: OnlineRows | None = getattr(self._threads, "rows", None)
        if rows is None:
            rows = self._threads.rows = open_rows(self._store)
        return rows

    def get(self, video_ids: Sequence[str], attributes: Sequence[str] | None = None) -> AttributeTable:
        """The attributes of some videos; a video that nobody has annotated is absent in every attribute.

        Args:
            video_ids: any number, repetitions included.
            attributes: names; None for all that are registered. One that was withdrawn is absent everywhere.

        Raises:
            Transient: the online store is busy or away.
            InvalidInput: an attribute that was never registered.
        """
        known = self._current()
        rows = known.layout.decode_many(self._rows().packed(video_ids), known.older)
        present = rows.source != 0
        annotated_at = np.where(present, rows.annotated_at, np.uint32(0)).astype(np.int64)
        now = self._clock()
        stale = present & ((rows.definition != known.definitions) | (annotated_at > now + CLOCK_SLACK_S))
        if self._max_age is not None:
            stale |= present & (annotated_at < now - self._max_age.total_seconds())
        names = known.layout.names
        asked = tuple(video_ids)
        table = AttributeTable(asked, names, rows.values, present, stale, rows.source, annotated_at, rows.unreadable)
        if attributes is None or tuple(attributes) == names:
            return table
        return self._choose(table, attributes, known.registration)

    def _choose(self, table: AttributeTable, attributes: Sequence[str], registration: Registration) -> AttributeTable:
        unknown = [name for name in attributes if name not in table.attributes and name not in registration.retired]
        if unknown:
            raise InvalidInput(f"{', '.join(unknown)}: not registered; there is {', '.join(table.attributes)}")
        shape = (len(table.video_ids), len(attributes))
        chosen = AttributeTable(
            table.video_ids,
            tuple(attributes),
            np.full(shape, np.nan, np.float32),
            np.zeros(shape, np.bool_),
            np.zeros(shape, np.bool_),
            np.zeros(shape, np.uint8),
            np.zeros(shape, np.int64),
            table.unreadable,
        )
        pairs = [(to, table.attributes.index(name)) for to, name in enumerate(attributes) if name in table.attributes]
        for to, column in pairs:
            for target, source in (
                (chosen.values, table.values),
                (chosen.present, table.present),
                (chosen.stale, table.stale),
                (chosen.sources, table.sources),
                (chosen.annotated_at, table.annotated_at),
            ):
                target[:, to] = source[:, column]
        return chosen
