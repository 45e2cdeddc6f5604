"""What the system knows about videos and attributes. Nothing in here imports Beam.

Importing it sets, in this one place, what must be set before the library it steers is imported.
"""

import os as _os

WEIGHTS_VARIABLE = "VIDATTR_WEIGHTS"
WEIGHTS_DEFAULT = "~/.cache/vidattr/weights"

# Importing tensorflow_transform sets it anyway, so whoever imported tensorflow before would get another Keras.
_os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
_os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# From version 1.29 on onnxruntime reports usage to its maker at its first session.
_os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# Keras and matplotlib keep settings and caches in the home folder; they get a place beside the weights instead.
_cache = _os.path.join(_os.path.expanduser(_os.environ.get(WEIGHTS_VARIABLE) or WEIGHTS_DEFAULT), ".libraries")
_os.environ.setdefault("KERAS_HOME", _os.path.join(_cache, "keras"))
_os.environ.setdefault("MPLCONFIGDIR", _os.path.join(_cache, "matplotlib"))
