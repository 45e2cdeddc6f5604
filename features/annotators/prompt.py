"""What a model is sent about a video: definitions, rules and examples first, byte-stable over a run, then the video.

Its words are in `features.annotators.prompt_words`, what is shown of a video in `features.annotators.prompt_video`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from features.annotators import prompt_examples, prompt_specimens, prompt_words
from features.annotators.exchange import Part, Prompt, Text, Turn
from features.annotators.prompt_examples import Rated
from features.annotators.prompt_video import View, permitted
from features.annotators.protocol import AnnotationRequest, Usage
from features.annotators.settings import ModelSettings, PromptSettings
from features.annotators.tokens import Family, family_of, text_tokens
from features.annotators.untrusted import bound, fenced, plain
from features.attributes.definition import AttributeDefinition
from features.errors import InvalidInput, Permanent
from features.records import digest

VERSION = "1"
"""Goes up where a prompt means something else although its words stay; the words themselves are digested."""

CACHED_FROM: Mapping[Family, int] = {
    "gemini": 1024,
    "gemini-3": 4096,
    "openai": 1024,
    "openai-mini": 1024,
    "openai-nano": 1024,
    "plain": 0,
}
"""Tokens from which a provider's own prefix cache takes effect: "Context caching" of the Gemini API (2.5 Flash, and 3), "Prompt
caching" of the OpenAI API; vLLM and llama.cpp reuse any prefix."""

_SEVERAL_SAMPLES = 0.7
_TOKENS_A_QUESTION, _TOKENS_A_BARE_QUESTION, _TOKENS_A_REPLY, _TOKENS_A_CHOICE = 120, 40, 60, 8
_LIKELY_REASONED, _LIKELY_BARE, _LIKELY_MOMENTS, _LIKELY_REPLY, _LIKELY_CHOICE = 52, 12, 18, 14, 2
_REASONING = 8192
_LIKELY_REASONING = 600
_REASONING_SHARE = 0.5
_HIGH = 1.25
_TURN_TOKENS, _CLOSING_TOKENS = 8, 22
_REPAIR_TOKENS, _REPAIR_EACH_TOKENS = 40, 24
_PREPARED = 1024
_REPLY_CHARACTERS, _PROBLEM_CHARACTERS = 12_000, 400


@dataclass
class _Prepared:
    """All of a prompt that depends on what is asked and not on the video; `packed_system` and `schemas` are made on need."""

    definitions: tuple[AttributeDefinition, ...]
    view: View
    judged_by: View
    system: str
    question: str
    choices: tuple[tuple[str, str], ...]
    shared_tokens: int
    question_tokens: int
    packed_system: str = ""
    schemas: dict[int, Mapping[str, Any]] = field(default_factory=dict)


class PromptWriter:
    """Writes prompts, and says what they are likely to cost. Two of them with equal arguments write equal bytes.

    With `together` the system text holds everything but the videos, and is the provider's cached prefix. With `each` the system
    text and the video are, and the question comes last. An example that is shown is also annotated like any other video: leave
    `example_videos` out where the model is judged.

    Args:
        settings: what is asked, and what of a video is shown.
        model: its name (how it counts tokens), temperature, limits, clips.
        examples: rated videos; of each definition at most `settings.examples` are shown.
        definitions: all that the run asks. They are needed for `each` with examples, where the system text is to be the same for
            all attributes; without them it holds the examples of the attribute that is asked.
        cached_from: tokens from which the server's prefix cache takes effect; by the model's name where None.

    Raises:
        InvalidInput: `settings.evidence` names something unknown, or leaves nothing to show.
    """

    def __init__(
        self,
        settings: PromptSettings,
        model: ModelSettings,
        examples: Sequence[Rated] = (),
        definitions: Sequence[AttributeDefinition] = (),
        cached_from: int | None = None,
    ) -> None:
        self.settings = settings
        self.model = model
        self._evidence = permitted(settings.evidence)
        if not View(self._evidence, settings.frames, model.clips).usable:
            raise InvalidInput("frames are all the evidence and none is shown: set frames to at least 1, or admit text")
        self._examples = tuple(examples) if settings.examples else ()
        self._definitions = _by_name(definitions)
        self.family = family_of(model.name)
        self._cached_from = CACHED_FROM[self.family] if cached_from is None else cached_from
        self._prepared: dict[tuple[int, ...], tuple[tuple[AttributeDefinition, ...], _Prepared]] = {}
        self._by_hash: dict[tuple[str, ...], _Prepared] = {}
        self._temperature = self._chosen_temperature()
        self._reasoning = self._reasoning_tokens()

    @cached_property
    def version(self) -> str:
        """Identity of the words: a digest of what this writer writes about specimens, so that an edit of wording changes it."""
        written = prompt_specimens.written(
            lambda definitions, examples: type(self)(self.settings, self.model, examples, definitions)
        )
        return f"{self.settings.ask}-{VERSION}-{digest(*written)[:12]}"

    @cached_property
    def parameters(self) -> str:
        """Whatever else changes replies, as stable JSON. Pace, addresses and keys do not."""
        settings, model = self.settings, self.model
        return json.dumps(
            {
                "ask": settings.ask,
                "packed": settings.videos_per_request > 1,
                "evidence": list(self._evidence),
                "frames": settings.frames,
                "rationale": settings.rationale,
                "moments": settings.moments,
                "samples": settings.samples,
                "temperature": self._temperature,
                "max_output_tokens": model.max_output_tokens,
                "thinking_budget": model.thinking_budget,
                "structured": model.structured,
                "clips": model.clips,
            },
            sort_keys=True,
        )

    def parameters_by_definition(self, definitions: Sequence[AttributeDefinition]) -> tuple[tuple[str, str], ...]:
        """(definition_hash, digest of its Golden examples as they are shown) of each definition that has some."""
        found = []
        for definition in _by_name(definitions):
            lines = self._example_lines(definition)
            if lines:
                found.append((definition.definition_hash, f"examples={digest(*lines)}"))
        return tuple(found)

    def example_videos(self, definitions: Sequence[AttributeDefinition]) -> frozenset[str]:
        """Ids of the videos whose right answers are in the prefix: a model must not be judged by them."""
        return frozenset(example.video.video_id for definition in definitions for example in self._chosen(definition))

    def blind(self, definitions: Sequence[AttributeDefinition]) -> tuple[str, ...]:
        """Names of the definitions that may see nothing of what is shown, so that asking about them is no use."""
        view = View(self._evidence, self.settings.frames, self.model.clips)
        return tuple(definition.name for definition in definitions if not prompt_words.admitted(definition, view))

    def unseen(self, request: AnnotationRequest) -> tuple[str, ...]:
        """Names of the request's definitions that may see nothing of its first video, although others may."""
        if self.settings.ask == "each":  # the request goes out as one exchange a question
            view = self._view(self._definitions or request.definitions)
        else:
            view = self._prepare(request.definitions).view
        if view.shows(request.video) and all(set(view.evidence) <= set(each.evidence) for each in request.definitions):
            return ()
        own = {each.name: replace(view, evidence=prompt_words.admitted(each, view)) for each in request.definitions}
        return tuple(name for name, narrowed in own.items() if not narrowed.shows(request.video))

    def write(self, request: AnnotationRequest) -> Prompt:
        """The prompt for a request.

        Raises:
            Permanent: of kind `no_evidence`, when nothing can be seen or read of a video.
        """
        asked = self._prepare(request.definitions)
        videos = request.videos
        for video in videos:
            if not asked.judged_by.shows(video):
                raise Permanent("the video has nothing that may be shown: give it a title, or admit more evidence", "no_evidence")
        names = tuple([f"v{number}" for number in range(1, len(videos) + 1)])
        parts: list[Part] = []
        for name, video in zip(names, videos, strict=True):
            parts += asked.view.parts(video, name)
        each = self.settings.ask == "each"
        closing = asked.question if each else prompt_words.together_closing(names, len(asked.definitions))
        schema = None if each else self._schema(asked, names)
        turns: tuple[Turn, ...] = (Turn("user", (*parts, Text(closing))),)
        if request.repair is not None:
            turns += self._repair(request, asked, names, schema is not None)
        return Prompt(
            system=asked.system if len(videos) == 1 else self._packed_system(asked),
            turns=turns,
            shared_parts=len(parts) if each else 0,
            schema=schema,
            choices=asked.choices,
            ids=tuple(zip(names, [video.video_id for video in videos], strict=True)),
            max_output_tokens=self._most_output(asked, len(videos)),
            temperature=self._temperature,
            seed=request.sample if self.settings.samples > 1 else None,
        )

    def estimate(self, request: AnnotationRequest) -> Usage:
        """What the exchange is likely to be billed for, with the server's prefix cache warm; no prompt is written."""
        asked = self._prepare(request.definitions)
        videos = request.videos
        shown = sum([asked.view.tokens(video, self.family) for video in videos])
        each = self.settings.ask == "each"
        prefix = asked.shared_tokens + (shown if each or request.repair else 0)
        total = asked.shared_tokens + shown + asked.question_tokens
        if request.repair is not None:
            total += _REPAIR_EACH_TOKENS if each else _REPAIR_TOKENS
            total += text_tokens(request.repair.reply[:_REPLY_CHARACTERS]) + text_tokens(request.repair.problem)
        return Usage(
            requests=1,
            input_tokens=total,
            cached_input_tokens=prefix if prefix >= self._cached_from else 0,
            output_tokens=self._likely_output(asked, len(videos)),
        )

    def ceiling(self, request: AnnotationRequest) -> Usage:
        """The most that the exchange may be billed for: nothing cached, the reply cut off at its limit, input a quarter higher."""
        likely = self.estimate(request)
        asked = self._prepare(request.definitions)
        return Usage(1, math.ceil(_HIGH * likely.input_tokens), 0, self._most_output(asked, len(request.videos)))

    def shared_tokens(self, definition: AttributeDefinition) -> int:
        """With `each`: tokens of what comes before the video, an estimate; 0 where the server's cache takes no prefix so short."""
        tokens = self._prepare((definition,)).shared_tokens
        return tokens if tokens >= self._cached_from else 0

    # What is asked

    def _prepare(self, definitions: tuple[AttributeDefinition, ...]) -> _Prepared:
        # By identity first: hashing ten definitions costs more than everything else about a request.
        key = tuple(map(id, definitions))
        found = self._prepared.get(key)
        if found is not None:
            return found[1]
        ordered = _by_name(definitions)
        hashes = tuple(definition.definition_hash for definition in ordered)
        prepared = self._by_hash.get(hashes)
        if prepared is None:
            if len(self._by_hash) >= _PREPARED:
                self._by_hash.clear()
            prepared = self._by_hash[hashes] = self._each(ordered) if self.settings.ask == "each" else self._together(ordered)
        if len(self._prepared) >= _PREPARED:
            self._prepared.clear()
        self._prepared[key] = (definitions, prepared)  # holds the definitions, so that their ids stay theirs
        return prepared

    def _view(self, definitions: Sequence[AttributeDefinition]) -> View:
        union = {place for definition in definitions for place in definition.evidence}
        return View(tuple(place for place in self._evidence if place in union), self.settings.frames, self.model.clips)

    def _moments(self, view: View) -> bool:
        """Nobody can name seconds who has seen nothing with a time."""
        return self.settings.moments and view.pictures

    def _together(self, definitions: tuple[AttributeDefinition, ...]) -> _Prepared:
        view = self._view(definitions)
        lines = [self._example_lines(definition) for definition in definitions]
        system = prompt_words.together_system(definitions, view, lines, False, self.settings.rationale, self._moments(view))
        schema = prompt_words.together_schema(definitions, ("v1",), self.settings.rationale, self._moments(view))
        # Hosted models read the schema as a part of the prompt; local servers turn it into a grammar.
        read = self.model.structured and self.family != "plain"
        tokens = _TURN_TOKENS + text_tokens(system) + (text_tokens(json.dumps(schema)) if read else 0)
        return _Prepared(definitions, view, view, system, "", (), tokens, _CLOSING_TOKENS)

    def _each(self, definitions: tuple[AttributeDefinition, ...]) -> _Prepared:
        if len(definitions) != 1:
            raise ValueError(f"with ask each a request holds one question, not {len(definitions)}")
        definition = definitions[0]
        # All attributes of a run are shown the same video, or its tokens could not be shared.
        view = self._view(self._definitions or definitions)
        shown = self._definitions or definitions
        system = prompt_words.each_system([(each, self._example_lines(each)) for each in shown])
        question = prompt_words.each_question(definition, view)
        choices = prompt_words.choices(definition)
        tokens = _TURN_TOKENS + text_tokens(system)
        judged_by = replace(view, evidence=prompt_words.admitted(definition, view))
        return _Prepared(definitions, view, judged_by, system, question, choices, tokens, text_tokens(question))

    def _packed_system(self, asked: _Prepared) -> str:
        if not asked.packed_system:
            lines = [self._example_lines(definition) for definition in asked.definitions]
            rationale, moments = self.settings.rationale, self._moments(asked.view)
            asked.packed_system = prompt_words.together_system(asked.definitions, asked.view, lines, True, rationale, moments)
        return asked.packed_system

    def _schema(self, asked: _Prepared, names: tuple[str, ...]) -> Mapping[str, Any]:
        schema = asked.schemas.get(len(names))
        if schema is None:
            rationale, moments = self.settings.rationale, self._moments(asked.view)
            schema = asked.schemas[len(names)] = prompt_words.together_schema(asked.definitions, names, rationale, moments)
        return schema

    def _chosen(self, definition: AttributeDefinition) -> tuple[Rated, ...]:
        evidence = prompt_words.admitted(definition, self._view([definition]))
        return prompt_examples.chosen(definition, self._examples, evidence, self.settings.examples)

    def _example_lines(self, definition: AttributeDefinition) -> tuple[str, ...]:
        evidence = prompt_words.admitted(definition, self._view([definition]))
        lines = []
        for example in self._chosen(definition):
            value = str(example.annotation.value)
            said = prompt_words.choice_said(definition, value) if self.settings.ask == "each" else plain(value)
            lines.append(prompt_examples.line(example, evidence, said))
        return tuple(lines)

    # What comes back

    def _repair(self, request: AnnotationRequest, asked: _Prepared, names: Sequence[str], schema: bool) -> tuple[Turn, Turn]:
        assert request.repair is not None
        reply = plain(bound(request.repair.reply, _REPLY_CHARACTERS)) or prompt_words.NO_REPLY
        problem = fenced(request.repair.problem, _PROBLEM_CHARACTERS) or fenced(
            "it was not in the form asked for", _PROBLEM_CHARACTERS
        )
        words = prompt_words.repair_request(problem, schema, names, [written for written, _ in asked.choices])
        return Turn("model", (Text(reply),)), Turn("user", (Text(words),))

    def _chosen_temperature(self) -> float:
        if self.model.temperature >= 0:
            return float(self.model.temperature)
        return _SEVERAL_SAMPLES if self.settings.samples > 1 else 0.0

    def _reasoning_tokens(self) -> tuple[int, int]:
        """Tokens of hidden reasoning, which count against the reply's limit: (the most to allow for, likely)."""
        budget = self.model.thinking_budget
        if budget >= 0:
            return budget, round(_REASONING_SHARE * budget)
        name = self.model.name.lower().rsplit("/", 1)[-1]
        thinks = name.startswith(("gemini-2.5", "gemini-3", "gemini-flash", "gemini-pro", "gpt-5", "o1", "o3", "o4"))
        if thinks and "lite" not in name:
            return _REASONING, _LIKELY_REASONING
        return 0, 0

    def _most_output(self, asked: _Prepared, videos: int) -> int:
        if self.model.max_output_tokens:
            return self.model.max_output_tokens
        most = self._reasoning[0]
        if self.settings.ask == "each":
            return most + _TOKENS_A_CHOICE + max(text_tokens(written) for written, _ in asked.choices)
        question = _TOKENS_A_QUESTION if self.settings.rationale else _TOKENS_A_BARE_QUESTION
        if self._moments(asked.view):
            question += _TOKENS_A_BARE_QUESTION
        return most + videos * (_TOKENS_A_REPLY + question * len(asked.definitions))

    def _likely_output(self, asked: _Prepared, videos: int) -> int:
        likely = self._reasoning[1]
        if self.settings.ask == "each":
            return likely + _LIKELY_CHOICE
        question = _LIKELY_REASONED if self.settings.rationale else _LIKELY_BARE
        if self._moments(asked.view):
            question += _LIKELY_MOMENTS
        return likely + videos * (_LIKELY_REPLY + question * len(asked.definitions))


def _by_name(definitions: Sequence[AttributeDefinition]) -> tuple[AttributeDefinition, ...]:
    return tuple(sorted(definitions, key=lambda definition: definition.name))
