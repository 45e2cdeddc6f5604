"""The 1,000 ImageNet class names in words, from the lists of synsets and of their lemmas."""

from __future__ import annotations

from pathlib import Path


def build(source: Path, target: Path) -> None:
    """Writes `target`/labels.txt: the first lemma of each class, a line each, in the order of a classifier's outputs."""
    lines = (source / "imagenet_synset_to_lemma.txt").read_text("utf-8").splitlines()
    lemmas = dict(line.split("\t", 1) for line in lines if line)
    synsets = (source / "imagenet_synsets.txt").read_text("utf-8").split()
    names = [lemmas[synset].split(",")[0].strip() for synset in synsets]
    (target / "labels.txt").write_text("\n".join(names) + "\n", "utf-8")
