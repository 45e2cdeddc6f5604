"""What goes wrong in a reply: how it ends, and what it says."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

from features.annotators.model_server.asked import Asked
from features.annotators.model_server.configuration import ENDINGS, WRITING, Rule
from features.annotators.model_server.encoding import compact, loose
from features.annotators.model_server.questions import Judged, Path, Verdict
from features.annotators.model_server.said import Written

_AGAIN = "__once_more__"
_BLOCKED = "The response was blocked by the safety system."
_DECLINED = "I'm sorry, but I can't help with that."


def tampered(judged: Judged, asked: Asked, rule: Rule) -> Judged:
    """A reply as a `WRITING` rule leaves it; the one given stays as it is."""
    if rule.do not in WRITING:
        return judged
    if rule.do == "text":
        return Judged(rule.text, None, judged.verdicts)
    if rule.do == "not_json":
        return Judged(judged.text[: int(rule.part * len(judged.text))] or "{", None, judged.verdicts)
    if rule.do == "prose":
        text = f"Sure, here is what I found:\n\n```json\n{judged.text}\n```\n\nLet me know if you need anything else!"
        return Judged(text, None, judged.verdicts)
    if judged.document is None:
        return Judged("Perhaps" if rule.do != "value" else str(rule.value), None, judged.verdicts)
    document = copy.deepcopy(judged.document)
    targets = [verdict for verdict in judged.verdicts if _meant(verdict, rule)] or judged.verdicts
    _EDITS[rule.do](document, targets, rule)
    text = loose(document)
    for verdict in targets:
        name = _answer_path(verdict)[-1]
        text = text.replace(f'"{name}{_AGAIN}"', compact(name))
    return Judged(text, document, judged.verdicts)


def ended(written: Written, asked: Asked, rule: Rule) -> Written:
    """A reply as an `ENDINGS` rule leaves it."""
    if rule.do not in ENDINGS:
        return written
    if rule.do == "truncated":
        written.text, written.finish = written.text[: int(rule.part * len(written.text))], "length"
    elif rule.do == "closed_but_length":
        written.finish = "length"
    elif rule.do == "whitespace":
        most = min(asked.max_output_tokens, 20_000)
        written.text = written.text[: min(12, len(written.text) // 2)] + "\n " * most
        written.finish, written.output_tokens = "length", asked.max_output_tokens
        return written
    elif rule.do == "refusal":
        written.text, written.finish, written.detail = "", "refused", rule.text or _DECLINED
    elif rule.do == "safety":
        written.text, written.finish, written.detail = "", "blocked", rule.text or _BLOCKED
    elif rule.do == "prompt_blocked":
        written.text, written.finish = "", "prompt_blocked" if asked.protocol == "gemini" else "blocked"
    elif rule.do == "empty":
        written.text, written.finish, written.detail = "", "empty", "no choice"
    elif rule.do == "recitation":
        written.text, written.finish = "", "recitation"
    written.output_tokens = math.ceil(len(written.text) / 4)
    return written


def _meant(verdict: Verdict, rule: Rule) -> bool:
    question = verdict.question
    return rule.attribute in ("", question.attribute) and rule.contains in question.shown.text


def _at(document: Any, path: Path) -> Any:
    for step in path:
        document = document[step]
    return document


def _answer_path(verdict: Verdict) -> Path:
    """Where the attribute stands: above the field that holds the value, unless the attribute holds the value itself."""
    return verdict.path if verdict.path[-1] == verdict.question.attribute else verdict.path[:-1]


def _set(value: Callable[[Verdict, Rule], Any]) -> Callable[[Any, list[Verdict], Rule], None]:
    def edit(document: Any, targets: list[Verdict], rule: Rule) -> None:
        for verdict in targets:
            _at(document, verdict.path[:-1])[verdict.path[-1]] = value(verdict, rule)

    return edit


def _items(document: Any) -> list[Any]:
    """The videos of a packed reply; one alone where it is not packed."""
    if isinstance(document, dict):
        for value in document.values():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                return value
    return [document]


def _id_of(item: dict[str, Any]) -> str:
    return next((key for key in ("id", "video_id", "video") if key in item), "id")


def _drop(document: Any, targets: list[Verdict], rule: Rule) -> None:
    items, meant = _items(document), {verdict.question.video for verdict in targets}
    if items[0] is document:
        document.pop(_id_of(document), None)
        return
    if not rule.contains:
        meant = {items[-1][_id_of(items[-1])]}
    items[:] = [item for item in items if item[_id_of(item)] not in meant]


def _swap(document: Any, targets: list[Verdict], rule: Rule) -> None:
    _items(document).reverse()


def _duplicate(document: Any, targets: list[Verdict], rule: Rule) -> None:
    items = _items(document)
    items[-1][_id_of(items[-1])] = items[0][_id_of(items[0])]


def _invent(document: Any, targets: list[Verdict], rule: Rule) -> None:
    items, meant = _items(document), {verdict.question.video for verdict in targets}
    for item in items if rule.contains else items[-1:]:
        if item.get(_id_of(item)) in meant:
            item[_id_of(item)] = "v99"


def _twice(document: Any, targets: list[Verdict], rule: Rule) -> None:
    for verdict in targets[:1]:
        path = _answer_path(verdict)
        parent = _at(document, path[:-1])
        again = copy.deepcopy(parent[path[-1]])
        if isinstance(again, dict):
            again[verdict.path[-1]] = _other(verdict, _at(document, verdict.path))
        else:
            again = _other(verdict, again)
        parent[f"{path[-1]}{_AGAIN}"] = again


def _other(verdict: Verdict, value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    question = verdict.question
    if question.labels:
        return next((label for label in question.labels if label != value), value)
    return question.lowest if value != question.lowest else question.highest


def _more(document: Any, targets: list[Verdict], rule: Rule) -> None:
    path = _answer_path(targets[0])
    parent = _at(document, path[:-1])
    parent["sponsored"] = copy.deepcopy(parent[path[-1]])


def _less(document: Any, targets: list[Verdict], rule: Rule) -> None:
    for verdict in targets if rule.attribute or rule.contains else targets[-1:]:
        path = _answer_path(verdict)
        _at(document, path[:-1]).pop(path[-1], None)


def _moments(document: Any, targets: list[Verdict], rule: Rule) -> None:
    for verdict in targets:
        answer = _at(document, _answer_path(verdict))
        if isinstance(answer, dict):
            answer["moments"] = [{"start_s": -5.0, "end_s": 1e6}, {"start_s": 2.0, "end_s": 1.0}]


_EDITS: dict[str, Callable[[Any, list[Verdict], Rule], None]] = {
    "drop_id": _drop,
    "swap_order": _swap,
    "duplicate_id": _duplicate,
    "invent_id": _invent,
    "unknown_label": _set(lambda verdict, rule: "purple"),
    "wrong_type": _set(lambda verdict, rule: [1]),
    "out_of_range": _set(lambda verdict, rule: 10**9),
    "nan": _set(lambda verdict, rule: math.nan),
    "value": _set(lambda verdict, rule: rule.value),
    "duplicate_key": _twice,
    "extra_attribute": _more,
    "missing_attribute": _less,
    "bad_moments": _moments,
}
