"""What came of one batch job: result lines in any order, checked one by one, into the answers store."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO

from features import storage
from features.annotators import reply
from features.annotators.answer_records import StoredAnswer, changed
from features.annotators.answers import Answers
from features.annotators.batch_jobs.folder import Entry, Refused, SubmittedJob, read_entries, write_refused
from features.annotators.batch_jobs.job import Batches, Outcome
from features.annotators.batch_jobs.submitting import Writer
from features.annotators.exchange import Completion
from features.annotators.protocol import AnnotationReply, AnnotationRequest, Usage
from features.errors import Permanent
from features.records import VideoFeatures, digest
from features.workspace import Workspace

_log = logging.getLogger(__name__)
Read = Callable[[bytes], tuple[str, Outcome]]
Videos = Callable[[Collection[str]], Iterator[VideoFeatures]]
"""The newest features of the named videos, each once, in any order."""

CAME_OF_IT = (
    "requests",  # = read + failed + missing + changed
    "read",  # the model replied
    "failed",  # the provider says why it did not
    "missing",  # nothing came back: not reached in time
    "changed",  # the video or the prompt is another one by now
    "pairs",  # = answered + refused + left
    "answered",
    "refused",  # the model will not answer, however often it is asked
    "left",  # to be asked directly
    "answered_before",  # of `answered`: somebody else's answer stood already, and stays
    "unknown",  # result lines with an id that is not of this job
    "repeated",  # result lines with an id that had one already
    "unreadable",  # result lines that are none
)
"""Names and order of the counts of a job."""
_TOGETHER = 256


@dataclass(frozen=True)
class _Result:
    """One request, and what came of it: `stored` are its answers."""

    entry: Entry
    keys: tuple[str, ...]
    reply: AnnotationReply
    stored: tuple[StoredAnswer, ...]


def find_lines(file: BinaryIO, wanted: Collection[str], read: Read, counts: Counter[str]) -> dict[str, int]:
    """Where the result of each request begins. A reply is preferred to a failure, and the first of a kind to later ones.

    Args:
        file: result lines.
        wanted: ids of the requests.
        read: of one line.
        counts: `unknown`, `repeated` and `unreadable` are added to.
    """
    found: dict[str, int] = {}
    replied: set[str] = set()
    place = 0
    for line in file:
        begin, place = place, place + len(line)
        if not line.strip():
            continue
        try:
            custom_id, outcome = read(line)
        except ValueError:
            counts["unreadable"] += 1
            continue
        if custom_id not in wanted:
            counts["unknown"] += 1
            continue
        counts["repeated"] += custom_id in found
        if custom_id not in found or (custom_id not in replied and isinstance(outcome, Completion)):
            found[custom_id] = begin
        if isinstance(outcome, Completion):
            replied.add(custom_id)
    return found


class _Reading:
    """The results of one job on their way into the store."""

    def __init__(
        self,
        job: SubmittedJob,
        file: BinaryIO,
        batches: Batches,
        writer: Writer,
        cost: Callable[[Usage], float],
        counts: Counter[str],
    ) -> None:
        self.job, self.file, self.batches, self.writer, self.cost = job, file, batches, writer, cost
        self.counts = counts

    def completion(self, place: int | None) -> Completion | None:
        """The reply that begins at `place`; None where there is none."""
        if place is None:
            self.counts["missing"] += 1
            return None
        self.file.seek(place)
        _, outcome = self.batches.read(self.file.readline())
        if not isinstance(outcome, Completion):
            self.counts["failed"] += 1
            return None
        return outcome

    def result(self, entry: Entry, video: VideoFeatures | None, completion: Completion) -> _Result:
        """What a reply says, read against the very prompt that it answers."""
        keys = tuple(self.job.keys(entry))
        definitions = tuple(self.job.definitions[place] for place in entry.asked)
        prompt, spent = None, dataclasses.replace(completion.usage, cost_usd=self.cost(completion.usage))
        if video is not None and video.content_key == entry.content_key:
            request = AnnotationRequest(video, definitions)
            with contextlib.suppress(Permanent):  # with other settings there may be nothing to show any more
                prompt = self.writer.write(request)
        if prompt is None or digest(self.batches.line(entry.custom_id, prompt)) != entry.line_digest:
            self.counts["changed"] += 1
            return _Result(entry, keys, AnnotationReply(spent=spent), ())
        try:
            said = reply.read(request, prompt, completion, self.cost, lambda: self.job.fetched_at)
        except Exception:  # a mistake of ours: it is paid for and has to be counted, and the other results go on
            _log.exception("a result of a batch job could not be read")
            self.counts["failed"] += 1
            return _Result(entry, keys, AnnotationReply(spent=spent), ())
        self.counts["read"] += 1
        by_name = {definition.name: (key, definition) for key, definition in zip(keys, definitions, strict=True)}
        stored = []
        for answer in said.answers:
            key, definition = by_name[answer.attribute]
            stored.append(
                StoredAnswer(key, answer, self.job.identity, entry.video_id, entry.content_key, definition.definition_hash)
            )
        return _Result(entry, keys, said, tuple(stored))


def take_results(
    workspace: Workspace,
    job: SubmittedJob,
    batches: Batches,
    videos: Videos,
    writer: Writer,
    cost: Callable[[Usage], float],
    answers: Answers,
    run_id: str,
) -> tuple[Counter[str], Usage]:
    """Stores what a job answered and writes down what its model refuses. May be done again: nothing is stored or counted twice.

    Args:
        workspace: that holds the results.
        job: fetched.
        batches: that read result lines, and write request lines again.
        videos: the newest features of the named videos.
        writer: of the prompts.
        cost: US dollars of an exchange at batch prices.
        answers: where answers go.
        run_id: under which spend is noted.

    Returns:
        The counts of `CAME_OF_IT`, and what was spent on results that were not taken before.
    """
    counts: Counter[str] = Counter(dict.fromkeys(CAME_OF_IT, 0))
    counts.update(requests=job.requests, pairs=job.pairs)
    by_video: dict[str, list[Entry]] = {}
    for entry in read_entries(workspace, job):
        by_video.setdefault(entry.video_id, []).append(entry)
    refused: list[Refused] = []
    total = Usage()
    with storage.open_binary(workspace.path(job.file("results"))) as file:
        wanted = {entry.custom_id for entries in by_video.values() for entry in entries}
        places = find_lines(file, wanted, batches.read, counts)
        reading = _Reading(job, file, batches, writer, cost, counts)
        results = _results(reading, by_video, places, videos)
        while some := list(islice(results, _TOGETHER)):
            total += _store(some, answers, run_id, counts)
            for result in some:
                keys = {job.definitions[place].name: key for place, key in zip(result.entry.asked, result.keys, strict=True)}
                refused += [
                    Refused(keys[refusal.attribute], result.entry.video_id, refusal)
                    for refusal in result.reply.refusals
                    if refusal.repair is None
                ]
    write_refused(workspace, job, refused)
    counts["refused"] = len(refused)
    counts["left"] = counts["pairs"] - counts["answered"] - counts["refused"]
    return counts, total


def _results(reading: _Reading, by_video: dict[str, list[Entry]], places: dict[str, int], videos: Videos) -> Iterator[_Result]:
    """Every reply, video by video; those of videos that have no features any more come last."""
    left = dict(by_video)
    for video in videos(frozenset(by_video)):
        for entry in left.pop(video.video_id, ()):
            completion = reading.completion(places.get(entry.custom_id))
            if completion is not None:
                yield reading.result(entry, video, completion)
    for entries in left.values():
        for entry in entries:
            completion = reading.completion(places.get(entry.custom_id))
            if completion is not None:
                yield reading.result(entry, None, completion)


def _store(results: Iterable[_Result], answers: Answers, run_id: str, counts: Counter[str]) -> Usage:
    """Stores some answers together with what they cost; what was stored by a collect that died afterwards costs nothing again."""
    results = list(results)
    given = [stored for result in results for stored in result.stored]
    before = answers.get_many(stored.key for stored in given)
    other = changed(given, before)
    spent = Usage()
    for result in results:
        again = any(stored.key in before and stored.key not in other for stored in result.stored)
        if not again:
            spent += result.reply.spent
    if given:
        answers.put_many(given, {run_id: spent})
    elif spent != Usage():
        answers.note_spent(run_id, spent)
    counts["answered"] += len(given)
    counts["answered_before"] += len(other)
    return spent
