"""That Feast is imported as it is, but quickly."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import features.feast_api as api, feast, typeguard, sys
assert api.Entity is feast.Entity and api.FeatureStore is feast.FeatureStore
api.Entity(name="video", join_keys=["video_id"], value_type=api.ValueType.STRING)
feast.Entity(name=5)  # typeguard would raise TypeCheckError

assert typeguard.typechecked.__name__ == "typechecked", "others are checked"
print("feast" in sys.modules)
"""


def test_feast_is_not_checked_and_everything_else_is() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", CODE], capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr[-2000:]
