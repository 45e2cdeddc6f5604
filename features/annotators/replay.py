"""Answers from a recording, for tests and `--dry-run`: the whole system without a model."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from features import storage
from features.annotators.protocol import AnnotationReply, AnnotationRequest, AnnotatorIdentity, Answer, Refusal
from features.errors import InvalidInput
from features.records import Source, digest

_COST_FIELDS = {"input_tokens": int, "cached_input_tokens": int, "output_tokens": int, "cost_usd": float}
_FIELDS = {"video_id", "attribute", "value", "probability", "rationale", *_COST_FIELDS}


@dataclass
class ReplayAnnotator:
    """Replies with what a JSONL file says, an answer a line: `{"video_id", "attribute", "value", "probability", "rationale"}`.

    Probability and rationale may be left out, and token counts and `cost_usd` given. What is not recorded is a Refusal of kind
    `not_recorded`; a recorded value that is not one of the attribute's, one of kind `invalid_value`.

    Attributes:
        path: the recording, local or gs://.
        source: the trust its answers are given.
        model: recorded in annotations; the recording's digest is part of every answer key.
        delay_s: how long each request takes.
        call_log: a file to which each request appends a JSON line, so that other processes can count calls; empty: none.
        clock: seconds since 1970.
        calls: requests so far, in this process.
    """

    path: str
    source: Source = "llm"
    model: str = "replay"
    delay_s: float = 0.0
    call_log: str = ""
    clock: Callable[[], float] = time.time
    calls: int = field(default=0, init=False)
    _recorded: dict[tuple[str, str], Answer] | None = field(default=None, init=False, repr=False)
    _digest: str = field(default="", init=False, repr=False)

    @property
    def identity(self) -> AnnotatorIdentity:
        self.open()
        return AnnotatorIdentity(self.source, self.model, parameters=self._digest)

    def open(self) -> None:
        """Reads the recording once. Raises InvalidInput naming the line and what is wrong with it."""
        if self._recorded is None:
            try:
                content = storage.read_bytes(self.path)
            except OSError as error:
                raise InvalidInput(f"{self.path}: the recording cannot be read ({error.strerror or error})") from error
            self._recorded = read_recording(content, self.path)
            self._digest = digest(content)

    async def annotate(self, request: AnnotationRequest) -> AnnotationReply:
        """See `Annotator`; never raises."""
        self.open()
        assert self._recorded is not None
        self.calls += 1
        if self.call_log:
            self._log(request)
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        video_id = request.video.video_id
        answers, refusals = [], []
        for definition in request.definitions:
            answer = self._recorded.get((video_id, definition.name))
            if answer is None:
                message = f"{self.path} holds no answer to {definition.name!r} of {video_id!r}; record one"
                refusals.append(Refusal(definition.name, "not_recorded", message))
                continue
            try:
                definition.number(answer.value, answer.probability)
            except ValueError as error:
                refusals.append(Refusal(definition.name, "invalid_value", f"{self.path}: {error}"))
                continue
            answers.append(dataclasses.replace(answer, answered_at=self.clock()))
        return AnnotationReply(tuple(answers), tuple(refusals))

    def _log(self, request: AnnotationRequest) -> None:
        names = [definition.name for definition in request.definitions]
        line = json.dumps({"video_id": request.video.video_id, "attributes": names, "process": os.getpid()}) + "\n"
        # One write on a descriptor opened for appending: lines of concurrent processes do not mix.
        descriptor = os.open(self.call_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    async def close(self) -> None:
        """Nothing is held open."""


def read_recording(content: bytes, path: str) -> dict[tuple[str, str], Answer]:
    """The answers in a recording by video and attribute. Raises InvalidInput `path:line: ...` for what is not an answer."""
    found: dict[tuple[str, str], Answer] = {}
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode())
            if not isinstance(row, dict):
                raise ValueError("not a JSON object")
            key, answer = _answer(row)
        except (ValueError, RecursionError) as error:
            raise InvalidInput(f"{path}:{number}: {error}") from error
        if key in found:
            raise InvalidInput(f"{path}:{number}: {key[1]!r} of {key[0]!r} is recorded already; keep one of the lines")
        found[key] = answer
    return found


def _answer(row: dict[str, object]) -> tuple[tuple[str, str], Answer]:
    unknown = sorted(set(row) - _FIELDS)
    if unknown:
        raise ValueError(f"unknown field {unknown[0]!r}; known are {', '.join(sorted(_FIELDS))}")
    for name in ("video_id", "attribute", "value"):
        if not isinstance(row.get(name), str) or not row[name]:
            raise ValueError(f"{name}: {row.get(name)!r} is not a text; write it as in {{{name!r}: 'true'}}")
    probability = row.get("probability")
    if probability is not None and (isinstance(probability, bool) or not isinstance(probability, int | float)):
        raise ValueError(f"probability: {probability!r} is not a number or null")
    if probability is not None and not 0 <= probability <= 1:
        raise ValueError(f"probability: {probability!r} is not within 0 to 1")
    costs: dict[str, Any] = {}
    for name, kind in _COST_FIELDS.items():
        cost: Any = row.get(name, 0)
        if isinstance(cost, bool) or type(cost) not in (int, kind) or not 0.0 <= cost < float("inf"):
            raise ValueError(f"{name}: {cost!r} is not a number from 0 up")
        costs[name] = cost
    return (str(row["video_id"]), str(row["attribute"])), Answer(
        attribute=str(row["attribute"]),
        value=str(row["value"]),
        probability=None if probability is None else float(probability),
        rationale=str(row.get("rationale", "")),
        **costs,
    )
