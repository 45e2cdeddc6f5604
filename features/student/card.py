"""What is written beside a student's SavedModel (`student.json`), and what makes two students the same one.

No TensorFlow in here.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from features import storage
from features.attributes.definition import AttributeDefinition
from features.errors import InvalidInput
from features.records import digest
from features.student.inputs import InputSpec, Mask
from features.student.labels import Head, Label
from features.workspace import Workspace

CODE_VERSION = "1"
"""Raised whenever equal training data would give another student: inputs, graph, network or training changed."""
CARD = "student.json"
FOLDER = "students"


@dataclass(frozen=True)
class StudentCard:
    """A student's metadata.

    Attributes:
        student_id: digest of all that decided it; also inside the SavedModel.
        code_version: CODE_VERSION that made it.
        heads: attributes in the order of the network's numbers.
        spec: embeddings' dimensions.
        metrics: agreement with the teacher, as `training.train` reports it.
        notes: sentences for a person.
        files: SHA-256 (32 hex digits) of each file of the SavedModel, by name relative to the folder.
    """

    student_id: str
    code_version: str
    heads: tuple[Head, ...]
    spec: InputSpec
    metrics: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)

    @property
    def annotator(self) -> str:
        """Its name in annotations."""
        return f"student-{self.student_id}"

    def head(self, attribute: str) -> Head:
        """One head. Raises KeyError."""
        return {head.attribute: head for head in self.heads}[attribute]

    def to_json(self) -> str:
        document = dataclasses.asdict(self)
        document["spec"] = self.spec.as_dict()
        return json.dumps(document, indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> StudentCard:
        """The inverse of `to_json`. Raises ValueError, TypeError or KeyError on anything else."""
        document: Mapping[str, Any] = json.loads(text)
        return cls(
            **{
                **document,
                "heads": tuple(Head.from_dict(head) for head in document["heads"]),
                "spec": InputSpec.from_dict(document["spec"]),
                "notes": tuple(document["notes"]),
            }
        )


def read_card(folder: str) -> StudentCard:
    """Reads `student.json` of a student's folder, local or gs://. Raises InvalidInput, naming the remedy."""
    name = storage.join(folder, CARD)
    try:
        return StudentCard.from_json(storage.read_bytes(name))
    except FileNotFoundError as error:
        raise InvalidInput(
            f"{folder}: no student here ({CARD} is missing); run `vidattr distill`, or name another --student"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidInput(f"{name}: not a student's card ({error}); run `vidattr distill` again") from error


def intact_card(folder: str) -> StudentCard | None:
    """The card of a student whose files are all there as it says, and which its folder is named after; else None."""
    if not storage.exists(storage.join(folder, CARD)):
        return None
    try:
        card = read_card(folder)
        whole = all(digest(storage.read_bytes(storage.join(folder, name))) == known for name, known in card.files.items())
    except (InvalidInput, FileNotFoundError):
        return None
    return card if whole and card.files and card.student_id == folder.rstrip("/").rpartition("/")[2] else None


def student_folder(workspace: Workspace, student_id: str) -> str:
    """Where a student of this workspace lies."""
    return workspace.path(FOLDER, student_id)


def latest_student(workspace: Workspace) -> str:
    """The folder of the student that the newest distill run made or confirmed. Raises InvalidInput when there is none."""
    for record in reversed(workspace.runs("distill")):
        if record.details.get("student_id"):
            return student_folder(workspace, str(record.details["student_id"]))
    raise InvalidInput(f"{workspace.root}: no student yet; run `vidattr distill` first, or name one with --student")


def compute_student_id(
    definitions: Sequence[AttributeDefinition],
    labels: Iterable[Label],
    content_keys: Mapping[str, str],
    inputs: pa.RecordBatch,
    options: Mapping[str, Any],
) -> str:
    """Digest of all that decides a student: equal ids mean that distilling again would give the same one.

    Args:
        definitions: what is asked; only what an annotator sees counts, and what stored numbers mean.
        labels: in any order.
        content_keys: by video id.
        inputs: prepared rows (`inputs.Prepared.batch`), in the order of their sorted video ids.
        options: of training; JSON values.
    """
    rows = sorted(
        json.dumps(
            [label.video_id, label.attribute, label.answer_key, content_keys[label.video_id], label.value, label.probability]
        )
        for label in labels
        if label.video_id in content_keys
    )
    known = sorted(f"{definition.name}:{definition.definition_hash}:{definition.value_signature}" for definition in definitions)
    return digest(
        CODE_VERSION, json.dumps(known), json.dumps(rows), inputs_digest(inputs), json.dumps(dict(options), sort_keys=True)
    )


def inputs_digest(batch: pa.RecordBatch) -> str:
    """Digest of prepared rows: names, lengths of lists, and values."""
    parts: list[bytes] = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        values = column.flatten()
        parts += [name.encode(), np.diff(column.offsets.to_numpy()).tobytes()]
        if pa.types.is_floating(values.type):
            parts.append(np.ascontiguousarray(values.to_numpy(zero_copy_only=False)).tobytes())
        else:
            parts += [value.as_py() for value in values]
    return digest(*parts)


def labelled_rows(labels: Iterable[Label], video_ids: Sequence[str]) -> Mask:
    """Which of the videos have at least one label."""
    known = {label.video_id for label in labels}
    return np.fromiter((video_id in known for video_id in video_ids), np.bool_, len(video_ids))
