"""The annotator that asks another one only what the answers store does not hold."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from features.annotators.answer_records import StoredAnswer
from features.annotators.batching import Gatherer
from features.annotators.protocol import (
    AnnotationReply,
    AnnotationRequest,
    Annotator,
    AnnotatorIdentity,
    Answer,
    Around,
    Refusal,
    Usage,
)
from features.attributes.definition import AttributeDefinition
from features.errors import VidattrError

if TYPE_CHECKING:
    from features.annotators.answers import Answers

_Saving = tuple[tuple[StoredAnswer, ...], Usage]


@dataclasses.dataclass(frozen=True)
class _Pending:
    """No outcome this time, and why."""

    why: str


_Outcome = Answer | Refusal | _Pending


class StoredAnswers(Around):
    """An annotator that asks another one only what the store does not hold, and stores each reply before it hands it on.

    Two concurrent requests for one key in one process ask once, and `spent` is in the reply to the one that asked. Answers that
    are found, or that another request got, are marked `reused`; their tokens and cost say what they cost then. Refusals are not
    stored, but what they cost is noted in the store's spend journal, in the transaction that stores the answers beside them. A
    reply that could not be stored is kept in memory and not passed on: asking again after the Transient tries to store it first,
    and pays for nothing; what it had cost is in the `spent` of the next reply. Answers that nobody asked for are dropped.

    Requests hold one video each. Answers leave without `video_id`: videos of the same content share them.

    Args:
        annotator: who is asked.
        store: where answers stay.
        run_id: under which spend is noted.
    """

    def __init__(self, annotator: Annotator, store: Answers, run_id: str = "") -> None:
        super().__init__(annotator)
        self.store = store
        self.run_id = run_id
        self._asking: dict[str, asyncio.Future[_Outcome | None]] = {}
        self._unsaved: dict[str, StoredAnswer] = {}
        self._unreported = Usage()
        self._behind = False
        self._lookup: Gatherer[tuple[str, ...], dict[str, Answer]] | None = None
        self._save: Gatherer[_Saving, dict[str, Answer]] | None = None

    def __reduce__(self) -> tuple[type[StoredAnswers], tuple[Annotator, Answers, str]]:
        return type(self), (self.annotator, self.store, self.run_id)

    def open(self) -> None:
        """Opens the annotator inside, and the store: a damaged one is reported now and not after the first reply."""
        super().open()
        self.store.get_many(("",))
        self._lookup = Gatherer(self._get_batches)
        self._save = Gatherer(self._put_batches)

    def _get_batches(self, batches: Sequence[tuple[str, ...]]) -> list[dict[str, Answer]]:
        found = self.store.get_many([key for keys in batches for key in keys])
        return [{key: found[key] for key in keys if key in found} if found else {} for keys in batches]

    def _put_batches(self, batches: Sequence[_Saving]) -> list[dict[str, Answer]]:
        spent = sum((usage for _, usage in batches), Usage())
        noted = {self.run_id: spent} if spent != Usage() else None
        standing = self.store.put_many([stored for answers, _ in batches for stored in answers], noted)
        return [standing] * len(batches)

    async def annotate(self, request: AnnotationRequest) -> AnnotationReply:
        """See `Annotator`. Also raises Transient or InvalidInput when the store fails."""
        assert self._lookup is not None, "open() comes before annotate()"
        assert not request.packed_with, "videos are packed further inside"
        identity, content = self.identity, request.video.content_key
        hashes = [definition.definition_hash for definition in request.definitions]
        keys = {
            identity.answer_key(content, definition_hash): (definition, definition_hash)
            for definition, definition_hash in zip(request.definitions, hashes, strict=True)
        }
        # Claimed before the store is looked at: an answer that arrives in between would be missed and asked for twice.
        shared = {key: self._asking[key] for key in keys if key in self._asking}
        loop = asyncio.get_running_loop()
        mine = {key: loop.create_future() for key in keys if key not in shared}
        self._asking.update(mine)
        outcomes: dict[str, _Outcome] = {}
        spent = Usage()
        try:
            if mine:
                outcomes.update(await self._lookup(tuple(mine)))
                for key in outcomes:
                    self._unsaved.pop(key, None)
                missing = {key: keys[key] for key in mine if key not in outcomes}
                if missing:
                    spent = await self._ask(request, identity, missing, outcomes)
        finally:
            # Whoever waits for a request that failed or was cancelled gets None, and asks on its own account.
            for key, future in mine.items():
                del self._asking[key]
                future.set_result(outcomes.get(key))
        rest = AnnotationReply()
        try:
            again = []
            for key, other in shared.items():
                outcome = await asyncio.shield(other)
                if outcome is None:
                    again.append(keys[key][0])
                else:
                    outcomes[key] = dataclasses.replace(outcome, reused=True) if isinstance(outcome, Answer) else outcome
            if again:
                rest = await self.annotate(dataclasses.replace(request, definitions=tuple(again)))
        except BaseException:
            self._unreported += spent
            raise
        owed, self._unreported = self._unreported, Usage()
        ordered = [outcomes[key] for key in keys if key in outcomes]
        whys = [outcome.why for outcome in ordered if isinstance(outcome, _Pending)]
        return AnnotationReply(
            (*(outcome for outcome in ordered if isinstance(outcome, Answer)), *rest.answers),
            (*(outcome for outcome in ordered if isinstance(outcome, Refusal)), *rest.refusals),
            spent + rest.spent + owed,
            next(filter(None, [*whys, rest.why_pending]), ""),
        )

    async def _ask(
        self,
        request: AnnotationRequest,
        identity: AnnotatorIdentity,
        missing: dict[str, tuple[AttributeDefinition, str]],
        outcomes: dict[str, _Outcome],
    ) -> Usage:
        """Asks for what is not waiting to be saved and saves it all.

        Args:
            request: the request as it came.
            identity: of whoever is asked.
            missing: definition and its hash by key.
            outcomes: gets the outcome of each of them.

        Returns:
            What was spent.
        """
        spent, refused, why = Usage(), {}, ""
        asked = {key: definition for key, definition in missing.items() if key not in self._unsaved}
        if asked:
            definitions = tuple(definition for definition, _ in asked.values())
            reply = await self.annotator.annotate(dataclasses.replace(request, definitions=definitions))
            spent, why = reply.spent, reply.why_pending
            key_of = {definition.name: key for key, (definition, _) in asked.items()}
            ours = ("", request.video.video_id)
            for refusal in reply.refusals:
                if refusal.attribute in key_of and refusal.video_id in ours:
                    refused[key_of[refusal.attribute]] = dataclasses.replace(refusal, video_id="") if refusal.video_id else refusal
            for answer in reply.answers:
                if answer.attribute in key_of and answer.video_id in ours:
                    key = key_of[answer.attribute]
                    self._unsaved[key] = StoredAnswer(
                        key, _storable(answer), identity, request.video.video_id, request.video.content_key, asked[key][1]
                    )
        saving = tuple(self._unsaved[key] for key in missing if key in self._unsaved)
        if saving or spent != Usage():
            assert self._save is not None
            try:
                standing = await self._save((saving, spent))
            except BaseException:
                self._unreported += spent
                self._behind = True
                raise
            self._behind = False
            for stored in saving:
                self._unsaved.pop(stored.key, None)
                stands = standing.get(stored.key)
                outcomes[stored.key] = stored.answer if stands is None else _as_paid(stored.answer, stands)
        for key in missing:
            if key not in outcomes:
                outcomes[key] = refused.get(key) or _Pending(why)
        return spent

    async def close(self) -> None:
        """Waits for what is being stored, tries once more to store what could not be, and closes the annotator and the store."""
        for gatherer in (self._lookup, self._save):
            if gatherer is not None:
                await gatherer.close()
        if self._unsaved or self._behind:
            try:
                self.store.put_many(tuple(self._unsaved.values()))
                self._unsaved.clear()
            except VidattrError as error:
                logging.getLogger(__name__).warning(
                    "%d paid answers could not be stored and will be asked for again: %s", len(self._unsaved), error
                )
        await super().close()
        self.store.close()


def _storable(answer: Answer) -> Answer:
    """An answer as every store can hold it: a model may write half a surrogate pair, and no file or socket takes that."""
    if not answer.video_id and answer.by is None and answer.rationale.isascii() and answer.model.isascii():
        return answer
    return dataclasses.replace(answer, video_id="", by=None, rationale=_whole(answer.rationale), model=_whole(answer.model))


def _whole(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _as_paid(asked: Answer, standing: Answer) -> Answer:
    """What stands in the store, with what was paid for asking just now."""
    return dataclasses.replace(
        asked,
        value=standing.value,
        probability=standing.probability,
        rationale=standing.rationale,
        answered_at=standing.answered_at,
        moments=standing.moments,
        model=standing.model,
    )
