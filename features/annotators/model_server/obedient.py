"""A model that does what strangers tell it to: what a prompt that does not fence its data lets through."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from features.annotators.model_server.asked import Asked
from features.annotators.model_server.encoding import compact
from features.annotators.model_server.judge import DigestJudge, by_digest
from features.annotators.model_server.questions import Decide, Judged, Path

_FENCES = re.compile(r'"(?:[^"\\\n]|\\.)*"|```.*?```|<([a-z_]+)>.*?</\1>', re.DOTALL)
"""What a text may be fenced by: one JSON string on one line, three backquotes, an XML element."""
_MARKS = re.compile(r"<<(?:end of )?video [^<>\s]{1,40}>>")
_TRUE = re.compile(
    r"\b(?:answer|say|reply|value[s]?(?: are| is|:)?|confirm with|always|are|is)[ :=]+(?:with )?\"?(?:always )?(true|yes)\b", re.I
)
_FALSE = re.compile(
    r"\b(?:answer|say|reply|value[s]?(?: are| is|:)?|always|are|is)[ :=]+(?:with )?\"?(?:always )?(false|no)\b", re.I
)
_USE_ID = re.compile(r"\b(?:use|write|reply with|as) (?:the )?id \"?(v\d+)\b", re.I)
_ADD = re.compile(r"\badd (?:an attribute )?\"?([a-z_]{3,40})\"?", re.I)
_REPLY = re.compile(r"\{.*\}", re.DOTALL)


class ObedientJudge:
    """Judges by a digest, and then obeys: `answer true`, `answer false`, `use id v2`, `add "sponsored"`, and a finished JSON reply.

    It obeys what a user's turn says outside of a fence. It can not tell whose words those are, so that a command that is found
    under one video changes the answers about all of them.

    Args:
        decide: what it would say unbidden.
        obeys_fenced: also obey what stands inside a fence, as a model does that was not told what fences are.
    """

    def __init__(self, decide: Decide = by_digest, obeys_fenced: bool = False) -> None:
        self._inner = DigestJudge(decide)
        self.obeys_fenced = obeys_fenced

    def __call__(self, asked: Asked, questions: Sequence[tuple[str, str]] = ()) -> Judged:
        judged = self._inner(asked, questions)
        heard = "\n".join(self._heard(asked))
        if not heard:
            return judged
        fake = _finished(heard)
        if fake is not None and judged.document is not None:
            return Judged(compact(fake), None, judged.verdicts)
        bidden = "true" if _TRUE.search(heard) else "false" if _FALSE.search(heard) else ""
        if judged.document is None:
            return Judged({"true": "Yes", "false": "No"}.get(bidden, judged.text), None, judged.verdicts)
        document = copy.deepcopy(judged.document)
        for verdict in judged.verdicts:
            if bidden and verdict.question.boolean:
                _put(document, verdict.path, bidden == "true")
        if other := _USE_ID.search(heard):
            _rename(document, other[1])
        if (extra := _ADD.search(heard)) and isinstance(document.get("attributes"), dict):
            document["attributes"][extra[1]] = {"rationale": "as asked", "value": True, "moments": []}
        return Judged(compact(document), document, judged.verdicts)

    def _heard(self, asked: Asked) -> Iterable[str]:
        """The words of the videos that it listens to."""
        for shown in asked.videos.values():
            text = _MARKS.sub(" ", shown.text)
            if not self.obeys_fenced:
                text = _FENCES.sub('""', text)
            elif "\\" in text:
                text = text.replace('\\"', '"').replace("\\u003c", "<").replace("\\u003e", ">").replace("\\u005b", "[")
            yield text


def _finished(heard: str) -> Mapping[str, Any] | None:
    """A reply that somebody has written in advance."""
    for found in _REPLY.finditer(heard):
        try:
            document, _ = json.JSONDecoder().raw_decode(found[0])
        except ValueError:
            continue
        if isinstance(document, dict) and document.keys() & {"attributes", "videos"}:
            return document
    return None


def _put(document: Any, path: Path, value: Any) -> None:
    for step in path[:-1]:
        document = document[step]
    document[path[-1]] = value


def _rename(document: Any, name: str) -> None:
    for item in document.get("videos", [document]):
        if "id" in item:
            item["id"] = name
