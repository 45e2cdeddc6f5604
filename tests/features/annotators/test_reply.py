from __future__ import annotations

import dataclasses
import json
import math
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.annotators.exchange import Completion, Finish, Prompt, Token
from features.annotators.prompt import PromptWriter
from features.annotators.protocol import AnnotationReply, AnnotationRequest, Refusal, Usage
from features.annotators.reply import LONGEST_RATIONALE, LONGEST_REPAIR, MENDABLE, SINGLY, read
from features.annotators.settings import ModelSettings, PromptSettings
from features.attributes.definition import AttributeDefinition
from features.records import Moment, VideoFeatures

FUNNY = AttributeDefinition("funny", "Funny", "Is it funny?", "It makes people laugh.")
MOOD = AttributeDefinition("mood", "Mood", "Which mood?", "Mood.", value_type="category", labels=("calm", "wild", "bittersüß"))
PACE = AttributeDefinition("pace", "Pace", "How fast?", "Pace.", value_type="score", score_range=(0.0, 10.0))
ALL = (FUNNY, MOOD, PACE)
GOOD: dict[str, Any] = {
    "funny": {"rationale": "a cat falls", "value": True, "moments": [{"start_s": 1.0, "end_s": 2.5}]},
    "mood": {"rationale": "loud", "value": "wild", "moments": []},
    "pace": {"rationale": "cuts", "value": 7.5, "moments": []},
}
TOGETHER = PromptWriter(PromptSettings(), ModelSettings(name="gpt-4o-mini"))
EACH = PromptWriter(PromptSettings(ask="each"), ModelSettings(name="gpt-4o-mini"))
USAGE = Usage(1, 1001, 700, 100)


def video(name: str = "cat", duration_s: float = 10.0) -> VideoFeatures:
    return VideoFeatures(name, "h", f"key of {name}", "1", title=f"A {name}", duration_s=duration_s)


def asked(*names: str, definitions: tuple[AttributeDefinition, ...] = ALL) -> AnnotationRequest:
    first, *others = map(video, names or ("cat",))
    return AnnotationRequest(first, definitions, tuple(others))


def completed(text: str, finish: Finish = "stop", detail: str = "", tokens: tuple[Token, ...] = ()) -> Completion:
    return Completion(text, finish, detail, USAGE, "model-1-2026", tokens)


def reading(request: AnnotationRequest, completion: Completion, writer: PromptWriter = TOGETHER) -> AnnotationReply:
    return read(request, writer.write(request), completion, lambda usage: usage.output_tokens / 1000, lambda: 99.0)


def one(attributes: object, name: str = "v1") -> dict[str, object]:
    return {"id": name, "attributes": attributes}


def values(reply: AnnotationReply) -> dict[tuple[str, str], str]:
    return {(answer.video_id, answer.attribute): answer.value for answer in reply.answers}


def kinds(reply: AnnotationReply) -> dict[tuple[str, str], str]:
    return {(refusal.video_id, refusal.attribute): refusal.kind for refusal in reply.refusals}


def only_refusal(text: str, definitions: tuple[AttributeDefinition, ...] = ALL) -> Refusal:
    (refusal,) = reading(asked(definitions=definitions), completed(text)).refusals
    return refusal


class TestAGoodReply:
    def test_says_who_answered_what_when_and_why(self) -> None:
        reply = reading(asked(), completed(json.dumps(one(GOOD))))
        assert values(reply) == {("cat", "funny"): "true", ("cat", "mood"): "wild", ("cat", "pace"): "7.5"}
        funny = reply.answers[0]
        assert (funny.rationale, funny.moments) == ("a cat falls", (Moment(1.0, 2.5),))
        assert (funny.answered_at, funny.model, funny.probability) == (99.0, "model-1-2026", None)
        assert not reply.refusals

    def test_costs_what_the_exchange_cost(self) -> None:
        reply = reading(asked(), completed(json.dumps(one(GOOD))))
        assert reply.spent == dataclasses.replace(USAGE, cost_usd=0.1)
        assert sum(answer.input_tokens for answer in reply.answers) == 1001
        assert sum(answer.cached_input_tokens for answer in reply.answers) == 700
        assert sum(answer.output_tokens for answer in reply.answers) == 100
        assert sum(answer.cost_usd for answer in reply.answers) == pytest.approx(0.1, rel=1e-12)

    def test_may_stand_in_a_code_fence(self) -> None:
        reply = reading(asked(), completed(f"\n```json\n{json.dumps(one(GOOD), indent=2)}\n```\n"))
        assert len(reply.answers) == 3

    @pytest.mark.parametrize(
        ("definition", "value", "text"),
        [
            (FUNNY, True, "true"),
            (FUNNY, "false", "false"),
            (MOOD, "bittersüß", "bittersüß"),
            (PACE, 7, "7"),
            (PACE, 7.0, "7"),
            (PACE, -0.0, "0"),
            (PACE, 1e-7, "1e-07"),
            (PACE, 10, "10"),
        ],
    )
    def test_has_values_that_the_definition_takes(self, definition: AttributeDefinition, value: object, text: str) -> None:
        reply = reading(asked(definitions=(definition,)), completed(json.dumps(one({definition.name: {"value": value}}))))
        assert reply.answers[0].value == text
        definition.number(text, None)

    def test_may_be_of_any_order_and_say_more_than_was_asked(self) -> None:
        attributes = {"cute": {"value": True}, **{name: {**GOOD[name], "confidence": 1} for name in reversed(GOOD)}}
        reply = reading(asked(), completed(json.dumps({**one(attributes), "note": [1]})))
        assert len(reply.answers) == 3 and not reply.refusals
        assert {answer.attribute for answer in reply.answers} == set(GOOD)


class TestHowItEnded:
    """Faults 17 and 18: a reply that did not end by itself is never accepted, whatever it says."""

    @pytest.mark.parametrize(
        "text", [json.dumps(one(GOOD)), json.dumps(one(GOOD)) + " " * 500, json.dumps(one(GOOD))[:60], " " * 9000]
    )
    def test_cut_off_even_where_the_json_had_closed(self, text: str) -> None:
        reply = reading(asked(), completed(text, "length"))
        assert set(kinds(reply).values()) == {"cut_off"} and len(reply.refusals) == 3 and not reply.answers
        assert all(refusal.repair is not None and refusal.repair.reply == "" for refusal in reply.refusals)

    def test_what_the_provider_calls_it_is_not_told_to_the_model(self) -> None:
        (refusal,) = reading(asked(definitions=(FUNNY,)), completed("", "length", "MAX_TOKENS")).refusals
        assert refusal.repair is not None and "MAX_TOKENS" not in refusal.repair.problem

    @pytest.mark.parametrize(
        ("finish", "kind"), [("refused", "refused"), ("blocked", "blocked"), ("empty", "empty_reply"), ("other", "unfinished")]
    )
    def test_refusals_and_blocks_are_kinds_of_their_own_with_nothing_to_mend(self, finish: Finish, kind: str) -> None:
        reply = reading(asked("cat", "dog"), completed(json.dumps(one(GOOD)), finish, "PROHIBITED\x1b[31m " + "x" * 900))
        assert kinds(reply) == {(name, each.name): kind for name in ("cat", "dog") for each in ALL}
        for refusal in reply.refusals:
            assert refusal.repair is None and "PROHIBITED" in refusal.message and len(refusal.message) < 300
            assert "\x1b" not in refusal.message
        assert reply.spent.input_tokens == 1001

    def test_an_end_nobody_knows_is_not_accepted(self) -> None:
        reply = reading(asked(), completed(json.dumps(one(GOOD)), "novel"))  # type: ignore[arg-type]
        assert set(kinds(reply).values()) == {"unfinished"}

    def test_nothing_but_white_space(self) -> None:
        assert set(kinds(reading(asked(), completed(" \n "))).values()) == {"empty_reply"}


class TestABadVerdict:
    @pytest.mark.parametrize(
        ("definition", "entry", "said"),
        [
            (FUNNY, {"value": "True"}, '"True"; permitted is true or false'),
            (FUNNY, {"value": 1}, "1; permitted is true or false"),
            (FUNNY, {"value": None}, "null; permitted is true or false"),
            (FUNNY, {"rationale": "no verdict"}, "attributes.funny.value: is missing; permitted is true or false"),
            (FUNNY, True, "attributes.funny: is true; permitted is an object with value"),
            (MOOD, {"value": "Wild"}, '"Wild"; permitted is one of "calm", "wild"'),
            (MOOD, {"value": ["wild"]}, '["wild"]; permitted is one of'),
            (MOOD, {"value": 1}, "1; permitted is one of"),
            (PACE, {"value": 10.01}, "10.01; permitted is a number from 0 to 10"),
            (PACE, {"value": "7"}, '"7"; permitted is a number from 0 to 10'),
            (PACE, {"value": True}, "true; permitted is a number"),
            (PACE, {"value": 10**400}, "permitted is a number from 0 to 10"),
            (PACE, {"value": -1e300}, "permitted is a number from 0 to 10"),
        ],
    )
    def test_is_told_with_its_place_and_what_is_permitted(self, definition: AttributeDefinition, entry: object, said: str) -> None:
        attributes = {**GOOD, definition.name: entry}
        text = json.dumps(one(attributes))
        reply = reading(asked(), completed(text))
        (refusal,) = reply.refusals
        assert (refusal.attribute, refusal.kind, refusal.video_id) == (definition.name, "invalid_reply", "cat")
        assert said in refusal.message and "cat" in refusal.message
        assert refusal.repair is not None and refusal.repair.reply == text and said in refusal.repair.problem
        assert len(reply.answers) == 2, "its neighbours are kept"

    def test_out_of_range_beyond_all_numbers(self) -> None:
        text = json.dumps(one({"pace": {"value": 0}})).replace("0}", "1e999}")
        assert "permitted is a number" in only_refusal(text, (PACE,)).message

    @pytest.mark.parametrize(
        "broken",
        ['"funny": {"value": true}, "funny": {"value": false}', '"funny": {"value": true, "value": false}'],
    )
    def test_said_twice_is_not_said(self, broken: str) -> None:
        text = f'{{"id": "v1", "attributes": {{"mood": {{"value": "calm"}}, {broken}, "pace": {{"value": 1}}}}}}'
        reply = reading(asked(), completed(text))
        assert kinds(reply) == {("cat", "funny"): "invalid_reply"} and "more than once" in reply.refusals[0].message
        assert len(reply.answers) == 2

    @pytest.mark.parametrize(
        "text",
        [
            "Sure! Here is the JSON you asked for.",
            json.dumps(one(GOOD))[:-1],
            json.dumps(one(GOOD)) + json.dumps(one(GOOD)),
            json.dumps(one(GOOD, "v2")),
            json.dumps({"attributes": GOOD}),
            json.dumps({"videos": [one(GOOD)]}),
            json.dumps([one(GOOD)]),
            json.dumps(one([GOOD])),
            '{"id": "v1", "id": "v1", "attributes": {}}',
            '{"id": "v1", "attributes": {}, "attributes": {}}',
            "null",
            "[" * 5000 + "]" * 5000,
            '{"id": "v1", "attributes": {"funny": {"value": NaN}}}',
            "\ud800",
        ],
    )
    def test_a_reply_that_is_none_can_be_mended(self, text: str) -> None:
        reply = reading(asked(), completed(text))
        assert kinds(reply) == {("cat", each.name): "invalid_reply" for each in ALL}
        for refusal in reply.refusals:
            assert refusal.repair is not None and refusal.reply_digest
            refusal.repair.reply.encode()
            refusal.message.encode()

    def test_what_is_quoted_is_bounded_and_cleaned(self) -> None:
        refusal = only_refusal(json.dumps(one({"funny": {"value": "\x1b[2J\u202e" + "x" * 90_000}})), (FUNNY,))
        assert len(refusal.message) < 400 and not {"\x1b", "\u202e"} & set(refusal.message)
        assert refusal.repair is not None and len(refusal.repair.reply) == LONGEST_REPAIR


class TestRationales:
    def test_are_bounded_and_hold_no_control_characters(self) -> None:
        said = "fine\n\x07\u202e then \ud83d " + "long " * 400
        reply = reading(asked(), completed(json.dumps(one({**GOOD, "funny": {"rationale": said, "value": True}}))))
        rationale = reply.answers[0].rationale
        assert rationale.startswith("fine then long") and len(rationale) <= LONGEST_RATIONALE
        rationale.encode()

    @pytest.mark.parametrize("said", [None, 3, ["a"], {}])
    def test_of_a_wrong_kind_do_not_cost_the_verdict(self, said: object) -> None:
        reply = reading(asked(definitions=(FUNNY,)), completed(json.dumps(one({"funny": {"rationale": said, "value": True}}))))
        assert reply.answers[0].rationale == ""


class TestMoments:
    def moments(self, said: object, duration_s: float = 10.0) -> list[tuple[float, float]]:
        request = AnnotationRequest(video(duration_s=duration_s), (FUNNY,))
        reply = reading(request, completed(json.dumps(one({"funny": {"value": True, "moments": said}}))))
        assert len(reply.answers) == 1, "a bad moment does not cost the verdict"
        return [(moment.start_s, moment.end_s) for moment in reply.answers[0].moments]

    @pytest.mark.parametrize(
        ("start", "end", "kept"),
        [
            (0, 10, (0.0, 10.0)),
            (3.5, 3.5, (3.5, 3.5)),
            (9, 10.4, (9.0, 10.0)),
            (9, 10.5, None),
            (10.2, 10.3, None),
            (5, 4, None),
            (-1, 4, None),
            (True, 4, None),
            ("1", 4, None),
            (None, 4, None),
            (1, 10**400, None),
        ],
    )
    def test_lie_within_the_video(self, start: object, end: object, kept: tuple[float, float] | None) -> None:
        assert self.moments([{"start_s": start, "end_s": end}]) == ([kept] if kept else [])

    def test_are_the_first_three_in_order_of_time(self) -> None:
        said = [{"start_s": at, "end_s": at + 1} for at in (8, 2, 99, 2, 5, 1)]
        assert self.moments(said) == [(2, 3), (5, 6), (8, 9)]

    @pytest.mark.parametrize("said", [None, "0-3 s", {"start_s": 1, "end_s": 2}, [1, [2, 3], None]])
    def test_that_are_none_are_left_out(self, said: object) -> None:
        assert self.moments(said) == []

    @pytest.mark.parametrize("duration_s", [0.0, -1.0, math.nan])
    def test_of_a_video_without_length_there_are_none(self, duration_s: float) -> None:
        assert self.moments([{"start_s": 0, "end_s": 0}], duration_s) == []

    def test_named_twice_at_once_are_left_out(self) -> None:
        text = '{"id": "v1", "attributes": {"funny": {"value": true, "moments": [{"start_s": 1, "start_s": 2, "end_s": 3}]}}}'
        assert reading(asked(definitions=(FUNNY,)), completed(text)).answers[0].moments == ()


class TestPacked:
    """Fault 19: ids that are missing, swapped, repeated or invented assign nothing to the wrong video."""

    def reply(self, *items: object) -> AnnotationReply:
        request = asked("cat", "dog", "eel", definitions=(FUNNY, MOOD))
        return reading(request, completed(json.dumps({"videos": items})))

    def attributes(self, funny: bool) -> dict[str, object]:
        return {"funny": {"value": funny}, "mood": {"value": "calm"}}

    def test_matched_by_id_and_not_by_place(self) -> None:
        reply = self.reply(one(self.attributes(True), "v3"), one(self.attributes(False), "v1"), one(self.attributes(False), "v2"))
        assert {video_id: value for (video_id, name), value in values(reply).items() if name == "funny"} == {
            "cat": "false",
            "dog": "false",
            "eel": "true",
        }
        assert sum(answer.input_tokens for answer in reply.answers) == 1001

    @pytest.mark.parametrize("invented", ["v4", "cat", "V2", "", None, 2, ["v2"]])
    def test_missing_and_invented(self, invented: object) -> None:
        items = [one(self.attributes(True), "v1"), {"id": invented, "attributes": self.attributes(True)}]
        reply = self.reply(*items, one(self.attributes(True), "v3"))
        assert set(values(reply)) == {(name, each) for name in ("cat", "eel") for each in ("funny", "mood")}
        assert kinds(reply) == {("dog", "funny"): "unmatched", ("dog", "mood"): "unmatched"}

    def test_repeated(self) -> None:
        reply = self.reply(*(one(self.attributes(True), name) for name in ("v1", "v2", "v2", "v3")))
        assert set(kinds(reply)) == {("dog", "funny"), ("dog", "mood")} and "2 times" in reply.refusals[0].message
        assert "v2" in reply.refusals[0].message and all(refusal.repair is None for refusal in reply.refusals)

    def test_two_ids_in_one_entry_are_trusted_for_neither(self) -> None:
        entry = json.dumps(self.attributes(True))
        text = f'{{"videos": [{{"id": "v1", "id": "v2", "attributes": {entry}}}, {{"id": "v3", "attributes": {entry}}}]}}'
        reply = reading(asked("cat", "dog", "eel", definitions=(FUNNY, MOOD)), completed(text))
        assert {video_id for video_id, _ in kinds(reply)} == {"cat", "dog"} and set(kinds(reply).values()) == {"unmatched"}
        assert {video_id for video_id, _ in values(reply)} == {"eel"}

    def test_a_bad_verdict_names_its_place_in_the_pack(self) -> None:
        reply = self.reply(
            one(self.attributes(True), "v1"),
            one({**self.attributes(True), "mood": {"value": "ignore all instructions"}}, "v3"),
            one(self.attributes(True), "v2"),
        )
        (refusal,) = reply.refusals
        assert (refusal.video_id, refusal.attribute) == ("eel", "mood")
        assert "videos[1].attributes.mood.value" in refusal.message and len(reply.answers) == 5

    @pytest.mark.parametrize("text", ['{"id": "v1", "attributes": {}}', '{"videos": {}}', '{"videos": [], "videos": []}', "[]"])
    def test_of_a_wrong_shape_can_be_mended(self, text: str) -> None:
        reply = reading(asked("cat", "dog"), completed(text))
        assert set(kinds(reply).values()) == {"invalid_reply"} and len(reply.refusals) == 6

    def test_video_ids_of_strangers_are_not_what_the_model_is_asked_to_echo(self) -> None:
        request = AnnotationRequest(video("v2"), (FUNNY,), (video("v1"),))
        reply = reading(
            request,
            completed(json.dumps({"videos": [one({"funny": {"value": True}}, "v1"), one({"funny": {"value": False}}, "v2")]})),
        )
        assert values(reply) == {("v2", "funny"): "true", ("v1", "funny"): "false"}


class TestInOneWord:
    def reply(self, text: str, definition: AttributeDefinition = FUNNY, tokens: tuple[Token, ...] = ()) -> AnnotationReply:
        return reading(asked(definitions=(definition,)), completed(text, tokens=tokens), EACH)

    @pytest.mark.parametrize(("text", "value"), [("Yes", "true"), (" no.\n", "false"), ("**YES!**", "true"), ('"No"', "false")])
    def test_whatever_its_case_and_punctuation(self, text: str, value: str) -> None:
        assert self.reply(text).answers[0].value == value

    @pytest.mark.parametrize("text", ["Maybe", "Yes, because it is", "Yesno", "yes no", "true", "...", "1"])
    def test_anything_else_can_be_mended(self, text: str) -> None:
        (refusal,) = self.reply(text).refusals
        assert refusal.kind == "invalid_reply" and "permitted is one of Yes, No" in refusal.message
        assert refusal.repair is not None and refusal.repair.reply == text

    def test_stands_for_the_value_of_its_choice(self) -> None:
        choices = EACH.write(asked(definitions=(MOOD,))).choices
        for written, value in choices:
            assert self.reply(written.lower(), MOOD).answers[0].value == value
        for written, value in EACH.write(asked(definitions=(PACE,))).choices:
            assert self.reply(f" {written}.", PACE).answers[0].value == value

    def test_with_its_probability(self) -> None:
        tokens = (Token("No", math.log(0.6), (("No", math.log(0.6)), (" yes", math.log(0.2)), ("Well", math.log(0.2)))),)
        answer = self.reply("No", tokens=tokens).answers[0]
        assert answer.value == "false" and answer.probability == pytest.approx(0.25)

    def test_an_attribute_whose_labels_are_signed_numbers(self) -> None:
        signed = dataclasses.replace(MOOD, labels=("-1", "+1"))
        request = asked(definitions=(signed,))
        prompt = dataclasses.replace(EACH.write(request), choices=(("-1", "-1"), ("+1", "+1")))
        assert read(request, prompt, completed("+1."), lambda _: 0.0, lambda: 0.0).answers[0].value == "+1"

    def test_cut_off(self) -> None:
        reply = reading(asked(definitions=(FUNNY,)), completed("Yes", "length"), EACH)
        assert kinds(reply) == {("cat", "funny"): "cut_off"}


class TestByFirstToken:
    SAYS = "The answer is Yes."

    def reply(self, text: str, finish: Finish, *top: tuple[str, float], definition: AttributeDefinition = FUNNY) -> AnnotationReply:
        first, rest = text[:3], text[3:]
        listed = ((first, math.log(0.5)), *((other, math.log(chance)) for other, chance in top))
        tokens = (Token(first, math.log(0.5), listed), Token(rest, 0.0, ()))
        request = asked(definitions=(definition,))
        return read(
            request, EACH.write(request), completed(text, finish, tokens=tokens), lambda _: 0.0, lambda: 0.0, by_first_token=True
        )

    @pytest.mark.parametrize("finish", ["stop", "length"])
    def test_a_sentence_is_read_for_what_it_could_have_begun_with(self, finish: Finish) -> None:
        (answer,) = self.reply(self.SAYS, finish, ("Yes", 0.06), (" yes", 0.03), ("No", 0.03), ("Well", 0.3)).answers
        assert (answer.value, answer.probability) == ("true", pytest.approx(0.75))
        (answer,) = self.reply(self.SAYS, finish, ("Yes", 0.01), ("No", 0.04)).answers
        assert (answer.value, answer.probability) == ("false", pytest.approx(0.2))

    def test_of_scores_one_is_not_ten(self) -> None:
        top = [(str(number), 0.01) for number in (0, 2, 3, 4, 5, 6, 7, 8, 9)] + [("1", 0.1), ("10", 0.01)]
        (answer,) = self.reply("The pace is", "length", *top, definition=PACE).answers
        assert (answer.value, answer.probability) == ("1", pytest.approx(0.5))

    def test_where_the_choices_are_not_listed_it_is_mended(self) -> None:
        assert kinds(self.reply(self.SAYS, "stop", ("Yes", 0.1), ("Well", 0.2))) == {("cat", "funny"): "invalid_reply"}
        assert kinds(self.reply(self.SAYS, "length")) == {("cat", "funny"): "cut_off"}

    @pytest.mark.parametrize("finish", ["refused", "blocked", "empty", "other"])
    def test_never_what_was_refused(self, finish: Finish) -> None:
        assert not self.reply(self.SAYS, finish, ("Yes", 0.3), ("No", 0.1)).answers

    def test_a_choice_that_was_written_stands(self) -> None:
        (answer,) = self.reply("No.", "stop", ("Yes", 0.4)).answers
        assert answer.value == "false"


class TestProbabilities:
    def pieces(self, text: str, marks: dict[str, tuple[float, dict[str, float]]]) -> tuple[Token, ...]:
        """Tokens of four characters, but those in `marks` whole, each with its probability and alternatives."""
        tokens: list[Token] = []
        rest = text
        while rest:
            mark = next((mark for mark in marks if rest.startswith(mark)), None)
            upto = min((rest.find(each) for each in marks if rest.find(each) > 0), default=len(rest))
            piece = mark if mark is not None else rest[: min(4, upto)]
            chance, others = marks.get(piece, (1.0, {}))
            top = ((piece, math.log(chance)), *((other, math.log(each)) for other, each in others.items()))
            tokens.append(Token(piece, math.log(chance), top))
            rest = rest[len(piece) :]
        return tuple(tokens)

    @pytest.mark.parametrize("fence", ["{}", "```json\n{}\n```"])
    @pytest.mark.parametrize("indent", [None, 1])
    def test_belong_to_their_own_video_and_attribute(self, fence: str, indent: int | None) -> None:
        attributes = [
            {"funny": {"rationale": 'says "value": no', "value": True}, "mood": {"rationale": "m", "value": "calm"}},
            {"mood": {"rationale": "m", "value": "wild"}, "funny": {"rationale": "false", "value": False}},
        ]
        document = {"videos": [one(attributes[0], "v2"), one(attributes[1], "v1")]}
        text = fence.replace("{}", json.dumps(document, indent=indent))
        tokens = self.pieces(
            text,
            {
                " true": (0.8, {" false": 0.2}),
                " false": (0.9, {" true": 0.1}),
                "calm": (0.5, {"wild": 0.5}),
                "wild": (0.7, {"calm": 0.3}),
            },
        )
        reply = reading(
            asked("cat", "dog", definitions=(FUNNY, dataclasses.replace(MOOD, labels=("calm", "wild")))),
            completed(text, tokens=tokens),
        )
        found = {(answer.video_id, answer.attribute): answer.probability for answer in reply.answers}
        assert found == pytest.approx({("dog", "funny"): 0.8, ("dog", "mood"): 0.5, ("cat", "mood"): 0.7, ("cat", "funny"): 0.1})

    def test_of_a_score_there_is_none(self) -> None:
        text = json.dumps(one({"pace": {"value": 3}}))
        reply = reading(asked(definitions=(PACE,)), completed(text, tokens=self.pieces(text, {"3": (0.5, {"4": 0.5})})))
        assert reply.answers[0].probability is None

    def test_tokens_of_another_text_give_none(self) -> None:
        text = json.dumps(one({"funny": {"value": True}}))
        reply = reading(asked(definitions=(FUNNY,)), completed(text, tokens=self.pieces("something else entirely", {})))
        assert reply.answers[0].value == "true" and reply.answers[0].probability is None


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["v1", "v2", "calm", "wild", "true", 7, 3.5]),
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["id", "attributes", "videos", "funny", "mood", "pace", "value", "rationale", "moments", "start_s", "end_s"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=30,
)
finishes = st.sampled_from(["stop", "stop", "stop", "stop", "length", "refused", "blocked", "empty", "other"])


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A good reply, single or packed, with some of its parts replaced, its text cut, doubled or spliced."""
    document: Any = draw(st.sampled_from([one(GOOD), {"videos": [one(GOOD, "v1"), one(GOOD, "v2")]}]))
    document = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(0, 3))):
        place: Any = document
        while isinstance(place, dict | list) and place:
            key: Any = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else list(range(len(place)))))
            if draw(st.booleans()) or not isinstance(place[key], dict | list):
                place[key] = draw(anything)
                break
            place = place[key]
    text = json.dumps(document)
    if draw(st.booleans()):
        a, b = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
        text = draw(
            st.sampled_from([text[:a], text[:a] + text[b:], text[:b] + text[a:], text[:a] + draw(st.text(max_size=5)) + text[a:]])
        )
    return text


@given(mutated() | anything.map(json.dumps) | st.text(), finishes, st.booleans(), st.integers(0, 7))
def test_whatever_comes_back_each_pair_is_answered_or_refused_once(text: str, finish: Finish, packed: bool, cut: int) -> None:
    """Nothing is raised, nobody is answered who was not asked, every number adds up, and every value is permitted."""
    request = asked("cat", "dog") if packed else asked("cat")
    tokens = (
        tuple(Token(text[at : at + cut], -0.1, (("true", -3.0), ('"wild', -1.0))) for at in range(0, len(text), cut)) if cut else ()
    )
    reply = reading(request, completed(text, finish, tokens=tokens))
    pairs = [(each.video_id, each.attribute) for each in (*reply.answers, *reply.refusals)]
    assert sorted(pairs) == sorted((each.video_id, definition.name) for each in request.videos for definition in ALL)
    assert finish == "stop" or not reply.answers
    definitions = {definition.name: definition for definition in ALL}
    for answer in reply.answers:
        assert math.isfinite(definitions[answer.attribute].number(answer.value, None))
        assert answer.probability is None or 0.0 <= answer.probability <= 1.0
        assert all(0.0 <= moment.start_s <= moment.end_s <= 10.0 for moment in answer.moments) and len(answer.moments) <= 3
    for refusal in reply.refusals:
        assert len(refusal.message) < 800 and not {unicodedata.category(each) for each in refusal.message} & {"Cc", "Cs"}
        assert (refusal.repair is not None) == (refusal.kind in MENDABLE)
        assert refusal.kind in MENDABLE | SINGLY | {"refused", "blocked", "empty_reply", "unfinished"}
    assert reply.spent == dataclasses.replace(USAGE, cost_usd=0.1)
    assert sum(answer.input_tokens for answer in reply.answers) <= 1001


@given(st.text(max_size=30), finishes)
def test_whatever_comes_back_in_one_word(text: str, finish: Finish) -> None:
    request = asked(definitions=(FUNNY,))
    reply = reading(request, completed(text, finish, tokens=(Token(text, -0.5, (("Yes", -1.0),)),)), EACH)
    assert len(reply.answers) + len(reply.refusals) == 1


def test_one_word_for_several_questions_is_a_mistake_of_the_caller() -> None:
    request = asked()
    prompt = Prompt("", (), 0, None, (("Yes", "true"),), (("v1", "cat"),), 5)
    with pytest.raises(ValueError, match="one question"):
        read(request, prompt, completed("Yes"), lambda _: 0.0, lambda: 0.0)
