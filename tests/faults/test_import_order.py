"""Fault 15: Keras 2 or 3 by import order. Whatever is imported first, the same network is built and the same student speaks."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

from tests.features.student import planted

ORDERS = (
    "import tensorflow, keras, tensorflow_transform, features",
    "import tensorflow_transform, features, keras, tensorflow",
)
REST = """
import hashlib, json, sys
import numpy as np, pyarrow.parquet as pq
from features.student.export import FusedStudent
from features.student.labels import Head
from features.student.model import build_network
from features.student.scoring import Student

heads = (Head("calm", "boolean", (), None, "h", "llm", 9), Head("mood", "category", ("a", "b"), None, "h", "llm", 9))
network = build_network({"text": 6}, heads, np.zeros(3, np.float32), seed=3)
network.compile("sgd", "mse", jit_compile=False)
rows = np.linspace(-1, 1, 48, dtype=np.float32).reshape(8, 6)
network.fit({"text": rows}, np.ones((8, 3), np.float32), epochs=2, shuffle=False, verbose=0)
built = np.asarray(network({"text": rows}, training=False))
batch = pq.read_table(sys.argv[2]).combine_chunks().to_batches()[0]
said = Student.load(sys.argv[1]).score(batch)
state = hashlib.sha256(built.tobytes())
for name in sorted(said):
    state.update(said[name].tobytes())
print(json.dumps([sys.modules["keras"].__version__.split(".")[0], type(network).__module__.split(".")[0], state.hexdigest()]))
"""


def test_both_ways_round_give_the_same_digest(repo_root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Fault 15: import both ways round in two processes; the outputs have the same digest."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = planted.student()
    pq.write_table(pa.Table.from_batches([planted.light(*made.videos[:32])]), tmp_path / "rows.parquet")
    environment = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", f"{order}\n{REST}", made.folder, str(tmp_path / "rows.parquet")],
            env={**environment, "PYTHONPATH": str(repo_root), "TF_CPP_MIN_LOG_LEVEL": "3"},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for order in ORDERS
    ]
    replies = []
    for process in running:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err[-2000:]
        replies.append(json.loads(out.splitlines()[-1]))
    assert replies[0] == replies[1]
    assert replies[0][:2] == ["3", "keras"]
