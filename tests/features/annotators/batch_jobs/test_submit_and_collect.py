"""Jobs from the question to the stored answer, through the real SDKs over a real socket."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
from typing import Any

import pytest

from features import storage
from features.annotators.batch_jobs import InBatch, Limits, read_jobs, standing
from features.annotators.batch_jobs.standing import CANCEL_GRACE_S, waits
from features.annotators.exchange import Prompt
from features.annotators.protocol import AnnotationReply, AnnotationRequest, AnnotatorIdentity, Answer, Usage
from features.annotators.settings import PromptSettings
from features.errors import InvalidInput, Permanent, Unavailable

DAY = 86_400.0


class Direct:
    """Answers everything, and counts the pairs it is asked about."""

    def __init__(self, identity: AnnotatorIdentity) -> None:
        self.identity = identity
        self.pairs: list[tuple[str, str]] = []

    def open(self) -> None: ...

    async def close(self) -> None: ...

    async def annotate(self, request: AnnotationRequest) -> AnnotationReply:
        self.pairs += [(request.video.video_id, definition.name) for definition in request.definitions]
        return AnnotationReply(tuple(Answer(definition.name, "true", None, "direct") for definition in request.definitions))


def run_directly(world: Any, patience_s: float = DAY) -> tuple[Direct, list[AnnotationReply]]:
    """The run after a collect, of what the store does not hold."""
    now = standing(world.workspace, world.now, patience_s)
    direct = Direct(world.identity)
    annotator = InBatch(direct, now.waiting, now.why, now.refused)
    stored = world.stored()
    replies = []
    for request in world.requests():
        left = tuple(one for one in request.definitions if (request.video.video_id, one.name) not in stored)
        if left:
            replies.append(asyncio.run(annotator.annotate(dataclasses.replace(request, definitions=left))))
    return direct, replies


def law_holds(counts: dict[str, int]) -> bool:
    return (
        counts["requests"] == counts["read"] + counts["failed"] + counts["missing"] + counts["changed"]
        and counts["pairs"] == counts["answered"] + counts["refused"] + counts["left"]
    )


def test_a_job_answers_everything_at_half_the_price(world: Any) -> None:
    done = world.submit()
    assert (done.requests, done.pairs, done.adopted, done.problem) == (4, 8, 0, "")
    job = world.provider.only()
    direct, replies = run_directly(world)
    assert direct.pairs == [] and all("batch job" in reply.why_pending for reply in replies)
    assert world.collect().counts["requests"] == 0, "nothing has ended yet"

    world.finish(job)
    job.results.reverse()
    got = world.collect()
    assert law_holds(got.counts)
    assert (got.counts["answered"], got.counts["left"], got.counts["missing"]) == (8, 0, 0)
    assert world.stored() == {(f"v{n}", name): value for n in range(4) for name, value in (("funny", "true"), ("calm", "false"))}
    assert (got.spent.requests, got.spent.input_tokens, got.spent.output_tokens) == (4, 4000, 400)
    assert got.spent.cost_usd == pytest.approx(4 * 1100 * 0.5e-6)
    assert world.answers.spent("run-003").cost_usd == pytest.approx(got.spent.cost_usd)
    assert [job["state"] for job in got.details()["jobs"]] == ["closed"]
    assert json.loads(json.dumps(got.details()))["answered"] == 8
    assert run_directly(world)[0].pairs == []
    again = world.collect()
    assert again.jobs == () and again.spent == Usage()
    assert world.submit().requests == 0, "what is stored is not submitted, whatever the annotations table says"
    assert not os.path.exists(world.workspace.path("batches/run-001/requests-00000.jsonl"))


def test_a_second_submit_leaves_out_what_is_in_a_job(world: Any) -> None:
    world.submit()
    more = type(world.videos[0])("v9", "h", "content-9", "x", title="New", duration_s=1.0)
    world.videos.append(more)
    done = world.submit()
    assert (done.requests, done.pairs, done.in_jobs) == (1, 2, 8)
    assert world.provider.made() == 2
    world.now += 3 * DAY
    assert world.submit().requests == 0, "a job that takes long is still paid for"


def test_limits_split_the_requests_over_several_jobs(world: Any) -> None:
    done = world.submit(Limits(requests=3, size=10**9))
    assert [job.requests for job in done.jobs] == [3, 1] and len({job.name for job in done.jobs}) == 2
    line = len(world.batches.line("c" * 32, world.writer.write(world.requests()[0])))
    world.definitions = world.definitions[:1]
    world.settings = dataclasses.replace(world.settings, rationale=False)
    done = world.submit(Limits(requests=100, size=2 * line))
    assert sum(job.requests for job in done.jobs) == 4 and len(done.jobs) >= 2
    for job in done.jobs:
        assert os.path.getsize(world.workspace.path(job.file("requests"))) <= 2 * line


def test_a_request_that_fits_no_file_is_left_to_direct_calls(world: Any) -> None:
    done = world.submit(Limits(requests=100, size=50))
    assert (done.requests, done.too_large, world.provider.made()) == (0, 8, 0)
    assert len(run_directly(world)[0].pairs) == 8


def test_what_an_expired_job_has_answered_is_kept_and_the_rest_asked_directly(world: Any) -> None:
    world.submit()
    job = world.provider.only()
    job.results = [world.result(request) for request in job.requests[1:3]]
    if world.kind == "openai":
        job.errors = [world.failure(request, "batch_expired") for request in (job.requests[0], job.requests[3])]
    job.state = "expired"
    got = world.collect()
    assert law_holds(got.counts)
    assert (got.counts["answered"], got.counts["left"], got.counts["failed"] + got.counts["missing"]) == (4, 4, 2)
    assert sorted({video for video, _ in run_directly(world)[0].pairs}) == ["v0", "v3"]


def test_items_that_fail_are_asked_directly_and_what_is_refused_is_not(world: Any) -> None:
    world.submit()
    job = world.provider.only()
    lines = [
        world.result(job.requests[0], refusal="I will not."),
        world.result(job.requests[1], text="no JSON at all"),
        world.result(job.requests[2]),
    ]
    failed = world.failure(job.requests[3], "invalid", 400)
    job.results = lines if world.kind == "openai" else [*lines, failed]
    job.errors = [failed] if world.kind == "openai" else None
    job.state = "done"
    got = world.collect()
    assert law_holds(got.counts)
    counts = got.counts
    assert (counts["answered"], counts["refused"], counts["left"], counts["failed"]) == (2, 2, 4, 1)
    direct, replies = run_directly(world)
    assert sorted(direct.pairs) == [(video, name) for video in ("v1", "v3") for name in ("calm", "funny")]
    refusals = [refusal for reply in replies for refusal in reply.refusals]
    assert sorted(refusal.attribute for refusal in refusals) == ["calm", "funny"]
    assert got.spent.requests == 3, "refused and unusable replies are paid for too"


def test_a_job_that_fails_as_a_whole_is_asked_directly(world: Any) -> None:
    world.submit()
    job = world.provider.only()
    job.state = "failed"
    job.detail = "token limit of the queue"
    got = world.collect()
    assert law_holds(got.counts) and got.counts["left"] == 8
    assert any("asked directly" in note for note in got.notes)
    if world.kind == "openai":
        assert any("token limit of the queue" in note for note in got.notes)
    assert len(run_directly(world)[0].pairs) == 8
    assert world.submit().requests == 4 and world.provider.made() == 2, "a failed job is not taken over"


def test_a_stalled_job_is_cancelled_and_its_answers_taken(world: Any) -> None:
    world.submit()
    job = world.provider.only()
    job.state = "running"
    world.now += DAY / 2
    world.collect()
    assert job.state == "running" and run_directly(world)[0].pairs == []
    world.now += DAY
    job.results = [world.result(job.requests[0])]
    got = world.collect()
    assert job.state == "cancelled" and law_holds(got.counts)
    assert (got.counts["answered"], got.counts["left"]) == (2, 6)
    assert len(run_directly(world)[0].pairs) == 6


def test_a_cancellation_that_takes_minutes_is_waited_for_before_anything_is_asked_again(world: Any) -> None:
    world.submit()
    job = world.provider.only()
    job.state, job.cancels_at_once = "running", False
    world.now += 2 * DAY
    got = world.collect(cancel_wait_s=10)
    assert job.state == "cancelling" and world.slept == [2.0] * 5
    assert [one.step for one in got.jobs] == ["cancelling"]
    assert run_directly(world)[0].pairs == [], "it may have answered some, and they are paid for"
    world.now += CANCEL_GRACE_S
    assert len(run_directly(world)[0].pairs) == 8, "a provider that never ends it does not hold the run for ever"
    job.results, job.state = [world.result(job.requests[0])], "cancelled"
    assert world.collect().counts["answered"] == 2, "late answers are kept all the same"


def test_unknown_repeated_and_broken_result_lines_do_no_harm(world: Any) -> None:
    world.submit()
    job = world.provider.only()
    stranger = {key: "somebody-else" if key in ("custom_id", "key") else value for key, value in job.requests[0].items()}
    job.results = [
        world.failure(job.requests[0], "once", 500),
        world.result(stranger),
        world.result(
            job.requests[0],
            text='{"id": "v1", "attributes": {"funny": {"rationale": "a", "value": true}, '
            '"calm": {"rationale": "a", "value": true}}}',
        ),
        world.result(job.requests[0]),
        "{not json",
        "[1, 2]",
        "",
        world.result(job.requests[1]),
    ]
    job.state = "done"
    got = world.collect()
    assert law_holds(got.counts)
    assert (got.counts["unknown"], got.counts["repeated"], got.counts["unreadable"]) == (1, 2, 2)
    assert (got.counts["answered"], got.counts["missing"]) == (4, 2)
    assert world.stored()["v0", "calm"] == "true", "the first reply stands, and goes before a failure"
    assert sum("ignored" in note for note in got.notes) == 3


def test_a_crash_between_the_books_and_the_job_loses_nothing_and_pays_once(world: Any) -> None:
    world.provider.faults.append(("POST /v1/batches" if world.kind == "openai" else ":batchGenerateContent", "drop"))

    def die(seconds: float) -> None:
        raise KeyboardInterrupt

    world.sleep, sleep = die, world.sleep
    with pytest.raises(KeyboardInterrupt):
        world.submit()
    assert world.provider.made() == 1, "the provider has made the job, and nobody here knows"
    assert [job.step for job in read_jobs(world.workspace)] == ["submitting"]
    world.sleep = sleep
    assert run_directly(world)[0].pairs == []
    done = world.submit()
    assert (done.adopted, done.in_jobs, world.provider.made()) == (1, 8, 1)
    world.finish(world.provider.only())
    assert world.collect().counts["answered"] == 8


def test_a_collect_finds_a_job_whose_submit_died(world: Any) -> None:
    world.submit()
    job = read_jobs(world.workspace)[0]
    storage.write_bytes(
        world.workspace.path(job.file("job")), dataclasses.replace(job, step="submitting", job=None).to_json().encode()
    )
    world.finish(world.provider.only())
    assert world.collect().counts["answered"] == 8


def test_a_crash_before_the_upload_is_made_good_by_the_next_submit(world: Any) -> None:
    world.provider.faults += [("/files", 503)] * 4
    done = world.submit()
    assert (done.not_handed_over, done.requests, world.provider.made()) == (1, 0, 0) and done.problem
    got = world.collect()
    assert any("not handed over" in note for note in got.notes)
    done = world.submit()
    assert (done.requests, done.in_jobs, world.provider.made()) == (4, 8, 1)


def test_a_job_that_was_never_handed_over_is_asked_directly_in_the_end(world: Any) -> None:
    world.provider.faults += [("/files", 503)] * 4
    world.submit()
    world.now += 2 * DAY
    assert world.collect().counts["left"] == 8
    assert len(run_directly(world)[0].pairs) == 8


def test_a_lost_reply_is_looked_up_before_the_next_try(world: Any) -> None:
    world.provider.faults.append(("POST /v1/batches" if world.kind == "openai" else ":batchGenerateContent", "drop"))
    done = world.submit()
    assert (done.adopted, done.requests, world.provider.made()) == (1, 4, 1)


def test_lost_books_take_over_the_job_that_is_there(world: Any) -> None:
    world.submit()
    os.rename(world.workspace.path("batches"), world.workspace.path("elsewhere"))
    done = world.submit()
    assert (done.adopted, world.provider.made()) == (1, 1)
    os.rename(world.workspace.path("batches"), world.workspace.path("elsewhere-too"))
    world.provider.only().state = "failed"
    done = world.submit()
    assert (done.adopted, world.provider.made()) == (0, 2)


def test_a_job_that_gave_nothing_is_not_taken_over_for_ever(world: Any) -> None:
    world.submit()
    job = world.provider.only()
    job.results, job.state = [], "done"
    assert world.collect().counts["left"] == 8
    done = world.submit()
    assert (done.adopted, world.provider.made()) == (0, 2)


def test_a_collect_that_dies_while_storing_goes_on_and_counts_spend_once(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world.submit()
    world.finish(world.provider.only())
    from features.annotators.batch_jobs import collecting

    real = collecting.write_job

    def die_at_the_end(workspace: Any, job: Any) -> Any:
        if job.step == "closed":
            raise KeyboardInterrupt
        return real(workspace, job)

    monkeypatch.setattr(collecting, "write_job", die_at_the_end)
    with pytest.raises(KeyboardInterrupt):
        world.collect()
    monkeypatch.undo()
    assert len(world.stored()) == 8
    asked = len(world.provider.calls)
    world.now += 5 * DAY
    got = world.collect()
    assert got.counts["answered"] == 8 and got.counts["answered_before"] == 0
    assert got.spent == Usage(), "the collect before noted it"
    assert len(world.provider.calls) == asked, "the results were at home already"
    noted = [world.answers.spent(f"run-{number:03}").requests for number in range(1, 4)]
    assert noted == [0, 4, 0]


def test_an_answer_that_stands_stays(world: Any) -> None:
    world.submit()
    from features.annotators.answer_records import StoredAnswer

    first, definition = world.videos[0], world.definitions[0]
    key = world.identity.answer_key(first.content_key, definition.definition_hash)
    mine = Answer("funny", "false", None, "mine")
    world.answers.put_many([StoredAnswer(key, mine, world.identity, "v0", first.content_key, definition.definition_hash)])
    world.finish(world.provider.only())
    got = world.collect()
    assert got.counts["answered_before"] == 1 and world.stored()["v0", "funny"] == "false"


def test_a_definition_that_was_edited_meanwhile_is_asked_again_and_the_others_are_not(world: Any) -> None:
    world.submit()
    world.finish(world.provider.only())
    before = world.definitions
    world.definitions = (dataclasses.replace(before[0], definition="It makes people laugh out loud."), before[1])
    got = world.collect()
    assert got.counts["answered"] == 8, "read against the prompt that was sent"
    assert sorted(world.stored()) == [(f"v{n}", "calm") for n in range(4)]
    world.definitions = before
    assert len(world.stored()) == 8, "and nothing is lost when the edit is taken back"


def test_a_video_or_a_prompt_that_changed_meanwhile_is_not_misread(world: Any) -> None:
    world.submit()
    world.finish(world.provider.only())
    world.videos[1] = dataclasses.replace(world.videos[1], title="Another", content_key="another")
    del world.videos[2]
    got = world.collect()
    assert law_holds(got.counts)
    assert (got.counts["changed"], got.counts["answered"]) == (2, 4)
    assert got.spent.requests == 4


def test_jobs_of_another_model_are_left_alone(world: Any) -> None:
    world.submit()
    world.finish(world.provider.only())
    world.batches.close()
    world.model_name = "other-model"
    world.batches = world.open()
    got = world.collect()
    assert (got.foreign, got.counts["requests"]) == (1, 0) and any("test-model" in note for note in got.notes)
    assert world.submit().requests == 4


def test_jobs_with_another_prompt_wait_for_their_own_flags(world: Any) -> None:
    world.submit()
    world.finish(world.provider.only())
    before = world.settings
    world.settings = dataclasses.replace(before, rationale=False)
    assert (world.collect().foreign, world.stored()) == (1, {})
    world.settings = before
    assert world.collect().counts["answered"] == 8


def test_a_reply_to_other_bytes_is_not_read(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world.submit()
    world.finish(world.provider.only())
    real = world.writer

    class Other:
        """As if other Golden examples were shown now."""

        version, parameters = real.version, real.parameters

        def write(self, request: AnnotationRequest) -> Prompt:
            prompt = real.write(request)
            return dataclasses.replace(prompt, system=f"{prompt.system} ") if request.video.video_id == "v1" else prompt

    monkeypatch.setattr(type(world), "writer", property(lambda _: Other()))
    got = world.collect()
    assert law_holds(got.counts) and (got.counts["changed"], got.counts["answered"]) == (1, 6)


def test_results_that_are_at_home_are_read_although_the_provider_forgot_them(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world.submit()
    world.finish(world.provider.only())
    from features.annotators.batch_jobs import collecting

    def die(self: Any, job: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(collecting._Collection, "fetched", die)
    with pytest.raises(KeyboardInterrupt):
        world.collect()
    monkeypatch.undo()
    monkeypatch.setenv("BATCH_TEST_KEY", "secret-key")
    world.provider.jobs.clear()
    assert world.collect().counts["answered"] == 8


def test_each_question_is_a_request_of_its_own(world: Any) -> None:
    world.settings = PromptSettings(ask="each", evidence="text", moments=False)
    done = world.submit()
    assert (done.requests, done.pairs) == (8, 8)
    ids = [request.get("custom_id") or request.get("key") for request in world.provider.only().requests]
    assert len(set(ids)) == 8 and all(len(one) <= 64 for one in ids)


def test_prompts_that_jobs_do_not_carry_are_refused_first(world: Any) -> None:
    for settings in (PromptSettings(videos_per_request=4), PromptSettings(samples=3)):
        world.settings = settings
        with pytest.raises(InvalidInput, match="--batch-jobs"):
            world.submit()
    assert world.provider.calls == []


def test_a_revoked_key_stops_everything_and_loses_nothing(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_TEST_KEY", "revoked-key")
    world.batches.close()
    world.batches = world.open()
    with pytest.raises(Unavailable) as caught:
        world.submit()
    assert "revoked-key" not in str(caught.value)
    monkeypatch.setenv("BATCH_TEST_KEY", "secret-key")
    world.batches.close()
    world.batches = world.open()
    assert world.submit().requests == 4 and world.provider.made() == 1


def test_a_file_that_is_refused_is_not_offered_again(world: Any) -> None:
    world.provider.faults.append(("POST /v1/batches" if world.kind == "openai" else ":batchGenerateContent", 400))
    with pytest.raises(Permanent):
        world.submit()
    assert world.collect().counts["requests"] == 0
    assert len(run_directly(world)[0].pairs) == 8


def test_a_job_that_the_provider_forgot_is_asked_directly(world: Any) -> None:
    world.submit()
    world.provider.jobs.clear()
    got = world.collect()
    assert got.counts["left"] == 8 and any("any more" in note for note in got.notes)


def test_a_provider_that_is_away_costs_nothing_but_time(world: Any) -> None:
    world.submit()
    world.finish(world.provider.only())
    world.provider.faults += [("batches/", 503)] * 4
    got = world.collect()
    assert [job.step for job in got.jobs] == ["submitted"] and len(got.notes) == 1
    assert run_directly(world)[0].pairs == []
    assert world.collect().counts["answered"] == 8


def test_books_that_cannot_be_read_say_what_to_do(world: Any) -> None:
    world.submit()
    storage.write_bytes(world.workspace.path("batches/run-001/index-00000.jsonl"), b"{")
    with pytest.raises(InvalidInput, match="index"):
        standing(world.workspace, world.now)
    storage.write_bytes(world.workspace.path("batches/run-001/job-00000.json"), b"[]")
    with pytest.raises(InvalidInput, match="not a batch job"):
        read_jobs(world.workspace)


def test_jobs_in_the_books_are_what_they_were(world: Any) -> None:
    done = world.submit()
    assert read_jobs(world.workspace) == list(done.jobs)
    job = done.jobs[0]
    assert [one.definition_hash for one in job.definitions] == [one.definition_hash for one in world.definitions]
    assert waits(job, world.now, DAY) and not waits(job, world.now + DAY, DAY)
    assert waits(dataclasses.replace(job, step="fetched"), world.now + DAY, DAY)
    assert not waits(dataclasses.replace(job, step="closed"), world.now, DAY)


def test_secrets_stay_out_of_the_books(world: Any) -> None:
    world.submit()
    world.finish(world.provider.only())
    world.collect()
    for name in storage.list_names(world.workspace.root):
        assert b"secret-key" not in storage.read_bytes(name)


def test_a_result_of_another_shape_fails_alone(world: Any) -> None:
    world.submit()
    job = world.provider.only()
    job.results = [world.result(request) for request in job.requests]
    for line, body in zip(
        job.results[:2], ({"choices": "none", "candidates": "none"}, {"choices": [7], "candidates": [7]}), strict=True
    ):
        if world.kind == "openai":
            line["response"]["body"] = body
        else:
            line["response"] = body
    job.state = "done"
    got = world.collect()
    assert law_holds(got.counts) and got.counts["answered"] == 4
