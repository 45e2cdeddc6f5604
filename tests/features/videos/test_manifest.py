"""Manifests of every form, and what is refused of them."""

from __future__ import annotations

import csv
import io
import json
import os
import pathlib
import socket
import threading
from datetime import UTC, date, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import InvalidInput
from features.records import Video
from features.videos.manifest import check_manifest, load_manifest, read_manifest
from features.videos.manifest_row import Problem, RowParser


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "media").mkdir()
    return tmp_path / "media"


def jsonl(folder: pathlib.Path, *rows: object, name: str = "manifest.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def row(**fields: object) -> dict[str, object]:
    return {"video_id": "a", "uri": "a.mp4", **fields}


def only_problem(folder: pathlib.Path, **fields: object) -> str:
    (bad,) = check_manifest(jsonl(folder, row(**fields))).bad
    assert bad.video is None and "row 1" in bad.problem
    return bad.problem


def test_all_fields_of_jsonl(folder: pathlib.Path) -> None:
    path = jsonl(
        folder,
        row(
            title="T",
            description="D",
            hashtags=["#one", "two ", "#"],
            creator_id="c",
            published_at="2026-03-02T14:00:00+02:00",
            language="pt-BR",
            transcript="",
            embedding=[1, -0.5],
            licence="CC0",
            likes={"n": 3},
        ),
    )
    (read,) = read_manifest(path)
    assert read.problem == "" and read.number == 1
    assert read.video == Video(
        video_id="a",
        uri=str(folder / "a.mp4"),
        title="T",
        description="D",
        hashtags=("one", "two"),
        creator_id="c",
        published_at=datetime(2026, 3, 2, 12, tzinfo=UTC),
        language="pt-BR",
        transcript="",
        embedding=(1.0, -0.5),
        extra='{"licence": "CC0", "likes": {"n": 3}}',
    )


def test_absent_and_null_fields_are_the_same(folder: pathlib.Path) -> None:
    nulls = dict.fromkeys(["title", "description", "hashtags", "creator_id", "published_at", "language", "transcript", "embedding"])
    one, two = read_manifest(jsonl(folder, row(**nulls), row()))
    assert one.video == two.video == Video("a", str(folder / "a.mp4"))


def test_csv_parquet_and_jsonl_agree(folder: pathlib.Path) -> None:
    rows = [
        row(title='x, "y"\nz', hashtags=["a", "b"], published_at="2026-03-02", embedding=[0.5, 1.0], mood="calm"),
        row(video_id="b", uri="sub/b.mp4", title="", hashtags=[], published_at=None, embedding=None, mood="wild"),
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\r\n")
    writer.writeheader()
    for entry in rows:
        flat = {name: "" if value is None else value for name, value in entry.items()}
        writer.writerow(
            {
                **flat,
                "hashtags": "#a, b" if entry["hashtags"] else "",
                "embedding": json.dumps(entry["embedding"]) if entry["embedding"] else "",
            }
        )
    (folder / "m.csv").write_bytes(b"\xef\xbb\xbf" + text.getvalue().encode())
    pq.write_table(
        pa.Table.from_pylist([{**entry, "published_at": entry["published_at"] and date(2026, 3, 2)} for entry in rows]),
        folder / "m.parquet",
    )
    from_jsonl = check_manifest(jsonl(folder, *rows))
    assert [video.title for video in from_jsonl.videos] == ['x, "y"\nz', ""]
    assert from_jsonl.videos == check_manifest(str(folder / "m.csv")).videos == check_manifest(str(folder / "m.parquet")).videos


def test_an_empty_csv_cell_is_no_transcript(folder: pathlib.Path) -> None:
    (folder / "m.csv").write_text("video_id,uri,transcript\na,a.mp4,\n")
    assert check_manifest(str(folder / "m.csv")).videos[0].transcript is None


def test_parquet_time_stamps_and_long_csv_cells(folder: pathlib.Path) -> None:
    table = pa.table(
        {
            "video_id": ["a"],
            "uri": ["a.mp4"],
            "published_at": pa.array([datetime(2026, 1, 1)], pa.timestamp("ns")),
            "score": [1.5],
        }
    )
    pq.write_table(table, folder / "m.parquet")
    (video,) = check_manifest(str(folder / "m.parquet")).videos
    assert video.published_at == datetime(2026, 1, 1, tzinfo=UTC) and type(video.published_at) is datetime
    assert video.extra == '{"score": 1.5}'
    (folder / "m.csv").write_text(f"video_id,uri,transcript\na,a.mp4,{'x' * 150_000}\n")
    assert len(check_manifest(str(folder / "m.csv")).videos[0].transcript or "") == 150_000


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"video_id": None}, ["video_id", "missing"]),
        ({"video_id": "  "}, ["video_id", "missing"]),
        ({"video_id": 12}, ["video_id", "12", "number", "quotes"]),
        ({"video_id": "x" * 257}, ["video_id", "257", "256"]),
        ({"video_id": "a\nb"}, ["control"]),
        ({"video_id": "\ud800"}, ["video_id", "Unicode"]),
        ({"uri": ""}, ["uri", "missing"]),
        ({"uri": "a\0.mp4"}, ["uri", "control"]),
        ({"title": 5}, ["title", "5"]),
        ({"title": "t" * 2001}, ["title", "2001", "2000"]),
        ({"description": "t" * 20001}, ["description", "20000"]),
        ({"transcript": "t" * 200001}, ["transcript", "200000"]),
        ({"transcript": False}, ["transcript", "true or false"]),
        ({"hashtags": "cat"}, ["hashtags", "cat", "list"]),
        ({"hashtags": ["a", 1]}, ["hashtags", "1"]),
        ({"hashtags": ["a"] * 201}, ["hashtags", "201", "200"]),
        ({"published_at": "yesterday"}, ["published_at", "yesterday", "2026-03-02T12:00:00Z"]),
        ({"published_at": 1700000000}, ["published_at", "1700000000"]),
        ({"published_at": "0001-01-01T00:00:00+10:00"}, ["published_at"]),
        ({"language": "the queen's"}, ["language", "en or pt-BR"]),
        ({"embedding": []}, ["embedding"]),
        ({"embedding": [0.1, None]}, ["embedding", "None"]),
        ({"embedding": [True]}, ["embedding", "True"]),
        ({"embedding": [float("nan")]}, ["embedding", "nan"]),
        ({"embedding": [float("inf")]}, ["embedding", "inf"]),
        ({"embedding": [1e39]}, ["embedding", "1e+39"]),
        ({"embedding": [10**400]}, ["embedding"]),
        ({"embedding": {"0": 1}}, ["embedding", "object"]),
        ({"embedding": [[1.0, 2.0], [1.0]]}, ["embedding", "different lengths"]),
        ({"embedding": [[1.0], 2.0]}, ["embedding", "number"]),
        ({"embedding": [[1.0]] * 65}, ["embedding", "65 vectors"]),
        ({"embedding": [[[1.0]]]}, ["embedding", "[1.0]"]),
        ({"score": float("nan")}, ["score", "nan"]),
        ({"blob": "x" * 70_000}, ["other columns", "65536"]),
    ],
)  # fmt: skip
def test_a_bad_field_is_a_problem_of_its_row(folder: pathlib.Path, fields: dict[str, object], words: list[str]) -> None:
    problem = only_problem(folder, **fields)
    assert all(word in problem for word in words), problem
    assert len(problem) < 600


def test_bad_rows_do_not_disturb_their_neighbours(folder: pathlib.Path) -> None:
    path = folder / "m.jsonl"
    nested = "[" * 900 + "]" * 900
    lines = [
        '{"video_id": "a", "uri": "a.mp4"}',
        "",
        "[1]",
        '"text"',
        "{oops",
        '{"video_id": "b", "video_id": "c", "uri": "x"}',
        '{"video_id": "d", "uri": "d.mp4", "deep": ' + nested + "}",
        "[" * 100_000,
        '{"video_id": "e", "uri": "e.mp4", "title": 3}',
        '{"video_id": "z", "uri": "z.mp4"}',
    ]
    path.write_text("\n".join(lines))
    report = check_manifest(str(path))
    assert [video.video_id for video in report.videos] == ["a", "z"]
    assert [(bad.number, bad.video_id) for bad in report.bad] == [
        (3, "row 3"),
        (4, "row 4"),
        (5, "row 5"),
        (6, "row 6"),
        (7, "d"),
        (8, "row 8"),
        (9, "e"),
    ]
    assert report.rows == 9 == len(report.videos) + len(report.problems)


def test_duplicates_are_refused_by_name_and_row(folder: pathlib.Path) -> None:
    path = jsonl(folder, row(), row(video_id="b"), row(title=7), row(video_id="b"))
    report = check_manifest(path)
    assert report.duplicates == ("'a' in rows 1, 3", "'b' in rows 2, 4")
    with pytest.raises(InvalidInput, match=r"unique.*'a' in rows 1, 3.*'b' in rows 2, 4.*rename"):
        load_manifest(path)
    assert load_manifest(jsonl(folder, row(), row(video_id="b"))).rows == 2


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.jsonl", '{"video_id": "a"}'.encode("utf-16"), "UTF-8"),
        ("m.jsonl", b'{"video_id": "a", "uri": "\xff.mp4"}', "line 1: not UTF-8"),
        ("m.csv", "video_id,uri\ncafé,a.mp4".encode("latin-1"), "line 2: not UTF-8"),
        ("m.csv", b"id,url\n1,2", "no column 'video_id'"),
        ("m.csv", b"video-id,uri\n1,2", "rename 'video-id' to 'video_id'"),
        ("m.csv", b"video_id;uri\n1;2", "separated by commas"),
        ("m.csv", b"", "no column 'video_id' among none"),
        ("m.csv", b"video_id,uri,uri\n1,2,3", "'uri' is there twice"),
        ("m.csv", b'video_id,uri\na,"b', "not CSV"),
        ("m.parquet", b"PAR1 not really", "not a readable Parquet"),
        ("m.parquet", b"", "not a readable Parquet"),
        ("m.txt", b"", "ends in none of"),
    ],
)
def test_an_unreadable_manifest_is_refused_whole(folder: pathlib.Path, name: str, content: bytes, words: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(InvalidInput) as caught:
        list(read_manifest(str(folder / name)))
    assert words in str(caught.value) and str(folder / name) in str(caught.value)
    with pytest.raises(InvalidInput):
        check_manifest(str(folder / name))


def test_manifests_that_are_not_there(folder: pathlib.Path) -> None:
    for location, words in (
        (str(folder / "none.jsonl"), "no such file"),
        (str(folder), "no media"),
        (str(folder / "*.mp4"), "no media"),
        ("https://example.org/m.jsonl", "only local files and gs://"),
        ("file:///etc/passwd", "only local files and gs://"),
        ("/dev/null", "neither a file nor a folder"),
        ("", "name a .jsonl"),
    ):
        with pytest.raises(InvalidInput, match=words):
            load_manifest(location)


def test_an_empty_manifest_is_noted(folder: pathlib.Path) -> None:
    report = load_manifest(jsonl(folder))
    assert report.rows == 0 and "no rows" in report.notes[0]


def test_csv_rows_carry_the_numbers_of_a_spreadsheet(folder: pathlib.Path) -> None:
    (folder / "m.csv").write_text('video_id,uri\na,"a\nb.mp4"\n\nc\nd,d.mp4\n')
    rows = list(read_manifest(str(folder / "m.csv")))
    assert [(entry.number, entry.video_id, bool(entry.problem)) for entry in rows] == [
        (2, "a", True),
        (4, "row 4", True),
        (5, "d", False),
    ]


def test_a_folder_of_media(folder: pathlib.Path) -> None:
    for name in (
        "x.mp4",
        "sub/Y.WebM",
        "sub/x.mov",
        "x.webm",
        "solo.gif",
        ".hidden.mp4",
        ".cache/z.mp4",
        "notes.txt",
        "manifest.csv",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    report = load_manifest(str(folder))
    assert {video.video_id: video.uri for video in report.videos} == {
        "solo": str(folder / "solo.gif"),
        "sub/Y": str(folder / "sub/Y.WebM"),
        "sub/x": str(folder / "sub/x.mov"),
        "x.mp4": str(folder / "x.mp4"),
        "x.webm": str(folder / "x.webm"),
    }
    assert "manifest.csv" in report.notes[0] and "1 other files" in report.notes[1]


def test_ids_of_files_stay_unique_whatever_their_extensions(folder: pathlib.Path) -> None:
    for name in ("a.mp4", "a.mov", "a.mp4.mp4"):
        (folder / name).touch()
    assert sorted(video.video_id for video in load_manifest(str(folder)).videos) == ["a.mov", "a.mp4", "a.mp4.mp4"]


def test_pattern_characters_in_names_that_exist_are_literal(folder: pathlib.Path) -> None:
    """Fault 23: `a[1].mp4` is read as itself, and never matches `a1.mp4`."""
    for name in ("a[1].mp4", "a1.mp4", "takes[2]/b.mp4", "takes2/c.mp4", "star*.mp4"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()

    def found(pattern: str) -> list[str]:
        return [os.path.relpath(video.uri, folder) for video in load_manifest(str(folder / pattern)).videos]

    assert found("a[1].mp4") == ["a[1].mp4"]
    assert found("a[0-9].mp4") == ["a1.mp4"]
    assert found("takes[2]/*.mp4") == ["takes[2]/b.mp4"]
    assert found("takes[0-9]/*.mp4") == ["takes2/c.mp4"]
    assert found("star*.mp4") == ["star*.mp4"]
    assert found("**/b.mp4") == ["takes[2]/b.mp4"]
    (only,) = load_manifest(jsonl(folder, row(uri="a[1].mp4"))).videos
    assert only.uri == str(folder / "a[1].mp4")


def test_addresses_are_confined(folder: pathlib.Path) -> None:
    """Fault 23: nothing is fetched or opened, and nothing outside the roots is named."""
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "o.mp4").touch()
    (folder / "link.mp4").symlink_to(outside / "o.mp4")
    (folder / "inside.mp4").symlink_to(folder / "a.mp4")
    (folder / "door").symlink_to(outside)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        server.settimeout(0.2)
        refused = [
            f"http://127.0.0.1:{port}/a.mp4", f"https://127.0.0.1:{port}/a.mp4", f"tcp://127.0.0.1:{port}", f"rtmp://127.0.0.1:{port}/a",
            f"HTTP://127.0.0.1:{port}/", f"concat:http://127.0.0.1:{port}/a|b", "file:///etc/passwd", "file:/etc/passwd",
            "file:a.mp4", "data:video/mp4;base64,AAAA", "pipe:0", "s3://bucket/key", "/etc/passwd", "../outside/o.mp4",
            "../../etc/passwd",
            "..", "x/../../outside/o.mp4", str(outside / "o.mp4"), "link.mp4", "door/o.mp4", f"{folder}x/a.mp4", "gs://", "gs://bucket",
            "gs://bucket/", "gs://bucket/a/", "gs://bucket/../other/key", "gs:bucket/key", f"//127.0.0.1:{port}/a.mp4",
        ]  # fmt: skip
        report = check_manifest(jsonl(folder, *(row(video_id=f"{at}", uri=uri) for at, uri in enumerate(refused))))
        accepted = {refused[int(video.video_id)] for video in report.videos}
        assert accepted == set()
        with pytest.raises(TimeoutError):
            server.accept()
    allowed = {
        "a.mp4": folder / "a.mp4",
        "./take:2.mp4": folder / "take:2.mp4",
        "x/../a.mp4": folder / "a.mp4",
        str(folder / "a.mp4"): folder / "a.mp4",
        "inside.mp4": folder / "a.mp4",
        "..mp4": folder / "..mp4",
        "gs://bucket/some/key[1].mp4": "gs://bucket/some/key[1].mp4",
    }
    report = check_manifest(jsonl(folder, *(row(video_id=uri, uri=uri) for uri in allowed)))
    assert not report.problems
    assert {video.video_id: video.uri for video in report.videos} == {uri: str(path) for uri, path in allowed.items()}


def test_further_roots(folder: pathlib.Path) -> None:
    other = folder.parent / "other"
    other.mkdir()
    path = jsonl(folder, row(uri=str(other / "a.mp4")), row(video_id="b", uri="../other/b.mp4"))
    assert len(check_manifest(path).problems) == 2
    assert [video.uri for video in check_manifest(path, [str(other)]).videos] == [str(other / "a.mp4"), str(other / "b.mp4")]
    with pytest.raises(InvalidInput, match="not a folder"):
        check_manifest(path, [str(other / "none")])


def test_a_symbolic_link_out_of_a_listed_folder_is_refused(folder: pathlib.Path) -> None:
    (folder / "link.mp4").symlink_to("/etc/passwd")
    (folder / "ok:1.mp4").touch()
    report = check_manifest(str(folder))
    assert [video.video_id for video in report.videos] == ["ok:1"]
    assert [bad.video_id for bad in report.bad] == ["link"] and "outside" in report.problems[0]


def test_notes_say_what_is_missing_and_mixed(folder: pathlib.Path) -> None:
    (folder / "a.mp4").touch()
    notes = check_manifest(jsonl(folder, row(embedding=[1.0]), row(video_id="gone", uri="gone.mp4", embedding=[1.0, 2.0]))).notes
    assert "1 of 2 videos point at no file: gone" in notes[0] and "different lengths" in notes[1]


def test_an_embedding_may_be_given_a_frame(folder: pathlib.Path) -> None:
    (one,) = load_manifest(jsonl(folder, row(embedding=[[1.0, 0.0], [0.0, 2.0]]))).videos
    assert one.embedding == (0.5, 1.0) and one.frame_embeddings == ((1.0, 0.0), (0.0, 2.0))
    (mean,) = load_manifest(jsonl(folder, row(embedding=[0.5, 1.0]))).videos
    assert mean.frame_embeddings == () and mean.row_digest != one.row_digest


def test_reading_is_lazy(folder: pathlib.Path) -> None:
    path = jsonl(folder, row())
    with open(path, "ab") as file:
        file.write(b"\xff\n")
    rows = read_manifest(path)
    assert next(rows).video_id == "a"
    with pytest.raises(InvalidInput, match="line 2"):
        next(rows)


def test_concurrent_csv_readers_do_not_disturb_each_other(folder: pathlib.Path) -> None:
    (folder / "m.csv").write_text("video_id,uri\n" + "".join(f"v{at},v{at}.mp4\n" for at in range(500)))
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(check_manifest(str(folder / "m.csv")).rows)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [500] * 4


def test_real_manifest(shared_data: pathlib.Path) -> None:
    report = load_manifest(str(shared_data / "clips" / "manifest.jsonl"))
    assert report.rows == len(report.videos) == 26 and not report.notes
    assert all(os.path.isfile(video.uri) for video in report.videos)
    assert {video.video_id for video in load_manifest(str(shared_data / "clips")).videos} == {
        video.video_id for video in report.videos
    }


# --- anything at all ---------------------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
ids = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40).filter(str.strip)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.builds(
        Video,
        video_id=ids,
        uri=st.just("/media/x.mp4"),
        title=texts,
        description=texts,
        hashtags=st.lists(ids.map(lambda tag: tag.strip().lstrip("#").strip()).filter(bool), max_size=4).map(tuple),
        creator_id=texts,
        published_at=st.none() | st.datetimes(timezones=st.just(UTC)),
        language=st.sampled_from(["", "en", "zh-Hant-TW"]),
        transcript=st.none() | texts,
        embedding=st.none() | st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=4).map(tuple),
    )
)
def test_good_rows_come_back_whole(video: Video) -> None:
    raw = {
        name: value.isoformat() if isinstance(value, datetime) else list(value) if isinstance(value, tuple) else value
        for name, value in vars(video).items()
        if name not in ("extra", "frame_embeddings")
    }
    assert RowParser("/media", ("/media",)).video(json.loads(json.dumps(raw))) == video


@given(st.dictionaries(st.sampled_from([*Video.SCHEMA.names, "other"]), json_values, max_size=8))
def test_any_row_is_a_video_or_a_problem(raw: dict[str, object]) -> None:
    try:
        video = RowParser("/media", ("/media",)).video(raw)
    except Problem as problem:
        assert str(problem)
    else:
        pa.Table.from_pylist([vars(video)], schema=Video.SCHEMA)
        json.loads(video.extra)


@given(
    st.lists(st.sampled_from(["..", ".", "a", "b.mp4", "", "~", "media", "mediax", "gs:", "etc", "C:"]), max_size=6).map("/".join)
    | st.text()
)
def test_no_address_escapes(uri: str) -> None:
    try:
        resolved = RowParser("/media", ("/media",)).video({"video_id": "a", "uri": uri}).uri
    except Problem:
        return
    assert resolved.startswith(("/media/", "gs://")) or resolved == "/media"
    assert ".." not in resolved.split("/")


@given(st.binary(max_size=200), st.sampled_from(["m.jsonl", "m.csv", "m.parquet"]))
def test_any_bytes_are_rows_or_one_error(tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "any"
    folder.mkdir(exist_ok=True)
    prefix = b"video_id,uri\n" if name == "m.csv" else b""
    (folder / name).write_bytes(prefix + content)
    try:
        rows = list(read_manifest(str(folder / name)))
    except InvalidInput as error:
        assert str(folder) in str(error)
    else:
        assert all((entry.video is None) == bool(entry.problem) for entry in rows)
