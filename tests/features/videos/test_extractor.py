"""From a manifest to features: what is filled from where, and what becomes a failure."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import av
import cv2
import numpy as np
import pytest

from features.errors import Permanent, Transient
from features.records import Segment, Tag, Video, VideoFeatures, from_table, to_table
from features.videos.extractor import Extractor
from features.videos.fetching import Fetched, content_hash, hash_file
from features.videos.frames import Still
from features.videos.manifest import load_manifest
from features.videos.probe import Limits
from features.videos.speech import Speech
from features.videos.wording import tags_of, text_pieces, video_text

NOW = datetime(2026, 5, 1, tzinfo=UTC)


class CountingTranscriber:
    """Says how much it heard."""

    version = "count-1"

    def transcribe(self, pcm: np.ndarray, language: str) -> Speech:
        assert pcm.dtype == np.float32 and pcm.ndim == 1
        if np.abs(pcm).max() <= 0.01:
            return Speech()
        said = f"{len(pcm) / 16000:.0f} seconds", f"of {language or 'something'}"
        return Speech((Segment(0.25, 1.0, said[0]), Segment(1.0, 1.5, said[1])), language or "en")


class ColourReader:
    """Reads the names of colours."""

    version = "colours-1"

    def read(self, stills: Sequence[Still]) -> str:
        names = [("RED", "GREEN", "BLUE")[int(still.image.mean(axis=(0, 1)).argmax())] for still in stills]
        return "\n".join(dict.fromkeys(names))


class PeakMeter:
    """Takes ten times the highest sample for a tempo."""

    version = "peak-1"

    def beats_a_minute(self, pcm: np.ndarray) -> float | None:
        return 10 * float(np.abs(pcm).max())


class HashEncoder:
    """A direction for each text."""

    version = "hash-1"

    def __init__(self) -> None:
        self.seen: list[str] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.seen += texts
        rows = np.stack([np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], np.uint8) for text in texts]).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class ColourEncoder:
    """Mean colour as embedding and as three classes."""

    version = "colour-1"
    labels = ("red", "green", "blue")

    def __init__(self) -> None:
        self.batches: list[int] = []

    def encode(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        self.batches.append(len(images))
        means = np.stack([image.reshape(-1, 3).mean(axis=0) / 255 for image in images]).astype(np.float32)
        return means, means


@pytest.fixture(scope="module")
def extractor() -> Iterator[Extractor]:
    senses = {"screen_reader": ColourReader(), "tempo_meter": PeakMeter()}
    with Extractor(CountingTranscriber(), HashEncoder(), ColourEncoder(), **senses) as opened:
        yield opened


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two seconds of red, then blue, with a tone."""
    path = tmp_path_factory.mktemp("clip") / "red-blue.mp4"
    with av.open(str(path), "w") as out:
        picture = out.add_stream("mpeg4", rate=10, options={"qscale": "2"})
        picture.width, picture.height = 64, 48
        sound = out.add_stream("aac", rate=16000, layout="mono")
        for at in range(20):
            image = np.zeros((48, 64, 3), np.uint8)
            image[..., 0 if at < 10 else 2] = 255
            out.mux(picture.encode(av.VideoFrame.from_ndarray(image)))
        out.mux(picture.encode())
        for at in range(31):
            tone = 0.3 * np.sin(2 * np.pi * 440 * (np.arange(1024) + 1024 * at) / 16000)
            frame = av.AudioFrame.from_ndarray(tone.astype(np.float32)[None], "fltp", "mono")
            frame.sample_rate, frame.pts = 16000, 1024 * at
            out.mux(sound.encode(frame))
        out.mux(sound.encode())
    return str(path)


def extract(extractor: Extractor, video: Video) -> VideoFeatures:
    with extractor.fetch(video) as fetched:
        return extractor.extract(video, fetched, "run-1", NOW)


def failure(extractor: Extractor, uri: str) -> str:
    with pytest.raises(Permanent) as caught:
        extract(extractor, Video("x", uri))
    return caught.value.kind


def test_everything_is_filled(extractor: Extractor, clip: str) -> None:
    video = Video("a", clip, "Title", "Words", ("one", "two"), "me", NOW, "en", extra='{"x": 1}')
    row = extract(extractor, video)
    with open(clip, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    assert row.content_hash == digest == content_hash(clip)
    assert row.content_key == video.content_key(digest) and row.extractor_version == extractor.extractor_version
    assert (row.title, row.description, row.hashtags, row.creator_id, row.published_at) == (
        "Title",
        "Words",
        ("one", "two"),
        "me",
        NOW,
    )
    assert (row.language, row.extra, row.uri, row.run_id, row.extracted_at) == ("en", '{"x": 1}', clip, "run-1", NOW)
    assert (row.width, row.height, row.fps, row.has_audio, row.video_codec) == (64, 48, 10.0, True, "mpeg4")
    assert (
        len(row.frames) == 8
        and len(row.fingerprints) == len(row.fingerprint_times_s)
        and len(row.visual_stats) == 8
        and len(row.sound_stats) == 7
    )
    for frame in row.frames:
        image = cv2.imdecode(np.frombuffer(frame.jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert image.shape == (frame.height, frame.width, 3) == (48, 64, 3)
        assert image[..., 2 if frame.timestamp_s < 1 else 0].mean() > 200
    assert (row.transcript, row.transcript_source, row.spoken_language) == ("2 seconds of en", "speech", "en")
    assert row.speech_segments == (Segment(0.25, 1.0, "2 seconds"), Segment(1.0, 1.5, "of en"))
    assert row.onscreen_text == "RED\nBLUE" and row.tempo_bpm == pytest.approx(3, abs=0.5)
    assert np.linalg.norm(row.text_embedding) == pytest.approx(1) and len(row.text_embedding) == 16
    assert row.visual_embedding == pytest.approx((0.5, 0, 0.5), abs=0.05)
    assert {tag.name for tag in row.visual_tags} == {"red", "blue"} and row.visual_tags[0].probability > 0.9
    (back,) = from_table(to_table([row], VideoFeatures), VideoFeatures)
    assert (back.speech_segments, back.onscreen_text) == (row.speech_segments, row.onscreen_text)
    assert back.frames[0].jpeg == row.frames[0].jpeg and back.video_id == "a" and back.fingerprints == row.fingerprints


class ChokingReader(ColourReader):
    """Fails on its second video."""

    def __init__(self, error: Exception) -> None:
        self.calls, self.error = 0, error

    def read(self, stills: Sequence[Still]) -> str:
        self.calls += 1
        if self.calls == 2:
            raise self.error
        return super().read(stills)


def test_a_video_on_which_a_reader_fails_is_a_dead_letter_and_the_others_are_not(clip: str) -> None:
    with Extractor(text_encoder=HashEncoder(), screen_reader=ChokingReader(IndexError("list index out of range"))) as opened:
        videos = [Video(name, clip) for name in "abc"]
        with opened.fetch(videos[0]) as fetched:
            first, second, third = opened.extract_many([(video, fetched) for video in videos], "run-1", NOW)
    assert isinstance(second, Permanent) and second.kind == "sense_error" and "IndexError: list index" in str(second)
    for row, video_id in ((first, "a"), (third, "c")):
        assert (
            isinstance(row, VideoFeatures) and (row.video_id, row.onscreen_text) == (video_id, "RED\nBLUE") and row.text_embedding
        )


def test_a_reader_that_a_machine_lacks_is_no_videos_fault(clip: str) -> None:
    with Extractor(screen_reader=ChokingReader(ImportError("libgomp.so.1"))) as opened:
        with opened.fetch(Video("a", clip)) as fetched, pytest.raises(ImportError):
            opened.extract_many([(Video(name, clip), fetched) for name in "abc"], "run-1", NOW)


def test_each_still_may_have_its_embedding(clip: str) -> None:
    with Extractor(visual_encoder=ColourEncoder(), per_frame=True) as each, Extractor(visual_encoder=ColourEncoder()) as mean:
        rows = [extract(extractor, Video("a", clip)) for extractor in (each, mean)]
        own = extract(each, Video("a", clip, embedding=(1.0,), frame_embeddings=((1.0,), (1.0,))))
    assert len(rows[0].frame_embeddings) == len(rows[0].frames) and rows[1].frame_embeddings == ()
    assert np.mean(rows[0].frame_embeddings, axis=0) == pytest.approx(rows[0].visual_embedding)
    assert rows[0].extractor_version != rows[1].extractor_version
    assert own.frame_embeddings == ((1.0,), (1.0,)), "a manifest's own win"


@pytest.mark.parametrize("transcript", ["given words", ""])
def test_a_manifest_transcript_wins(extractor: Extractor, clip: str, transcript: str) -> None:
    row = extract(extractor, Video("a", clip, transcript=transcript))
    assert (row.transcript, row.transcript_source) == (transcript, "manifest")
    assert (row.speech_segments, row.spoken_language) == ((), "") and row.onscreen_text


def test_a_manifest_embedding_wins(extractor: Extractor, clip: str) -> None:
    row = extract(extractor, Video("a", clip, embedding=(0.25, -1.0)))
    assert row.visual_embedding == (0.25, -1.0) and row.visual_tags


def test_without_encoders_the_parts_stay_empty(clip: str) -> None:
    with Extractor() as bare:
        row = extract(bare, Video("a", clip, "Title"))
        assert (row.transcript, row.transcript_source, row.text_embedding, row.visual_embedding, row.visual_tags) == (
            "",
            "none",
            (),
            (),
            (),
        )
        assert (row.speech_segments, row.spoken_language, row.onscreen_text, row.tempo_bpm) == ((), "", "", None)
        assert len(row.frames) == 8 and row.has_audio


def test_where_the_time_went(clip: str) -> None:
    with Extractor(CountingTranscriber(), screen_reader=ColourReader(), tempo_meter=PeakMeter()) as timed:
        extract(timed, Video("a", clip))
        assert {"fetch", "speech", "read", "tempo", "text", "embed", "frames"} <= timed.busy.take().keys()


def test_a_silent_film_is_read_and_not_listened_to(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "silent.mp4"
    with av.open(str(path), "w") as out:
        picture = out.add_stream("mpeg4", rate=10)
        picture.width = picture.height = 48
        image = np.zeros((48, 48, 3), np.uint8)
        image[..., 1] = 200
        for _ in range(5):
            out.mux(picture.encode(av.VideoFrame.from_ndarray(image)))
        out.mux(picture.encode())

    class Deaf:
        version = "deaf-1"

        def transcribe(self, pcm: np.ndarray, language: str) -> Speech:
            raise AssertionError("there is nothing to hear")

        def beats_a_minute(self, pcm: np.ndarray) -> float | None:
            raise AssertionError("there is nothing to hear")

    with Extractor(Deaf(), screen_reader=ColourReader(), tempo_meter=Deaf()) as reading:
        row = extract(reading, Video("a", str(path)))
    assert (row.transcript_source, row.onscreen_text, row.tempo_bpm) == ("none", "GREEN", None)


def test_the_text_embedding_covers_all_text(clip: str) -> None:
    encoder = HashEncoder()
    with Extractor(None, encoder, screen_reader=ColourReader()) as reading:
        extract(reading, Video("a", clip, "Title", "Words", ("tag",), transcript="Said. " * 500))
        assert encoder.seen[0].startswith("Title Words tag Said.") and encoder.seen[-1].endswith("Said. RED BLUE")
        assert sum(piece.count("Said.") for piece in encoder.seen) == 500
    with Extractor(None, encoder) as reading:
        row = extract(reading, Video("b", clip))
    assert row.text_embedding == ()


def test_text_pieces_are_bounded() -> None:
    assert video_text(Video("a", "u", " T ", "", ("x", "y")), "said") == "T\nx y\nsaid"
    assert video_text(Video("a", "u", "T"), "", "SHOWN") == "T\nSHOWN"
    pieces = text_pieces("word " * 40_000)
    assert len(pieces) == 64 and all(len(piece) <= 500 for piece in pieces)
    assert [len(piece) for piece in text_pieces("字" * 1200)] == [500, 500, 200]
    assert text_pieces(" \n ") == []


def test_tags_are_confident_and_few() -> None:
    labels = [f"label {at}" for at in range(12)]
    probabilities = np.zeros((2, 12), np.float32)
    probabilities[0, :] = np.linspace(0.1, 0.9, 12)
    probabilities[1, 0] = 0.95
    found = tags_of(probabilities, labels)
    assert [tag.name for tag in found] == ["label 0", *(f"label {at}" for at in range(11, 4, -1))]
    assert tags_of(np.full((1, 12), 0.39, np.float32), labels) == ()
    assert tags_of(np.full((1, 2), 0.4, np.float32), labels[:2])[0] == Tag("label 0", pytest.approx(0.4))  # type: ignore[arg-type]


def test_version_changes_with_what_decides_the_result() -> None:
    class Newer(ColourEncoder):
        version = "colour-2"

    versions = [
        Extractor().extractor_version,
        Extractor(visual_encoder=ColourEncoder()).extractor_version,
        Extractor(visual_encoder=Newer()).extractor_version,
        Extractor(text_encoder=HashEncoder()).extractor_version,
        Extractor(screen_reader=ColourReader()).extractor_version,
        Extractor(tempo_meter=PeakMeter()).extractor_version,
    ]
    assert len(set(versions)) == 6
    assert Extractor(limits=Limits(wall_s=5), workers=4).extractor_version == versions[0]


def test_what_cannot_be_fetched(extractor: Extractor, clip: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "text.mp4").write_bytes(b"hello")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "locked.mp4").write_bytes(b"hello")
    os.chmod(tmp_path / "locked.mp4", 0)
    for uri, kind in (
        (str(tmp_path / "none.mp4"), "missing"),
        (str(tmp_path), "is_a_directory"),
        (str(tmp_path / "empty.mp4"), "empty"),
        (str(tmp_path / "text.mp4"), "not_a_video"),
    ):
        assert failure(extractor, uri) == kind
    if os.geteuid() != 0:
        assert failure(extractor, str(tmp_path / "locked.mp4")) == "unreadable"
    with Extractor(limits=Limits(max_bytes=100)) as small:
        assert failure(small, clip) == "file_too_large"


def test_a_file_that_changes_meanwhile_is_asked_again(extractor: Extractor, clip: str) -> None:
    fetched = replace(hash_file(clip), modified_ns=1)
    with pytest.raises(Transient, match="changed while it was read"):
        extractor.extract(Video("a", clip), fetched, "run-1", NOW)


def test_many_at_once_keep_their_order_and_their_failures(clip: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "text.mp4").write_bytes(b"hello")
    encoder = ColourEncoder()
    with Extractor(CountingTranscriber(), HashEncoder(), encoder) as many, contextlib.ExitStack() as stack:
        videos = [Video(f"v{at}", clip if at % 3 else str(tmp_path / "text.mp4"), f"Title {at}") for at in range(15)]
        items: list[tuple[Video, Fetched]] = [(video, stack.enter_context(many.fetch(video))) for video in videos]
        results = many.extract_many(items, "run-1", NOW)
        single = extract(many, videos[1])
        assert many.extract_many([], "run-1", NOW) == []
    for video, result in zip(videos, results, strict=True):
        if video.uri == clip:
            assert isinstance(result, VideoFeatures) and result.video_id == video.video_id and result.title == video.title
        else:
            assert isinstance(result, Permanent) and result.kind == "not_a_video"
    assert results[1] == single
    assert encoder.batches == [64, 16, 8]


def test_objects_are_downloaded_and_removed(extractor: Extractor, clip: str, bucket: str) -> None:
    from features import storage

    with open(clip, "rb") as file:
        storage.write_bytes(f"{bucket}/media/a[1].mp4", file.read())
    storage.write_bytes(f"{bucket}/media/a1.mp4", b"hello")
    storage.write_bytes(f"{bucket}/media/notes.txt", b"hello")
    storage.write_bytes(
        f"{bucket}/media/manifest.jsonl", b'{"video_id": "m", "uri": "./a[1].mp4"}\n{"video_id": "n", "uri": "../x.mp4"}\n'
    )
    listed = load_manifest(f"{bucket}/media")
    assert {video.video_id: video.uri for video in listed.videos} == {
        "a[1]": f"{bucket}/media/a[1].mp4",
        "a1": f"{bucket}/media/a1.mp4",
    }
    assert [video.video_id for video in load_manifest(f"{bucket}/media/a[0-9].mp4").videos] == ["a1"]
    assert [video.video_id for video in load_manifest(f"{bucket}/*/a[[]1].mp4").videos] == ["media/a[1]"]
    manifest = load_manifest(f"{bucket}/media/manifest.jsonl")
    assert [video.uri for video in manifest.videos] == [f"{bucket}/media/a[1].mp4"] and len(manifest.problems) == 1
    with extractor.fetch(manifest.videos[0]) as fetched:
        row = extractor.extract(manifest.videos[0], fetched, "run-1", NOW)
        assert os.path.exists(fetched.path)
    assert not os.path.exists(fetched.path)
    assert row.content_hash == content_hash(clip) and row.uri == f"{bucket}/media/a[1].mp4" and len(row.frames) == 8
    assert failure(extractor, f"{bucket}/media/none.mp4") == "missing"
    assert failure(extractor, f"{bucket}/media/a1.mp4") == "not_a_video"


def check_real_clips(extractor: Extractor, videos: Sequence[Video]) -> dict[str, VideoFeatures]:
    with contextlib.ExitStack() as stack:
        items = [(video, stack.enter_context(extractor.fetch(video))) for video in videos]
        results = extractor.extract_many(items, "run-1", NOW)
    rows = {row.video_id: row for row in results if isinstance(row, VideoFeatures)}
    assert len(rows) == len(videos) == to_table(list(rows.values()), VideoFeatures).num_rows
    for row in rows.values():
        assert len(row.frames) == 8 and row.frames[-1].timestamp_s > 0.8 * row.duration_s - 0.5
        for frame in row.frames:
            assert (frame.height > frame.width) == (row.height > row.width) and max(frame.height, frame.width) <= 512
            assert cv2.imdecode(np.frombuffer(frame.jpeg, np.uint8), cv2.IMREAD_GRAYSCALE).std() > 3
    return rows


def test_real_clips(extractor: Extractor, shared_data: pathlib.Path) -> None:
    """The smaller ones: every container, the upright ones, with sound and without."""
    report = load_manifest(str(shared_data / "clips" / "manifest.jsonl"))
    rows = check_real_clips(extractor, [video for video in report.videos if os.path.getsize(video.uri) < 1_150_000])
    upright = [name for name, row in rows.items() if row.height > row.width]
    assert sorted(upright) == ["fresh-nails", "pencil-sketch-1", "pencil-sketch-2", "pencil-sketch-3"]
    assert rows["office-desk"].width == 384 and rows["night-docking"].has_audio and not rows["sign-yes"].has_audio


@pytest.mark.soak
def test_all_real_clips(extractor: Extractor, shared_data: pathlib.Path) -> None:
    rows = check_real_clips(extractor, load_manifest(str(shared_data / "clips" / "manifest.jsonl")).videos)
    assert len(rows) == 26 and rows["squirrel-on-rail"].has_audio and not rows["squirrel-on-rail-silent"].has_audio
