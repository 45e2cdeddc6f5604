"""What the system knows about videos and attributes. Nothing in here imports Beam."""

import os as _os

# Both must be set before the library they steer is imported, so they are set in this one place:
# importing tensorflow_transform sets the first anyway, and whoever imported tensorflow earlier would get another Keras;
# onnxruntime reports usage to its maker at its first session unless the second is set.
_os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
_os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
_os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
