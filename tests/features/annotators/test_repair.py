from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.annotators.exchange import Completion, Finish, Prompt, Text
from features.annotators.model import ModelAnnotator
from features.annotators.prompt import PromptWriter
from features.annotators.protocol import AnnotationReply, AnnotationRequest, AnnotatorIdentity, Refusal, Repair, Usage
from features.annotators.repair import Repaired
from features.annotators.settings import ModelSettings, PromptSettings
from features.attributes.definition import AttributeDefinition
from features.errors import BudgetSpent, Permanent, Transient, Unavailable, VidattrError
from features.records import VideoFeatures

FUNNY = AttributeDefinition("funny", "Funny", "Is it funny?", "It makes people laugh.")
MOOD = AttributeDefinition("mood", "Mood", "Which mood?", "Mood.", value_type="category", labels=("calm", "wild"))
BOTH = (FUNNY, MOOD)
GOOD = {"funny": {"value": True}, "mood": {"value": "calm"}}
BAD = {"funny": {"value": True}, "mood": {"value": "obey me"}}
ONE = Usage(1, 100, 0, 10)


@dataclass
class Seen:
    """One exchange as the server saw it."""

    names: dict[str, str]
    attributes: tuple[str, ...]
    prompt: Prompt

    @property
    def videos(self) -> tuple[str, ...]:
        return tuple(self.names.values())

    @property
    def repairs(self) -> bool:
        return len(self.prompt.turns) == 3


Reply = str | tuple[str, Finish] | Exception


@dataclass
class Server:
    """A model whose replies a function decides; it keeps what it was asked."""

    decide: Callable[[Seen], Reply]
    seen: list[Seen] = field(default_factory=list)

    def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""

    async def complete(self, prompt: Prompt) -> Completion:
        assert prompt.schema is not None
        properties = prompt.schema["properties"]
        one = properties["videos"]["items"]["properties"] if "videos" in properties else properties
        exchange = Seen(dict(prompt.ids), tuple(one["attributes"]["properties"]), prompt)
        self.seen.append(exchange)
        reply = self.decide(exchange)
        if isinstance(reply, Exception):
            raise reply
        text, finish = reply if isinstance(reply, tuple) else (reply, "stop")
        return Completion(text, finish, "", ONE, "m")


def said(exchange: Seen, **attributes: dict[str, object]) -> str:
    """A well-formed reply: `attributes` by video, GOOD where not given, ids as asked."""
    items = [{"id": name, "attributes": attributes.get(video_id, GOOD)} for name, video_id in exchange.names.items()]
    return json.dumps(items[0] if len(items) == 1 else {"videos": items})


def ask(server: Server, *names: str) -> AnnotationReply:
    writer = PromptWriter(PromptSettings(videos_per_request=32), ModelSettings(name="m"))
    model = ModelAnnotator(server, writer, AnnotatorIdentity("llm", "m"), lambda usage: 0.01, clock=lambda: 1.0)
    videos = [VideoFeatures(name, "h", name, "1", title=name) for name in names]
    return asyncio.run(Repaired(model).annotate(AnnotationRequest(videos[0], BOTH, tuple(videos[1:]))))


def values(reply: AnnotationReply) -> dict[tuple[str, str], str]:
    return {(answer.video_id, answer.attribute): answer.value for answer in reply.answers}


def kinds(reply: AnnotationReply) -> dict[tuple[str, str], str]:
    assert all(refusal.repair is None for refusal in reply.refusals), "nobody mends it again"
    return {(refusal.video_id, refusal.attribute): refusal.kind for refusal in reply.refusals}


class TestOneVideo:
    def test_a_good_reply_is_left_alone(self) -> None:
        server = Server(said)
        reply = ask(server, "cat")
        assert len(server.seen) == 1 and len(reply.answers) == 2 and reply.spent.requests == 1 and reply.why_pending == ""

    def test_a_bad_verdict_is_mended_and_its_neighbour_stays(self) -> None:
        def decide(exchange: Seen) -> Reply:
            mended = {"funny": {"value": False}, "mood": {"value": "wild"}}
            return said(exchange, cat=mended if exchange.repairs else BAD)

        server = Server(decide)
        reply = ask(server, "cat")
        assert values(reply) == {("cat", "funny"): "true", ("cat", "mood"): "wild"}, "only the bad verdict is taken from the repair"
        first, second = server.seen
        assert second.attributes == first.attributes
        assert second.prompt.system == first.prompt.system and second.prompt.turns[0] == first.prompt.turns[0]
        quoted, request = (part.text for turn in second.prompt.turns[1:] for part in turn.parts if isinstance(part, Text))
        assert "obey me" in quoted and "attributes.mood.value" in request and "calm" in request
        assert reply.spent == Usage(2, 200, 0, 20, 0.02)

    def test_what_stays_bad_is_a_dead_letter_after_two_exchanges(self) -> None:
        server = Server(lambda exchange: said(exchange, cat=BAD))
        reply = ask(server, "cat")
        assert len(server.seen) == 2 and kinds(reply) == {("cat", "mood"): "invalid_reply"}
        assert values(reply) == {("cat", "funny"): "true"} and reply.spent.requests == 2
        assert "asked to mend it" in reply.refusals[0].message

    def test_cut_off_is_mended_without_quoting_it(self) -> None:
        server = Server(lambda exchange: said(exchange) if exchange.repairs else (said(exchange), "length"))
        reply = ask(server, "cat")
        assert len(reply.answers) == 2
        quoted = server.seen[1].prompt.turns[1].parts[0]
        assert isinstance(quoted, Text) and "funny" not in quoted.text

    def test_cut_off_for_ever(self) -> None:
        server = Server(lambda exchange: (" " * 5000, "length"))
        assert set(kinds(ask(server, "cat")).values()) == {"cut_off"} and len(server.seen) == 2

    @pytest.mark.parametrize(
        ("finish", "kind"), [("refused", "refused"), ("blocked", "blocked"), ("empty", "empty_reply"), ("other", "unfinished")]
    )
    def test_refusals_are_asked_once(self, finish: Finish, kind: str) -> None:
        """Fault 18: no retry loop."""
        server = Server(lambda exchange: ("", finish))
        reply = ask(server, "cat")
        assert len(server.seen) == 1 and set(kinds(reply).values()) == {kind} and reply.spent.requests == 1

    def test_a_repair_that_is_declined_leaves_the_first_kind(self) -> None:
        server = Server(lambda exchange: ("", "refused") if exchange.repairs else "prose")
        reply = ask(server, "cat")
        assert set(kinds(reply).values()) == {"invalid_reply"}
        assert "declined" in reply.refusals[0].message and reply.spent.requests == 2

    def test_a_repair_that_the_server_does_not_take(self) -> None:
        server = Server(lambda exchange: Permanent("too long", "too_large") if exchange.repairs else said(exchange, cat=BAD))
        reply = ask(server, "cat")
        assert kinds(reply) == {("cat", "mood"): "invalid_reply"} and "too long (too_large)" in reply.refusals[0].message
        assert len(reply.answers) == 1 and reply.spent.requests == 1

    def test_a_request_that_the_server_does_not_take(self) -> None:
        reply = ask(Server(lambda exchange: Permanent("bad picture", "invalid_request")), "cat")
        assert kinds(reply) == {("cat", "funny"): "invalid_request", ("cat", "mood"): "invalid_request"}
        assert reply.spent == Usage() and "bad picture" in reply.refusals[0].message

    @pytest.mark.parametrize("error", [Transient("busy"), BudgetSpent("cap"), Unavailable("key")])
    def test_a_service_that_goes_away(self, error: VidattrError) -> None:
        with pytest.raises(type(error)):
            ask(Server(lambda exchange: error), "cat")
        reply = ask(Server(lambda exchange: error if exchange.repairs else said(exchange, cat=BAD)), "cat")
        assert values(reply) == {("cat", "funny"): "true"} and not reply.refusals
        assert reply.why_pending == str(error) and reply.spent.requests == 1


class TestPacked:
    def test_one_repair_for_the_pack_with_all_problems(self) -> None:
        server = Server(lambda exchange: said(exchange) if exchange.repairs else said(exchange, a=BAD, c=BAD))
        reply = ask(server, "a", "b", "c")
        assert len(server.seen) == 2 and len(reply.answers) == 6 and not reply.refusals
        request = server.seen[1].prompt.turns[2].parts[0]
        assert isinstance(request, Text) and "videos[0]" in request.text and "videos[2]" in request.text

    def test_what_stays_bad_is_asked_in_halves_and_only_for_what_is_open(self) -> None:
        server = Server(lambda exchange: said(exchange, c=BAD))
        reply = ask(server, "a", "b", "c", "d")
        assert kinds(reply) == {("c", "mood"): "invalid_reply"} and len(reply.answers) == 7
        assert [(seen.videos, seen.attributes, seen.repairs) for seen in server.seen] == [
            (("a", "b", "c", "d"), ("funny", "mood"), False),
            (("a", "b", "c", "d"), ("funny", "mood"), True),
            (("c",), ("mood",), False),
            (("c",), ("mood",), True),
        ]

    @pytest.mark.parametrize("finish", ["blocked", "refused", "empty", "other", "length"])
    def test_one_blocked_video_takes_no_neighbour_along(self, finish: Finish) -> None:
        server = Server(lambda exchange: ("", finish) if "c" in exchange.videos else said(exchange))
        reply = ask(server, "a", "b", "c", "d")
        assert {video_id for video_id, _ in kinds(reply)} == {"c"} and len(reply.answers) == 6
        asked = [seen.videos for seen in server.seen if not seen.repairs]
        assert asked == [("a", "b", "c", "d"), ("a", "b"), ("c", "d"), ("c",), ("d",)]

    def test_a_poison_that_the_server_does_not_take(self) -> None:
        server = Server(lambda exchange: Permanent("bad", "invalid_request") if "b" in exchange.videos else said(exchange))
        reply = ask(server, "a", "b", "c")
        assert kinds(reply) == {("b", "funny"): "invalid_request", ("b", "mood"): "invalid_request"} and len(reply.answers) == 4
        assert reply.spent.requests == len(server.seen) - 3

    def test_unmatched_videos_are_asked_alone_at_once(self) -> None:
        """Fault 19: nothing is assigned by guess."""

        def decide(exchange: Seen) -> Reply:
            if len(exchange.videos) == 1:
                return said(exchange)
            items = [{"id": name, "attributes": GOOD} for name in ("v1", "v2", "v2", "v9")]
            return json.dumps({"videos": items})

        server = Server(decide)
        reply = ask(server, "a", "b", "c", "d")
        assert len(reply.answers) == 8 and [seen.videos for seen in server.seen[1:]] == [("b",), ("c",), ("d",)]

    def test_cut_off_is_not_asked_for_at_the_same_length_again(self) -> None:
        server = Server(lambda exchange: (said(exchange), "length") if len(exchange.videos) > 1 else said(exchange))
        reply = ask(server, "a", "b", "c")
        assert len(reply.answers) == 6 and not any(seen.repairs for seen in server.seen)

    def test_unmatched_videos_are_not_believed_when_a_repair_brings_them(self) -> None:
        def decide(exchange: Seen) -> Reply:
            if exchange.repairs or len(exchange.videos) == 1:
                return said(exchange, b={"funny": {"value": not exchange.repairs}, "mood": {"value": "wild"}})
            items = [{"id": "v1", "attributes": BAD}, {"id": "v7", "attributes": GOOD}]
            return json.dumps({"videos": items})

        server = Server(decide)
        reply = ask(server, "a", "b")
        assert values(reply)["b", "funny"] == "true" and server.seen[-1].videos == ("b",) and len(reply.answers) == 4

    def test_an_answer_that_is_there_stays_when_its_neighbour_is_asked_again(self) -> None:
        def decide(exchange: Seen) -> Reply:
            if len(server.seen) > 2:
                return said(exchange, **{name: {"funny": {"value": False}, "mood": {"value": "wild"}} for name in "abc"})
            return said(exchange, a=BAD, b={"funny": {"value": 1}, "mood": {"value": "calm"}}, c=BAD)

        server = Server(decide)
        reply = ask(server, "a", "b", "c")
        assert [(seen.videos, seen.attributes) for seen in server.seen[2:]] == [
            (("a", "b"), ("funny", "mood")),
            (("c",), ("mood",)),
        ]
        assert values(reply) == {
            ("a", "funny"): "true",
            ("a", "mood"): "wild",
            ("b", "funny"): "false",
            ("b", "mood"): "calm",
            ("c", "funny"): "true",
            ("c", "mood"): "wild",
        }

    def test_a_poison_found_before_the_service_goes_away_is_final(self) -> None:
        def decide(exchange: Seen) -> Reply:
            if exchange.videos == ("c", "d"):
                return Transient("busy")
            return Permanent("bad", "invalid_request") if "b" in exchange.videos else said(exchange)

        reply = ask(Server(decide), "a", "b", "c", "d")
        assert kinds(reply) == {("b", "funny"): "invalid_request", ("b", "mood"): "invalid_request"}
        assert {video_id for video_id, _ in values(reply)} == {"a"} and reply.why_pending == "busy"

    @pytest.mark.parametrize("error", [Transient("busy"), BudgetSpent("cap")])
    def test_a_service_that_goes_away_in_the_middle_keeps_what_is_there(self, error: VidattrError) -> None:
        def decide(exchange: Seen) -> Reply:
            if exchange.videos == ("c", "d"):
                return error
            return ("", "blocked") if "b" in exchange.videos else said(exchange)

        reply = ask(Server(decide), "a", "b", "c", "d")
        assert {video_id for video_id, _ in values(reply)} == {"a"}
        assert {video_id for video_id, _ in kinds(reply)} == {"b"}, "asked alone and blocked: that is final"
        assert reply.why_pending == str(error) and reply.spent.requests == 4

    @pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
    @pytest.mark.parametrize("finish", ["stop", "blocked", "length"])
    def test_never_takes_more_than_three_exchanges_a_video(self, count: int, finish: Finish) -> None:
        server = Server(lambda exchange: ("prose", finish))
        reply = ask(server, *"abcdefgh"[:count])
        assert len(reply.refusals) == 2 * count and not reply.answers
        most = 3 * count if count > 1 else 2
        assert len(server.seen) <= most and (finish != "stop" or len(server.seen) == most)
        assert reply.spent.requests == len(server.seen)


behaviours = st.sampled_from(["good", "bad", "prose", "blocked", "length", "missing", "twice", "permanent", "transient"])


@given(st.integers(1, 6), st.lists(behaviours, min_size=1, max_size=20))
def test_whatever_a_server_does_nothing_is_lost_doubled_or_misassigned(count: int, script: list[str]) -> None:
    """Each video's truth is its own, so that an answer to the wrong one would show."""
    names = "abcdef"[:count]
    truth = {name: {"funny": {"value": name in "ace"}, "mood": {"value": "wild" if name in "abc" else "calm"}} for name in names}

    def decide(exchange: Seen) -> Reply:
        behaviour = script[(len(server.seen) - 1) % len(script)]
        match behaviour:
            case "prose":
                return "As a language model"
            case "blocked":
                return "", "blocked"
            case "length":
                return said(exchange, **truth), "length"
            case "permanent":
                return Permanent("no", "invalid_request")
            case "transient":
                return Transient("busy")
        document = json.loads(said(exchange, **truth))
        items = document.get("videos", [document])
        if behaviour == "bad":
            items[0]["attributes"]["mood"]["value"] = "unheard of"
        if behaviour == "missing":
            items[0]["id"] = "v99"
        if behaviour == "twice" and len(items) > 1:
            items[0]["id"] = items[1]["id"]
        return json.dumps(document)

    server = Server(decide)
    try:
        reply = ask(server, *names)
    except Transient:
        assert len(server.seen) == 1
        return
    pairs = [*values(reply), *kinds(reply)]
    assert len(pairs) == len(set(pairs)) == len(reply.answers) + len(reply.refusals)
    assert set(pairs) <= {(name, definition.name) for name in names for definition in BOTH}
    assert (reply.why_pending != "") == (len(pairs) < 2 * count)
    for (name, attribute), value in values(reply).items():
        assert value == str(truth[name][attribute]["value"]).lower()
    assert "unmatched" not in kinds(reply).values()
    assert len(server.seen) <= (3 * count if count > 1 else 2)
    paid = Counter(behaviour in ("permanent", "transient") for behaviour in (script * 20)[: len(server.seen)])
    assert reply.spent.requests == paid[False]


def test_a_repair_that_says_nothing_leaves_a_refusal_with_nothing_to_mend() -> None:
    class Silent:
        identity = AnnotatorIdentity("llm", "m")

        def open(self) -> None:
            """Nothing to open."""

        async def close(self) -> None:
            """Nothing to close."""

        async def annotate(self, request: AnnotationRequest) -> AnnotationReply:
            if request.repair is not None:
                return AnnotationReply(spent=ONE)
            return AnnotationReply((), (Refusal("funny", "invalid_reply", "bad", "", "", Repair("x", "bad")),), ONE)

    video = VideoFeatures("a", "h", "a", "1", title="a")
    reply = asyncio.run(Repaired(Silent()).annotate(AnnotationRequest(video, (FUNNY,))))
    assert kinds(reply) == {("", "funny"): "invalid_reply"} and reply.spent == ONE + ONE
