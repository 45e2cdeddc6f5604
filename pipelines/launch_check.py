"""What a check of a launch says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Check:
    """One thing that must hold before a job starts.

    Attributes:
        name: a stable word.
        state: `ok`, `warning` (it may still be what you want) or `failed`.
        sentence: what was found.
        remedy: what to do about it; empty when ok.
    """

    name: str
    state: Literal["ok", "warning", "failed"]
    sentence: str
    remedy: str = ""
