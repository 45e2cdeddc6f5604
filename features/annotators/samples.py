"""The same question several times: what most answers say, and how many of them say it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Sequence

from features.annotators.protocol import AnnotationReply, AnnotationRequest, Annotator, Answer, Around, Refusal, Usage
from features.attributes.definition import AttributeDefinition
from features.errors import Halted, Permanent, Transient, VidattrError

Pair = tuple[str, str]
"""(video_id, attribute)."""


class Samples(Around):
    """Asks `samples` times at once and makes one answer of what comes back.

    - Value: what most samples say; where several values have as many, the one whose first sample came earliest. Of a score, the
      lower median, so that it is one that was given.
    - Probability: the share of samples that say `true` (boolean), or the given value. Where all samples of a boolean have a
      probability of their own from log-probabilities, the mean of those.
    - Rationale, moments and model: of the first sample that says the value. Tokens and cost: of all samples that answered.

    Samples that were refused are left out. Where fewer than half of all answered, the pair is refused, with the most frequent kind;
    or it is pending, where samples that failed on their way (Transient, Halted) could have made it half.

    Args:
        annotator: the one inside; it is asked with `sample` 0 to `samples` - 1.
        samples: how often, 1 and up.
    """

    def __init__(self, annotator: Annotator, samples: int) -> None:
        super().__init__(annotator)
        self.samples = samples

    async def annotate(self, request: AnnotationRequest) -> AnnotationReply:
        """See `Annotator`. Raises what the samples raised only where not one came back."""
        asked = (self.annotator.annotate(dataclasses.replace(request, sample=sample)) for sample in range(self.samples))
        results = await asyncio.gather(*asked, return_exceptions=True)
        replies = [result for result in results if isinstance(result, AnnotationReply)]
        failures = [result for result in results if isinstance(result, BaseException)]
        for failure in failures:
            if not isinstance(failure, VidattrError):
                raise failure
        if not replies:
            raise _gravest(failures)
        answers, refusals = [], []
        pending = False
        for video in request.videos:
            for definition in request.definitions:
                outcome = self._outcome((video.video_id, definition.name), definition, request, replies, failures)
                if isinstance(outcome, Answer):
                    answers.append(outcome)
                elif isinstance(outcome, Refusal):
                    refusals.append(outcome)
                else:
                    pending = True
        reasons = [*map(str, failures), *(reply.why_pending for reply in replies), "too few samples brought an answer"]
        why = next(reason for reason in reasons if reason)
        spent = sum((reply.spent for reply in replies), Usage())
        return AnnotationReply(tuple(answers), tuple(refusals), spent, why if pending else "")

    def _outcome(
        self,
        pair: Pair,
        definition: AttributeDefinition,
        request: AnnotationRequest,
        replies: Sequence[AnnotationReply],
        failures: Sequence[BaseException],
    ) -> Answer | Refusal | None:
        answers = [answer for reply in replies for answer in reply.answers if _pair(request, answer) == pair]
        if answers and 2 * len(answers) >= self.samples:
            return merged(answers, definition)
        refusals = [refusal for reply in replies for refusal in reply.refusals if _pair(request, refusal) == pair]
        final = len(refusals) + sum(isinstance(failure, Permanent) for failure in failures)
        if 2 * (self.samples - final) >= self.samples and self.samples > final:
            return None
        kinds = Counter(refusal.kind for refusal in refusals)
        kinds.update(failure.kind for failure in failures if isinstance(failure, Permanent))
        kind = kinds.most_common(1)[0][0]
        said = [refusal.message for refusal in refusals if refusal.kind == kind]
        said += [str(failure) for failure in failures if isinstance(failure, Permanent) and failure.kind == kind]
        message = f"{definition.name!r} of {pair[0]!r}: {len(answers)} of {self.samples} samples answered; {said[0]}"
        reply_digest = next((refusal.reply_digest for refusal in refusals if refusal.kind == kind), "")
        return Refusal(definition.name, kind, message, reply_digest, pair[0])


def merged(answers: Sequence[Answer], definition: AttributeDefinition) -> Answer:
    """One answer of several to the same question, in the order of their samples. See `Samples`."""
    votes = Counter(answer.value for answer in answers)
    if definition.value_type == "score":
        value = sorted((answer.value for answer in answers), key=float)[(len(answers) - 1) // 2]
    else:
        value = votes.most_common(1)[0][0]  # of equals, the one counted first
    first = next(answer for answer in answers if answer.value == value)
    return dataclasses.replace(
        first,
        probability=_probability(answers, definition, votes, value),
        input_tokens=sum(answer.input_tokens for answer in answers),
        cached_input_tokens=sum(answer.cached_input_tokens for answer in answers),
        output_tokens=sum(answer.output_tokens for answer in answers),
        cost_usd=sum(answer.cost_usd for answer in answers),
        answered_at=max(answer.answered_at for answer in answers),
        reused=all(answer.reused for answer in answers),
    )


def _probability(answers: Sequence[Answer], definition: AttributeDefinition, votes: Counter[str], value: str) -> float:
    if definition.value_type != "boolean":
        return votes[value] / len(answers)
    own = [answer.probability for answer in answers if answer.probability is not None]
    return sum(own) / len(own) if len(own) == len(answers) else votes["true"] / len(answers)


def _gravest(failures: Sequence[BaseException]) -> BaseException:
    """A stop before a time-out, and a time-out, which may be tried again, before a refusal."""
    for kind in (Halted, Transient, Permanent):
        for failure in failures:
            if isinstance(failure, kind):
                return failure
    return failures[0]


def _pair(request: AnnotationRequest, item: Answer | Refusal) -> Pair:
    return item.video_id or request.video.video_id, item.attribute
