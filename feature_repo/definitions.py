"""What `feast apply` registers: the entity and the two views that follow from `attributes/*.yaml`.

`vidattr register` does the same, shows a plan first and can withdraw attributes. Both refuse a change that would misread stored
numbers. Feast imports every Python file of this folder, so nothing else belongs here.
"""

import os
from pathlib import Path

from features.attributes import registry, views
from features.attributes.loading import load_definitions
from features.errors import InvalidInput

STORE = os.environ.get("VIDATTR_FEAST", "")
if not os.path.isabs(STORE):
    raise InvalidInput(f"VIDATTR_FEAST={STORE!r}: set it to the absolute path of WORKSPACE/feast")

definitions = load_definitions(str(Path(__file__).parent / "attributes"))
video, video_attributes_packed, video_attributes = views.objects_for_apply(
    registry.open_existing(STORE, Path(__file__).parent / "feature_store.yaml"), STORE, definitions
)
