"""Options that several commands share, spelled and explained the same everywhere."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output, for scripts.")]
WorkspacePath = Annotated[
    str,
    typer.Option(
        "--workspace", "-w", envvar="VIDATTR_WORKSPACE", help="Folder (or gs://BUCKET/PREFIX) of all tables, models and stores."
    ),
]
FeatureRepo = Annotated[
    str,
    typer.Option("--feature-repo", envvar="VIDATTR_FEATURE_REPO", help="Folder with attributes/*.yaml and golden/*.csv."),
]
Videos = Annotated[
    str, typer.Option("--videos", "-v", help="Manifest (.jsonl, .csv, .parquet), a folder, or a glob; local or gs://.")
]
Roots = Annotated[
    list[str] | None, typer.Option("--root", help="A further folder that uris of the manifest may lie in. Repeatable.")
]
BeamArgs = Annotated[list[str] | None, typer.Argument(metavar="[-- BEAM OPTIONS]", help="Any Beam option, after --.")]
AnnotatorKind = Annotated[
    str | None,
    typer.Option(
        "--annotator",
        help="Who answers: baseline (no key, no server), gemini, openai (any compatible server), replay, or a plugin.",
    ),
]
Recording = Annotated[str, typer.Option("--recording", help="JSONL of recorded answers, for --annotator replay.")]
CallLog = Annotated[str, typer.Option("--call-log", hidden=True, help="Adds a line for each real call of the replay annotator.")]
Golden = Annotated[
    str, typer.Option("--golden", help="Folder with the Golden Set's ratings (*.csv). Default: FEATURE_REPO/golden.")
]

DEFAULT_WORKSPACE = "workspace"
DEFAULT_FEATURE_REPO = "feature_repo"
