"""What happens to a reply that is not accepted: it is mended once, and a packed request is taken apart until its fault is alone.

For a request about one video: the exchange, and where a reply can be mended (`features.annotators.reply.MENDABLE`) one more that
quotes it. Two exchanges at the most, and a refusal, a block or an empty reply is never asked about again.

For a request about n videos: the exchange; where its JSON was bad one repair (a reply that was cut off is not asked for at the same
length again); then the videos that are still open are asked about in two halves, for what is open of them, and so on down to single
videos, each with its own repair. A video whose id could not be matched is asked about alone at once. A request that the server
refuses as a whole (`Permanent`) is halved too, so that only the video that carries the poison is a dead letter. The worst case,
when nothing is ever accepted: 2n - 1 exchanges for all the halves, n repairs of the single ones and 1 of the first, 3n in all.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from features.annotators.protocol import AnnotationReply, AnnotationRequest, Answer, Around, Refusal, Repair, Usage
from features.annotators.reply import SINGLY
from features.attributes.definition import AttributeDefinition
from features.errors import Halted, Permanent, Transient
from features.records import VideoFeatures

MOST_PROBLEMS = 10
"""Problems that a repair request names; they repeat themselves."""

Pair = tuple[str, str]
"""(video_id, attribute)."""


class Repaired(Around):
    """Mends and takes apart, as the module says.

    Every pair ends as an answer, or as a refusal with nothing left to mend, or pending where the service went away (Transient,
    Halted) between two exchanges: what was answered by then is kept. That the first exchange raises these goes through.
    """

    async def annotate(self, request: AnnotationRequest) -> AnnotationReply:
        """See `Annotator`. Never raises Permanent."""
        work = _Work()
        accepted = await self._exchange(request, work)
        try:
            if accepted:
                await self._mend(request, work)
            if request.packed_with:
                await self._take_apart(request, work)
        except (Transient, Halted) as error:
            work.interrupt(str(error))
        return work.reply(request)

    async def _exchange(self, request: AnnotationRequest, work: _Work) -> bool:
        """One exchange, taken in; False where the server refuses the very request, which is then the kind of all its pairs."""
        try:
            reply = await self.annotator.annotate(request)
        except Permanent as error:
            refusals = [
                Refusal(attribute, error.kind, f"{attribute!r} of {video_id!r}: {error}", "", video_id)
                for video_id, attribute in _pairs(request)
            ]
            work.take(request, AnnotationReply((), tuple(refusals)))
            return False
        work.take(request, reply)
        return True

    async def _mend(self, request: AnnotationRequest, work: _Work) -> None:
        """The repair: only its answers to bad pairs count. Where it brings none, the first refusal stays, with both reasons."""
        again = {"cut_off"} if request.packed_with else set()
        bad = {
            pair: refusal
            for pair, refusal in work.refused(request).items()
            if refusal.repair is not None and refusal.kind not in again
        }
        repair = _joined(list(bad.values()))
        if repair is None:
            return
        mending = dataclasses.replace(request, repair=repair)
        try:
            reply = await self.annotator.annotate(mending)
        except Permanent as error:
            reply = AnnotationReply()
            for pair, refusal in bad.items():
                work.refusals[pair] = _also(refusal, f"{error} ({error.kind})")
        work.spent += reply.spent
        for refusal in reply.refusals:
            pair = _pair(mending, refusal)
            if pair in bad:
                work.refusals[pair] = _also(bad[pair], f"{refusal.message} ({refusal.kind})")
        for answer in reply.answers:
            pair = _pair(mending, answer)
            if pair in bad:
                work.refusals.pop(pair, None)
                work.answers.setdefault(pair, answer)

    async def _take_apart(self, request: AnnotationRequest, work: _Work) -> None:
        """Asks again what is open of a packed request: unmatched videos alone, the others in halves."""
        refused = work.refused(request)
        singly = {video_id for (video_id, _), refusal in refused.items() if refusal.kind in SINGLY}
        open_ids = {video_id for video_id, _ in refused}
        rest = [video for video in request.videos if video.video_id in open_ids - singly]
        middle = (len(rest) + 1) // 2
        groups = [[video] for video in request.videos if video.video_id in singly]
        groups += [group for group in (rest[:middle], rest[middle:]) if group]
        for group in groups:
            asked = _part(request, group, refused)
            accepted = await self._exchange(asked, work)
            if asked.packed_with:
                await self._take_apart(asked, work)
                continue
            if accepted:
                await self._mend(asked, work)
            work.settled |= set(work.refused(asked))


@dataclass
class _Work:
    """What is known of a request's pairs: a pair is in `answers`, in `refusals`, or in neither (pending)."""

    answers: dict[Pair, Answer] = field(default_factory=dict)
    refusals: dict[Pair, Refusal] = field(default_factory=dict)
    settled: set[Pair] = field(default_factory=set)
    """Refused, and nothing more is asked about them."""
    spent: Usage = field(default_factory=Usage)
    why_pending: str = ""

    def take(self, request: AnnotationRequest, reply: AnnotationReply) -> None:
        """What an exchange says replaces the refusals before; an answer that is there already stays."""
        self.spent += reply.spent
        self.why_pending = self.why_pending or reply.why_pending
        answers = {_pair(request, answer): answer for answer in reply.answers}
        refusals = {_pair(request, refusal): refusal for refusal in reply.refusals}
        for pair in _pairs(request):
            if pair in self.answers:
                continue
            self.refusals.pop(pair, None)
            if pair in answers:
                self.answers[pair] = answers[pair]
            elif pair in refusals:
                self.refusals[pair] = refusals[pair]

    def refused(self, request: AnnotationRequest) -> dict[Pair, Refusal]:
        return {pair: self.refusals[pair] for pair in _pairs(request) if pair in self.refusals}

    def interrupt(self, why: str) -> None:
        """The service went away: pairs that were still to be asked about are pending, not refused."""
        self.why_pending = self.why_pending or why
        self.refusals = {pair: refusal for pair, refusal in self.refusals.items() if pair in self.settled}

    def reply(self, request: AnnotationRequest) -> AnnotationReply:
        """In the order of the request."""
        pairs = _pairs(request)
        answers = tuple(self.answers[pair] for pair in pairs if pair in self.answers)
        refusals = tuple(dataclasses.replace(self.refusals[pair], repair=None) for pair in pairs if pair in self.refusals)
        pending = len(answers) + len(refusals) < len(pairs)
        return AnnotationReply(answers, refusals, self.spent, self.why_pending if pending else "")


def _part(request: AnnotationRequest, videos: list[VideoFeatures], refused: dict[Pair, Refusal]) -> AnnotationRequest:
    """The request about some of its videos, for what is open of any of them."""
    ids = {video.video_id for video in videos}
    names = {attribute for video_id, attribute in refused if video_id in ids}
    definitions: tuple[AttributeDefinition, ...] = tuple(each for each in request.definitions if each.name in names)
    if len(definitions) == len(request.definitions):
        definitions = request.definitions
    return dataclasses.replace(request, video=videos[0], packed_with=tuple(videos[1:]), definitions=definitions)


def _joined(refusals: list[Refusal]) -> Repair | None:
    """The first repair, with the problems of all."""
    repairs = [refusal.repair for refusal in refusals if refusal.repair is not None]
    if not repairs:
        return None
    problems = list(dict.fromkeys(repair.problem for repair in repairs))
    named = "; ".join(problems[:MOST_PROBLEMS])
    if len(problems) > MOST_PROBLEMS:
        named += f"; and {len(problems) - MOST_PROBLEMS} more like these"
    return Repair(repairs[0].reply, named)


def _also(refusal: Refusal, mended: str) -> Refusal:
    return dataclasses.replace(refusal, message=f"{refusal.message}; asked to mend it: {mended}", repair=None)


def _pairs(request: AnnotationRequest) -> list[Pair]:
    return [(video.video_id, definition.name) for video in request.videos for definition in request.definitions]


def _pair(request: AnnotationRequest, item: Answer | Refusal) -> Pair:
    return item.video_id or request.video.video_id, item.attribute
