"""Reads definitions of attributes from YAML files, and tells a person everything that is wrong with one, line by line.

The file is read as a tree of nodes, never as Python objects: every problem keeps its line, text stays the text that was
written (YAML 1.1 would turn the label `no` into False), and aliases and tags, which could blow up or construct, are refused.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Sequence
from typing import Any, get_args

import yaml

from features.attributes.definition import AttributeDefinition, Evidence, Example, Stage, ValueType, name_problem
from features.attributes.template import template
from features.errors import InvalidInput

MAX_BYTES = 256 * 1024
"""A definition is a page of text; a file beyond this is something else."""
MAX_DEPTH = 8

__all__ = ["load_definition", "load_definitions", "parse_definition", "template"]

_KEYS = (
    "name",
    "title",
    "question",
    "definition",
    "includes",
    "excludes",
    "examples",
    "value_type",
    "labels",
    "range",
    "evidence",
    "owner",
    "stage",
    "serving_threshold",
)
_REQUIRED = ("name", "title", "question", "definition")
_EXAMPLE_KEYS = ("video", "value", "reason")
_MEANT = {"score_range": "range", "type": "value_type", "threshold": "serving_threshold", "modalities": "evidence"}
_YAML_TRUE, _YAML_FALSE = ("true", "yes", "on"), ("false", "no", "off")


def load_definition(path: str) -> AttributeDefinition:
    """One definition from one YAML file. The keys are those of `AttributeDefinition`, and `range: [1, 5]` for a score.

    Raises:
        InvalidInput: the file cannot be read or holds problems; the message has a line `path:12: ...` for each of them.
    """
    definition, problems = _read(path)
    if definition is None:
        raise InvalidInput("\n".join(problems))
    return definition


def load_definitions(folder: str) -> tuple[AttributeDefinition, ...]:
    """All definitions of a folder (`NAME.yaml`, hidden files left out), sorted by name.

    Raises:
        InvalidInput: no such folder, a problem in any file, two files with one name, or a file that is not called
            after its attribute; all problems of all files are reported together.
    """
    if not os.path.isdir(folder):
        raise InvalidInput(f"{folder}: no such folder of attribute definitions; pass the one that holds NAME.yaml files")
    problems: list[str] = []
    found: dict[str, str] = {}
    definitions: list[AttributeDefinition] = []
    for file in sorted(os.listdir(folder)):
        stem, ending = os.path.splitext(file)
        path = os.path.join(folder, file)
        if file.startswith(".") or ending not in (".yaml", ".yml") or os.path.isdir(path):
            continue
        definition, wrong = _read(path)
        problems += wrong
        if definition is None:
            continue
        if definition.name in found:
            problems.append(
                f"{path}: the attribute {definition.name!r} is defined in {found[definition.name]} already; "
                "give one of them another name, or remove one"
            )
            continue
        if stem != definition.name:
            name = definition.name
            problems.append(f"{path}: defines {name!r}; rename the file to {name}.yaml, or change its `name`")
        found[definition.name] = path
        definitions.append(definition)
    if problems:
        raise InvalidInput("\n".join(problems))
    return tuple(sorted(definitions, key=lambda definition: definition.name))


def _read(path: str) -> tuple[AttributeDefinition | None, list[str]]:
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        return None, [f"{path}: cannot be read ({error.strerror or error})"]
    if len(content) > MAX_BYTES:
        return None, [f"{path}: larger than {MAX_BYTES // 1024} KB; a definition is a page of text, so this is another file"]
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return None, [f"{path}:{line}: is not UTF-8 text; save it as UTF-8"]
    return parse_definition(text, path)


def parse_definition(text: str, path: str) -> tuple[AttributeDefinition | None, list[str]]:
    """The definition in a YAML text, or None and every problem with it.

    Args:
        text: the content of the file.
        path: what problems call it.
    """
    reader = _Reader(path)
    definition = reader.definition(text)
    return (None, reader.sorted_problems()) if reader.problems else (definition, [])


def _nearest(word: str, known: Sequence[str]) -> str:
    meant = _MEANT.get(word)
    close = [meant] if meant in known else difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _known(known: Sequence[str]) -> str:
    return f"; known are {', '.join(known)}"


class _Reader:
    """Walks the nodes of one file and collects problems instead of stopping at the first."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.problems: list[tuple[int, str]] = []

    def sorted_problems(self) -> list[str]:
        return [f"{self.path}:{line}: {problem}" for line, problem in sorted(self.problems, key=lambda item: item[0])]

    def complain(self, at: yaml.Node | int, problem: str) -> None:
        self.problems.append((at if isinstance(at, int) else at.start_mark.line + 1, problem))

    def compose(self, text: str) -> yaml.Node | None:
        """The root node, once the events have shown that nothing in it is nested deeply, aliased or tagged."""
        depth = 0
        try:
            for event in yaml.parse(text, Loader=yaml.SafeLoader):
                line = event.start_mark.line + 1  # type: ignore[union-attr]
                if isinstance(event, yaml.AliasEvent):
                    self.complain(line, f"alias '*{event.anchor}' is refused; write the text out")
                    return None
                tag = getattr(event, "tag", None)
                if tag not in (None, "!"):
                    self.complain(line, f"tag {tag!r} is refused; write plain text, lists and keys")
                    return None
                depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
                if depth > MAX_DEPTH:
                    self.complain(line, "nested too deeply; a definition needs three levels")
                    return None
            root: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
            return root
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self.complain(mark.line + 1 if mark else 1, f"is not YAML: {error.problem or error.context}")
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            self.complain(line, f"holds the character U+{ord(text[error.position]):04X}, which YAML does not allow; remove it")
        return None

    def fields(self, node: yaml.MappingNode, known: Sequence[str], inside: str = "") -> dict[str, yaml.Node]:
        """The values of a mapping by key; unknown and repeated keys are complained about."""
        found: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else ""
            if name not in known:
                self.complain(key, f"{inside}unknown key {name!r}{_nearest(name, known) or _known(known)}")
            elif name in found:
                first = found[name].start_mark.line + 1
                self.complain(key, f"{inside}key {name!r} is given twice, first in line {first}; keep one")
            else:
                found[name] = value
        return found

    def text(self, node: yaml.Node, what: str) -> str:
        """Text on one line, whatever type YAML would give it; wrapping a paragraph anew does not change it."""
        if not isinstance(node, yaml.ScalarNode):
            self.complain(node, f"{what}: {_kind(node)}, where text is expected")
            return "?"
        value = " ".join(node.value.split())
        if value in ("", "~"):
            self.complain(node, f"{what}: is empty; write something, or remove the key")
            return "?"
        return value

    def items(self, node: yaml.Node, what: str) -> list[yaml.Node]:
        if not isinstance(node, yaml.SequenceNode):
            self.complain(node, f"{what}: {_kind(node)}, where a list is expected; write one item a line, each behind '- '")
            return []
        return list(node.value)

    def texts(self, node: yaml.Node | None, what: str) -> tuple[str, ...]:
        if node is None:
            return ()
        found: dict[str, int] = {}
        for item in self.items(node, what):
            text = self.text(item, f"{what}, an item")
            if text in found:
                self.complain(item, f"{what}: {text!r} is given twice, first in line {found[text]}; keep one")
            found.setdefault(text, item.start_mark.line + 1)
        return tuple(found)

    def number(self, node: yaml.Node, what: str) -> float:
        if isinstance(node, yaml.ScalarNode) and node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
            try:
                number = float(node.value)
                if math.isfinite(number):
                    return number
            except ValueError:
                pass  # 1:30 and 0x1F are numbers to YAML 1.1 only
        self.complain(node, f"{what}: {_kind(node)} is not a number such as 1 or 0.5")
        return math.nan

    def choice(self, node: yaml.Node | None, what: str, known: Sequence[str], default: str) -> str:
        if node is None:
            return default
        value = self.text(node, what)
        if value == "?" or value in known:
            return value
        self.complain(node, f"{what}: {value!r} is not one of {', '.join(known)}{_nearest(value, known)}")
        return default

    def definition(self, text: str) -> AttributeDefinition | None:
        root = self.compose(text)
        if self.problems:
            return None
        if not isinstance(root, yaml.MappingNode):
            self.complain(root or 1, "holds no definition; start with `name:`, `title:`, `question:` and `definition:`")
            return None
        nodes = self.fields(root, _KEYS)
        missing = [key for key in _REQUIRED if key not in nodes]
        for key in missing:
            self.complain(root, f"{key}: is missing; add it")
        required = {key: self.text(nodes[key], key) if key in nodes else "?" for key in _REQUIRED}
        if "name" in nodes and (problem := name_problem(required["name"])) and required["name"] != "?":
            self.complain(nodes["name"], f"name: {problem}")
        if not required["question"].endswith("?"):
            self.complain(nodes["question"], f"question: {required['question']!r} does not end in a question mark")
        value_type: Any = self.choice(nodes.get("value_type"), "value_type", get_args(ValueType), "boolean")
        labels = self.labels(nodes.get("labels"), value_type, root)
        score_range = self.score_range(nodes.get("range"), value_type, root)
        evidence: Any = self.evidence(nodes.get("evidence"))
        stage: Any = self.choice(nodes.get("stage"), "stage", get_args(Stage), "draft")
        includes, excludes = self.texts(nodes.get("includes"), "includes"), self.texts(nodes.get("excludes"), "excludes")
        for both in set(includes) & set(excludes):
            self.complain(nodes["excludes"], f"excludes: {both!r} is among the includes too; keep it in one of them")
        return AttributeDefinition(
            **required,
            includes=includes,
            excludes=excludes,
            examples=self.examples(nodes.get("examples"), value_type, labels, score_range),
            value_type=value_type,
            labels=labels,
            score_range=score_range,
            evidence=evidence,
            owner=self.text(nodes["owner"], "owner") if "owner" in nodes else "",
            stage=stage,
            serving_threshold=self.threshold(nodes.get("serving_threshold")),
        )

    def labels(self, node: yaml.Node | None, value_type: str, root: yaml.Node) -> tuple[str, ...]:
        if value_type != "category":
            if node is not None:
                remedy = "remove them, or set `value_type: category`"
                self.complain(node, f"labels: belong to a category, and this is a {value_type}; {remedy}")
            return ()
        if node is None:
            self.complain(root, "labels: are missing; a category needs at least two, such as `labels: [calm, lively]`")
            return ()
        labels = self.texts(node, "labels")
        if len(labels) < 2:
            self.complain(node, f"labels: {len(labels)} given, and a category needs at least two different ones")
        for label in labels:
            if "," in label:
                self.complain(node, f"labels: {label!r} holds a comma; write it without")
        return labels

    def score_range(self, node: yaml.Node | None, value_type: str, root: yaml.Node) -> tuple[float, float] | None:
        if value_type != "score":
            if node is not None:
                remedy = "remove it, or set `value_type: score`"
                self.complain(node, f"range: belongs to a score, and this is a {value_type}; {remedy}")
            return None
        if node is None:
            self.complain(root, "range: is missing; a score needs its lowest and highest value, such as `range: [1, 5]`")
            return None
        items = self.items(node, "range")
        if len(items) != 2:
            if isinstance(node, yaml.SequenceNode):
                self.complain(node, f"range: {len(items)} numbers, where the lowest and the highest are expected, as in [1, 5]")
            return None
        low, high = (self.number(item, "range") for item in items)
        if low >= high:
            self.complain(node, f"range: the lowest value {low:g} is not below the highest {high:g}")
        return low, high

    def evidence(self, node: yaml.Node | None) -> tuple[str, ...]:
        if node is None:
            return AttributeDefinition.evidence
        known: tuple[str, ...] = get_args(Evidence)
        chosen = self.texts(node, "evidence")
        if isinstance(node, yaml.SequenceNode):
            if not chosen:
                self.complain(node, f"evidence: is empty; choose from {', '.join(known)}")
            for item in node.value:
                if isinstance(item, yaml.ScalarNode):
                    self.choice(item, "evidence", known, "")
        return chosen

    def threshold(self, node: yaml.Node | None) -> float:
        if node is None:
            return 0.5
        number = self.number(node, "serving_threshold")
        if not math.isnan(number) and not 0 <= number <= 1:
            self.complain(node, f"serving_threshold: {number:g} is not a probability from 0 to 1")
        return number

    def examples(
        self, node: yaml.Node | None, value_type: str, labels: tuple[str, ...], score_range: tuple[float, float] | None
    ) -> tuple[Example, ...]:
        found = []
        for number, item in enumerate(self.items(node, "examples") if node is not None else (), start=1):
            where = f"examples, number {number}: "
            if not isinstance(item, yaml.MappingNode):
                self.complain(item, f"{where}{_kind(item)}, where `video:`, `value:` and `reason:` are expected")
                continue
            nodes = self.fields(item, _EXAMPLE_KEYS, where)
            texts = {}
            for key in _EXAMPLE_KEYS:
                if key in nodes:
                    texts[key] = self.text(nodes[key], where + key)
                else:
                    self.complain(item, f"{where}{key} is missing; add it")
            if len(texts) == 3:
                texts["value"] = self.value(nodes["value"], texts["value"], where, value_type, labels, score_range)
                found.append(Example(**texts))
        return tuple(found)

    def value(
        self,
        node: yaml.Node,
        text: str,
        where: str,
        value_type: str,
        labels: tuple[str, ...],
        score_range: tuple[float, float] | None,
    ) -> str:
        """An example's answer as annotators must spell it."""
        if text == "?":
            return text
        if value_type == "boolean":
            if text.lower() in _YAML_TRUE:
                return "true"
            if text.lower() in _YAML_FALSE:
                return "false"
            self.complain(node, f"{where}value {text!r} is neither true nor false")
        elif value_type == "category":
            if text not in labels and len(labels) >= 2:
                self.complain(node, f"{where}value {text!r} is none of {', '.join(labels)}{_nearest(text, labels)}")
        elif score_range is not None:
            number = self.number(node, f"{where}value")
            if number < score_range[0] or number > score_range[1]:
                self.complain(node, f"{where}value {text} is not within {score_range[0]:g} to {score_range[1]:g}")
        return text


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return repr(node.value)
    return "a list" if isinstance(node, yaml.SequenceNode) else "a group of keys"
