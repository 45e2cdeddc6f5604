"""The prompts that annotators write, over the socket, read by the reader of replies: each shape gets answers for all pairs."""

from __future__ import annotations

import base64
import math
import pathlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import yaml

from features.annotators import reply
from features.annotators.exchange import Completion, Picture, Prompt, Text, Token
from features.annotators.model_server import Decision, DigestJudge, ObedientJudge, Question
from features.annotators.prompt import PromptWriter
from features.annotators.protocol import AnnotationReply, AnnotationRequest, Repair, Usage
from features.annotators.settings import ModelSettings, PromptSettings
from features.attributes.definition import AttributeDefinition
from features.records import Frame, VideoFeatures
from tests.features.annotators.model_server.asking_servers import picture

INJECTIONS = yaml.safe_load((pathlib.Path(__file__).parents[1] / "injections.yaml").read_text())
DEFINITIONS = (
    AttributeDefinition("calming", "Calming", "Is it calming?", "It lets viewers breathe out."),
    AttributeDefinition("pace", "Pace", "How fast?", "The cutting.", value_type="category", labels=("slow", "medium", "fast")),
    AttributeDefinition("place", "Place", "Where?", "Where it is.", value_type="category", labels=("at home", 'at "work"')),
    AttributeDefinition("polish", "Polish", "How polished?", "All of it.", value_type="score", score_range=(1.0, 5.0)),
    AttributeDefinition("share", "Talk", "How much talk?", "From none to all.", value_type="score", score_range=(0.0, 1.0)),
)


def video(title: str, **more: Any) -> VideoFeatures:
    frame = Frame(timestamp_s=2.0, jpeg=picture(), width=64, height=36)
    return VideoFeatures(title, "h", title, "1", title=title, duration_s=12.0, frames=(frame,), **more)


def body(prompt: Prompt) -> dict[str, Any]:
    def part(each: Any) -> dict[str, Any]:
        if isinstance(each, Text):
            return {"type": "text", "text": each.text}
        assert isinstance(each, Picture)
        return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{base64.b64encode(each.jpeg).decode()}"}}

    messages: list[dict[str, Any]] = [{"role": "system", "content": prompt.system}]
    for turn in prompt.turns:
        role = "assistant" if turn.role == "model" else "user"
        messages.append({"role": role, "content": [part(each) for each in turn.parts]})
    arguments: dict[str, Any] = {"model": "gpt-4.1-mini", "messages": messages, "temperature": prompt.temperature}
    arguments |= {"max_completion_tokens": prompt.max_output_tokens, "logprobs": True, "top_logprobs": 20}
    if prompt.schema is not None:
        form = {"name": "reply", "strict": True, "schema": prompt.schema}
        arguments["response_format"] = {"type": "json_schema", "json_schema": form}
    return arguments


def exchange(served: Any, writer: PromptWriter, request: AnnotationRequest) -> AnnotationReply:
    prompt = writer.write(request)
    found = served.openai.chat.completions.create(**body(prompt))
    choice, usage = found.choices[0], found.usage
    tokens = tuple(
        Token(each.token, each.logprob, tuple((top.token, top.logprob) for top in each.top_logprobs))
        for each in choice.logprobs.content
    )
    assert choice.finish_reason == "stop"
    bill = Usage(1, usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens, usage.completion_tokens)
    completion = Completion(choice.message.content, "stop", "", bill, found.model, tokens)
    return reply.read(request, prompt, completion, lambda usage: 0.0, lambda: 0.0)


def writer(**settings: Any) -> PromptWriter:
    return PromptWriter(PromptSettings(**settings), ModelSettings(name="gpt-4.1-mini"), definitions=DEFINITIONS)


@pytest.mark.parametrize("settings", [{}, {"rationale": False, "moments": False}, {"evidence": "text"}])
def test_all_attributes_together_are_answered_within_their_kinds(shared, settings):
    request = AnnotationRequest(video("A lake"), DEFINITIONS)
    found = exchange(shared, writer(**settings), request)
    assert [answer.attribute for answer in found.answers] == sorted(each.name for each in DEFINITIONS)
    for answer, definition in zip(found.answers, sorted(DEFINITIONS, key=lambda each: each.name), strict=True):
        assert definition.number(answer.value, answer.probability) is not None
        if definition.value_type != "score":
            assert 0 < answer.probability < 1, "log-probabilities are found at the verdict"
    again = exchange(shared, writer(**settings), request)
    assert [answer.value for answer in again.answers] == [answer.value for answer in found.answers]
    assert again.spent.cached_input_tokens > 0.9 * again.spent.input_tokens


def test_a_pack_and_its_repair_are_answered_as_alone(shared):
    videos = [video(title) for title in ("A lake", "A race", "A cat")]
    ours = writer(videos_per_request=3)
    request = AnnotationRequest(videos[0], DEFINITIONS, tuple(videos[1:]))
    packed = exchange(shared, ours, request)
    assert len(packed.answers) == 15 and not packed.refusals
    alone = {
        (answer.video_id, answer.attribute): answer.value
        for each in videos
        for answer in exchange(shared, ours, AnnotationRequest(each, DEFINITIONS)).answers
    }
    assert {(answer.video_id, answer.attribute): answer.value for answer in packed.answers} == alone
    before = shared.server.stats()["repair_first_turns"]
    mended = exchange(shared, ours, replace(request, repair=Repair('{"videos": [', "it was cut off")))
    assert [answer.value for answer in mended.answers] == [answer.value for answer in packed.answers]
    after = shared.server.stats()["repair_first_turns"]
    assert (after["same"], after["changed"]) == (before["same"] + 1, before["changed"])


def test_each_attribute_alone_is_answered_by_its_first_token(shared):
    for definition in DEFINITIONS:
        found = exchange(shared, writer(ask="each"), AnnotationRequest(video("A lake"), (definition,)))
        (answer,) = found.answers
        assert definition.number(answer.value, answer.probability) is not None, definition.name
        if definition.value_type != "score":
            assert answer.probability is not None and 0 < answer.probability < 1


def test_the_estimate_of_a_prompt_is_near_the_bill(shared):
    shared.server.reset()
    for settings in ({}, {"evidence": "text"}, {"ask": "each"}):
        asked = DEFINITIONS[:1] if settings.get("ask") else DEFINITIONS
        request = AnnotationRequest(video("A lake", transcript="here we are at the lake again " * 40), asked)
        ours = writer(**settings)
        billed = exchange(shared, ours, request).spent
        assert math.isclose(billed.input_tokens, ours.estimate(request).input_tokens, rel_tol=0.2)


def test_what_strangers_write_moves_an_obedient_model_only_outside_a_fence(serving):
    def says(value: str) -> Callable[[Question], Decision]:
        return lambda question: Decision(value if question.boolean else question.labels[0] if question.labels else "1")

    # Whatever is asked of the model, one of the two would have said something else.
    pairs = [(serving(judge=ObedientJudge(says(value))), serving(judge=DigestJudge(says(value)))) for value in ("true", "false")]

    def said(by: Any, prompt: Prompt) -> str:
        arguments = {name: value for name, value in body(prompt).items() if "logprobs" not in name}
        return by.openai.chat.completions.create(**arguments).choices[0].message.content

    def moves(prompt: Prompt) -> bool:
        return any(said(obedient, prompt) != said(deaf, prompt) for obedient, deaf in pairs)

    tried, moved = 0, []
    for injection in INJECTIONS:
        if injection["place"] not in ("title", "description", "transcript"):
            continue
        words = (injection["text"] * injection.get("repeat", 1))[:3000].encode("utf-8", "replace").decode()
        prompt = writer(evidence="text").write(AnnotationRequest(replace(video("x"), **{injection["place"]: words}), DEFINITIONS))
        naive = Text(f"<<video v1>>\n{words}\n<<end of video v1>>")
        tried += 1
        assert not moves(prompt), injection
        if moves(replace(prompt, turns=(replace(prompt.turns[0], parts=(naive, prompt.turns[0].parts[-1])),))):
            moved.append(injection)
    assert len(moved) >= 12, f"{len(moved)} of {tried}: the model is not obedient enough to show anything"
